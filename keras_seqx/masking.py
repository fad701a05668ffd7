"""Masks of sequences: from lengths, and what can be asked of them.

A mask is a boolean tensor of shape (B, T), true at valid steps, as Keras has it.
"""

from typing import Any

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
