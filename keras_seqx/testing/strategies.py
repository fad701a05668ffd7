"""Hypothesis strategies for what sequence layers are tested on.

Every shape costs a compilation, so shapes come from a small set, and values vary freely. Examples shrink towards few
rows, short ones, and zeros.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_seqx._core import errors
from keras_seqx.data import RaggedArray

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise ImportError("keras_seqx.testing.strategies needs Hypothesis: `pip install hypothesis`.") from error

Strategy = st.SearchStrategy


@dataclasses.dataclass(frozen=True)
class PaddedBatch:
    """A batch of padded sequences.

    Attributes:
        values: (B, T, ...). Behind a row's length stands anything.
        lengths: int32 (B,) within [1, T].
    """

    values: np.ndarray
    lengths: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """The mask (B, T), true at valid steps."""
        return np.arange(self.values.shape[1]) < self.lengths[:, None]


def layer_shapes(
    *,
    batch_sizes: Sequence[int] = (1, 3),
    lengths: Sequence[int] = (1, 4),
    features: Sequence[tuple[int, ...]] = ((2,),),
) -> Strategy:
    """Returns a strategy of shapes (B, T, ...), every combination of what is given.

    Args:
        batch_sizes: choices of B, integers of at least 1.
        lengths: choices of T, integers of at least 1.
        features: choices of the axes behind T; `()` for token ids.

    Returns:
        A strategy of tuples of integers. Shrinks towards the combination of the fewest elements.

    Raises:
        ValueError: an argument is empty, or has sizes below 1.
        TypeError: sizes that are no integers.

    Example:

    >>> from keras_seqx.testing.strategies import layer_shapes
    >>> layer_shapes(batch_sizes=[2], lengths=[3, 5])
    sampled_from([(2, 3, 2), (2, 5, 2)])
    """
    owner = "layer_shapes"
    for argument, choices in (("batch_sizes", batch_sizes), ("lengths", lengths), ("features", features)):
        if not choices:
            raise ValueError(errors.message(owner, argument, "one or more choices", choices, "Give at least one"))
        for size in choices if argument != "features" else itertools.chain(*features):
            _size(owner, argument, size)
    shapes = [(b, t, *f) for b, t, f in itertools.product(batch_sizes, lengths, features)]
    return st.sampled_from(sorted(shapes, key=lambda shape: (np.prod(shape), shape)))


def lengths(*, batch_size: int | Strategy | None = None, min_length: int = 1, max_length: int = 6) -> Strategy:
    """Returns a strategy of the lengths of a batch's rows.

    Args:
        batch_size: B, an integer of at least 1, or a strategy of such. Defaults to None: 1 to 4.
        min_length: integer of at least 0.
        max_length: integer of at least `min_length` and 1.

    Returns:
        A strategy of int32 arrays (B,). Shrinks towards few rows of `min_length`.

    Raises:
        ValueError: sizes below their bounds, or `max_length` below `min_length`.
        TypeError: sizes that are no integers.

    Example:

    >>> import hypothesis
    >>> from keras_seqx.testing import strategies
    >>> hypothesis.find(strategies.lengths(batch_size=2), lambda n: n.max() > 3).tolist()
    [1, 4]
    """
    _check_range("lengths", min_length, max_length)
    sizes = st.integers(1, 4) if batch_size is None else batch_size
    sizes = sizes if isinstance(sizes, Strategy) else st.just(_size("lengths", "batch_size", sizes))
    steps = st.integers(min_length, max_length)
    return sizes.flatmap(lambda b: st.lists(steps, min_size=b, max_size=b)).map(lambda n: np.array(n, "int32"))


def masks(
    *,
    batch_size: int | Strategy | None = None,
    min_length: int = 1,
    max_length: int = 6,
    holes: bool = False,
    allow_fully_masked: bool = False,
) -> Strategy:
    """Returns a strategy of masks, true at valid steps.

    Args:
        batch_size: as in `lengths`.
        min_length: integer of at least 1, the fewest steps from the first to the last valid one.
        max_length: T, integer of at least `min_length`.
        holes: whether steps before a row's last may be masked too. False: padding is on the right alone.
        allow_fully_masked: whether rows may have no valid step. If so, `min_length` is taken as 0.

    Returns:
        A strategy of boolean arrays (B, T). Shrinks towards few rows, `min_length` steps, and no hole.

    Raises:
        ValueError: as `lengths`.
        TypeError: as `lengths`.

    Example:

    >>> import hypothesis
    >>> from keras_seqx.testing import strategies
    >>> hypothesis.find(strategies.masks(max_length=4), lambda mask: len(mask) == 2).astype(int).tolist()
    [[1, 0, 0, 0], [1, 0, 0, 0]]
    """
    _size("masks", "min_length", min_length)
    lowest = 0 if allow_fully_masked else min_length
    _check_range("masks", lowest, max_length)
    rows = lengths(batch_size=batch_size, min_length=lowest, max_length=max_length)

    @st.composite
    def drawn(draw: Any) -> np.ndarray:
        steps = draw(rows)
        mask = np.arange(max_length) < steps[:, None]
        if holes:
            mask &= ~draw(hnp.arrays(bool, mask.shape))
            for row in range(0 if allow_fully_masked else len(mask)):
                if not mask[row].any():
                    mask[row, draw(st.integers(0, int(steps[row]) - 1))] = True
        return mask

    return drawn()


def padded_batches(
    *,
    shape: tuple[int, ...] | Strategy | None = None,
    dtype: Any = "float32",
    elements: Strategy | None = None,
    min_length: int = 1,
) -> Strategy:
    """Returns a strategy of padded batches.

    Args:
        shape: (B, T, ...), or a strategy of such. Defaults to None: `layer_shapes()`.
        dtype: of the values.
        elements: strategy of the values. Defaults to None: numbers within [-4, 4] for floats, 1 to 9 for integers.
        min_length: integer within [1, T].

    Returns:
        A strategy of `PaddedBatch`. Shrinks towards small shapes, rows of `min_length`, and zeros.

    Raises:
        ValueError: `min_length` is below 1.
        TypeError: `min_length` is no integer.

    Example:

    >>> import hypothesis
    >>> from keras_seqx.testing import strategies
    >>> batch = hypothesis.find(strategies.padded_batches(shape=(2, 3)), lambda batch: batch.values.any())
    >>> batch.lengths.tolist(), batch.mask.astype(int).tolist()
    ([1, 1], [[1, 0, 0], [1, 0, 0]])
    """
    _size("padded_batches", "min_length", min_length)
    elements = _elements(dtype) if elements is None else elements
    shapes = layer_shapes() if shape is None else shape if isinstance(shape, Strategy) else st.just(shape)

    def batches(shape: tuple[int, ...]) -> Strategy:
        rows = lengths(batch_size=shape[0], min_length=min_length, max_length=shape[1])
        return st.builds(PaddedBatch, hnp.arrays(dtype, shape, elements=elements), rows)

    return shapes.flatmap(batches)


def ragged_batches(
    *,
    batch_size: int | Strategy | None = None,
    min_length: int = 1,
    max_length: int = 6,
    features: tuple[int, ...] = (2,),
    dtype: Any = "float32",
    elements: Strategy | None = None,
) -> Strategy:
    """Returns a strategy of sequences of different lengths.

    Args:
        batch_size: as in `lengths`.
        min_length: integer of at least 1.
        max_length: integer of at least `min_length`.
        features: the shape of one step; `()` for token ids.
        dtype: of the values.
        elements: as in `padded_batches`.

    Returns:
        A strategy of `RaggedArray`, of which `list(...)` is a list of arrays (T, ...). Shrinks towards few rows of
        `min_length`, and zeros.

    Raises:
        ValueError: as `lengths`.
        TypeError: as `lengths`.

    Example:

    >>> import hypothesis
    >>> from keras_seqx.testing import strategies
    >>> ids = strategies.ragged_batches(features=(), dtype="int32")
    >>> [row.tolist() for row in hypothesis.find(ids, lambda rows: len(rows) == 2)]
    [[1], [1]]
    """
    _size("ragged_batches", "min_length", min_length)
    _check_range("ragged_batches", min_length, max_length)
    elements = _elements(dtype) if elements is None else elements

    def batches(n: np.ndarray) -> Strategy:
        shape = (int(n.sum()), *features)
        return st.builds(RaggedArray, hnp.arrays(dtype, shape, elements=elements), st.just(n))

    return lengths(batch_size=batch_size, min_length=min_length, max_length=max_length).flatmap(batches)


def cells(*, max_units: int = 3) -> Strategy:
    """Returns a strategy of Keras' RNN cells.

    Args:
        max_units: integer of at least 1.

    Returns:
        A strategy of `SimpleRNNCell`, `GRUCell` and `LSTMCell`, seeded. Shrinks towards `SimpleRNNCell(1)`.

    Raises:
        ValueError: `max_units` is below 1.
        TypeError: `max_units` is no integer.

    Example:

    >>> import hypothesis
    >>> from keras_seqx.testing import strategies
    >>> hypothesis.find(strategies.cells(), lambda cell: cell.units > 1).units
    2
    """
    kinds = st.sampled_from([keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell])
    return st.builds(_cell, kinds, st.integers(1, _size("cells", "max_units", max_units)), st.integers(0, 2**16))


def stacks(*, cells: Strategy | None = None, max_size: int = 3) -> Strategy:
    """Returns a strategy of what is stacked from cells.

    Args:
        cells: strategy of cells. Defaults to None: `cells()`.
        max_size: integer of at least 1, the most cells in a stack.

    Returns:
        A strategy of lists of 1 to `max_size` cells, and of `StackedRNNCells` of 2 or more. Shrinks towards one cell.

    Raises:
        ValueError: `max_size` is below 1.
        TypeError: `max_size` is no integer.

    Example:

    >>> import hypothesis
    >>> from keras_seqx.testing import strategies
    >>> [type(cell).__name__ for cell in hypothesis.find(strategies.stacks(), lambda stack: True)]
    ['SimpleRNNCell']
    """
    size = _size("stacks", "max_size", max_size)
    cells = globals()["cells"]() if cells is None else cells
    lists = st.lists(cells, min_size=1, max_size=size)
    if size > 1:
        lists |= st.lists(cells, min_size=2, max_size=size).map(keras.layers.StackedRNNCells)
    return lists


def _cell(kind: type, units: int, seed: int) -> keras.layers.Layer:
    kernel, recurrent = keras.initializers.GlorotUniform(seed), keras.initializers.Orthogonal(seed=seed)
    return kind(units, kernel_initializer=kernel, recurrent_initializer=recurrent, seed=seed)


def _elements(dtype: Any) -> Strategy:
    if np.dtype(dtype).kind == "f":
        return st.floats(-4, 4, width=16, allow_subnormal=False)
    return st.booleans() if np.dtype(dtype).kind == "b" else st.integers(1, 9)


def _size(owner: str, argument: str, value: Any) -> int:
    return errors.positive_integer(owner, argument, value, "Sizes count from 1")


def _check_range(owner: str, low: int, high: int) -> None:
    if low != 0:
        _size(owner, "min_length", low)
    if _size(owner, "max_length", high) < low:
        text = f"at least `min_length`, which is {low}"
        raise ValueError(errors.message(owner, "max_length", text, high, "Raise it"))
