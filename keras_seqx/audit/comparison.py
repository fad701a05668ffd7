"""Compares what a layer computed on a padded batch with what it computed on the rows without padding."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

# What rounding may amount to, relative to the largest magnitude: at another length, sums are taken in another order.
ROUNDING = {"float16": 1e-2, "bfloat16": 5e-2}
# Numbers as large as this that padding leaves as they are stand for infinity, as in masked scores: they set no scale.
INFINITE = 1e8


@dataclasses.dataclass
class Match:
    """A tensor beside its reference, in which each row has a shape of its own.

    Attributes:
        valid: where the tensor has a counterpart, in the tensor's shape; all the rest is padding.
        change: the largest difference there, relative to the reference's largest magnitude.
        moved: whether that is more than rounding, which integers have none of.
        aligned: the tensor with the reference's values where it has a counterpart.
        finite: how many values of the reference are finite. Others are compared too, but say nothing: NaN stays NaN.
        size: how many there are.
    """

    valid: np.ndarray
    change: float
    moved: bool
    aligned: np.ndarray
    finite: int
    size: int

    @property
    def unseen(self) -> bool:
        """Whether there are values, and none of them is finite, so that nothing could be compared."""
        return self.size > 0 and not self.finite

    @property
    def padded(self) -> bool:
        """Whether padding made the tensor longer, along any axis."""
        return not self.valid.all()

    @property
    def steps(self) -> np.ndarray | None:
        """The mask (B, T) of the valid steps; None if axis 1 was not padded."""
        if self.valid.ndim < 2:
            return None
        steps = np.asarray(self.valid.any(axis=tuple(range(2, self.valid.ndim))))
        return None if steps.all() else steps


class Reference:
    """What every row is compared with.

    Args:
        batch: number of rows that are compared.
        parts: (rows, recording, chosen) each: the counterparts of `rows` are the rows `chosen` of the recording.
        calls: the numbers of the calls that are compared.
    """

    def __init__(self, batch: int, parts: list[tuple[Any, Any, Any]], calls: set[int]):
        self.batch = batch
        self.parts = parts
        self.calls = calls

    def match(self, number: int, side: str, tensors: list) -> list[Match | None]:
        """Returns how the tensors on one `side` of a call match; None for those without a counterpart row by row."""
        leaves = [getattr(recording.calls[number], side) for _, recording, _ in self.parts]
        if any(len(part) != len(tensors) for part in leaves):
            return [None] * len(tensors)
        return [self._match(*column) for column in zip(tensors, *leaves, strict=True)]

    def wrong(self, number: int, side: str, masks: list, tensors: list) -> list[bool]:
        """Returns which masks have not their tensor's shape, are true at padding, or other than the reference's."""
        wrong = []
        for mask, match, tensor in zip(masks, self.match(number, side, masks), tensors, strict=True):
            fits = mask is None or tuple(mask.shape) == tuple(tensor.shape[: len(mask.shape)])
            marks_padding_valid = match is not None and np.any(ops.convert_to_numpy(mask) & ~match.valid)
            wrong.append(mask is not None and bool(not fits or match is None or match.moved or marks_padding_valid))
        return wrong

    def _match(self, tensor: Any, *leaves: Any) -> Match | None:
        if tensor is None or any(leaf is None for leaf in leaves):
            return None
        aligned = np.array(ops.convert_to_numpy(tensor))
        if aligned.ndim == 0 or len(aligned) != self.batch:
            return None
        exact = aligned.dtype.kind in "biu"
        valid, found = np.zeros(aligned.shape, bool), [(0.0, 0.0, 0, 0)]
        for (rows, _, chosen), leaf in zip(self.parts, leaves, strict=True):
            own = ops.convert_to_numpy(leaf)[chosen]
            if own.ndim != aligned.ndim or len(own) != len(rows) or np.any(np.array(own.shape) > aligned.shape):
                return None
            part = (rows, *map(slice, own.shape[1:]))
            found.append(compare(aligned[part], own))
            valid[part], aligned[part] = True, own
        # Rows that are not compared have no padding to speak of.
        valid[np.setdiff1d(np.arange(self.batch), np.concatenate([rows for rows, _, _ in self.parts]))] = True
        differences, scales, finite, sizes = zip(*found, strict=True)
        change = max(differences) / (max(scales) or 1.0)
        rounding = 0.0 if exact else ROUNDING.get(keras.backend.standardize_dtype(tensor.dtype), 2e-5)
        return Match(valid, change, change > rounding, aligned, sum(finite), sum(sizes))


def compare(a: np.ndarray, b: np.ndarray) -> tuple[float, float, int, int]:
    """Returns how an array differs from a reference of the same shape.

    Returns:
        The largest difference, infinite where only one of two values is finite; the reference's largest magnitude; how
        many of its values are finite; and how many there are.
    """
    kind = "complex128" if b.dtype.kind == "c" else "float64"
    a, b = a.astype(kind), b.astype(kind)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num(np.where(same, 0.0, np.abs(a - b)), nan=np.inf)
    magnitudes = np.abs(b)
    finite = np.isfinite(magnitudes)
    scale = np.max(magnitudes, initial=0.0, where=finite & ~(same & (magnitudes >= INFINITE)))
    return float(np.max(differences, initial=0.0)), float(scale), int(finite.sum()), b.size
