"""What a token generator is made of must fit together, told when it is made or built."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx._core import control_flow, errors, validation
from keras_seqx.generation import constraints
from keras_seqx.generation.beam_search import BeamSearch
from keras_seqx.generation.processors import LogitsProcessor
from keras_seqx.generation.search import GreedySearch, Sampling, Search

# Processors whose verdict depends on the step alone, not on the tokens before it.
BY_STEP_ALONE = (constraints.SuppressTokens, constraints.ForcedTokens, constraints.MinLength)

# The most logits that are made to see whether processors contradict one another.
PROBED = 1_000_000


def end_token_of(owner: Any, end_token: Any, force_end: bool) -> int | list[int] | None:
    """Returns the id that ends a sequence, a list of several, or None."""
    if end_token is None:
        if force_end:
            what = "the id of the end where `force_end` is true"
            raise ValueError(errors.message(owner, "end_token", what, None, "Give the id, or leave `force_end` out"))
        return None
    fix = "Give the id or the ids that end a sequence, or None where every sequence has `max_steps` tokens"
    return validation.end_tokens(owner, end_token, fix)


def search_of(owner: Any, search: Any) -> Search:
    """Returns the search."""
    if search == "greedy":
        return GreedySearch()
    if isinstance(search, Search):
        return search
    fix = "Pass for example `BeamSearch(4)`"
    raise (ValueError if isinstance(search, str) else TypeError)(
        errors.message(owner, "search", '"greedy", `Sampling(...)` or `BeamSearch(...)`', search, fix)
    )


def processors_of(owner: Any, processors: Any) -> list[LogitsProcessor]:
    """Returns the processors, a list."""
    what, fix = "a list of processors", "Pass for example `[RepetitionPenalty(1.2)]`"
    if not isinstance(processors, Sequence) or isinstance(processors, str):
        raise TypeError(errors.message(owner, "processors", what, processors, fix))
    for processor in processors:
        if not isinstance(processor, LogitsProcessor):
            raise TypeError(errors.message(owner, "processors", what, processor, fix, "one of them"))
    return list(processors)


def returned(owner: Any, count: Any, search: Search) -> int | None:
    """Returns how many sequences are returned, None for as many as the search has by itself."""
    if count is None:
        return None
    fix = "Leave it at None for the best sequence alone"
    count = errors.positive_integer(owner, "num_return_sequences", count, fix)
    if count > search.beams:
        kind = {BeamSearch: "num_beams", Sampling: "num_samples"}.get(type(search))
        what = f"at most {search.beams}, " + (f"the `{kind}` of the search" if kind else "as the search is greedy")
        fix = f"Search by `BeamSearch({count})`, or return fewer"
        raise ValueError(errors.message(owner, "num_return_sequences", what, count, fix))
    return count


def check_vocabulary(
    owner: Any,
    vocabulary: int,
    end_token: int | list[int] | None,
    force_end: bool,
    max_steps: int,
    processors: Sequence[LogitsProcessor],
) -> None:
    """Checks tokens and processors against the size of the decoder's logits."""
    ends = validation.as_list(end_token)
    if ends and max(ends) >= vocabulary:
        what = f"one of the decoder's {vocabulary} tokens, within [0, {vocabulary})"
        fix = "The decoder could never end: give its `output_layer` a logit for the end, or pass None"
        raise ValueError(errors.message(owner, "end_token", what, end_token, fix))
    for processor in processors:
        processor.check(owner, vocabulary)
    by_step = [processor for processor in processors if isinstance(processor, BY_STEP_ALONE)]
    if by_step:
        probed = np.arange(min(max_steps, 1 + PROBED // vocabulary), dtype="int32")
        left = control_flow.ensure_eager(lambda: _tokens_left(by_step, probed, vocabulary)).any(axis=-1).all(axis=0)
        if force_end:
            last = control_flow.ensure_eager(
                lambda: _tokens_left(by_step, np.array([max_steps - 1], "int32"), vocabulary)
            )
            if not last[:, 0, ends].any(axis=-1).all():
                fix = "Leave one of them out, raise `max_steps`, or leave `force_end` out"
                what = "such that an end is left at the last step, as `force_end` is true"
                raise ValueError(errors.message(owner, "processors", what, by_step, fix))
        if not left.all():
            step = int(np.argmin(left))
            fix = "Leave one of them out, or order the forced tokens behind the suppressed ones"
            what = "such that a token is left at every step"
            shape = f"none is left for token {step} of a sequence"
            raise ValueError(errors.message(owner, "processors", what, by_step, fix, shape))


def _tokens_left(processors: Sequence[LogitsProcessor], steps: np.ndarray, vocabulary: int) -> np.ndarray:
    """Which tokens are left for every row that processors know of, at each of the steps, (rows, steps, V)."""
    rows = max(np.size(getattr(processor, "min_length", 0)) for processor in processors)
    step = ops.tile(ops.convert_to_tensor(steps), rows)
    logits = ops.zeros((rows * len(steps), vocabulary), dtype=keras.config.floatx())
    for processor in processors:
        logits = processor(ops.zeros((rows * len(steps), 1), dtype="int32"), step + 1, step, logits)
    left = np.isfinite(ops.convert_to_numpy(logits))
    return left.reshape(rows, len(steps), vocabulary)
