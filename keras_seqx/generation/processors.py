"""Processors: objects that change logits by their own values, or by the tokens that stand before them.

Those that say outright what may come are in `keras_seqx.generation.constraints`.
"""

import reprlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx._core import errors, validation
from keras_seqx.generation import history, logit_ops

PER_ROW_FIX = "Give one number for all rows, or one for each row of the batch"
OFF = "Leave the processor out to keep every token"


@keras.saving.register_keras_serializable(package="keras_seqx")
class LogitsProcessor:
    """Changes the logits of a step of generation.

    The base of all processors. A subclass defines `__call__`, a pure function with static shapes. Its law: rows do not
    influence each other, and what stands in the padding of `tokens` changes nothing.

    Call arguments:
        tokens: int32 tensor (R, L), each row's prompt and what was generated behind it, right-padded. R rows are B
            rows of the batch times K beams, the beams of a row side by side.
        lengths: int32 tensor (R,), how many tokens of each row are valid.
        step: integer, or int32 tensor () or (R,): how many of those were generated, 0 at first.
        logits: float tensor (R, V).

    Returns:
        Logits of the same shape and dtype.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import LogitsProcessor
    >>> class Doubled(LogitsProcessor):
    ...     def __call__(self, tokens, lengths, step, logits):
    ...         return 2 * logits
    >>> tokens, lengths = ops.zeros((2, 4), "int32"), ops.ones((2,), "int32")
    >>> tuple(Doubled()(tokens, lengths, 0, ops.ones((2, 3))).shape)
    (2, 3)
    """

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        """Returns the changed logits."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`.")

    def check(self, owner: Any, vocabulary_size: int) -> None:
        """Raises if the processor does not suit a vocabulary.

        Args:
            owner: whose argument `processors` it is in, named in the error.
            vocabulary_size: integer, V.

        Raises:
            ValueError: a token id lies outside the vocabulary, or no token would be left.
        """

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LogitsProcessor":
        """Returns the processor of a config."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def _number(self, argument: str, value: Any, constraint: str, holds: Any, fix: str, **kinds: bool) -> Any:
        return validation.number(self, argument, value, constraint, holds, fix, per_row=True, **kinds)

    def _by_row(self, argument: str, logits: Any) -> Any:
        """A number as it is; of an array (B,) each number for all beams of its row, (R, 1)."""
        value = getattr(self, argument)
        if not isinstance(value, np.ndarray):
            return value
        rows = logits.shape[0]
        if rows is None:
            beams = ops.shape(logits)[0] // len(value)
            return ops.reshape(ops.broadcast_to(value[:, None], (len(value), beams)), (-1, 1))
        if rows % len(value):
            what = f"one number, or one for each row of the batch, whose {rows} rows (times beams) they divide"
            raise ValueError(errors.message(self, argument, what, value.tolist(), PER_ROW_FIX))
        return np.repeat(value, rows // len(value))[:, None]

    def _plain(self, argument: str) -> Any:
        """An argument as a config has it."""
        value = getattr(self, argument)
        return value.tolist() if isinstance(value, np.ndarray) else value


@keras.saving.register_keras_serializable(package="keras_seqx")
class Temperature(LogitsProcessor):
    """Divides the logits by a temperature.

    Args:
        temperature: number above 0, or an array (B,); below 1 likely tokens become likelier.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: a temperature of 0 or below.
        TypeError: a temperature that is no number.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import Temperature
    >>> logits = Temperature(0.5)(ops.zeros((1, 4), "int32"), ops.ones((1,), "int32"), 0, ops.array([[1.0, 2.0, 3.0]]))
    >>> ops.convert_to_numpy(logits).tolist()
    [[2.0, 4.0, 6.0]]
    """

    def __init__(self, temperature: Any):
        fix = 'For the most likely token at every step search by "greedy"'
        self.temperature = self._number("temperature", temperature, "a finite number above 0", lambda x: x > 0, fix)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return logit_ops.temperature(logits, self._by_row("temperature", logits))

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self._plain("temperature")}


