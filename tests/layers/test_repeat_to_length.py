"""RepeatToLength: a vector at every step of another sequence, with that sequence's mask."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import KeepMask, RepeatToLength, SequenceMask
from tests.cases import MODES, normal, to_numpy


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("features", [(), (2,), (2, 3)], ids=str)
def test_every_step_is_the_input(features, mode):
    x, sequence = normal(0, 3, *features), normal(1, 3, 4, 5)
    layer = RepeatToLength()
    layer.build([x.shape, sequence.shape])
    received = to_numpy(MODES[mode](layer, [ops.convert_to_tensor(x), ops.convert_to_tensor(sequence)]))
    np.testing.assert_array_equal(received, np.stack([x] * 4, axis=1))


@pytest.mark.parametrize("time", [None, 5])
def test_takes_the_mask_along(time):
    sequence, lengths = keras.Input((time, 2)), keras.Input((), dtype="int32")
    masked = SequenceMask()([sequence, lengths])
    repeated = RepeatToLength()([layers.LSTM(3)(masked), masked])
    assert repeated.shape == (None, time, 3)
    hidden = KeepMask(layers.LSTM(2, return_sequences=True))(repeated)
    model = keras.Model([sequence, lengths], [layers.GlobalAveragePooling1D()(hidden), repeated])
    x = normal(0, 2, 5, 2)
    pooled, steps = model.predict([x, np.array([5, 2], "int32")], verbose=0)
    if time is None:
        alone, _ = model.predict([x[1:, :2], np.array([2], "int32")], verbose=0)
        np.testing.assert_allclose(pooled[1:], alone, atol=1e-6)
    assert (steps == steps[:, :1]).all()


def test_a_deep_mask_counts_steps():
    layer = RepeatToLength()
    mask = np.array([[[1, 0], [0, 0]], [[1, 1], [0, 1]]], "bool")
    x = [ops.zeros((2, 3)), ops.zeros((2, 2, 2, 4))]
    received = layer.compute_mask(x, [None, ops.convert_to_tensor(mask)])
    assert to_numpy(received).tolist() == [[True, False], [True, True]]
    assert layer.compute_mask(x, None) is None


def test_a_later_call_is_checked_too():
    layer = RepeatToLength()
    layer([np.ones((2, 3), "float32"), np.ones((2, 4, 5), "float32")])
    with pytest.raises(ValueError, match="in this order"):
        layer([np.ones((2, 4, 5), "float32"), np.ones((2, 3), "float32")])


@pytest.mark.parametrize(
    ("x", "sequence", "shape"),
    [
        (np.ones((2, 3, 4), "float32"), np.ones((2, 5), "int32"), (2, 5, 3, 4)),
        (np.ones((2, 3), "float32"), np.ones((2, 5), "float32"), (2, 5, 3)),
        (np.ones((2, 3), "int32"), np.ones((2, 5), "int32"), (2, 5, 3)),
        (np.ones((2,), "int32"), np.ones((2, 5), "float32"), (2, 5)),
    ],
    ids=["matrix for ids", "vector for numbers", "ids for ids", "id for numbers"],
)
def test_sequences_without_features(x, sequence, shape):
    assert RepeatToLength()([x, sequence]).shape == shape


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (lambda: np.ones((2, 3)), "`inputs` must be a pair `[x, sequence]`"),
        (lambda: [np.ones((2, 3))], "`inputs` must be a pair `[x, sequence]`"),
        (lambda: [np.ones((2, 3)), np.ones((2,))], "`inputs` must be a pair of shapes (B, ...) and (B, T, ...)"),
        (lambda: [np.ones((2, 3)), np.ones((3, 4))], "`inputs` must be a pair with the same B"),
        (lambda: [np.ones((2, 4, 5)), np.ones((2, 3))], "`inputs` must be a pair `[x, sequence]`, in this order"),
        (lambda: [keras.Input((None, 5)), keras.Input((3,))], "`inputs` must be a pair `[x, sequence]`, in this order"),
        (
            lambda: [np.ones((2, 4), "int32"), np.ones((2, 3), "float32")],
            "`inputs` must be a pair `[x, sequence]`, in this order",
        ),
    ],
    ids=["no pair", "one", "no time axis", "other batch", "swapped", "symbolic and swapped", "swapped ids"],
)
def test_bad_input(inputs, words):
    with pytest.raises(ValueError, match="RepeatToLength: ") as caught:
        RepeatToLength()(inputs())
    assert words in str(caught.value)
    assert "Received: " in str(caught.value)


def test_an_autoencoder_trains():
    x = keras.Input((None, 2))
    repeated = RepeatToLength()([layers.Dense(4)(layers.GlobalAveragePooling1D()(x)), x])
    model = keras.Model(x, layers.Dense(2)(repeated))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    frames = np.broadcast_to(normal(0, 4, 1, 2), (4, 3, 2)).copy()
    losses = model.fit(frames, frames, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
