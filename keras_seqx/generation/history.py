"""Pure functions of logits (R, V) and of what was generated before them.

`tokens` (R, L), int32, are each row's prompt and what was generated behind it, right-padded; `lengths` (R,), int32,
tell how many are valid, and `step`, an integer, a scalar or (R,), how many of those were generated. What stands in the
padding changes nothing. What is left out becomes minus infinity, as in transformers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_seqx._core import control_flow
from keras_seqx.generation import logit_ops


def repetition_penalty(logits: Any, tokens: Any, lengths: Any, penalty: Any) -> Any:
    """Divides the positive logits of the row's tokens by `penalty`, a number or (R, 1), and multiplies the others."""
    penalty = ops.cast(penalty, logits.dtype)
    penalized = control_flow.where(logits < 0, logits * penalty, logits / penalty)
    return control_flow.where(_occur(tokens, _valid(tokens, lengths), logits), penalized, logits)


def no_repeat_ngram(logits: Any, tokens: Any, lengths: Any, ngram_size: int) -> Any:
    """Leaves out every token that would end a sequence of `ngram_size` tokens that the row has already."""
    if tokens.shape[1] is not None and ngram_size > tokens.shape[1]:
        return logits
    # Of every window of n tokens the last one is banned, if those before it are the row's last n - 1. A TensorFlow
    # graph that leaves the number of steps open may turn out to have no window.
    windows = ops.shape(tokens)[1] - ngram_size + 1
    windows = windows if isinstance(windows, int) else ops.maximum(windows, 0)
    banned = ops.arange(windows, dtype="int32") + (ngram_size - 1) < lengths[:, None]
    for back in range(1, ngram_size):
        last = ops.take_along_axis(tokens, ops.maximum(lengths - back, 0)[:, None], axis=1)
        start = ngram_size - 1 - back
        banned = ops.logical_and(banned, tokens[:, start : start + windows] == last)
    return logit_ops.exclude(logits, _occur(tokens[:, ngram_size - 1 :], banned, logits))


def min_length(logits: Any, step: Any, length: Any, end_tokens: Sequence[int]) -> Any:
    """Leaves out the ends while fewer than `length` tokens, a number or (R, 1), were generated."""
    is_end = np.isin(np.arange(logits.shape[-1]), end_tokens)
    return logit_ops.exclude(logits, ops.logical_and(_column(step) < ops.cast(length, "int32"), is_end))


def suppress_tokens(logits: Any, tokens: Sequence[int]) -> Any:
    """Leaves out some tokens."""
    return logit_ops.exclude(logits, np.isin(np.arange(logits.shape[-1]), tokens))


def forced_tokens(logits: Any, step: Any, steps: Sequence[int], tokens: Sequence[int]) -> Any:
    """Leaves nothing but `tokens[i]`, of logit zero, at step `steps[i]`."""
    now = _column(step) == ops.cast(np.asarray(steps), "int32")
    forced = ops.max(ops.where(now, ops.cast(np.asarray(tokens), "int32"), -1), axis=-1, keepdims=True)
    others = ops.arange(logits.shape[-1], dtype="int32") != forced
    return control_flow.where(forced < 0, logits, logit_ops.exclude(ops.zeros_like(logits), others))


def allow_only(logits: Any, tokens: Any, where: Any) -> Any:
    """Leaves out all but those of each row's `tokens` (R, C) for which `where` (R, C) is true."""
    return logit_ops.exclude(logits, ops.logical_not(_occur(tokens, where, logits)))


def _valid(tokens: Any, lengths: Any) -> Any:
    return ops.arange(ops.shape(tokens)[1], dtype="int32") < lengths[:, None]


def _column(step: Any) -> Any:
    """The step as (1, 1) or (R, 1)."""
    return ops.reshape(ops.cast(step, "int32"), (-1, 1))


def _occur(tokens: Any, where: Any, logits: Any) -> Any:
    """Booleans (R, V): whether a token is among the row's `tokens` (R, C) for which `where` is true."""
    # One row's table has a last entry for what does not count, ids beyond the vocabulary included.
    vocabulary = logits.shape[-1]
    rows = ops.shape(logits)[0]
    entry = ops.where(where, ops.minimum(tokens, vocabulary), vocabulary)
    entry = entry + ops.expand_dims(ops.arange(rows, dtype="int32") * (vocabulary + 1), 1)
    entry = ops.reshape(entry, (-1, 1))
    table = ops.zeros((rows * (vocabulary + 1),), dtype="bool")
    table = ops.scatter_update(table, entry, ops.ones_like(entry[:, 0], dtype="bool"))
    return ops.reshape(table, (rows, vocabulary + 1))[:, :vocabulary]
