"""RaggedArray: sequences of different lengths as one flat array of values."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_seqx._core import errors
from keras_seqx.data.sequences.readers import Where, differs, from_external
from keras_seqx.data.sequences.tuples import is_array, is_values_and_lengths

SEQUENCES = "sequences: a list of arrays or lists, a pair `(values, lengths)`, an array (R, T, ...), a column of lists"
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
# Up to so many numbers a row, taking all rows at once, padding included, is faster than a copy of each.
SHORT = 512


class RaggedArray:
    """Keeps sequences of different lengths as one flat array of values.

    Neither reading a flat array nor selecting sequences copies the values.

    Args:
        source: the values of all sequences, (N, ...), one sequence behind the other, where `lengths` are given. Else
            anything that can be read as sequences: a pair `(values, lengths)`, a list of arrays (T, ...) or of lists
            of numbers, an array (R, T, ...), a `tf.RaggedTensor` whose further axes have one size each, a torch
            `PackedSequence`, a pyarrow list array, a Hugging Face or pandas column of lists, or a `RaggedArray`. The
            arrays may be of NumPy, h5py, which is read into memory, or a backend. A tuple of two that begins with a
            NumPy array is such a pair. Floats of several sizes become the largest, and so do integers.
        lengths: (R,) integers of at least 1 that sum to N. Default None: `source` knows its lengths.

    Attributes:
        values: (N, ...) numbers.
        starts: (R,) int64, the first step of each sequence in `values`.
        lengths: (R,) int64, the number of its steps.

    Raises:
        ValueError: there is no sequence, an empty one, a null, or one whose steps have another shape; the lengths do
            not fit the values.
        TypeError: the source has no sequences, they hold no numbers, or arrays of several dtypes.

    Example:

    >>> import numpy as np
    >>> from keras_seqx import RaggedArray
    >>> words = RaggedArray([[3, 1, 4], [1, 5], [9, 2, 6, 5]])
    >>> words
    RaggedArray(3 sequences of 2 to 4 steps, inner shape (), int64)
    >>> words[1].tolist(), words[1:].lengths.tolist()
    ([1, 5], [2, 4])
    >>> words.pad([1, 0], length=4).tolist()
    [[1, 5, 0, 0], [3, 1, 4, 0]]
    >>> np.shares_memory(words[1:].values, words.values)
    True
    """

    def __init__(self, source: Any, lengths: Any = None):
        where = ("RaggedArray", "source")
        parts = _read(source, where) if lengths is None else _join(source, lengths, where, ("RaggedArray", "lengths"))
        self.values, self.starts, self.lengths = parts

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """The shape of one step."""
        return self.values.shape[1:]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        starts, lengths = self.starts[index], self.lengths[index]
        if starts.ndim == 0:
            return self.values[starts : starts + lengths]
        if starts.ndim > 1:
            text = "an integer, a slice or a one-dimensional array"
            raise IndexError(errors.message(self, "index", text, starts.shape, "Select rows alone", "its shape"))
        return _share(self.values, starts, lengths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        steps = f" of {self.lengths.min()} to {self.lengths.max()} steps" if len(self) else ""
        return f"RaggedArray({len(self)} sequences{steps}, inner shape {self.inner_shape}, {self.dtype})"

    def pad(self, rows: Any = None, length: int | None = None, padding_value: Any = 0, dtype: Any = None) -> np.ndarray:
        """Returns sequences as one dense array, padded on the right.

        Args:
            rows: (B,) integers, the sequences, in any order; negative ones count from the end. Default None: all.
            length: T, the steps of the result, which cut longer sequences. Default None: those of the longest one.
            padding_value: what the steps behind a sequence hold, a number of the result's dtype. Default 0.
            dtype: of the result. Default None: that of the values.

        Returns:
            (B, T, ...), a new array.

        Raises:
            ValueError: `rows` is out of range, `length` below 1, `padding_value` no number of the dtype.
            TypeError: `rows` or `length` are no integers, `dtype` is none of numbers.
        """
        rows = np.arange(len(self)) if rows is None else self._check_rows(rows)
        if length is None:
            length = int(self.lengths[rows].max(initial=0))
        else:
            length = errors.positive_integer(self, "length", length, "Leave it out for the longest sequence")
        kind = self.dtype if dtype is None else np.dtype(dtype)
        if not _is_number(kind):
            raise TypeError(errors.message(self, "dtype", "a dtype of numbers", kind, "Convert the result afterwards"))
        check_padding(padding_value, kind)
        return self.gather(rows, length, padding_value, kind)

    def gather(self, rows: np.ndarray, length: int, padding: Any, kind: Any) -> np.ndarray:
        """Returns what `pad` does, of arguments that are known to be sound; `rows` have the dtype intp."""
        starts, lengths, values = self.starts[rows], self.lengths[rows], self.values
        # `take` would first copy all values that do not lie as in C.
        if length * values.size <= SHORT * len(values) and values.flags.c_contiguous and values.flags.aligned:
            batch = self._runs(starts, length).astype(kind, copy=False)
            batch[_behind(length).take(lengths, axis=0, mode="clip")] = padding
            return batch
        batch = np.full((len(starts), length, *self.inner_shape), padding, kind)
        for row, start, size in zip(batch, starts.tolist(), np.minimum(lengths, length).tolist(), strict=True):
            row[:size] = values[start : start + size]
        return batch

    def _runs(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Returns so many steps from each start on, (B, T, ...), whatever sequences they belong to."""
        values = self.values
        step = values.nbytes // len(values)
        if step and length <= len(values):
            # All runs of the values as one array of opaque items, of which indexing copies each as a whole.
            runs = np.ndarray(len(values) - length + 1, _item(length * step), values, 0, step)
            try:
                return runs[starts].view(values.dtype).reshape(len(starts), length, *self.inner_shape)
            except IndexError:
                pass  # With one of the last sequences, whose run would end behind the values.
        return values.take(np.add.outer(starts, np.arange(length)), axis=0, mode="clip")

    def _check_rows(self, rows: Any) -> np.ndarray:
        rows, fix = np.asarray(rows), "Count from 0, or from -1 backwards"
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise TypeError(errors.message(self, "rows", "integers (B,)", rows, fix))
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            text = f"positions of sequences, of which there are {len(self)}"
            raise ValueError(errors.message(self, "rows", text, rows, fix))
        return rows.astype(np.intp, copy=False)


