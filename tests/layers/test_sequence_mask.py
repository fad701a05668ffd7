"""SequenceMask: lengths become a mask, values pass unchanged."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_seqx import SequenceMask
from keras_seqx._core import mask_metadata
from keras_seqx.testing import check_layer
from tests.cases import BACKEND, MODES, normal, to_numpy


@given(
    lengths=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    features=st.sampled_from([(), (2,), (2, 3)]),
    column=st.booleans(),
)
def test_mask_is_true_at_the_first_steps(lengths, features, column):
    layer = SequenceMask()
    x, sizes = normal(0, 3, 6, *features), np.array(lengths, "int32")
    inputs = [keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(sizes[:, None] if column else sizes)]
    np.testing.assert_array_equal(to_numpy(layer(inputs)), x)
    np.testing.assert_array_equal(to_numpy(layer.compute_mask(inputs, None)), np.arange(6) < sizes[:, None])


@pytest.mark.parametrize("time", [None, 5])
def test_no_zero_frame_is_dropped(time):
    x, lengths = keras.Input((time, 2)), keras.Input((), dtype="int32")
    outputs = keras.layers.GlobalAveragePooling1D()(SequenceMask()([x, lengths]))
    model = keras.Model([x, lengths], outputs)
    data = np.ones((2, 5, 2), "float32")
    data[:, 1] = 0
    received = model.predict([data, np.array([4, 2], "int32")], verbose=0)
    np.testing.assert_allclose(received, [[0.75, 0.75], [0.5, 0.5]])


def test_a_mask_carried_before_stays_in_force():
    x, lengths = keras.Input((4, 1)), keras.Input((), dtype="int32")
    masked = SequenceMask()([keras.layers.Masking(9.0)(x), lengths])
    model = keras.Model([x, lengths], keras.layers.GlobalAveragePooling1D()(masked))
    data = np.array([[[1.0], [9.0], [3.0], [100.0]]], "float32")
    np.testing.assert_allclose(model.predict([data, np.array([3], "int32")], verbose=0), [[2.0]])


def test_laws():
    inputs, lengths = [normal(0, 3, 5, 2), np.array([5, 2, 4], "int32")], [[5, 2, 4], None]
    laws = ["padding_invariance", "padding_invariance_in_training", "batch_independence", "serialization"]
    check_layer(SequenceMask(name="mask"), inputs, lengths=lengths, attach_masks=False, laws=laws)


@pytest.mark.parametrize("lengths", [[4, 2], (4, 2), [[4], [2]], np.array([4, 2], "uint8")], ids=repr)
def test_lengths_as_a_list(lengths):
    x = ops.convert_to_tensor(np.arange(8, dtype="float32").reshape(2, 4, 1))
    pooled = keras.layers.GlobalAveragePooling1D()(SequenceMask()([x, lengths]))
    np.testing.assert_allclose(to_numpy(pooled), [[1.5], [4.5]])


def test_every_call_is_checked():
    """Keras builds a layer once, and later calls may differ."""
    layer, x = SequenceMask(), np.zeros((3, 4, 1), "float32")
    layer([x, [4, 2, 0]])
    for lengths in ([2], [2, 1], [4, 2, 1, 1], [4, 2, 5]):
        with pytest.raises(ValueError, match="SequenceMask: `lengths` must be"):
            layer([x, lengths])
    with pytest.raises(ValueError, match="SequenceMask: `lengths` must be"):
        layer([x[:1], [4, 2, 0]])


@pytest.mark.skipif(BACKEND != "torch", reason="only torch predicts eagerly")
def test_a_model_refuses_lengths_out_of_range():
    x, lengths = keras.Input((None, 2)), keras.Input((), dtype="int32")
    model = keras.Model([x, lengths], keras.layers.GlobalAveragePooling1D()(SequenceMask()([x, lengths])))
    with pytest.raises(ValueError, match="`lengths` must be within \\[0, 3\\]"):
        model.predict([np.zeros((2, 3, 2), "float32"), np.array([4, 2], "int32")], verbose=0)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "eager"])
def test_compiled_lengths_out_of_range_are_those_of_the_steps(mode):
    """Their values are not known when the program is made."""

    class Masks(keras.layers.Layer):
        def call(self, inputs, lengths):
            return ops.cast(mask_metadata.read(SequenceMask()([inputs, lengths + 0])), "int32")

    layer, x = Masks(), np.arange(8, dtype="float32").reshape(2, 4, 1)
    layer.built = True
    received = MODES[mode](layer, ops.convert_to_tensor(x), ops.convert_to_tensor(np.array([7, -1], "int32")))
    np.testing.assert_array_equal(to_numpy(received), [[1] * 4, [0] * 4])


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        (lambda x: x, ValueError, "`inputs` must be a pair `[inputs, lengths]`"),
        (lambda x: [x, np.array([1, 2, 3], "int32")], ValueError, "`lengths` must be of shape (B,) or (B, 1)"),
        (lambda x: [x, np.ones((2, 2), "int32")], ValueError, "`lengths` must be of shape (B,) or (B, 1)"),
        (lambda x: [x[:, 0, 0], np.ones((2,), "int32")], ValueError, "`inputs` must be of shape (B, T, ...)"),
        (lambda x: [x, np.array([1.0, 2.0], "float32")], TypeError, "`lengths` must be an integer tensor"),
        (lambda x: [x, np.array([True, False])], TypeError, "`lengths` must be an integer tensor"),
        (lambda x: [x, [1.0, 2.0]], TypeError, "`lengths` must be an integer tensor"),
        (lambda x: [x, [2, -1]], ValueError, "`lengths` must be within [0, 3], as there are 3 steps"),
        (lambda x: [x, [4, 1]], ValueError, "`lengths` must be within [0, 3], as there are 3 steps"),
        (lambda x: [x, np.array([[4], [1]])], ValueError, "`lengths` must be within [0, 3], as there are 3 steps"),
        (lambda x: [np.array([1, 2]), x], ValueError, "`inputs` must be of shape (B, T, ...)"),
        (lambda x: [np.array([[1], [2]]), x[..., 0]], ValueError, "`lengths` must be of shape (B,) or (B, 1)"),
    ],
    ids=[
        "no pair",
        "wrong batch",
        "wide lengths",
        "no time axis",
        "float lengths",
        "bool lengths",
        "list of floats",
        "below 0",
        "above T",
        "column above T",
        "swapped",
        "swapped column",
    ],
)
def test_bad_input(inputs, error, words):
    with pytest.raises(error) as caught:
        SequenceMask()(inputs(np.zeros((2, 3, 1), "float32")))
    assert f"SequenceMask: {words}" in str(caught.value)
    assert "Received: " in str(caught.value)
