"""Reads series of numbers from CSV, NPZ and sktime `.ts` files, and writes their forecasts, with NumPy alone.

Every format ends as a `SeriesFile`: the names of D features and a list of arrays (T, D), each series with its own T.
A file that does not fit raises a `ValueError` that says why.
"""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import time_columns
from time_columns import Clock

SERIES_COLUMNS = ("series", "id")
MISSING = ("", "?", "na", "nan", "null", "none")

# How many series there must be, the fewest steps of one, and the most before it is cut into windows.
MIN_SERIES = 10
MIN_STEPS = 4
MAX_STEPS = 300

# A quick run reads so many series and steps, in shorter windows, and trains on so many of them.
QUICK_SERIES, QUICK_STEPS, QUICK_WINDOW, QUICK_PIECES = 40, 600, 60, 256


class TimeColumn(NamedTuple):
    """The column of a CSV file that holds the time of each step."""

    name: str
    clock: Clock | None  # None where the cells are no times
    cells: list[list[str]]  # of each series, from its first step to its last


class SeriesFile(NamedTuple):
    """What a file holds."""

    features: list[str]  # D names
    series: list[np.ndarray]  # arrays (T, D), float32
    id_column: str = "series"
    ids: list[str] | None = None  # a name for each series, where the file has names
    time: TimeColumn | None = None
    notes: tuple[str, ...] = ()  # what was taken for what, a line each


def quick_part(file: SeriesFile) -> SeriesFile:
    """Returns the last steps of the first series, which are enough to see that everything works."""
    kept = file._replace(
        series=[values[-QUICK_STEPS:] for values in file.series[:QUICK_SERIES]],
        ids=file.ids and file.ids[:QUICK_SERIES],
        time=file.time and file.time._replace(cells=[cells[-QUICK_STEPS:] for cells in file.time.cells[:QUICK_SERIES]]),
    )
    if sum(map(len, kept.series)) == sum(map(len, file.series)):
        return file
    note = (
        f"A quick run: {len(kept.series)} of {len(file.series)} series, at most the last {QUICK_STEPS} steps of each."
    )
    return kept._replace(notes=(*file.notes, note))