@functools.lru_cache(maxsize=SHORT)
def _behind(length: int) -> np.ndarray:
    """Returns, in row n, which of the steps lie behind n steps, (T + 1, T)."""
    return np.arange(length) >= np.arange(length + 1)[:, None]


@functools.lru_cache(maxsize=SHORT)
def _item(size: int) -> np.dtype:
    """Returns a dtype of so many bytes."""
    return np.dtype((np.void, size))


def read(source: Any, owner: str = "RaggedArray", argument: str = "source") -> RaggedArray:
    """Returns a source as sequences, as `RaggedArray(source)` does, with errors that name another argument.

    Args:
        source: what `RaggedArray` takes.
        owner: the name that errors begin with. Default "RaggedArray".
        argument: what errors call the source. Default "source".

    Returns:
        The sequences.

    Raises:
        ValueError: as `RaggedArray` does.
        TypeError: as `RaggedArray` does.
    """
    return _share(*_read(source, (owner, argument)))


def _share(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> RaggedArray:
    """Returns the sequences at `starts`, which need not cover the values."""
    array = object.__new__(RaggedArray)
    array.values, array.starts, array.lengths = values, starts, lengths
    return array


def _read(source: Any, where: Where) -> Parts:
    """Returns the values, starts and lengths of a source."""
    if isinstance(source, RaggedArray):
        _check_lengths(source.lengths, where)
        return source.values, source.starts, source.lengths
    if _is_pair(source):
        values, lengths = source
        return _join(values, lengths, where, (where[0], f"{where[1]}[1]"))
    values, lengths = _flatten(from_external(source, where), where)
    return _join(values, lengths, where, where)


def _is_pair(source: Any) -> bool:
    if not isinstance(source, tuple) or len(source) != 2:
        return False
    return isinstance(source[0], np.ndarray) or is_values_and_lengths(source)


def _join(values: Any, lengths: Any, where: Where, lengths_where: Where) -> Parts:
    """Returns flat values, the starts and the lengths, having checked them all."""
    if is_array(values):
        values = np.asarray(values)  # of another package
    if not isinstance(values, np.ndarray) or not values.ndim:
        fix = "Give the values of all sequences in one array, or leave out the lengths"
        raise TypeError(errors.message(*where, "an array (N, ...) beside its lengths", type(values), fix, "its type"))
    lengths = np.asarray(lengths)
    fix = "Give one length for each sequence; two sequences belong in a list, not in a tuple"
    if lengths.size and (lengths.ndim != 1 or lengths.dtype.kind not in "iu"):
        context = f"its shape, of {lengths.dtype}"
        raise TypeError(errors.message(*lengths_where, "integers (R,)", lengths.shape, fix, context))
    # As a float, for integers may overflow to the very number.
    total = lengths.sum(dtype="float64")
    if total != len(values):
        text = f"lengths that sum to the {len(values)} steps of the values"
        raise ValueError(errors.message(*lengths_where, text, int(total), fix, "their sum"))
    _check_lengths(lengths, lengths_where)
    _check_numbers(values.dtype, where)
    lengths = lengths.astype(np.int64, copy=False)
    return np.asarray(values), lengths.cumsum() - lengths, lengths


def _check_lengths(lengths: np.ndarray, where: Where) -> None:
    if not lengths.size:
        raise ValueError(errors.message(*where, "of at least 1 sequence", 0, "Give some", "the number of sequences"))
    if lengths.min() < 1:
        row = int(np.argmax(lengths < 1))
        text, context = "of at least 1 step in each sequence", f"the length of row {row}"
        raise ValueError(errors.message(*where, text, int(lengths[row]), "Leave out empty sequences", context))


def _flatten(source: Any, where: Where) -> tuple[np.ndarray, np.ndarray]:
    """Returns the flat values and the lengths of a pair, an array or a list of sequences."""
    if _is_pair(source):
        return source
    if hasattr(source, "__array__"):
        array = np.asarray(source)
        if array.ndim > 1:
            rows, steps = array.shape[:2]
            return array.reshape(rows * steps, *array.shape[2:]), np.full(rows, steps)
        source = list(array) if array.ndim else source
    if not isinstance(source, (list, tuple)):
        raise TypeError(errors.message(*where, SEQUENCES, type(source), "Convert it to one of these", "its type"))
    if set(map(type, source)) <= {list, tuple}:
        try:
            return np.array(list(itertools.chain.from_iterable(source))), np.array(list(map(len, source)))
        except ValueError:
            pass  # Steps of several shapes. Row by row it shows where.
    return _concatenate([_row(row, where, i) for i, row in enumerate(source)], where)


def _row(row: Any, where: Where, i: int) -> np.ndarray:
    """Returns row `i` of a list as an array (T, ...)."""
    try:
        array = np.asarray(row)
    except ValueError as error:
        text, fix = "sequences whose steps have one shape", "Only the number of steps may vary"
        raise ValueError(errors.message(*where, text, type(row), fix, f"the type of row {i}")) from error
    if not array.ndim:
        text, fix = "a sequence in each row", "Give each as an array (T, ...) or a list of numbers"
        raise TypeError(errors.message(*where, text, row, fix, f"row {i}"))
    return array


def _concatenate(arrays: list[np.ndarray], where: Where) -> tuple[np.ndarray, np.ndarray]:
    """Returns arrays (T, ...) of one kind of numbers and one shape of steps after each other, and their lengths."""
    lengths = np.array(list(map(len, arrays)))
    _check_lengths(lengths, where)
    dtype, shape = arrays[0].dtype, arrays[0].shape[1:]
    for i, array in enumerate(arrays):
        if array.shape[1:] != shape:
            raise differs(i, array.shape[1:], shape, where)
        # NumPy turns floats of several sizes into the largest, and integers as well.
        if array.dtype != dtype and not (array.dtype.kind == dtype.kind and dtype.kind in "iuf"):
            _check_numbers(array.dtype, where)
            text = f"arrays of one dtype, {dtype} as in row 0"
            raise TypeError(errors.message(*where, text, array.dtype, "Convert them to one", f"dtype of row {i}"))
    return np.concatenate(arrays), lengths


def _is_number(dtype: np.dtype) -> bool:
    """Whether a dtype is one of numbers; those of ml_dtypes, bfloat16 say, are "V" to NumPy as structures are."""
    return dtype.kind in "biufc" or (dtype.kind == "V" and not issubclass(dtype.type, np.void))


def _check_numbers(dtype: np.dtype, where: Where) -> None:
    if not _is_number(dtype):
        raise TypeError(errors.message(*where, "numbers", dtype, "Turn them into numbers first", "dtype"))


def check_padding(value: Any, kind: np.dtype, owner: str = "RaggedArray") -> None:
    """Raises unless a dtype holds the value: exactly, or rounded if it has fractions, but not as an infinity."""
    number = np.asarray(value)
    if number.ndim == 0 and _is_number(number.dtype) and (number.dtype.kind != "c" or kind.kind == "c"):
        with np.errstate(all="ignore"):
            held, half = number.astype(kind), np.asarray(0.5).astype(kind)
        if held == number or (half == 0.5 and np.isfinite(held) == np.isfinite(number)):
            return
    text, fix = f"a number that {kind} holds", "Give another value, or a `dtype` that holds it"
    raise ValueError(errors.message(owner, "padding_value", text, value, fix))
