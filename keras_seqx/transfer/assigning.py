"""Assigning a large array without the copies that `keras.Variable.assign` makes, by each backend's own function."""

from typing import Any

import keras
import numpy as np

PIECE = 8 * 2**20  # bytes


def assign(variable: Any, value: np.ndarray) -> None:
    """Assigns `value`, of the variable's shape and dtype.

    JAX takes over an array that starts at a multiple of 64 bytes as it is. Keras hands TensorFlow and torch a copy, and
    TensorFlow makes another.
    """
    backend = keras.backend.backend()
    if value.nbytes > PIECE and backend == "torch" and value.dtype.kind in "fi" and value.dtype.isbuiltin:
        import torch

        value = torch.from_numpy(value)
    elif value.nbytes > PIECE and backend == "tensorflow" and not hasattr(variable.value, "values"):  # not distributed
        import tensorflow as tf

        rows = max(1, len(value) * PIECE // value.nbytes)
        for start in range(0, len(value), rows):
            piece = value[start : start + rows]
            place = {"begin": [start], "end": [start + len(piece)], "strides": [1]}
            tf.raw_ops.ResourceStridedSliceAssign(ref=variable.value.handle, value=piece, **place)
        return
    variable.assign(value)
