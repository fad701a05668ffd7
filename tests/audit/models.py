"""Sequences of two lengths, and models around a layer that is to be audited."""

import keras
import numpy as np
from keras import layers, ops

from keras_seqx import SequenceMask

LENGTHS = np.array([5, 3, 5, 3])
X = np.random.default_rng(0).normal(size=(4, 5, 4)).astype("float32")
IDS = np.random.default_rng(0).integers(1, 9, (4, 5)) * (np.arange(5) < LENGTHS[:, None])
DATA = {"x": X, "lengths": LENGTHS}


def model(*stack, steps=None):
    """A model of sequences with lengths: the stack of layers and functions behind a SequenceMask."""
    x, lengths = keras.Input((steps, 4)), keras.Input((), dtype="int32")
    outputs = SequenceMask()([x, lengths])
    for part in stack:
        outputs = part(outputs)
    return keras.Model({"x": x, "lengths": lengths}, outputs)


def mean():
    """What needs a mask, and is quick to compile."""
    return layers.GlobalAveragePooling1D(name="mean")


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Centred(layers.Layer):
    """Subtracts the mean over the given axes, whatever is masked."""

    def __init__(self, axes, **kwargs):
        super().__init__(**kwargs)
        self.axes, self.supports_masking = axes, True

    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=self.axes, keepdims=True)


class WrongMask(layers.Layer):
    """Makes something else of its mask."""

    def __init__(self, of):
        super().__init__()
        self.of, self.supports_masking = of, True

    def compute_mask(self, inputs, previous_mask=None):
        return self.of(previous_mask)

    def call(self, inputs):
        return inputs + 0.0


class PlainNormalization(layers.Layer):
    """Remembers the mean over rows and steps in training; it takes no mask."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def build(self, input_shape):
        self.mean = self.add_weight(shape=input_shape[-1:], initializer="zeros", trainable=False)

    def call(self, inputs, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(inputs, axis=(0, 1)))
        return inputs - self.mean


class Subclassed(keras.Model):
    """Layers, with an operation between them."""

    def __init__(self, between):
        super().__init__(name="subclassed")
        self.masking, self.dense, self.mean = layers.Masking(), layers.Dense(3, name="dense"), mean()
        self.between = between

    def call(self, inputs):
        return self.mean(self.between(self.dense(self.masking(inputs))))