@keras.saving.register_keras_serializable(package="keras_seqx")
class TopK(LogitsProcessor):
    """Keeps the k most likely tokens, and those as likely as the last of them.

    Args:
        k: integer of at least 1, or an array (B,). One beyond the vocabulary keeps every token.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: k below 1.
        TypeError: k is no integer.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import TopK
    >>> logits = TopK(2)(ops.zeros((1, 4), "int32"), ops.ones((1,), "int32"), 0, ops.array([[1.0, 2.0, 3.0]]))
    >>> ops.convert_to_numpy(logits).tolist()
    [[-inf, 2.0, 3.0]]

    References:
        - Fan et al., 2018, Hierarchical neural story generation, arXiv:1805.04833.
    """

    def __init__(self, k: Any):
        self.k = self._number("k", k, "an integer of at least 1", lambda x: x >= 1, OFF, integer=True)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return logit_ops.top_k(logits, self._by_row("k", logits))

    def get_config(self) -> dict[str, Any]:
        return {"k": self._plain("k")}


@keras.saving.register_keras_serializable(package="keras_seqx")
class TopP(LogitsProcessor):
    """Keeps the fewest most likely tokens whose probabilities sum to p, one at least; of equals those of larger ids.

    Args:
        p: number above 0 and at most 1, or an array (B,).

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: p outside its range.
        TypeError: p is no number.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import TopP
    >>> logits = TopP(0.5)(ops.zeros((1, 4), "int32"), ops.ones((1,), "int32"), 0, ops.array([[1.0, 2.0, 3.0]]))
    >>> ops.convert_to_numpy(logits).tolist()
    [[-inf, -inf, 3.0]]

    References:
        - Holtzman et al., 2020, The curious case of neural text degeneration, arXiv:1904.09751.
    """

    def __init__(self, p: Any):
        self.p = self._number("p", p, "a number above 0 and at most 1", lambda x: (x > 0) & (x <= 1), OFF)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return logit_ops.top_p(logits, self._by_row("p", logits))

    def get_config(self) -> dict[str, Any]:
        return {"p": self._plain("p")}


@keras.saving.register_keras_serializable(package="keras_seqx")
class MinP(LogitsProcessor):
    """Keeps the tokens that are at least p times as likely as the most likely one.

    Args:
        p: number within [0, 1], or an array (B,).

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: p outside [0, 1].
        TypeError: p is no number.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import MinP
    >>> logits = MinP(0.2)(ops.zeros((1, 4), "int32"), ops.ones((1,), "int32"), 0, ops.array([[1.0, 2.0, 3.0]]))
    >>> ops.convert_to_numpy(logits).tolist()
    [[-inf, 2.0, 3.0]]

    References:
        - Nguyen et al., 2024, Turning up the heat: min-p sampling, arXiv:2407.01082.
    """

    def __init__(self, p: Any):
        self.p = self._number("p", p, "a number within [0, 1]", lambda x: (x >= 0) & (x <= 1), OFF)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return logit_ops.min_p(logits, self._by_row("p", logits))

    def get_config(self) -> dict[str, Any]:
        return {"p": self._plain("p")}


@keras.saving.register_keras_serializable(package="keras_seqx")
class RepetitionPenalty(LogitsProcessor):
    """Makes tokens that the row has already less likely.

        logits[v] = logits[v] * penalty if logits[v] < 0 else logits[v] / penalty

    for every token v of the prompt or generated, however often it occurs.

    Args:
        penalty: number above 0, or an array (B,); above 1 repetition becomes less likely, below 1 likelier.

    Returns:
        A processor, see `LogitsProcessor`.

    Raises:
        ValueError: a penalty of 0 or below.
        TypeError: a penalty that is no number.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import RepetitionPenalty
    >>> tokens, lengths = ops.array([[1, 2, 0]], "int32"), ops.array([2], "int32")
    >>> logits = RepetitionPenalty(2.0)(tokens, lengths, 0, ops.array([[1.0, 2.0, -3.0]]))
    >>> ops.convert_to_numpy(logits).tolist()
    [[1.0, 1.0, -6.0]]

    References:
        - Keskar et al., 2019, CTRL: a conditional transformer language model, arXiv:1909.05858.
    """

    def __init__(self, penalty: Any):
        fix = "1 changes nothing, 1.2 makes repetition less likely"
        self.penalty = self._number("penalty", penalty, "a finite number above 0", lambda x: x > 0, fix)

    def __call__(self, tokens: Any, lengths: Any, step: Any, logits: Any) -> Any:
        return history.repetition_penalty(logits, tokens, lengths, self._by_row("penalty", logits))

    def get_config(self) -> dict[str, Any]:
        return {"penalty": self._plain("penalty")}
