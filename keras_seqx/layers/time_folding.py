"""Time folded into the batch and back: (B, T, ...) to (B * T, ...), with masks, or with the valid steps alone."""

from typing import Any

import keras
from keras import ops

from keras_seqx._core import keras_internals

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


def shapes_may_vary() -> bool:
    """Returns whether what is computed now may have shapes that depend on values: not on JAX, nor within XLA."""
    if keras.backend.backend() == "tensorflow":
        return not keras_internals.within_xla()
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


class EveryStep:
    """Without a mask every step is a row of the batch.

    Args:
        valid: boolean tensor of shape (B, T), or None.
    """

    def __init__(self, valid: Any = None):
        self.valid = valid

    def select(self, x: Any) -> Any:
        """Returns the rows to compute, (n, ...), of `x` (B, T, ...)."""
        return fold(x)

    def flags(self, mask: Any) -> Any:
        """Returns what a `mask` (B, T) says of each row that is computed, (n,)."""
        return fold(mask)

    def place(self, x: Any) -> Any:
        """Returns the computed rows `x` (n, ...) at their places, (B * T, ...)."""
        return x


class AllSteps(EveryStep):
    """Every step is computed, a masked one on a copy of the inputs of its row's first valid step.

    So the layer reads genuine inputs alone. Whatever the padding contains, it divides by no zero of it and overflows on
    none of its noise, and no gradient turns to NaN. A row without valid steps copies another row's, and a
    batch without valid steps is computed on zeros.

    Args:
        valid: boolean tensor of shape (B, T).
    """

    def __init__(self, valid: Any):
        super().__init__(valid)
        self._first, self._any = _first_valid(valid), ops.any(valid)

    def select(self, x: Any) -> Any:
        copies = _or_zeros(ops.take(fold(x), self._first, axis=0), self._any)
        return fold(ops.where(expand(self.valid, x), x, ops.expand_dims(copies, 1)))


class ValidSteps(EveryStep):
    """Only valid steps are computed; their number depends on values, which compiled programs of one shape cannot do.

    A masked step gets the results of the step that `AllSteps` copies there.

    Args:
        valid: boolean tensor of shape (B, T). If none is true, one step of zeros is computed all the same.
    """

    def __init__(self, valid: Any):
        super().__init__(valid)
        rows = fold(valid)
        self._any = ops.any(rows)
        computed = ops.concatenate([ops.logical_or(rows[:1], ops.logical_not(self._any)), rows[1:]], axis=0)
        self._index = ops.nonzero(computed)[0]
        place = ops.cumsum(ops.cast(computed, "int32")) - 1
        copied = ops.expand_dims(ops.take(place, _first_valid(valid)), 1)
        self._place = fold(ops.where(valid, ops.reshape(place, ops.shape(valid)), copied))

    def select(self, x: Any) -> Any:
        return _or_zeros(ops.take(fold(x), self._index, axis=0), self._any)

    def flags(self, mask: Any) -> Any:
        return ops.take(fold(mask), self._index, axis=0)

    def place(self, x: Any) -> Any:
        return ops.take(x, self._place, axis=0)


def _first_valid(valid: Any) -> Any:
    """Returns the index among B * T steps of each row's first valid one, or else of one in another row, (B,)."""
    batch_size, steps = ops.shape(valid)
    own = ops.argmax(ops.cast(valid, "int32"), axis=1) + ops.arange(batch_size, dtype="int32") * steps
    some = ops.any(valid, axis=1)
    return ops.where(some, own, ops.max(ops.where(some, own, 0), initial=0))


def _or_zeros(x: Any, condition: Any) -> Any:
    """Returns `x`, or zeros, or a mask `x` true throughout, where a scalar `condition` is false."""
    boolean = keras.backend.standardize_dtype(x.dtype) == "bool"
    return ops.where(condition, x, ops.ones_like(x) if boolean else ops.zeros_like(x))
