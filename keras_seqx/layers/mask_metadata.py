"""Keras masks read and written through layers, which is the public way to them on every backend.

Keras keeps the mask of a tensor in an attribute or, where a tensor takes none, in a table of its own. A layer is handed
the mask by the argument `mask` of its `call`, and hands one on by its `compute_mask`.
"""

import functools
from typing import Any

import keras


class _Reader(keras.layers.Layer):
    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return mask

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None


class _Writer(keras.layers.Layer):
    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return inputs[0]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return inputs[1]


_reader, _writer = functools.cache(_Reader), functools.cache(_Writer)


def read(x: Any) -> Any:
    """Returns the Keras mask of the tensor `x`, or None."""
    return _reader()(x)


def write(x: Any, mask: Any) -> Any:
    """Returns the tensor `x` with the Keras mask `mask`."""
    return _writer()([x, mask])
