"""Time folded into the batch and back: (B, T, ...) to (B * T, ...), with masks, or with the valid steps alone."""

from typing import Any

import keras
from keras import ops

# Layers of one tensor whose rows are independent of each other, and without state or chance.
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def fold(x: Any) -> Any:
    """Returns `x` of shape (B, T, ...) as (B * T, ...)."""
    if isinstance(x, keras.KerasTensor):
        return keras.KerasTensor(fold_shape(x.shape), dtype=x.dtype)
    size = ops.shape(x)
    return ops.reshape(x, (size[0] * size[1], *size[2:]))


def unfold(x: Any, like: Any) -> Any:
    """Returns `x` of shape (B * T, ...) as (B, T, ...), where `like` has the shape (B, T, ...)."""
    if isinstance(x, keras.KerasTensor):
        return keras.KerasTensor((*like.shape[:2], *x.shape[1:]), dtype=x.dtype)
    return ops.reshape(x, (*ops.shape(like)[:2], *ops.shape(x)[1:]))


def fold_shape(shape: Any) -> tuple:
    """Returns (B, T, ...) as (B * T, ...), None where either is unknown."""
    batch_size, steps, *rest = shape
    return (None if batch_size is None or steps is None else batch_size * steps, *rest)


def expand(mask: Any, like: Any) -> Any:
    """Returns `mask` with axes of size 1 added at its end, up to the rank of `like`."""
    while len(mask.shape) < len(like.shape):
        mask = ops.expand_dims(mask, -1)
    return mask


def fill(x: Any, valid: Any, value: float) -> Any:
    """Returns `x` (N, ...) with `value` in the rows that are not `valid` (N,)."""
    return ops.where(expand(valid, x), x, ops.cast(value, x.dtype))


def shapes_may_vary() -> bool:
    """Returns whether what is computed now may have shapes that depend on values: not on JAX, nor within XLA."""
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework.ops import get_default_graph
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

        return not GraphOrParentsInXlaContext(get_default_graph())
    return keras.backend.backend() == "torch"


def pieces(layer: Any, rows: list) -> int:
    """Returns in how many calls of `layer` its `rows` are best computed: one, unless it is a convolution on a CPU.

    There XLA derives one convolution of a large batch by its kernel at half the speed of several smaller ones.
    """
    if keras.backend.backend() != "jax" or type(layer) not in CONVOLUTIONS or layer.activity_regularizer:
        return 1
    import jax

    count = rows[0].shape[0]  # which is symbolic where JAX exports
    return max(1, min(8, count // 16)) if jax.default_backend() == "cpu" and isinstance(count, int) else 1


class AllSteps:
    """Every step is computed, a masked one on a copy of a valid one's inputs.

    Whatever the padding is made of, no layer then divides by its zeros or overflows on its noise, and no gradient turns
    to NaN. A batch without valid steps copies its first.

    Args:
        valid: boolean tensor of shape (N,), N = B * T.
    """

    def __init__(self, valid: Any):
        self.valid = valid
        self._first = ops.argmax(ops.cast(valid, "int32"))

    def select(self, x: Any) -> Any:
        """Returns the rows to compute, of `x` (N, ...)."""
        return ops.where(expand(self.valid, x), x, ops.take(x, self._first, axis=0))

    def place(self, x: Any) -> Any:
        """Returns computed rows at their places, (N, ...); what masked rows hold is undefined."""
        return x


class ValidSteps:
    """Only valid steps are computed; their number depends on values, which compiled programs of one shape cannot do.

    Args:
        valid: boolean tensor of shape (N,), N = B * T. If none is true, the first step is computed all the same.
    """

    def __init__(self, valid: Any):
        none = ops.logical_not(ops.any(valid))
        computed = ops.concatenate([ops.logical_or(valid[:1], none), valid[1:]], axis=0)
        self._index = ops.nonzero(computed)[0]
        self._place = ops.maximum(ops.cumsum(ops.cast(valid, "int32")) - 1, 0)
        self.valid = self.select(valid)

    def select(self, x: Any) -> Any:
        """Returns the rows to compute, of `x` (N, ...)."""
        return ops.take(x, self._index, axis=0)

    def place(self, x: Any) -> Any:
        """Returns computed rows at their places, (N, ...); what masked rows hold is undefined."""
        return ops.take(x, self._place, axis=0)
