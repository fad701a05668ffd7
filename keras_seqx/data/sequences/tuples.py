"""What a tuple stands for: several inputs, flat values and their lengths, or sequences."""

from typing import Any

import numpy as np

# The packages of dense arrays.
ARRAYS = ("h5py", "jax", "jaxlib", "numpy", "tensorflow", "torch")


def is_packed(source: Any) -> bool:
    """Whether it is a `torch.nn.utils.rnn.PackedSequence`, which is a tuple."""
    return isinstance(source, tuple) and hasattr(source, "batch_sizes")


def is_plain(source: Any) -> bool:
    """Whether each row is a number, or all of them lie in one array already."""
    if hasattr(source, "row_splits") or is_packed(source):
        return False
    if getattr(getattr(source, "dtype", None), "kind", "O") in "biufc":
        return not hasattr(source, "inner_shape")  # which a RaggedArray has
    if type(source).__module__.partition(".")[0] in ARRAYS[1:]:
        return not isinstance(source, np.ndarray)  # of objects
    try:
        first = next(iter(source))
    except (TypeError, StopIteration):
        return False
    return np.ndim(first.as_py() if hasattr(first, "as_py") else first) == 0


def is_values_and_lengths(source: Any, count: int | None = None) -> bool:
    """Whether a tuple is flat values and the lengths of sequences, rather than two inputs or two sequences.

    Args:
        source: anything.
        count: R, the number of sequences, where it is known.

    Returns:
        True for an array (N, ...) and integers (R,) that sum to N. Two arrays of different sizes, the second (R,), are
        taken for values and wrong lengths: True, too, so that the error says what is wrong with them.
    """
    if not isinstance(source, tuple) or len(source) != 2 or not is_array(source[0]):
        return False
    lengths = _integers(source[1])
    if lengths is None:
        one_axis = is_array(source[1]) and len(source[1].shape) == 1
        return count is None and one_axis and len(source[0]) != len(source[1])
    rows = len(source[0])
    if rows == len(lengths):
        return rows != count and lengths.sum(dtype="float64") == rows
    return True


def is_array(source: Any) -> bool:
    """Whether it is a dense array of at least one axis, of any package."""
    known = type(source).__module__.partition(".")[0] in ARRAYS or isinstance(source, np.ndarray)
    return known and not hasattr(source, "row_splits") and len(getattr(source, "shape", ())) > 0


def _integers(source: Any) -> np.ndarray | None:
    """Returns integers (R,) as an array, and None for anything else."""
    if not is_array(source):
        if not isinstance(source, (list, tuple)) or not source or not hasattr(source[0], "__index__"):
            return None
        if np.ndim(source[0]):
            return None
    try:
        array = np.asarray(source)
    except (TypeError, ValueError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iu" else None


def rows_of_tuple(source: tuple, count: int | None = None, beside_rows: bool = False) -> list | None:
    """Returns the rows of a tuple that holds a row for each sequence, as `x, y = zip(*samples)` makes it.

    Inputs have as many rows as each other, and one of them at least is no plain array. Targets have R rows each. A
    tuple that does not fit this has rows for its items.

    Args:
        source: a tuple.
        count: R, the number of sequences; None where `source` itself decides it.
        beside_rows: whether `x` is such a tuple of rows. One of R items then is, too.

    Returns:
        A list of R rows, or None if the tuple holds several inputs or targets, or values and their lengths.
    """
    if count is not None:
        if len(source) != count:
            return None
        if beside_rows:
            return list(source)
        fits = is_values_and_lengths(source, count) or all(_rows(item) == count for item in source)
        return None if fits else list(source)
    if not source or is_values_and_lengths(source):
        return None
    if all(map(is_plain, source)):
        return list(source)
    nested = all(isinstance(item, (list, tuple)) for item in source) and len(set(map(len, source))) > 1
    return list(source) if nested and all(map(_is_dense, source)) else None


def _rows(item: Any) -> int | None:
    """Returns how many rows an input or a target has, None for a number."""
    if is_values_and_lengths(item):
        return len(item[1])
    try:
        return len(item)
    except TypeError:
        return int(item.nrows()) if hasattr(item, "nrows") else None


def _is_dense(item: Any) -> bool:
    """Whether nested lists are one array of numbers."""
    try:
        return np.asarray(item).dtype.kind in "biufc"
    except ValueError:
        return False
