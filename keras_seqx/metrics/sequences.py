"""What the metrics of sequences share: reading targets, predictions, masks and weights."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_seqx._core import errors, mask_metadata

TOKEN_FIX = "Give the id as an int, or None where there is none"


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Token ids, and which of them belong to the sequence.

    Attributes:
        ids: int32 tensor (B, T) or (B, R, T).
        valid: booleans of the same shape; gaps are allowed anywhere.
    """

    ids: Any
    valid: Any

    @property
    def lengths(self) -> Any:
        """How many steps count, int32 (B,) or (B, R)."""
        return ops.cast(ops.sum(ops.cast(self.valid, "int32"), axis=-1), "int32")


class SequenceMetric(keras.metrics.Metric):
    """A ratio of two sums over items, each item a predicted sequence and one or several references.

    A subclass defines `measure(references, prediction)`, which returns the item's shares (B,) of the two sums.
    """

    def __init__(self, *, end_token: int | None, pad_token: int | None, name: str, dtype: Any):
        super().__init__(name=name, dtype=dtype)
        self.end_token = _token(self, "end_token", end_token)
        self.pad_token = _token(self, "pad_token", pad_token)
        self.total = self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name="count")

    def measure(self, references: Sequences, prediction: Sequences) -> tuple[Any, Any]:
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch; see the class for shapes."""
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        true_steps, pred_steps = _mask_of(y_true), _mask_of(y_pred)
        self._check(y_true, y_pred)
        weight = None
        if sample_weight is not None:
            weight = ops.cast(sample_weight, self.dtype)
            self._check_weight(weight, y_true)
            if len(weight.shape) == 2 and weight.shape[1] != 1:
                used = weight != 0
                true_steps = _and(true_steps, used)
                steps = ops.cast(ops.sum(ops.cast(used, "int32"), axis=1), weight.dtype)
                weight = ops.sum(weight, axis=1) / ops.maximum(steps, 1)
            elif len(weight.shape) > 0:
                weight = ops.reshape(weight, (-1,))
        scores = len(y_pred.shape) == 3
        if scores and len(y_true.shape) == 2:
            # Score by score aligned with the target: what one leaves out, the other leaves out too.
            true_steps, pred_steps = (
                _and(true_steps, _along(pred_steps, y_true)),
                _and(pred_steps, _along(true_steps, y_pred)),
            )
        references = self._sequences(y_true, true_steps)
        if len(y_true.shape) == 2:
            references = Sequences(references.ids[:, None], references.valid[:, None])
        prediction = self._sequences(ops.argmax(y_pred, axis=-1) if scores else y_pred, pred_steps)
        for variable, share in zip((self.total, self.count), self.measure(references, prediction), strict=True):
            share = ops.cast(share, self.dtype)
            variable.assign_add(ops.cast(ops.sum(share if weight is None else share * weight), variable.dtype))

    def result(self) -> Any:
        """Returns the ratio, a scalar; 0 where nothing was seen."""
        total, count = self.total.value, self.count.value
        return ops.where(total == 0, ops.zeros_like(total), total / count)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "end_token": self.end_token, "pad_token": self.pad_token}

    def _sequences(self, ids: Any, steps: Any) -> Sequences:
        ids = ops.cast(ids, "int32")
        valid = ops.ones_like(ids, dtype="bool") if steps is None else steps
        if self.end_token is not None:
            ends = ops.logical_and(valid, ids == self.end_token)
            valid = ops.logical_and(valid, ops.cumsum(ops.cast(ends, "int32"), axis=-1) == 0)
        if self.pad_token is not None:
            valid = ops.logical_and(valid, ids != self.pad_token)
        return Sequences(ids, valid)

    def _check(self, y_true: Any, y_pred: Any) -> None:
        true_shape, pred_shape = tuple(y_true.shape), tuple(y_pred.shape)
        if not _integer(y_true):
            fix = "Cast them to int32; of one-hot targets take the argmax"
            dtype = keras.backend.standardize_dtype(y_true.dtype)
            raise TypeError(errors.message(self, "y_true", "integer token ids", dtype, fix, "its dtype"))
        if len(true_shape) not in (2, 3):
            what, fix = "of shape (B, T), or (B, R, T) with R references", "Give one row of ids for each item"
            raise ValueError(errors.message(self, "y_true", what, true_shape, fix, "its shape"))
        if len(pred_shape) != (2 if _integer(y_pred) else 3):
            what, fix = "integer token ids (B, T), or float scores (B, T, V)", "Cast ids to int32"
            dtype = keras.backend.standardize_dtype(y_pred.dtype)
            error = ValueError if len(pred_shape) != 2 else TypeError
            raise error(errors.message(self, "y_pred", what, pred_shape, fix, f"its shape, its dtype is {dtype}"))
        if None not in (true_shape[0], pred_shape[0]) and true_shape[0] != pred_shape[0]:
            what, fix = f"of the same batch size as `y_true`, {true_shape[0]}", "Give one prediction for each target"
            raise ValueError(errors.message(self, "y_pred", what, pred_shape, fix, "its shape"))

    def _check_weight(self, weight: Any, y_true: Any) -> None:
        shape, (batch, *references, steps) = tuple(weight.shape), tuple(y_true.shape)
        sizes: tuple[Any, ...] = (batch,) if shape else ()
        if len(shape) == 2:
            sizes = (batch, 1 if references or shape[1] == 1 else steps)
        what, fix = "of shape (B,), or (B, T) for one reference (B, T)", "Give one weight for each item"
        errors.shape(self, "sample_weight", shape, what, sizes, fix)


def references_that_count(lengths: Any) -> Any:
    """Tells, (B, R), which references of these lengths are there: those not empty, or else all of them."""
    return ops.logical_or(lengths > 0, ops.all(lengths == 0, axis=1, keepdims=True))


def _mask_of(x: Any) -> Any:
    """Returns the Keras mask of the tensor `x` as booleans, or None."""
    mask = mask_metadata.read(x)
    return None if mask is None else ops.cast(mask, "bool")


def _integer(x: Any) -> bool:
    return keras.backend.standardize_dtype(x.dtype).startswith(("int", "uint"))


def _token(owner: Any, argument: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError(errors.message(owner, argument, "an integer or None", value, TOKEN_FIX))


def _and(a: Any, b: Any) -> Any:
    """Steps that are in both masks; None has every step."""
    if a is None or b is None:
        return b if a is None else a
    return ops.logical_and(a, b)


def _along(steps: Any, other: Any) -> Any:
    """A mask (B, T) as a mask of `other` (B, T', ...): the same if T' = T, else every step."""
    if steps is None:
        return None
    here, there = ops.shape(steps)[1], ops.shape(other)[1]
    if isinstance(here, int) and isinstance(there, int):
        return steps if here == there else None
    # Which of the two it is turns out when the graph runs.
    position = ops.minimum(ops.arange(there), here - 1)
    return ops.logical_or(ops.take(steps, position, axis=1), ops.not_equal(here, there))
