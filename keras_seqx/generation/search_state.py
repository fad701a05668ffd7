"""What every search shares: the problem that it solves, the log of tokens, and the result."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops, tree

from keras_seqx.generation import logit_ops

# The state of a search that travels through its loop: named tensors and lists of them.
Carry = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SearchProblem:
    """What a search is asked: how a decoder steps, what it read, and where to stop.

    All rows walk through the columns of one table, `history`: at time t every row reads its `token` of column t. A row
    whose prompt is longer finds the next one of its prompt in column t + 1, any other row writes there what it chose.
    So prompts of all lengths run through one program, and what pads them is never read.

    R rows are B rows of the batch times `beams`, the beams of a row side by side.

    Attributes:
        step: takes tokens (R,), states and t to logits (R, V), new states, and alignments (R, S) or None.
        prompt: int32 (R, T0), right-padded.
        prompt_lengths: int32 (R,), at least 1.
        states: list of tensors (R, ...).
        processors: pure functions of (tokens, lengths, step, logits).
        end_tokens: the tokens that end a row, none where all rows have `max_steps` tokens.
        pad_token: what stands behind the end.
        max_steps: the most tokens that a row generates.
        score_dtype: in which log-probabilities are summed, float32 at least.
        returned: how many sequences of each row are returned, N; None for one, without an axis for it.
        memory_length: S where alignments are asked for, else None.
        force_end: whether a row that has not ended before takes an end as its last token.
    """

    step: Callable
    prompt: Any
    prompt_lengths: Any
    states: Sequence[Any]
    processors: Sequence[Callable]
    end_tokens: Sequence[int]
    pad_token: int
    max_steps: int
    score_dtype: str
    returned: int | None = None
    memory_length: Any = None
    force_end: bool = False

    def start(self) -> Carry:
        """Returns what every search begins with."""
        rows, length = ops.shape(self.prompt)[0], ops.shape(self.prompt)[1]
        behind = ops.zeros((rows, self.max_steps), dtype="int32")
        carry = {
            "t": ops.zeros((), dtype="int32"),
            "token": self.prompt[:, 0],
            "history": ops.concatenate([self.prompt, behind], axis=1),
            "states": list(self.states),
        }
        if self.memory_length is not None:
            shape = (rows, length + self.max_steps, self.memory_length)
            carry["alignments"] = ops.zeros(shape, dtype="float32")
        return carry

    @property
    def limit(self) -> Any:
        """The most steps that all rows together can take: the longest prompt, and `max_steps` - 1 behind it."""
        return ops.shape(self.prompt)[1] + self.max_steps - 1

    def generated(self, t: Any) -> Any:
        """Returns how many tokens each row (R,) has generated before the one that it chooses at time t, or 0."""
        return ops.maximum(t + 1 - self.prompt_lengths, 0)

    def advance(self, carry: Carry) -> tuple[Any, list[Any], Any]:
        """Steps the decoder; returns processed logits (R, V) of each row's next token, new states, alignments."""
        t = carry["t"]
        logits, states, alignments = self.step(carry["token"], carry["states"], t)
        logits = ops.cast(logits, self.score_dtype)
        if self.processors:
            history = carry["history"]
            if len(history.shape) > 2:
                history = ops.reshape(history, (-1, ops.shape(history)[-1]))
            lengths = ops.zeros_like(self.prompt_lengths) + (t + 1)
            for processor in self.processors:
                logits = processor(history, lengths, self.generated(t), logits)
        return logits, states, alignments

    def is_last(self, t: Any) -> Any:
        """Returns whether what each row (R,) chooses at time t is the last token that it may have."""
        return self.generated(t) + 1 >= self.max_steps

    def is_end(self, token: Any) -> Any:
        """Returns whether tokens (...) end a row, booleans of their shape."""
        ends = [token == end for end in self.end_tokens]
        return functools.reduce(ops.logical_or, ends, ops.zeros_like(token, dtype="bool"))

    def allowed(self, logits: Any, t: Any) -> Any:
        """Returns the logits (R, V) of what may be chosen at time t: of a row's last token an end, if ends are forced.

        Log-probabilities are still those of all tokens, so that a forced end costs what the decoder says.
        """
        if not self.force_end:
            return logits
        no_end = np.isin(np.arange(logits.shape[-1]), self.end_tokens, invert=True)
        return logit_ops.exclude(logits, ops.logical_and(self.is_last(t)[:, None], no_end))

    def upcoming(self, history: Any, t: Any) -> Any:
        """Returns what is written in column t + 1 of tables (..., L) before anything is generated there."""
        # Where all prompts are one token long, no row is within its own.
        return 0 if self.prompt.shape[1] == 1 else ops.take(history, t + 1, axis=-1)

    def answer(self, history: Any, lengths: Any, scores: Any, alignments: Any, prompt_lengths: Any) -> Carry:
        """Returns the generated part of tables (..., L): tokens (..., max_steps), and what belongs to them.

        `prompt_lengths` and `lengths` (...) say where that part begins and how long it is.
        """
        step = ops.arange(self.max_steps, dtype="int32")
        column = prompt_lengths[..., None] + step
        valid = step < lengths[..., None]
        tokens = ops.where(valid, ops.take_along_axis(history, column, axis=-1), self.pad_token)
        answer = {"tokens": ops.cast(tokens, "int32"), "lengths": lengths, "scores": scores}
        if alignments is not None:
            found = ops.take_along_axis(alignments, column[..., None], axis=-2)
            answer["alignments"] = ops.where(valid[..., None], found, 0.0)
        return answer


def set_column(table: Any, t: Any, column: Any) -> Any:
    """Returns a table (..., L) with `column` (...) at time t."""
    return ops.where(ops.arange(ops.shape(table)[-1], dtype="int32") == t, column[..., None], table)


def write_alignments(table: Any, t: Any, column: Any) -> Any:
    """Returns a table (..., L, S) with `column` (..., S) at time t."""
    here = ops.arange(ops.shape(table)[-2], dtype="int32") == t
    return ops.where(here[:, None], column[..., None, :], table)


def gather_beams(tensor: Any, index: Any) -> Any:
    """Returns entries `index` (B, N) of a tensor (B, K, ...): (B, N, ...)."""
    if len(tensor.shape) == 2:
        return ops.take_along_axis(tensor, index, axis=1)
    inner = ops.shape(tensor)[2:]
    rows = ops.take(ops.reshape(tensor, (-1, *inner)), flat_beam_index(index, ops.shape(tensor)[1]), axis=0)
    return ops.reshape(rows, (-1, index.shape[1], *inner))


def flat_beam_index(index: Any, beams: int) -> Any:
    """Returns entries `index` (B, N) of each row's `beams` as rows (B * N,) of all rows' beams side by side."""
    first = ops.arange(ops.shape(index)[0], dtype="int32")[:, None] * beams
    return ops.ravel(first + ops.cast(index, "int32"))


def expand_to_beams(tensors: Any, beams: int) -> Any:
    """Returns nested tensors (B, ...) as (B * beams, ...), each row `beams` times in succession."""
    if beams == 1:
        return tensors
    return tree.map_structure(lambda x: x if x is None else ops.repeat(x, beams, axis=0), tensors)
