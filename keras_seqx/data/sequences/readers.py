"""Sequences as other packages keep them. None of the packages is imported before an object of it comes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_seqx._core import errors

# The array types of pyarrow that hold lists one behind the other.
LISTS = ("FixedSizeListArray", "LargeListArray", "ListArray")
# Who complains, and about which argument: the first two words of an error.
Where = tuple[str, str]


def from_external(source: Any, where: Where) -> Any:
    """Returns a foreign source as a pair `(values, lengths)`, a list or an array, and anything else as it is."""
    reader = READERS.get(type(source).__module__.partition(".")[0])
    return source if reader is None else reader(source, where)


def differs(row: Any, received: Any, expected: Any, where: Where) -> ValueError:
    """Returns the error about the first row whose steps have another shape than those of row 0."""
    text = f"sequences whose steps have one shape, {expected} as in row 0"
    return ValueError(
        errors.message(*where, text, received, "Only the number of steps may vary", f"steps of row {row}")
    )


def _from_tensorflow(source: Any, where: Where) -> Any:
    if not hasattr(source, "row_splits"):
        return np.asarray(source)
    splits = source.row_splits.numpy()
    return _dense(source.values, source.ragged_rank, where)[splits[0] : splits[-1]], np.diff(splits)


def _dense(values: Any, rank: int, where: Where) -> np.ndarray:
    """Returns the values of a ragged tensor, whose further axes may be ragged by type, but not in size."""
    if not hasattr(values, "row_splits"):
        try:
            return np.asarray(memoryview(values))  # `numpy()` would copy
        except (BufferError, TypeError, ValueError):  # bfloat16 has no buffer format
            return values.numpy()
    splits = values.row_splits.numpy()
    widths = np.diff(splits)
    if (widths != widths[:1]).any():
        fix = "Let only the number of steps vary"
        raise ValueError(errors.message(*where, "ragged in one axis", rank, fix, "its ragged rank"))
    held = _dense(values.values, rank, where)[splits[0] : splits[-1]]
    width = int(widths[0]) if len(widths) else 0
    return held.reshape(len(widths), width, *held.shape[1:])


def _from_torch(source: Any, where: Where) -> Any:
    if not hasattr(source, "batch_sizes"):
        return source
    sizes = source.batch_sizes.numpy()
    # Step t of all sequences, the longest first, lies before step t + 1 of all.
    lengths = (sizes[:, None] > np.arange(sizes[0])).sum(axis=0)
    unsorted = source.unsorted_indices
    order = np.arange(sizes[0]) if unsorted is None else unsorted.cpu().numpy()
    lengths = lengths[order]
    starts = np.cumsum(lengths) - lengths
    step = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    place = (np.cumsum(sizes) - sizes)[step] + np.repeat(order, lengths)
    data = source.data.detach().cpu()
    return (data.float() if str(data.dtype) == "torch.bfloat16" else data).numpy()[place], lengths


def _from_pandas(source: Any, where: Where) -> Any:
    if not hasattr(source, "array"):
        return source
    if hasattr(source.array, "__arrow_array__"):
        return _from_arrow(source.array.__arrow_array__(), where)
    return list(source.array)


def _from_datasets(source: Any, where: Where) -> Any:
    if not isinstance(source, Sequence):
        return source
    column: Any = source
    dataset: Any = getattr(column, "source", None)
    # A field of a nested column has no data set of its own, and a transform makes its rows one by one.
    if not hasattr(dataset, "with_format") or dataset.format["type"] == "custom":
        return list(column)
    return _from_arrow(dataset.with_format("arrow")[column.column_name][:], where)


def _from_arrow(source: Any, where: Where) -> Any:
    if not hasattr(source, "null_count"):
        return source
    chunks = [chunk for chunk in getattr(source, "chunks", [source]) if len(chunk)]
    if not chunks:
        return []
    steps, lengths = _open_lists(chunks, where)
    return _stack(steps, lengths.cumsum(), where), lengths


def _open_lists(chunks: list, where: Where) -> tuple[list, np.ndarray]:
    """Returns what the lists of an Arrow column hold, in chunks, and the length of each list."""
    held, lengths = [], []
    for chunk in chunks:
        chunk = _storage(chunk)
        if chunk.null_count:
            raise _nulls(chunk, where)
        if type(chunk).__name__ == "FixedSizeListArray":
            held.append(chunk.flatten())
            lengths.append(np.full(len(chunk), chunk.type.list_size))
        elif type(chunk).__name__ in LISTS:
            # A slice keeps all values, and its offsets start where it does.
            offsets = chunk.offsets.to_numpy()
            held.append(chunk.values.slice(offsets[0], offsets[-1] - offsets[0]))
            lengths.append(np.diff(offsets))
        else:
            fix = "Give a column whose rows are lists of numbers"
            raise TypeError(errors.message(*where, "a column of lists", str(chunk.type), fix, "type"))
    return held, np.concatenate(lengths)


def _stack(chunks: list, ends: np.ndarray, where: Where) -> np.ndarray:
    """Returns the values (N, ...) of all chunks; row i of the source ends at item `ends[i]` of theirs."""
    if type(chunks[0]).__name__ not in LISTS:
        for chunk in chunks:
            if chunk.null_count:
                raise _nulls(chunk, where)
        arrays = [chunk.to_numpy(zero_copy_only=False) for chunk in chunks]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    held, widths = _open_lists(chunks, where)
    width = int(widths[0]) if len(widths) else 0
    if (widths != width).any():
        item = int(np.argmax(widths != width))
        row = int(np.searchsorted(ends, item, side="right"))
        raise differs(row, (int(widths[item]),), (width,), where)
    values = _stack(held, ends * width, where)
    return values.reshape(len(widths), width, *values.shape[1:])


def _storage(chunk: Any) -> Any:
    """Returns the nested lists below the array types of Hugging Face."""
    return chunk.storage if type(chunk.type).__module__.startswith("datasets.") else chunk


def _nulls(chunk: Any, where: Where) -> ValueError:
    return ValueError(errors.message(*where, "without nulls", chunk.null_count, "Drop or fill them", "nulls"))


# By the package that the class of the source belongs to.
READERS: dict[str, Callable[[Any, Where], Any]] = {
    "tensorflow": _from_tensorflow,
    "torch": _from_torch,
    "pandas": _from_pandas,
    "datasets": _from_datasets,
    "pyarrow": _from_arrow,
}
