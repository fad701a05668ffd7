"""Keras masks read and written through layers, which is the public way to them on every backend.

Keras keeps the mask of a tensor in an attribute or, where a tensor takes none, in a table of its own. A layer is handed
the mask by the argument `mask` of its `call`, and hands one on by its `compute_mask`. The two layers have no weights
and keep no tensor, so that one of each serves every graph and thread.
"""

import functools
from typing import Any

import keras

from keras_seqx._core import tensors


class _Reader(keras.layers.Layer):
    def __init__(self):
        # float32 whatever the policy is when the first mask is read; named as a scope of a TensorFlow graph may be.
        super().__init__(autocast=False, dtype="float32", name="mask_reader")
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return mask

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None


class _Writer(keras.layers.Layer):
    def __init__(self):
        super().__init__(autocast=False, dtype="float32", name="mask_writer")
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return tensors.new_tensor(inputs[0])

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return inputs[1]


_reader, _writer = functools.cache(_Reader), functools.cache(_Writer)


def read(x: Any) -> Any:
    """Returns the Keras mask of the tensor `x`, or None."""
    return _reader()(x)


def write(x: Any, mask: Any) -> Any:
    """Returns a new tensor with the values of `x` that carries the Keras mask `mask`."""
    return _writer()([x, mask])
