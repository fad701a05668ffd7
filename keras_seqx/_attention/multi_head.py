"""Attention with several heads, positions by rotation, and a cache of what was read.

Axis letters: B batch, N heads, T queries, L places of the cache, S places of a memory, D width of the model, E = D / N.
"""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx._attention import functions


def split(x: Any, parts: int, heads: int) -> list[Any]:
    """Returns `parts` tensors (B, N, T, E) out of one (B, T, parts * D)."""
    size = x.shape[-1] // (parts * heads)
    x = ops.reshape(x, (-1, ops.shape(x)[1], parts, heads, size))
    x = ops.transpose(x, (2, 0, 3, 1, 4))
    return [x[i] for i in range(parts)]


def merge(x: Any) -> Any:
    """Returns (B, T, D) out of heads (B, N, T, E)."""
    _, heads, length, size = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, heads * size))


def attend(query: Any, keys: Any, values: Any, mask: Any) -> tuple[Any, Any]:
    """Returns what queries (B, N, T, E) find in values (B, N, S, E), and their weights (B, N, T, S).

    The mask, of rank 4, broadcasts to the weights; None is true throughout.
    """
    scores = query @ ops.swapaxes(keys, 2, 3) * keys.shape[-1] ** -0.5
    weights = functions.softmax(ops.cast(scores, functions.full_precision(scores.dtype)), mask)
    return ops.cast(weights, values.dtype) @ values, weights


def write(cache: Any, new: Any, position: Any) -> Any:
    """Returns the cache (B, N, L, E) with `new` (B, N, T, E) from each row's `position` (B, 1) on.

    What lies beyond the cache is dropped. Every place is written, by a selection: cheaper than a scattered
    update, which on most backends copies the cache first.
    """
    steps = new.shape[2]
    source = ops.arange(cache.shape[2], dtype="int32")[None] - position
    if steps == 1:
        return ops.where((source == 0)[:, None, :, None], new, cache)
    length = ops.shape(new)[2]
    inside = ops.logical_and(source >= 0, source < length)[:, None, :, None]
    source = ops.clip(source, 0, length - 1)[:, None, :, None]
    return ops.where(inside, ops.take_along_axis(new, source, axis=2), cache)


@functools.cache
def rotations(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines and sines (length, size / 2) of what turns each pair of features at each position."""
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    return np.cos(angles), np.sin(angles)


def rotate(x: Any, cosines: Any, sines: Any) -> Any:
    """Turns the pairs (x[i], x[E / 2 + i]) of `x` (B, N, T, E) by angles (B, 1, T, E / 2)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return ops.concatenate([a * cosines - b * sines, b * cosines + a * sines], axis=-1)


def layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Returns `x` normalized along its last axis, in no less than float32."""
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=epsilon)
    # Keras' own is of float32 whatever it is given, and so is its mean on JAX and torch.
    centred = x - ops.sum(x, axis=-1, keepdims=True) / x.shape[-1]
    variance = ops.sum(ops.square(centred), axis=-1, keepdims=True) / x.shape[-1]
    return centred * ops.rsqrt(variance + epsilon) * gamma + beta
