"""Processors that say outright which tokens may come."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx._core import errors, validation
from keras_seqx.generation import history
from keras_seqx.generation.processors import LogitsProcessor
from keras_seqx.generation.trie import Trie

END_FIX = "Give the id that ends a sequence"
VOCABULARY_FIX = "Give ids of the decoder's vocabulary"


@keras.saving.register_keras_serializable(package="keras_seqx")
class NoRepeatNGram(LogitsProcessor):
    """Leaves out every token that would make a sequence of n tokens come a second time, the prompt included.

    Args:
        ngram_size: integer of at least 1, n. With 1 no token comes twice.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: `ngram_size` below 1.
        TypeError: `ngram_size` is no integer.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import NoRepeatNGram
    >>> tokens, lengths = ops.array([[1, 2, 1, 0]], "int32"), ops.array([3], "int32")
    >>> logits = NoRepeatNGram(2)(tokens, lengths, 2, ops.array([[1.0, 2.0, 3.0]]))
    >>> ops.convert_to_numpy(logits).tolist()
    [[1.0, 2.0, -inf]]

    References:
        - Paulus et al., 2017, A deep reinforced model for abstractive summarization, arXiv:1705.04304.
    """

    def __init__(self, ngram_size: int):
        fix = "Give the number of tokens that may not come twice in the same order"
        self.ngram_size = errors.positive_integer(self, "ngram_size", ngram_size, fix)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return history.no_repeat_ngram(logits, tokens, lengths, self.ngram_size)

    def get_config(self) -> dict[str, Any]:
        return {"ngram_size": self.ngram_size}


@keras.saving.register_keras_serializable(package="keras_seqx")
class MinLength(LogitsProcessor):
    """Leaves out the end until enough tokens were generated.

    Args:
        min_length: integer of at least 0, or an array (B,): how many tokens must come before the end. The prompt does
            not count.
        end_token: integer, the id of the end, or a list of them, if several tokens end a sequence.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: a negative number.
        TypeError: an argument that is no integer.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import MinLength
    >>> logits = MinLength(2, end_token=0)(ops.zeros((1, 4), "int32"), ops.ones((1,), "int32"), 1, ops.ones((1, 3)))
    >>> ops.convert_to_numpy(logits).tolist()
    [[-inf, 1.0, 1.0]]
    """

    def __init__(self, min_length: Any, end_token: int | Sequence[int]):
        what, fix = "an integer of at least 0", "It counts generated tokens, without the prompt and the end"
        self.min_length = self._number("min_length", min_length, what, lambda x: x >= 0, fix, integer=True)
        self.end_token = validation.end_tokens(self, end_token, END_FIX)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        ends = validation.as_list(self.end_token)
        return history.min_length(logits, step, self._by_row("min_length", logits), ends)

    def check(self, owner: Any, vocabulary_size: int) -> None:
        _check_leaves_some(self, owner, validation.as_list(self.end_token), vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        return {"min_length": self._plain("min_length"), "end_token": self.end_token}


@keras.saving.register_keras_serializable(package="keras_seqx")
class SuppressTokens(LogitsProcessor):
    """Leaves out some tokens at every step.

    Args:
        tokens: list of integers, their ids.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: no ids, or negative ones.
        TypeError: ids that are no integers.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import SuppressTokens
    >>> logits = SuppressTokens([0, 2])(ops.zeros((1, 4), "int32"), ops.ones((1,), "int32"), 0, ops.ones((1, 3)))
    >>> ops.convert_to_numpy(logits).tolist()
    [[-inf, 1.0, -inf]]
    """

    def __init__(self, tokens: Sequence[int]):
        what = "a list of token ids, integers of at least 0"
        self.tokens = validation.tokens(self, "tokens", tokens, what, "Give one id at least")

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return history.suppress_tokens(logits, self.tokens)

    def check(self, owner: Any, vocabulary_size: int) -> None:
        _check_leaves_some(self, owner, self.tokens, vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        return {"tokens": list(self.tokens)}


@keras.saving.register_keras_serializable(package="keras_seqx")
class ForcedTokens(LogitsProcessor):
    """Leaves nothing but a given token, of logit zero, at some steps.

    Args:
        tokens: dictionary `{step: token}` of integers, steps counted from 0, or a list of such pairs.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: no pairs, negative numbers, or a step that comes twice.
        TypeError: no dictionary or list of pairs of integers.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import ForcedTokens
    >>> logits = ForcedTokens({0: 2})(ops.zeros((1, 4), "int32"), ops.ones((1,), "int32"), 0, ops.ones((1, 3)))
    >>> ops.convert_to_numpy(logits).tolist()
    [[-inf, -inf, 0.0]]
    """

    def __init__(self, tokens: Any):
        what, fix = "a dictionary {step: token} of integers of at least 0", "Give for example `{0: start_token}`"
        try:
            pairs = [(step, token) for step, token in (tokens.items() if isinstance(tokens, Mapping) else tokens)]
        except (TypeError, ValueError):
            raise TypeError(errors.message(self, "tokens", what, tokens, fix)) from None
        self._steps = validation.tokens(self, "tokens", [step for step, _ in pairs], what, fix)
        self._tokens = validation.tokens(self, "tokens", [token for _, token in pairs], what, fix)
        if len(set(self._steps)) < len(self._steps):
            raise ValueError(errors.message(self, "tokens", "pairs of different steps", tokens, fix))

    @property
    def tokens(self) -> dict[int, int]:
        """The token of each step that has one."""
        return dict(zip(self._steps, self._tokens, strict=True))

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return history.forced_tokens(logits, step, self._steps, self._tokens)

    def check(self, owner: Any, vocabulary_size: int) -> None:
        _check_vocabulary(self, owner, self._tokens, vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        # Pairs, as a file in JSON would turn the steps of a dictionary into strings.
        return {"tokens": [[step, token] for step, token in self.tokens.items()]}


@keras.saving.register_keras_serializable(package="keras_seqx")
class PrefixConstrained(LogitsProcessor):
    """Has one of some given sequences generated, and then the end.

    What was generated is looked up among the beginnings of the sequences, and only what follows there in one of them
    is left; behind anything else, the end alone. Sequences may be many: what a step takes depends on the longest one
    and on how many tokens may follow at most, not on their number.

    Args:
        sequences: list of non-empty lists of token ids, without the end.
        end_token: integer, the id of the end, or a list of them: any of these may then follow a whole sequence.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: no sequences, an empty one, negative ids, or the end within a sequence.
        TypeError: ids that are no integers.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import PrefixConstrained
    >>> tokens, lengths = ops.array([[0, 1, 0, 0]], "int32"), ops.array([2], "int32")  # one token was generated: 1
    >>> logits = PrefixConstrained([[1, 2], [1, 3], [2, 2]], end_token=0)(tokens, lengths, 1, ops.ones((1, 4)))
    >>> ops.convert_to_numpy(logits).tolist()
    [[-inf, -inf, 1.0, 1.0]]

    References:
        - De Cao et al., 2021, Autoregressive entity retrieval, arXiv:2010.00904.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], end_token: int | Sequence[int]):
        self.end_token = validation.end_tokens(self, end_token, END_FIX)
        ends = validation.as_list(self.end_token)
        what, fix = "a non-empty list of non-empty lists of token ids", "Give one list of integers for each sequence"
        if not isinstance(sequences, (list, tuple, np.ndarray)):
            raise TypeError(errors.message(self, "sequences", what, sequences, fix))
        if len(sequences) == 0:
            raise ValueError(errors.message(self, "sequences", what, sequences, fix))
        self.sequences = [validation.tokens(self, "sequences", s, what, fix) for s in sequences]
        for sequence in self.sequences:
            if not set(ends).isdisjoint(sequence):
                fix = "Leave the end out, it is put behind each sequence"
                what = f"lists without the end token {self.end_token}"
                raise ValueError(errors.message(self, "sequences", what, sequence, fix, "one of them"))
        self._trie = Trie(self.sequences, ends)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        generated = ops.broadcast_to(ops.cast(step, "int32"), ops.shape(lengths))
        position = (lengths - generated)[:, None] + ops.arange(self._trie.depth, dtype="int32")
        prefixes = ops.take_along_axis(tokens, ops.clip(position, 0, ops.shape(tokens)[1] - 1), axis=1)
        return history.allow_only(logits, *self._trie.followers(prefixes, generated))

    def check(self, owner: Any, vocabulary_size: int) -> None:
        _check_vocabulary(
            self, owner, [max(map(max, self.sequences)), *validation.as_list(self.end_token)], vocabulary_size
        )

    def get_config(self) -> dict[str, Any]:
        return {"sequences": [list(s) for s in self.sequences], "end_token": self.end_token}


def _check_vocabulary(processor: LogitsProcessor, owner: Any, tokens: Sequence[int], vocabulary_size: int) -> None:
    if max(tokens) >= vocabulary_size:
        what = f"of token ids below the vocabulary size {vocabulary_size}"
        context = f"its largest id is {max(tokens)}"
        raise ValueError(errors.message(owner, "processors", what, processor, VOCABULARY_FIX, context))


def _check_leaves_some(processor: LogitsProcessor, owner: Any, suppressed: Sequence[int], vocabulary_size: int) -> None:
    _check_vocabulary(processor, owner, suppressed, vocabulary_size)
    if len(set(suppressed)) == vocabulary_size:
        what, fix = "such that some token is left", "Suppress fewer tokens"
        raise ValueError(errors.message(owner, "processors", what, processor, fix, f"all {vocabulary_size} are out"))
