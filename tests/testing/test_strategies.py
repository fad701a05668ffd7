"""What the strategies draw, whether everything can be drawn, and what it shrinks towards."""

import keras
import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from keras_seqx import RaggedArray
from keras_seqx.testing import strategies
from tests.cases import numpy_alone

pytestmark = numpy_alone
# Enough to come across what one example in a hundred is.
MANY = settings(max_examples=2000, deadline=None, derandomize=True)
FEW_STEPS = {"batch_size": 2, "max_length": 3}


def minimal(strategy, condition=lambda _: True):
    return find(strategy, condition, settings=MANY)


def can_be_drawn(strategy, condition):
    """Raises `NoSuchExample` if not."""
    find(strategy, condition, settings=settings(MANY, phases=[Phase.generate]))


@given(strategies.lengths(min_length=2, max_length=5))
def test_lengths(lengths):
    assert lengths.dtype == np.int32
    assert 1 <= len(lengths) <= 4
    assert lengths.min() >= 2
    assert lengths.max() <= 5


@given(strategies.masks(holes=False), strategies.masks(holes=True, min_length=3, max_length=3))
def test_masks(padded, holed):
    assert padded.dtype == holed.dtype == bool
    np.testing.assert_array_equal(padded, np.sort(padded, axis=1)[:, ::-1])
    assert padded.any(axis=1).all()
    assert holed.any(axis=1).all()
    assert padded.shape[1] == 6
    assert holed.shape[1] == 3


@given(strategies.padded_batches(), strategies.padded_batches(shape=st.just((2, 4)), dtype="int32", min_length=3))
def test_padded_batches(batch, ids):
    assert batch.values.dtype == np.float32
    assert batch.values.shape in {(b, t, 2) for b in (1, 3) for t in (1, 4)}
    assert np.abs(batch.values).max() <= 4
    np.testing.assert_array_equal(batch.mask.sum(axis=1), batch.lengths)
    assert batch.mask.shape == batch.values.shape[:2]
    assert ids.values.shape == (2, 4)
    assert ids.values.dtype == np.int32
    assert set(ids.values.ravel().tolist()) <= set(range(1, 10))
    assert ids.lengths.min() >= 3


@given(strategies.ragged_batches(batch_size=st.integers(2, 3), max_length=3, features=(1, 2), dtype="float64"))
def test_ragged_batches(ragged):
    assert isinstance(ragged, RaggedArray)
    assert 2 <= len(ragged) <= 3
    assert {row.shape[1:] for row in ragged} == {(1, 2)}
    assert ragged.dtype == np.float64


@pytest.mark.filterwarnings("error")
@given(strategies.cells(), strategies.stacks(max_size=2))
def test_cells_and_stacks(cell, stack):
    assert 1 <= cell.units <= 3
    if isinstance(stack, keras.layers.StackedRNNCells):
        stack = stack.cells
        assert len(stack) == 2
    assert 1 <= len(stack) <= 2


def test_everything_can_be_drawn():
    for wanted in np.ndindex(3, 3):
        can_be_drawn(strategies.lengths(**FEW_STEPS), lambda n, w=wanted: n.tolist() == [w[0] + 1, w[1] + 1])
    for bits in range(8):
        row = [bool(bits & 4), bool(bits & 2), bool(bits & 1)]
        holed = strategies.masks(batch_size=1, max_length=3, holes=True, allow_fully_masked=not bits)
        can_be_drawn(holed, lambda mask, r=row: mask[0].tolist() == r)
    can_be_drawn(strategies.masks(**FEW_STEPS, allow_fully_masked=True), lambda mask: mask.any() and not mask[1].any())
    for shape in ((1, 1, 2), (1, 4, 2), (3, 1, 2), (3, 4, 2)):
        can_be_drawn(strategies.layer_shapes(), lambda drawn, s=shape: drawn == s)
    for kind in ("SimpleRNNCell", "GRUCell", "LSTMCell"):
        can_be_drawn(strategies.cells(), lambda cell, k=kind: type(cell).__name__ == k and cell.units == 3)
    can_be_drawn(
        strategies.stacks(), lambda stack: isinstance(stack, keras.layers.StackedRNNCells) and len(stack.cells) > 2
    )
    # What stands behind a row's length is drawn too.
    can_be_drawn(strategies.padded_batches(), lambda batch: batch.values[~batch.mask].any())


def test_what_examples_shrink_towards():
    assert minimal(strategies.lengths(min_length=2)).tolist() == [2]
    assert minimal(strategies.lengths(min_length=0)).tolist() == [0]
    assert minimal(strategies.masks(holes=True, min_length=2, max_length=3)).tolist() == [[True, True, False]]
    assert minimal(strategies.masks(allow_fully_masked=True, max_length=2)).tolist() == [[False, False]]
    assert minimal(strategies.layer_shapes(batch_sizes=(5, 2), lengths=(9, 3))) == (2, 3, 2)
    batch = minimal(strategies.padded_batches(), lambda batch: len(batch.values) > 1 and batch.values.shape[1] > 1)
    assert batch.values.shape == (3, 4, 2)
    assert not batch.values.any()
    assert batch.lengths.tolist() == [1, 1, 1]
    ragged = minimal(strategies.ragged_batches(), lambda rows: rows.values.max() > 1.5)
    assert len(ragged) == 1
    assert ragged.values.max() == 2
    assert type(minimal(strategies.cells())) is keras.layers.SimpleRNNCell
    assert [(type(cell).__name__, cell.units) for cell in minimal(strategies.stacks())] == [("SimpleRNNCell", 1)]


BAD_ARGUMENTS = [
    (lambda: strategies.lengths(batch_size=0), ValueError, "lengths: `batch_size` must be an integer of at least 1"),
    (lambda: strategies.lengths(min_length=-1), ValueError, "lengths: `min_length` must be an integer of at least 1"),
    (lambda: strategies.lengths(max_length=1.5), TypeError, "lengths: `max_length` must be an integer of at least 1"),
    (
        lambda: strategies.lengths(min_length=3, max_length=2),
        ValueError,
        "lengths: `max_length` must be at least `min_length`, which is 3",
    ),
    (lambda: strategies.masks(min_length=0), ValueError, "masks: `min_length` must be an integer of at least 1"),
    (lambda: strategies.masks(max_length=0), ValueError, "masks: `max_length` must be an integer of at least 1"),
    (lambda: strategies.padded_batches(min_length=0), ValueError, "padded_batches: `min_length` must be"),
    (lambda: strategies.ragged_batches(min_length=0), ValueError, "ragged_batches: `min_length` must be"),
    (lambda: strategies.ragged_batches(min_length=3, max_length=2), ValueError, "ragged_batches: `max_length` must be"),
    (lambda: strategies.layer_shapes(features=()), ValueError, "layer_shapes: `features` must be one or more choices"),
    (lambda: strategies.layer_shapes(lengths=[0]), ValueError, "layer_shapes: `lengths` must be an integer of at leas"),
    (lambda: strategies.layer_shapes(features=[(0,)]), ValueError, "layer_shapes: `features` must be an integer of at"),
    (lambda: strategies.cells(max_units=0), ValueError, "cells: `max_units` must be an integer of at least 1"),
    (lambda: strategies.stacks(max_size="2"), TypeError, "stacks: `max_size` must be an integer of at least 1"),
]


def test_bad_arguments():
    for make, error, words in BAD_ARGUMENTS:
        with pytest.raises(error) as caught:
            make()
        assert words in str(caught.value)
        assert "Received: " in str(caught.value)
