"""Reads series of numbers from CSV, NPZ and sktime `.ts` files, with NumPy alone.

Every format ends as the names of D features and a list of arrays (T, D), each series with its own T. A file that does
not fit raises a `ValueError` that says why.
"""

import csv
from pathlib import Path

import numpy as np

SERIES_COLUMNS = ("series", "id")
MISSING = ("", "?", "na", "nan", "null", "none")

# How many series there must be, the fewest steps of one, and the most before it is cut into windows.
MIN_SERIES = 10
MIN_STEPS = 4
MAX_STEPS = 300


def read_pieces(path: Path, seed: int) -> tuple[list[str], list[list[np.ndarray]]]:
    """Returns the names of the D features, and the training, validation and test pieces, arrays (T, D).

    Of a hundred series 70 train, 15 validate and 15 test. One series alone is split in time instead, so that no
    window of it spans two parts.
    """
    names, series = read_series(path)
    lengths = [len(values) for values in series]
    if len(series) == 1:
        steps, window = lengths[0], min(lengths[0] // MIN_SERIES, MAX_STEPS)
        if window < MIN_STEPS:
            raise ValueError(f"{path} holds one series of {steps} steps. At least {MIN_SERIES * MIN_STEPS} are needed.")
        parts = [[part] for part in np.split(series[0], [int(0.7 * steps), int(0.85 * steps)])]
    else:
        if len(series) < MIN_SERIES:
            raise ValueError(f"{path} holds {len(series)} series. One is needed, or at least {MIN_SERIES}.")
        if min(lengths) < MIN_STEPS:
            short = f"series {np.argmin(lengths) + 1} has {min(lengths)}"
            raise ValueError(f"{path}: every series needs at least {MIN_STEPS} steps, but {short}.")
        window = min(max(lengths), MAX_STEPS)
        shuffled = [series[i] for i in np.random.default_rng(seed).permutation(len(series))]
        first, second = int(0.7 * len(series)), int(0.85 * len(series))
        parts = [shuffled[:first], shuffled[first:second], shuffled[second:]]
    return names, [[piece for values in part for piece in cut(values, window)] for part in parts]


def cut(values: np.ndarray, window: int) -> list[np.ndarray]:
    """Returns a series as it is, or overlapping windows of it where it is longer than a window."""
    if len(values) <= window:
        return [values]
    windows = np.lib.stride_tricks.sliding_window_view(values, window, axis=0)[:: max(1, window // 16)]
    return list(windows.swapaxes(1, 2))


def read_series(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """Returns the names of the D features, and the series as float32 arrays (T, D)."""
    readers = {".csv": read_csv, ".npz": read_npz, ".ts": read_ts}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must end in one of {', '.join(readers)}.")
    if not path.is_file():
        raise ValueError(f"{path} is no file.")
    names, series = readers[path.suffix.lower()](path)
    for number, values in enumerate(series, start=1):
        if values.shape[1] != len(names):
            raise ValueError(f"{path}: series {number} has {values.shape[1]} features, the first one {len(names)}.")
        steps, features = np.nonzero(~np.isfinite(values))
        if len(steps):
            where = f"series {number}, step {steps[0] + 1}, {names[features[0]]}"
            raise ValueError(f"{path} has missing or infinite values, the first in {where}. Fill or drop them first.")
    return names, [values.astype("float32") for values in series]


def read_csv(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """A header row, then one row a step; a column `series` or `id`, where there is one, tells series apart."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise ValueError(f"{path} must have a header row and rows of numbers.")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has two columns of one name. Its header: {', '.join(header)}.")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, the header {len(header)}.")
    columns = dict(zip(header, np.char.strip(np.array(rows[1:])).T, strict=True))
    key = next((name for name in header if name.lower() in SERIES_COLUMNS), None)
    keys = np.zeros(len(rows) - 1) if key is None else columns.pop(key)

    numbers = {name: to_numbers(cells, f"{path}, column {name!r}") for name, cells in columns.items()}
    features = {name: values for name, values in numbers.items() if values is not None}
    if not features:
        raise ValueError(f"{path} has no numeric column.")
    if len(features) < len(numbers):
        print("Columns left out, as they hold text:", ", ".join(name for name in numbers if name not in features))
    values = np.stack(list(features.values()), axis=1)

    # Group the rows by series; the stable sort keeps their order within each.
    _, series_of_row, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(series_of_row, kind="stable")
    return list(features), np.split(values[order], np.cumsum(counts)[:-1])


def to_numbers(cells: np.ndarray, where: str) -> np.ndarray | None:
    """Returns a column's cells as numbers, or None where its first cell already says that it holds text."""
    cells = np.where(np.isin(np.char.lower(cells), MISSING), "nan", cells)
    try:
        return cells.astype("float64")
    except ValueError:
        try:
            float(cells[0])
        except ValueError:
            return None
        raise ValueError(f"{where} holds numbers and text. Mend the cells that are no numbers.") from None


def read_npz(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """One array (N, T, D), with `lengths` (N,) where the series are padded; or any number of arrays (T, D)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception:  # what a broken archive raises depends on where it is broken
        raise ValueError(f"{path} is no NPZ file of arrays of numbers.") from None
    lengths = arrays.pop("lengths", None)
    shapes = {name: array.shape for name, array in arrays.items()}
    other = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if other:
        raise ValueError(f"{path} must hold numbers alone. Other values are in {', '.join(other)}.")
    if [len(shape) for shape in shapes.values()] == [3]:
        (stacked,) = arrays.values()
        lengths = np.full(len(stacked), stacked.shape[1]) if lengths is None else lengths
        if lengths.shape != (len(stacked),) or lengths.dtype.kind not in "iu":
            raise ValueError(f"{path}: `lengths` must be {len(stacked)} integers, one for each series.")
        if len(lengths) and (lengths.min() < 1 or lengths.max() > stacked.shape[1]):
            raise ValueError(f"{path}: `lengths` must lie between 1 and the {stacked.shape[1]} steps of the array.")
        series = [values[:length] for values, length in zip(stacked, lengths, strict=True)]
    elif arrays and lengths is None and all(len(shape) == 2 for shape in shapes.values()):
        series = list(arrays.values())
    else:
        what = "one array (N, T, D), with or without `lengths` (N,), or arrays (T, D), one a series"
        raise ValueError(f"{path} must hold {what}. It holds {shapes or 'none'}.")
    if not series or not series[0].shape[1]:
        raise ValueError(f"{path} holds no series.")
    return [f"feature {d + 1}" for d in range(series[0].shape[1])], series


def read_ts(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """A series a line after `@data`: `:` between dimensions, `,` between steps, the class label last."""
    header, lines = ts_lines(path)
    if ["@timestamps", "true"] in header:
        raise ValueError(f"{path} has time stamps, which are not read. Resample it to even steps without them.")
    labelled = ["@classlabel", "false"] not in header and ["@targetlabel", "false"] not in header
    series = []
    for number, line in enumerate(lines, start=1):
        dimensions = line.replace("?", "nan").split(":")
        try:
            values = [np.array(d.split(","), "float64") for d in (dimensions[:-1] if labelled else dimensions)]
            series.append(np.stack(values, axis=1))
        except ValueError as error:
            raise ValueError(f"{path}: series {number} cannot be read: {error}.") from None
    if not series:
        raise ValueError(f"{path} holds no series.")
    return [f"dimension {d + 1}" for d in range(series[0].shape[1])], series


def read_ts_labels(path: Path) -> list[str]:
    """Returns the class label of each series of a `.ts` file."""
    header, lines = ts_lines(path)
    if not any(words[:2] == ["@classlabel", "true"] for words in header):
        raise ValueError(f"{path} has no class labels, which a line `@classLabel true` announces.")
    return [line.rsplit(":", 1)[-1].strip() for line in lines]


def ts_lines(path: Path) -> tuple[list[list[str]], list[str]]:
    """Returns the words of each header line of a `.ts` file, in lower case, and the lines of its series."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    header = [line.lower().split() for line in lines if line.startswith("@")]
    if ["@data"] not in header:
        raise ValueError(f"{path} must have a line `@data`.")
    return header, [line for line in lines if not line.startswith("@")]
