"""Masks of sequences: from lengths, and what can be asked of them.

A mask is a boolean tensor of shape (B, T), true at valid steps, as Keras has it.
"""

from typing import Any

import numpy as np
from keras import ops


def lengths_to_mask(lengths: Any, like: Any) -> Any:
    """Returns the mask of the first `lengths` steps.

    Args:
        lengths: integer tensor of shape (B,) or (B, 1).
        like: tensor of shape (B, T, ...), whose T the mask has.

    Returns:
        A boolean tensor of shape (B, T).
    """
    while len(like.shape) > 2:
        like = like[..., 0]
    # The steps are counted by a cumulative sum, because a symbolic time axis has no size to give `arange`.
    position = ops.cumsum(ops.ones_like(like, dtype="int32"), axis=1)
    return position <= ops.reshape(ops.cast(lengths, "int32"), (-1, 1))


def mask_of_outputs(mask: Any, inputs: Any, steps: int) -> Any:
    """Returns the mask of `steps` outputs over masked `inputs`.

    Args:
        mask: boolean tensor of shape (B, T0).
        inputs: tensor of shape (B, T0, ...).
        steps: number of outputs.

    Returns:
        The mask's first `steps` steps, (B, steps); where there are more outputs than inputs, all of them are valid:
        None, or a mask that is true throughout if an open time axis keeps that unknown.
    """
    if isinstance(inputs.shape[1], int):
        return mask[:, :steps] if steps <= inputs.shape[1] else None
    # Put so that it can be said of symbolic tensors too, which cannot be sliced along an open axis.
    free = ops.max(ops.sum(ops.ones_like(mask, dtype="int32"), axis=1)) < steps
    tail = ops.repeat(ops.zeros_like(ops.any(mask, axis=1, keepdims=True)), steps, axis=1)
    first = ops.take(ops.concatenate([mask, tail], axis=1), np.arange(steps), axis=1)
    return ops.logical_or(first, free)
