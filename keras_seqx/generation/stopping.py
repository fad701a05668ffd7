"""Stop conditions: when a continuous decoder that runs free has said all of a row."""

from typing import Any

import keras
from keras import ops

from keras_seqx._core import errors, validation


@keras.saving.register_keras_serializable(package="keras_seqx")
class StopCondition:
    """Tells from an output whether it is the last one of its row.

    The base of all stop conditions. A subclass defines `__call__`, a pure function with static shapes, in which rows do
    not influence each other.

    Returns:
        A stop condition; called on one step's outputs (B, D), it returns booleans (B,).

    Example:

    >>> import keras
    >>> from keras import ops
    >>> from keras_seqx import StopCondition
    >>> class Silence(StopCondition):
    ...     def __call__(self, outputs):
    ...         return ops.max(ops.abs(outputs), axis=-1) < 0.01
    >>> ops.convert_to_numpy(Silence()(ops.array([[0.0, 0.0], [0.0, 0.3]]))).tolist()
    [True, False]
    """

    def __call__(self, outputs: Any) -> Any:
        """Returns which rows end with these outputs."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`.")

    def check(self, owner: Any, output_width: int) -> None:
        """Raises if the condition does not suit outputs of this width; `owner` is named in the error."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StopCondition":
        """Returns the stop condition of a config."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


@keras.saving.register_keras_serializable(package="keras_seqx")
class StopThreshold(StopCondition):
    """Ends a row where one feature of its output exceeds a threshold.

    The last feature of an output is often a stop token: a probability, with the default threshold of 0.5, or a logit,
    with a threshold of 0.

    Args:
        threshold: number. Defaults to 0.5.
        feature: integer, which feature of the output; negative ones count from the last. Defaults to -1.

    Returns:
        A stop condition from outputs (B, D) to booleans (B,).

    Raises:
        ValueError: a threshold that is not finite; when a decoder is built, a feature that its output lacks.
        TypeError: an argument that is no number.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import StopThreshold
    >>> ops.convert_to_numpy(StopThreshold(0.5)(ops.array([[9.0, 0.1], [9.0, 0.7]]))).tolist()
    [False, True]

    References:
        - Shen et al., 2018, Natural TTS synthesis by conditioning WaveNet on mel spectrogram predictions,
          arXiv:1712.05884 (Tacotron 2).
    """

    def __init__(self, threshold: float = 0.5, feature: int = -1):
        fix = "0.5 suits a probability, 0 a logit"
        self.threshold = validation.number(self, "threshold", threshold, "a finite number", lambda x: x == x, fix)
        fix = "-1 is the last feature"
        self.feature = validation.number(self, "feature", feature, "an integer", lambda x: x == x, fix, integer=True)

    def __call__(self, outputs: Any) -> Any:
        return outputs[:, self.feature] > self.threshold

    def check(self, owner: Any, output_width: int) -> None:
        if not -output_width <= self.feature < output_width:
            what = f"of a feature of the output, whose width is {output_width}"
            raise ValueError(errors.message(owner, "stop", what, self, "Count from 0, or from -1 for the last"))

    def get_config(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "feature": self.feature}


def stop_or_none(owner: Any, stop: Any, embedding: Any) -> StopCondition | None:
    """Returns the argument `stop` of a decoder."""
    if stop is None:
        return None
    if not isinstance(stop, StopCondition):
        fix = "Pass for example `StopThreshold(0.5)`, or a subclass of `StopCondition`"
        raise TypeError(errors.message(owner, "stop", "a StopCondition or None", stop, fix))
    if embedding is not None:
        fix = "Generate by `TokenGenerator(decoder, end_token=...)`"
        raise ValueError(errors.message(owner, "stop", "None, as a token ends a sequence of tokens", stop, fix))
    return stop


def ended(owner: Any, stop: StopCondition, outputs: Any) -> Any:
    """Returns which rows end with their outputs (B, D), booleans (B,)."""
    found = stop(outputs)
    if len(found.shape) != 1:
        what = "a condition from outputs (B, D) to booleans (B,)"
        context = f"it returned shape {tuple(found.shape)} for outputs {tuple(outputs.shape)}"
        raise ValueError(errors.message(owner, "stop", what, stop, "Reduce over the features", context))
    return ops.cast(found, "bool")
