"""Attention to a memory: pure functions of queries, keys and values.

Axis letters: B batch, T steps of the reader, S steps of the memory, U width of queries and keys, M of the memory.
"""

from typing import Any

import keras
from keras import ops

# What stands for minus infinity: it leaves a weight of exactly zero, and no NaN where every score is masked.
LOWEST = -1e30

# A memory whose length a TensorFlow graph leaves open may have 2 ** 20 steps.
ROUNDS_IF_OPEN = 20


def project(x: Any, kernel: Any) -> Any:
    """Returns `x` (..., M) times `kernel` (M, U), as one large product."""
    if len(x.shape) == 2:
        return x @ kernel
    flat = ops.reshape(x, (-1, kernel.shape[0])) @ kernel
    return ops.reshape(flat, (*ops.shape(x)[:-1], kernel.shape[1]))


def hide(memory: Any, mask: Any) -> Any:
    """Returns `memory` (B, S, M) with zeros where `mask` (B, S) is false, whatever stood there, NaN included."""
    return ops.where(mask[:, :, None], memory, ops.zeros_like(memory))


def additive_scores(query: Any, keys: Any, vector: Any) -> Any:
    """Returns `vector . tanh(query + key)`: query (B, [T,] U), keys (B, S, U), vector (U,) -> (B, [T,] S)."""
    hidden = tanh(query[..., None, :] + (keys if len(query.shape) == 2 else keys[:, None]))
    flat = ops.reshape(hidden, (-1, vector.shape[0])) @ vector[:, None]
    return ops.reshape(flat, ops.shape(hidden)[:-1])


def dot_scores(query: Any, keys: Any) -> Any:
    """Returns `query . key`: query (B, [T,] U), keys (B, S, U) -> (B, [T,] S)."""
    if len(query.shape) == 2:
        return ops.squeeze(keys @ query[:, :, None], axis=-1)
    return query @ ops.swapaxes(keys, 1, 2)


def mix(weights: Any, values: Any) -> Any:
    """Returns the mean of values (B, S, M) by `weights` (B, [T,] S): (B, [T,] M)."""
    if len(weights.shape) == 2:
        return ops.squeeze(weights[:, None] @ values, axis=1)
    return weights @ values


def full_precision(dtype: Any) -> str:
    """Returns the dtype in which to exponentiate and sum scores of `dtype`: no less than float32."""
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def softmax(scores: Any, mask: Any) -> Any:
    """Returns the softmax of `scores` (..., S) over the places where `mask`, of their rank, is true.

    Elsewhere the weight is zero; where nothing is true, every weight is. A mask of None is true throughout.
    """
    if mask is None:
        return ops.softmax(scores, axis=-1)
    weights = ops.softmax(ops.where(mask, scores, ops.full_like(scores, LOWEST)), axis=-1)
    return ops.where(mask, weights, ops.zeros_like(weights))


def soft_monotonic(scores: Any, previous: Any, mask: Any) -> Any:
    """Returns where a reader that only moves forwards may be expected to stop: scores, previous, mask (B, S) -> (B, S).

    From where it last stopped it goes from place to place, and stops at each with probability p = sigmoid(score):

        passes[j] = (1 - p[j - 1]) passes[j - 1] + previous[j],    alignments[j] = p[j] passes[j]
    """
    p = ops.sigmoid(scores)
    if mask is not None:
        p = ops.where(mask, p, ops.zeros_like(p))
    place, length = ops.arange(ops.shape(p)[1], dtype="int32"), p.shape[1]

    def shifted(x, by):
        return ops.where(place >= by, ops.roll(x, by, axis=1), ops.zeros_like(x))

    # Solved by doubling, in sums and products of probabilities alone: nothing can overflow or cancel out.
    passes, goes_on = previous, shifted(1 - p, 1)
    for i in range(ROUNDS_IF_OPEN if length is None else (length - 1).bit_length()):
        passes = passes + goes_on * shifted(passes, 2**i)
        goes_on = goes_on * shifted(goes_on, 2**i)
    return p * passes


def hard_monotonic(scores: Any, previous: Any, mask: Any) -> Any:
    """Returns a one at the first place from `previous` on whose score is above zero; all tensors (B, S).

    Where there is none, the reader has left the memory: all weights are zero, and stay so.
    """
    stops = ops.logical_and(scores > 0, ops.cumsum(previous, axis=1) > 0.5)
    if mask is not None:
        stops = ops.logical_and(stops, mask)
    first = ops.cumsum(ops.cast(stops, "int32"), axis=1) < 2
    return ops.cast(ops.logical_and(stops, first), scores.dtype)


def tanh(x: Any) -> Any:
    """Returns the hyperbolic tangent, in float64 by the sigmoid, as Keras' own is of float32 on JAX."""
    if keras.backend.standardize_dtype(x.dtype) == "float64":
        return 2 * ops.sigmoid(2 * x) - 1
    return ops.tanh(x)
