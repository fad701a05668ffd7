"""Tensors as objects: a new one with the same values, and the values of one that is not traced."""

from typing import Any

import keras
import numpy as np
from keras import ops


def new_tensor(x: Any) -> Any:
    """Returns another tensor object with the values of `x`; gradients flow through it.

    Keras keeps the mask of a tensor with the tensor object, and never replaces a mask. So a layer whose output has the
    values of its input returns a new tensor: with the input itself, it would put its mask on a tensor of the caller.

    Operations do not ensure this. On JAX `ops.cast`, `ops.reshape` and `ops.broadcast_to` return `x` itself where
    dtype and shape do not change.
    """
    if isinstance(x, keras.KerasTensor):
        return keras.KerasTensor(x.shape, dtype=x.dtype)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.identity(x)
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.copy(x)  # compiled, it costs nothing
    return x.view_as(x)


def host_values(x: Any) -> np.ndarray | None:
    """Returns the values of `x`, or None while it is traced, or where reading it would wait for a torch device.

    Torch trains eagerly, so a read from a GPU would stop every training step until the GPU has caught up.
    """
    if keras.backend.backend() == "torch":
        import torch

        if not isinstance(x, torch.Tensor) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return None
    return static_value(x)


def static_value(x: Any) -> np.ndarray | None:
    """Returns the values of a tensor, or None while they are not known, in a program being traced."""
    try:
        return ops.convert_to_numpy(x)
    except Exception:  # each backend has its own error for a tensor without values
        return None
