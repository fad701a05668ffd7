"""Pure functions of logits (..., V): a temperature, and the three ways to leave out unlikely tokens.

What is left out becomes minus infinity, as in transformers. A parameter is a number, or a tensor that broadcasts
against the logits, such as (B, 1) against (B, V).
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx._core import control_flow


def temperature(logits: Any, temperature: Any) -> Any:
    """Returns logits / temperature."""
    return logits / _like(temperature, logits)


def top_k(logits: Any, k: Any) -> Any:
    """Keeps the k largest logits, and what equals the smallest of them."""
    largest = logits.shape[-1]
    if isinstance(k, (int, np.ndarray)):
        largest = min(int(np.max(k)), largest)
    values = control_flow.top_k(logits, largest)[0]
    if isinstance(k, int):
        # Not the last of them: XLA would merge that slice into a full sort, a hundred times slower.
        smallest = ops.min(values, axis=-1, keepdims=True)
    else:
        last = ops.minimum(ops.cast(k, "int32"), largest) - 1
        smallest = ops.take_along_axis(values, ops.broadcast_to(last, (*ops.shape(logits)[:-1], 1)), axis=-1)
    return exclude(logits, logits < smallest)


def top_p(logits: Any, p: Any) -> Any:
    """Keeps the fewest most likely tokens whose probabilities sum to p or more, one at least.

    Among equal logits the ones of larger ids are kept first.
    """
    vocabulary = logits.shape[-1]
    wide = widen(logits)
    order = ops.argsort(wide, axis=-1)
    ascending = ops.take_along_axis(wide, order, axis=-1)
    unlikely = ops.cumsum(ops.softmax(ascending, axis=-1), axis=-1) <= _like(1 - p, wide)
    count = ops.sum(ops.cast(unlikely, "int32"), axis=-1, keepdims=True)
    count = ops.minimum(ops.cast(count, "int32"), vocabulary - 1)
    # The least likely token that is kept tells who comes before it in the order, without a way back from the order.
    value, token = (ops.take_along_axis(x, count, axis=-1) for x in (ascending, order))
    smaller_id = ops.arange(vocabulary, dtype="int32") < ops.cast(token, "int32")
    return exclude(logits, ops.logical_or(wide < value, ops.logical_and(wide == value, smaller_id)))


def min_p(logits: Any, p: Any) -> Any:
    """Keeps the tokens at least p times as likely as the most likely one."""
    wide = widen(logits)
    distance = ops.log(ops.cast(p, wide.dtype))
    return exclude(logits, wide < ops.max(wide, axis=-1, keepdims=True) + distance)


def exclude(logits: Any, where: Any) -> Any:
    """Returns the logits with minus infinity where `where` is true."""
    return ops.where(where, ops.cast(-math.inf, logits.dtype), logits)


def widen(logits: Any) -> Any:
    """Returns half precision logits as float32, in which probabilities are summed; others as they are."""
    double = keras.backend.standardize_dtype(logits.dtype) == "float64"
    return logits if double else ops.cast(logits, "float32")


def _like(value: Any, logits: Any) -> Any:
    # A NumPy number or array would promote the logits to its own dtype.
    return value if isinstance(value, (int, float)) else ops.cast(value, logits.dtype)
