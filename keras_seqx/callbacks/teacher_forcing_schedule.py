"""TeacherForcingSchedule: from reading the truth to reading one's own samples."""

import math
from typing import Any

import keras

from keras_seqx._core import errors, keras_internals
from keras_seqx.layers import AutoregressiveDecoder

SHAPES = ("linear", "exponential", "inverse_sigmoid")

# The inverse sigmoid runs from this far above its middle to as far below.
STEEPNESS = 6.0


@keras.saving.register_keras_serializable(package="keras_seqx")
class TeacherForcingSchedule(keras.callbacks.Callback):
    """Moves the `teacher_forcing` of a model's decoders from epoch to epoch.

    With p = epoch / (epochs - 1), from 0 in the first epoch to 1 in the last of the schedule and after it,

        linear             start + (end - start) p
        exponential        start (end / start) ** p
        inverse_sigmoid    end + (start - end) s(p),   s(p) = 1 / (1 + exp(12 p - 6)), scaled to s(0) = 1 and s(1) = 0

    Differs from Bengio et al. in that the curves, theirs, are given by where they begin and end. It is a function of
    the epoch alone: resumed training with `initial_epoch` goes on where it was.

    Args:
        schedule: "linear" (default), "exponential" or "inverse_sigmoid".
        start: number within [0, 1], the probability of the first epoch. Defaults to 1.
        end: number within [0, 1], that of the last; above 0 if "exponential". Defaults to 0.5.
        epochs: integer of at least 1, the epochs that it takes. Defaults to None: those of `fit`.

    Returns:
        A callback. It adds `teacher_forcing` to the logs of each epoch.

    Raises:
        ValueError: an unknown schedule, numbers out of range, a model without a decoder, or with one whose outputs do
            not fit its inputs.
        TypeError: numbers that are none.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import AutoregressiveDecoder, TeacherForcingSchedule
    >>> decoder = AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(2))
    >>> model = keras.Sequential([keras.Input((6, 2)), decoder])
    >>> model.compile("adam", "mse")
    >>> x = np.zeros((8, 6, 2))
    >>> history = model.fit(x, x, epochs=3, verbose=0, callbacks=[TeacherForcingSchedule("linear", end=0.5)])
    >>> history.history["teacher_forcing"]
    [1.0, 0.75, 0.5]

    References:
        - Bengio et al., 2015, Scheduled sampling, arXiv:1506.03099.
    """

    def __init__(self, schedule: str = "linear", *, start: float = 1.0, end: float = 0.5, epochs: int | None = None):
        super().__init__()
        if schedule not in SHAPES:
            what = " or ".join(map(repr, SHAPES))
            raise ValueError(errors.message(self, "schedule", what, schedule, "See its documentation for the curves"))
        self.schedule = schedule
        fix = "1 reads every given input, 0 none but the first"
        self.start = errors.probability(self, "start", start, fix)
        self.end = errors.probability(self, "end", end, fix)
        if schedule == "exponential" and not (self.start and self.end):
            fix = 'An exponential never comes to 0: use 0.01, or "linear"'
            argument, value = ("start", start) if not self.start else ("end", end)
            raise ValueError(errors.message(self, argument, "above 0", value, fix))
        fix = "None takes all epochs of `fit`"
        self.epochs = None if epochs is None else errors.positive_integer(self, "epochs", epochs, fix)

    def probability(self, epoch: int) -> float:
        """Returns the probability of an epoch, the first of which is 0."""
        epochs = self.epochs or (self.params or {}).get("epochs") or 1
        progress = min(1.0, epoch / max(1, epochs - 1))
        if self.schedule == "exponential":
            return self.start * (self.end / self.start) ** progress
        if self.schedule == "inverse_sigmoid":
            first, last, here = (1 / (1 + math.exp(STEEPNESS * (2 * p - 1))) for p in (0, 1, progress))
            progress = (first - here) / (first - last)
        return self.start + (self.end - self.start) * progress

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        layers = keras_internals.sublayers(self.model)
        self._decoders = [layer for layer in layers if hasattr(getattr(layer, "teacher_forcing", None), "assign")]
        if not self._decoders:
            fix = "Give the callback to the `fit` of a model with an `AutoregressiveDecoder`"
            what = "one with a decoder that has `teacher_forcing`"
            raise ValueError(errors.message(self, "model", what, self.model, fix))
        for decoder in self._decoders:
            # One that cannot read its own outputs would go on reading the truth, whatever the schedule says.
            if isinstance(decoder, AutoregressiveDecoder) and decoder.built and min(self.start, self.end) < 1:
                decoder._core.check_feeds_back("a schedule moves `teacher_forcing` below 1")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for decoder in self._decoders:
            decoder.teacher_forcing.assign(self.probability(epoch))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["teacher_forcing"] = self.probability(epoch)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"schedule": self.schedule, "start": self.start, "end": self.end, "epochs": self.epochs}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TeacherForcingSchedule":
        """Returns the callback of a config."""
        return cls(**config)
