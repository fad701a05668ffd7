"""A batch that a law can pad, cut, mix and mask: inputs of any structure with the lengths of their rows."""

import dataclasses
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors
from keras_seqx.layers import SequenceMask

LENGTHS_FIX = "Give the valid steps of each row, or None in the place of inputs without a time axis"


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs of a layer.

    Attributes:
        structure: the inputs as they are nested.
        arrays: the inputs, flat, each (B, ...).
        lengths: for each, int32 (B,), or None if it has no time axis, which is axis 1.
        masked: whether the layer receives the lengths as Keras masks.
        padding_value: what padding holds; None for noise.
    """

    structure: Any
    arrays: list[np.ndarray]
    lengths: list[np.ndarray | None]
    masked: bool = True
    padding_value: Any = None

    @classmethod
    def of(cls, owner: str, inputs: Any, lengths: Any, masked: bool = True, padding_value: Any = None) -> "Batch":
        """Returns the batch of a law's arguments, having checked them."""
        arrays = [np.asarray(ops.convert_to_numpy(x)) for x in tree.flatten(inputs)]
        sizes = {x.shape[:1] for x in arrays}
        if len(sizes) != 1 or () in sizes or (0,) in sizes:
            text, fix = "one or more arrays (B, ...) of the same B >= 1", "Give every array the same rows"
            raise ValueError(errors.message(owner, "inputs", text, [x.shape for x in arrays], fix, "their shapes"))
        parts = [_lengths(owner, n, x) for n, x in zip(_per_array(owner, inputs, lengths), arrays, strict=True)]
        return cls(inputs, arrays, parts, masked, padding_value)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, rows: Any) -> "Batch":
        """Returns a batch of some rows."""
        lengths = [None if n is None else n[rows] for n in self.lengths]
        return dataclasses.replace(self, arrays=[x[rows] for x in self.arrays], lengths=lengths)

    def pad(self, extra: int = 0) -> "Batch":
        """Returns the batch `extra` steps wider than its longest row, other noise in all of its padding."""
        rng = np.random.default_rng(extra)
        arrays = []
        for x, n in zip(self.arrays, self.lengths, strict=True):
            if n is not None:
                wide = self._fill((len(x), n.max() + extra, *x.shape[2:]), x, n, rng)
                x, shorter = wide, x[:, : n.max()]
                valid = np.arange(shorter.shape[1]) < n[:, None]
                x[:, : shorter.shape[1]][valid] = shorter[valid]
            arrays.append(x)
        return dataclasses.replace(self, arrays=arrays)

    def replace(self, rows: Any) -> "Batch":
        """Returns the batch with noise in some rows."""
        rng = np.random.default_rng(len(self))
        arrays = [x.copy() for x in self.arrays]
        for x in arrays:
            x[rows] = noise(x[rows].shape, x, rng)
        return dataclasses.replace(self, arrays=arrays)

    def _fill(self, shape: tuple, x: np.ndarray, n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.padding_value is not None:
            return np.full(shape, self.padding_value, x.dtype)
        return noise(shape, x[np.arange(x.shape[1]) < n[:, None]], rng)

    def groups(self) -> list[np.ndarray]:
        """Returns the rows of each distinct combination of lengths, so that no row of a group needs padding."""
        known = [n for n in self.lengths if n is not None]
        _, group = np.unique(np.stack(known, axis=1), axis=0, return_inverse=True)
        return [np.flatnonzero(group.ravel() == i) for i in range(group.max() + 1)]

    @property
    def tensors(self) -> list[Any]:
        """The arrays and the lengths that become masks, as a call takes them."""
        return [*self.arrays, *(n for n in self.lengths if n is not None and self.masked)]

    def inputs(self, tensors: list[Any]) -> Any:
        """Returns `tensors`, symbolic ones too, nested as the inputs are and carrying their masks."""
        count = len(self.arrays)
        arrays, lengths = list(tensors[:count]), iter(tensors[count:])
        for i, n in enumerate(self.lengths):
            if n is not None and self.masked:
                arrays[i] = SequenceMask(autocast=False)([arrays[i], next(lengths)])
        return tree.pack_sequence_as(self.structure, arrays)


def noise(shape: tuple, like: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns random numbers much larger than those of `like`, or random ones of them if they are no floats."""
    if like.dtype.kind in "iub":
        return rng.choice(like.ravel(), shape)
    return (10 * (1 + np.abs(like).max()) * rng.normal(size=shape)).astype(like.dtype)


@keras.saving.register_keras_serializable(package="keras_seqx")
class OutputMasks(keras.layers.Layer):
    """Shows the masks of a list of tensors as a list of tensors, a scalar true for a tensor that carries none."""

    def __init__(self, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True

    def call(self, inputs: list, mask: Any = None) -> list:
        return [ops.convert_to_tensor(True) if m is None else ops.cast(m, "bool") for m in mask or [None] * len(inputs)]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None


def _per_array(owner: str, inputs: Any, lengths: Any) -> list[Any]:
    """Returns the lengths of each array: given once for all, or nested as the inputs are."""
    integers = isinstance(lengths, (list, tuple)) and all(isinstance(n, numbers.Integral) for n in lengths)
    if lengths is None or integers or hasattr(lengths, "shape"):
        return [lengths] * len(tree.flatten(inputs))
    try:
        # Not appended to a list on the way: the backends walk through a dict in orders of their own.
        parts = tree.map_structure_up_to(inputs, lambda _, n: lambda: n, inputs, lengths)
    except (ValueError, TypeError) as error:
        text = "integers (B,), or nested as the inputs are"
        raise ValueError(errors.message(owner, "lengths", text, lengths, LENGTHS_FIX)) from error
    return [part() for part in tree.flatten(parts)]


def _lengths(owner: str, lengths: Any, x: np.ndarray) -> np.ndarray | None:
    if lengths is None:
        return None
    array = np.asarray(ops.convert_to_numpy(lengths))
    context = f"beside inputs of shape {x.shape}"
    if array.dtype.kind not in "iu":
        raise TypeError(errors.message(owner, "lengths", "integers (B,)", lengths, LENGTHS_FIX, context))
    if x.ndim < 2 or array.shape != x.shape[:1] or array.min() < 1 or array.max() > x.shape[1]:
        text = "integers (B,) within [1, T] for inputs (B, T, ...)"
        raise ValueError(errors.message(owner, "lengths", text, lengths, LENGTHS_FIX, context))
    return array.astype("int32")
