"""The inputs of an audit: which of them are sequences, how long their rows are, and what they are padded with."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors

NOISE = "noise"
Lengths = list[np.ndarray | None]


@dataclasses.dataclass
class Batch:
    """A model's inputs with the lengths of their rows.

    Attributes:
        x: the inputs, as they are structured.
        leaves: the same in a flat list of arrays, None for an optional input that is left out.
        lengths: (B,) for each of them, None for what is no sequence.
    """

    x: Any
    leaves: list
    lengths: Lengths

    @property
    def size(self) -> int:
        return next(len(leaf) for leaf in self.leaves if leaf is not None)

    def groups(self) -> Iterator[tuple[np.ndarray, Any]]:
        """Yields the rows of the same lengths together, without padding: their numbers and the inputs.

        There are two groups at least, so that no row has the company it has in the batch.
        """
        keys = np.stack([lengths for lengths in self.lengths if lengths is not None], axis=1)
        groups = [np.flatnonzero((keys == key).all(axis=1)) for key in np.unique(keys, axis=0)]
        if len(groups) == 1 and self.size > 1:
            groups = np.array_split(groups[0], 2)
        for rows in groups:
            yield (
                rows,
                self._pack(
                    leaf if leaf is None else leaf[rows] if lengths is None else leaf[rows, : lengths[rows[0]]]
                    for leaf, lengths in zip(self.leaves, self.lengths, strict=True)
                ),
            )

    def padded(self, extra: int, fills: list) -> Any:
        """Returns the inputs with `extra` more steps, everything behind a row's length being padding."""
        return self._pack(
            leaf if lengths is None else _pad(leaf, lengths, extra, fill)
            for leaf, lengths, fill in zip(self.leaves, self.lengths, fills, strict=True)
        )

    def unpadded(self, x: Any) -> Any:
        """Returns what `padded` returned without the extra steps."""
        leaves = zip(tree.flatten(x), self.leaves, self.lengths, strict=True)
        return self._pack(leaf if own is None else leaf[:, : whole.shape[1]] for leaf, whole, own in leaves)

    def mirrored(self, fills: list) -> "Batch | None":
        """Returns the batch with sequences of floats mirrored at the one value that pads them, None if there are none.

        A maximum over time never sees padding of zeros behind values above them; behind their mirror images it does.
        """
        floats = [
            lengths is not None and fill != NOISE and leaf.dtype.kind == "f"
            for leaf, lengths, fill in zip(self.leaves, self.lengths, fills, strict=True)
        ]
        if not any(floats):
            return None
        leaves = [2 * f - x if m else x for x, f, m in zip(self.leaves, fills, floats, strict=True)]
        return Batch(self._pack(leaves), leaves, self.lengths)

    def _pack(self, leaves: Any) -> Any:
        return tree.pack_sequence_as(self.x, list(leaves))


def _pad(leaf: np.ndarray, lengths: np.ndarray, extra: int, fill: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (len(leaf), leaf.shape[1] + extra, *leaf.shape[2:])
    valid = np.arange(shape[1]) < lengths[:, None]
    own = leaf[valid[:, : leaf.shape[1]]]
    if fill != NOISE:
        padded = np.full(shape, fill, leaf.dtype)
    elif np.issubdtype(leaf.dtype, np.floating):
        # Far louder than the sequences, so that what leaks is heard.
        known = own[np.isfinite(own)] if np.isfinite(own).any() else np.zeros(1)
        padded = rng.normal(known.mean(), 10 * (known.std() or 1.0), shape).astype(leaf.dtype)
    else:
        padded = rng.choice(own.reshape(-1), shape)
    padded[valid] = own
    return padded


def read(model: Any, x: Any) -> tuple[Any, list, list[bool]]:
    """Returns the inputs as arrays, the same in a flat list, and which of them are sequences."""
    fix = "Pass what `model.predict` takes: arrays whose first axis is the batch"
    try:
        x = tree.map_structure(lambda leaf: leaf if leaf is None else to_array(leaf), x)
        leaves = tree.flatten(x)
    except (TypeError, ValueError) as error:
        raise ValueError(errors.message("audit_masking", "x", "an array or a structure of arrays", x, fix)) from error
    arrays = [leaf for leaf in leaves if leaf is not None]
    sizes = [leaf.shape for leaf in arrays]
    if not arrays or any(len(size) < 1 or size[0] != sizes[0][0] or 0 in size for size in sizes):
        raise ValueError(
            errors.message("audit_masking", "x", "arrays of the same number of rows", sizes, fix, "shapes")
        )
    time = _sequences(model, leaves)
    if not any(time):
        what = "sequences (B, T, ...), at least one"
        raise ValueError(errors.message("audit_masking", "x", what, sizes, fix, "its shapes"))
    return x, leaves, time


def to_array(leaf: Any) -> np.ndarray:
    """Returns numbers as an array, in Keras' precision as in `fit`; raises TypeError for anything else."""
    array = np.asarray(ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else leaf)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"arrays of numbers are needed, not of {array.dtype}")
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def _sequences(model: Any, leaves: list) -> list[bool]:
    """Returns which inputs have time as their second axis."""
    specs = [tensor.shape for tensor in getattr(model, "inputs", None) or []]
    if len(specs) == len(leaves):
        open_axis = [len(spec) > 1 and spec[1] is None for spec in specs]
        if any(open_axis):
            return open_axis
    ranks = [np.ndim(leaf) if leaf is not None and np.shape(leaf)[1:2] != (1,) else 0 for leaf in leaves]
    for sure in (
        [rank >= 3 or (rank == 2 and leaf.dtype.kind in "iub") for rank, leaf in zip(ranks, leaves, strict=True)],
        [rank >= 2 for rank in ranks],
    ):
        if any(sure):
            steps = {leaf.shape[1] for leaf, is_sequence in zip(leaves, sure, strict=True) if is_sequence}
            return [rank >= 2 and leaf.shape[1] in steps for rank, leaf in zip(ranks, leaves, strict=True)]
    return [False] * len(leaves)


def read_lengths(x: Any, leaves: list, time: list[bool], lengths: Any) -> Lengths:
    """Returns the lengths that were passed, for each input that is a sequence."""
    fix = (
        "Count the valid steps of each row; for inputs of different lengths pass a structure like `x`, None in it for "
    )
    fix += "what is no sequence"

    def fail(constraint: str) -> None:
        raise ValueError(errors.message("audit_masking", "lengths", constraint, lengths, fix))

    given: list = [lengths] * len(leaves)
    if isinstance(lengths, dict) or (isinstance(lengths, (list, tuple)) and not all(map(np.isscalar, lengths))):
        try:
            given = tree.flatten(
                tree.map_structure_up_to(x, lambda _, own: own if own is None else to_array(own), x, lengths)
            )
        except (TypeError, ValueError):
            fail("integers (B,), or a structure of them like `x`")
        time = [own is not None for own in given]
    found: Lengths = []
    for leaf, own, is_sequence in zip(leaves, given, time, strict=True):
        if not is_sequence:
            found.append(None)
            continue
        own = np.asarray(own)
        if leaf is None or leaf.ndim < 2 or own.dtype.kind not in "iu" or own.shape != (len(leaf),):
            fail(f"integers of shape (B,) = ({len(leaves[time.index(True)])},) for every sequence")
        if own.min() < 1 or own.max() > leaf.shape[1]:
            fail(f"from 1 to the {leaf.shape[1]} steps of the input")
        found.append(own.astype("int64"))
    return found
