"""What `keras.layers.TimeDistributed` documents and tests of itself holds for MaskedTimeDistributed in its place."""

import keras
import numpy as np
import pytest
from keras import initializers, layers, ops

from keras_seqx import MaskedTimeDistributed
from tests.cases import normal, to_numpy

BOTH = pytest.mark.parametrize("wrap", [layers.TimeDistributed, MaskedTimeDistributed])


def test_the_documented_example():
    inputs = layers.Input(shape=(10, 128, 128, 3), batch_size=32)
    assert MaskedTimeDistributed(layers.Conv2D(64, (3, 3)))(inputs).shape == (32, 10, 126, 126, 64)


@BOTH
def test_weights_and_numbers(wrap):
    sequence = np.arange(24).reshape((3, 2, 4)).astype("float32")
    layer = wrap(layers.Dense(1, kernel_initializer=initializers.Constant(0.01), use_bias=False))
    expected = [[[0.06], [0.22]], [[0.38], [0.54]], [[0.7], [0.86]]]
    np.testing.assert_allclose(to_numpy(layer(sequence)), expected, atol=1e-6)
    assert len(layer.trainable_weights) == 1
    assert len(layer.non_trainable_weights) == 0
    # That of Keras does not, from Keras 3.16 on.
    assert layer.supports_masking or wrap is layers.TimeDistributed


class MaskedDense(layers.Wrapper):
    """A layer of vectors that asks for the mask of its rows."""

    def __init__(self, units, **kwargs):
        super().__init__(layers.Dense(units, kernel_initializer=initializers.Constant(0.01), use_bias=False), **kwargs)
        self.supports_masking = True
        self.seen = None

    def call(self, inputs, training=False, mask=None):
        self.seen = mask
        outputs = self.layer.call(inputs)
        return outputs if mask is None else ops.where(ops.expand_dims(mask, -1), outputs, 0)


@BOTH
def test_a_layer_that_asks_for_the_mask(wrap):
    sequence = np.arange(24).reshape((3, 2, 4)).astype("float32")
    mask = np.array([[False, True], [True, False], [True, True]])
    layer = wrap(MaskedDense(1))
    outputs = layer(sequence, mask=mask)
    np.testing.assert_allclose(to_numpy(outputs), [[[0], [0.22]], [[0.38], [0]], [[0.7], [0.86]]], atol=1e-6)
    assert len(layer.layer.seen.shape) == 1


def test_a_layer_that_asks_for_the_mask_sees_masked_steps():
    """It decides what they hold, so that they are computed even with `skip_masked`."""
    sequence = np.arange(24).reshape((3, 2, 4)).astype("float32")
    mask = np.array([[False, True], [True, False], [True, True]])
    layer = MaskedTimeDistributed(MaskedDense(1), skip_masked=True)
    outputs = layer(sequence, mask=mask)
    np.testing.assert_allclose(to_numpy(outputs), [[[0], [0.22]], [[0.38], [0]], [[0.7], [0.86]]], atol=1e-6)
    np.testing.assert_array_equal(to_numpy(layer.layer.seen), mask.ravel())


@BOTH
def test_mask_zero_in_front(wrap):
    model = keras.Sequential(
        [
            layers.Input(shape=(20,)),
            layers.Embedding(input_dim=10, output_dim=5, mask_zero=True),
            wrap(layers.Dense(units=5, activation="softmax")),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).integers(1, 10, (22, 20))
    history = model.fit(x, np.ones((22, 20)), epochs=1, batch_size=16, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@BOTH
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 2)])
def test_masks_that_fit(wrap, shape):
    layer = wrap(layers.Dense(units=5, activation="softmax"))
    assert layer(np.zeros((4, 5, 3)), mask=np.ones(shape, dtype=bool)).shape == (4, 5, 5)
    assert layer(np.zeros((4, 5, 3)), mask=None).shape == (4, 5, 5)


@pytest.mark.parametrize("shape", [(4, 6), (5, 5), (5, 6), (4, 6, 2)])
def test_masks_that_do_not(shape):
    with pytest.raises(ValueError, match="mask"):
        MaskedTimeDistributed(layers.Dense(units=5))(np.zeros((4, 5, 3)), mask=np.ones(shape, dtype=bool))


@pytest.mark.parametrize(
    "make", [lambda: layers.LSTM(3), lambda: layers.Conv1D(2, 2), layers.Flatten], ids=["lstm", "conv", "flatten"]
)
def test_numbers_and_gradients_without_a_mask(make):
    x, wrapped = normal(0, 2, 3, 4, 5), make()
    ours, theirs = MaskedTimeDistributed(wrapped), layers.TimeDistributed(wrapped)
    np.testing.assert_allclose(to_numpy(ours(x)), to_numpy(theirs(x)), atol=1e-6)
