"""Layers that each break one law, and no other that is looked at."""

import keras
import numpy as np
from keras import ops

X = np.random.default_rng(0).normal(size=(4, 5, 2)).astype("float32")
IDS = np.random.default_rng(0).integers(1, 9, (4, 5)).astype("int32")
LENGTHS = [5, 2, 5, 2]


class Passing(keras.layers.Layer):
    """Passes its inputs and their mask on, and has a weight."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, inputs):
        return inputs * self.scale


class LeakingGradient(Passing):
    """Its outputs know nothing of padding, the gradient of its weight does."""

    def call(self, inputs):
        leak = ops.sum(ops.stop_gradient(inputs) * self.scale)
        return inputs * self.scale + leak - ops.stop_gradient(leak)


class LeakingInputGradient(Passing):
    """The gradient reaches padded inputs, and by no weight."""

    def call(self, inputs):
        leak = ops.sum(inputs, axis=1, keepdims=True)
        return inputs + leak - ops.stop_gradient(leak)


class CountingLoss(Passing):
    def call(self, inputs):
        self.add_loss(ops.mean(inputs**2))
        return inputs


class CountingStatistics(Passing):
    def call(self, inputs, training=False):
        if training:
            self.count.assign(ops.mean(inputs))
        return inputs


class LosingMask(Passing):
    """Calls padding valid."""

    def compute_mask(self, inputs, previous_mask):
        return None if previous_mask is None else ops.ones_like(previous_mask)


class MixingRows(Passing):
    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=0, keepdims=True)


class NumberingRows(Passing):
    """A row's output depends on its place alone."""

    def call(self, inputs):
        return inputs + ops.cumsum(ops.ones_like(inputs), axis=0)


class WithoutRows(Passing):
    def call(self, inputs):
        return ops.sum(inputs)


@keras.saving.register_keras_serializable("keras_seqx_tests")
class Factor(keras.layers.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("keras_seqx_tests")
class ForgettingFactor(Factor):
    def get_config(self):
        config = super().get_config()
        del config["factor"]
        return config


@keras.saving.register_keras_serializable("keras_seqx_tests")
class RoundingFactor(Factor):
    """Comes back with another argument, which happens to change no output here."""

    def call(self, inputs):
        return inputs

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "factor": round(config["factor"])})


@keras.saving.register_keras_serializable("keras_seqx_tests")
class ConsumingFactor(Factor):
    @classmethod
    def from_config(cls, config):
        return cls(config.pop("factor"), **config)


@keras.saving.register_keras_serializable("keras_seqx_tests")
class UnwritableFactor(Factor):
    def get_config(self):
        return {**super().get_config(), "factor": object()}


@keras.saving.register_keras_serializable("keras_seqx_tests")
class UnsavedWeight(Passing):
    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


class UnregisteredFactor(Factor):
    pass


@keras.saving.register_keras_serializable("keras_seqx_tests")
class BackendFactor(Factor):
    """Its numbers differ between backends."""

    def call(self, inputs):
        return inputs * len(keras.backend.backend())


@keras.saving.register_keras_serializable("keras_seqx_tests")
class ForeignLayer(Factor):
    """Runs on the backend that it was made on."""

    def __init__(self, factor=1.0, home=None, **kwargs):
        super().__init__(factor, **kwargs)
        self.home = home or keras.backend.backend()
        if self.home != keras.backend.backend():
            raise RuntimeError(f"made on {self.home}")

    def get_config(self):
        return {**super().get_config(), "home": self.home}


def attention():
    """Cross attention, the shortest layer of two sequences."""
    query, value = keras.Input((None, 2)), keras.Input((None, 3))
    return keras.Model([query, value], keras.layers.MultiHeadAttention(2, 3)(query, value))


@keras.saving.register_keras_serializable("keras_seqx_tests")
class NamedSum(keras.layers.Layer):
    """Takes and returns a dictionary, one entry of which has no time axis."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return {"sum": inputs["frames"] + inputs["speaker"][:, None], "speaker": inputs["speaker"]}

    def compute_mask(self, inputs, previous_mask):
        return {"sum": previous_mask["frames"], "speaker": None}