def split(file: SeriesFile, path: Path, seed: int, quick: bool = False) -> list[list[np.ndarray]]:
    """Returns the training, validation and test pieces of the series of a file, arrays (T, D).

    Of a hundred series 70 train, 15 validate and 15 test. One series alone is split in time instead, so that no
    window of it spans two parts.
    """
    series, longest = file.series, QUICK_WINDOW if quick else MAX_STEPS
    lengths = [len(values) for values in series]
    if len(series) == 1:
        steps, window = lengths[0], min(lengths[0] // MIN_SERIES, longest)
        if window < MIN_STEPS:
            raise ValueError(f"{path} holds one series of {steps} steps. At least {MIN_SERIES * MIN_STEPS} are needed.")
        parts = [[part] for part in np.split(series[0], [int(0.7 * steps), int(0.85 * steps)])]
    else:
        if len(series) < MIN_SERIES:
            raise ValueError(f"{path} holds {len(series)} series. One is needed, or at least {MIN_SERIES}.")
        if min(lengths) < MIN_STEPS:
            short = f"series {np.argmin(lengths) + 1} has {min(lengths)}"
            raise ValueError(f"{path}: every series needs at least {MIN_STEPS} steps, but {short}.")
        window = min(max(lengths), longest)
        shuffled = [series[i] for i in np.random.default_rng(seed).permutation(len(series))]
        first, second = int(0.7 * len(series)), int(0.85 * len(series))
        parts = [shuffled[:first], shuffled[first:second], shuffled[second:]]
    pieces = [[piece for values in part for piece in cut(values, window)] for part in parts]
    return [some[:: -(-len(some) // QUICK_PIECES)] for some in pieces] if quick else pieces


def cut(values: np.ndarray, window: int) -> list[np.ndarray]:
    """Returns a series as it is, or overlapping windows of it where it is longer than a window."""
    if len(values) <= window:
        return [values]
    windows = np.lib.stride_tricks.sliding_window_view(values, window, axis=0)[:: max(1, window // 16)]
    return list(windows.swapaxes(1, 2))


def read_series(path: Path, header: str = "guess", time: str | None = None) -> SeriesFile:
    """Reads a file. `header` and `time` are of CSV files alone.

    Args:
        path: a file whose name ends in `.csv`, `.npz` or `.ts`.
        header: whether the first row holds names: "yes", "no" or "guess".
        time: the column that holds the time of each row, "none", or None to look for it.
    """
    readers = {".csv": lambda path: read_csv(path, header, time), ".npz": read_npz, ".ts": read_ts}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} must end in one of {', '.join(readers)}.")
    if not path.is_file():
        raise ValueError(f"{path} is no file.")
    file = readers[path.suffix.lower()](path)
    names = file.features
    for number, values in enumerate(file.series, start=1):
        if values.shape[1] != len(names):
            raise ValueError(f"{path}: series {number} has {values.shape[1]} features, the first one {len(names)}.")
        steps, features = np.nonzero(~np.isfinite(values))
        if len(steps):
            where = f"series {number}, step {steps[0] + 1}, {names[features[0]]}"
            raise ValueError(f"{path} has missing or infinite values, the first in {where}. Fill or drop them first.")
    return file._replace(series=[values.astype("float32") for values in file.series])


# --- CSV


def read_csv(path: Path, header: str, time: str | None) -> SeriesFile:
    """A header row, then one row a step; a column `series` or `id`, where there is one, tells series apart."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}.") from None
    names, rows, notes = take_header(path, rows, header)
    columns = dict(zip(names, np.char.strip(np.array(rows)).T, strict=True))

    # Group the rows by series; the stable sort keeps their order within each.
    key = next((name for name in names if name.lower() in SERIES_COLUMNS), None)
    keys = np.zeros(len(rows), int) if key is None else columns.pop(key)
    ids, series_of_row, counts = np.unique(keys, return_inverse=True, return_counts=True)
    order, cuts = np.argsort(series_of_row, kind="stable"), np.cumsum(counts)[:-1]
    grouped = {name: np.split(cells[order], cuts) for name, cells in columns.items()}

    times = find_times(path, grouped, time)
    numbers = {name: to_numbers(cells, f"{path}, column {name!r}") for name, cells in columns.items()}
    numeric = {name: values for name, values in numbers.items() if values is not None}
    if time is None and not set(numeric) - set(times):
        # Nothing would be left to forecast. A column is then the time only if its name or its dates say so.
        times = {name: column for name, column in times.items() if is_named_or_date(column)}
    features = {name: values for name, values in numeric.items() if name not in times}
    if not features:
        taken = f" The time of each row: {shortened(times)}." if times else ""
        raise ValueError(f"{path} has no numeric column to forecast.{taken}")
    series = np.split(np.stack(list(features.values()), axis=1)[order], cuts)

    notes.append(f"Taken for series: {shortened(features)}.")
    if times:
        notes.append(
            f"Taken for the time of each row, not for series: {shortened(times)}. "
            "Say --time NAME for another column, --time none for none."
        )
    text = [name for name in columns if name not in numeric and name not in times]
    if text:
        notes.append(f"Left out, as they hold text: {shortened(text)}.")
    column = next(iter(times.values()), None)
    if column and column.clock:
        directions = {time_columns.direction([column.clock.read(cell) for cell in cells]) for cells in column.cells}
        if directions == {-1}:
            notes.append(f"The rows go back in time by {column.name}, and are read from the last to the first.")
            series = [values[::-1] for values in series]
            column = column._replace(cells=[cells[::-1] for cells in column.cells])
    return SeriesFile(
        list(features), series, key or "series", None if key is None else ids.tolist(), column, tuple(notes)
    )


def take_header(path: Path, rows: list[list[str]], header: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Returns the columns' names, the rows of values, and notes of what was guessed."""
    if len(rows) < 2:
        raise ValueError(f"{path} must have a header row and rows of numbers.")
    if len(rows[0]) == 1 and any(separator in rows[0][0] for separator in ";\t|"):
        raise ValueError(f"{path} must have commas between its cells. Its first row: {rows[0][0]!r}.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, the first row {len(rows[0])}.")
    # A row of names has a name above a number; a row of values has a number above each number.
    above_numbers = [is_number(first) for first, second in zip(*rows[:2], strict=True) if is_number(second)]
    is_header = header == "yes" or (header == "guess" and not (above_numbers and all(above_numbers)))
    numbered = [f"column {i + 1}" for i in range(len(rows[0]))]
    if not is_header:
        note = (
            f"The first row holds numbers, so it is taken for values: the columns are named {shortened(numbered)}. "
            "Say --header yes if it holds names."
        )
        return numbered, rows, [note] if header == "guess" else []
    names = [name.strip() or number for name, number in zip(rows[0], numbered, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of one name. Its header: {', '.join(names)}.")
    numeric = [name for name in names if is_number(name)]
    note = (
        f"The first row is taken for names, though it holds numbers ({shortened(numeric)}). Say --header no otherwise."
    )
    return names, rows[1:], [note] if header == "guess" and numeric else []


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip().lower() not in MISSING


def shortened(names: Any) -> str:
    """Returns names for a line of text: the first ones of many."""
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def find_times(path: Path, columns: dict[str, list[np.ndarray]], chosen: str | None) -> dict[str, TimeColumn]:
    """Returns the columns that hold times, the one to continue first; `chosen` is as in `read_series`."""
    if chosen is not None and chosen.lower() == "none" and chosen not in columns:
        return {}
    if chosen is not None and chosen not in columns:
        raise ValueError(f"{path} has no column {chosen!r} for --time. It has {shortened(columns)}.")
    found = {}
    for place, (name, grouped) in enumerate(columns.items()):
        if chosen not in (None, name):
            continue
        cells = [group.tolist() for group in grouped]
        clock = time_columns.find_clock(cells)
        times = [] if clock is None else [[clock.read(cell) for cell in group] for group in cells]
        directions = set(map(time_columns.direction, times))
        is_date = clock is not None and clock is not time_columns.NUMBERS
        in_order = len(directions) == 1 and directions != {0}
        if is_date and not in_order and not is_number(cells[0][0]):
            check_order(path, name, times)
            found[name] = TimeColumn(name, None, cells)
        elif chosen == name and not in_order:
            raise ValueError(f"{path}: column {name!r} cannot be the time, as it does not grow from row to row.")
        elif in_order:
            column = TimeColumn(name, clock, cells)
            unnamed_index = name == "column 1" and place == 0  # pandas writes its index so
            if chosen or is_named_or_date(column) or unnamed_index or all(map(time_columns.evenly_spaced, times)):
                found[name] = column
    # Dates before numbers, names of times before others, the first column before the last.
    return dict(sorted(found.items(), key=lambda item: (not has_dates(item[1]), not is_named_or_date(item[1]))))


def has_dates(column: TimeColumn) -> bool:
    return column.clock not in (None, time_columns.NUMBERS)


def is_named_or_date(column: TimeColumn) -> bool:
    return column.name.lower() in time_columns.NAMES or column.clock != time_columns.NUMBERS


def check_order(path: Path, name: str, times: Sequence[Sequence[Any]]) -> None:
    """Raises an error where a column's dates go forward and back. Dates that repeat may do that with reason."""
    for group in times:
        if not (all(a <= b for a, b in pairwise(group)) or all(a >= b for a, b in pairwise(group))):
            raise ValueError(
                f"{path}: the rows are not in the order of column {name!r}. Sort them, or name the column that tells "
                f"series apart `series`."
            )


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


# --- NPZ and .ts


def read_npz(path: Path) -> SeriesFile:
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
    return SeriesFile([f"feature {d + 1}" for d in range(series[0].shape[1])], series)


def read_ts(path: Path) -> SeriesFile:
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
    return SeriesFile([f"dimension {d + 1}" for d in range(series[0].shape[1])], series)


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


# --- The forecast


def write_forecast(path: Path, file: SeriesFile, forecasts: Sequence[np.ndarray]) -> str:
    """Writes the steps that follow each series as CSV, with a header row; returns what its time column holds, in words.

    Args:
        path: the file to write.
        file: what was read.
        forecasts: an array (S, D) for each series, in the units of the file.
    """
    column, how = "step", "steps are counted from the first one read"
    lengths = map(len, file.series)
    times = [[str(n + s + 1) for s in range(len(f))] for n, f in zip(lengths, forecasts, strict=True)]
    if file.time:
        continued = [
            continue_cells(file.time, cells, len(f)) for cells, f in zip(file.time.cells, forecasts, strict=True)
        ]
        known = [cells for cells in continued if cells is not None]
        if len(known) == len(continued):
            column, times, how = file.time.name, known, f"{file.time.name} is continued"
        else:
            how += f", as {file.time.name} cannot be continued"
    name = [file.id_column] if file.ids or len(forecasts) > 1 else []
    ids = file.ids or [str(number + 1) for number in range(len(forecasts))]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow([*name, column, *file.features])
        for key, stamps, forecast in zip(ids, times, forecasts, strict=True):
            for stamp, values in zip(stamps, forecast, strict=True):
                writer.writerow([*([key] if name else []), stamp, *(f"{value:.7g}" for value in values)])
    return how


def continue_cells(time: TimeColumn, cells: list[str], steps: int) -> list[str] | None:
    """Returns the cells that follow those of a series, or None where they cannot be known."""
    if time.clock is None:
        return None
    try:
        following = time_columns.next_times([time.clock.read(cell) for cell in cells], steps)
    except (ValueError, OverflowError):  # after the year 9999
        return None
    return following and [time.clock.write(value) for value in following]
