"""LengthCurriculum: short sequences first."""

from collections.abc import Callable
from typing import Any

import keras

from keras_seqx._core import errors


@keras.saving.register_keras_serializable(package="keras_seqx")
class LengthCurriculum(keras.callbacks.Callback):
    """Trains on short sequences before long ones in the first epochs.

    Every epoch still has each sequence once. What changes is the order of its batches, from sorted by length to
    shuffled: by `s * (place by length) + (1 - s) * (random place)`, with `s` from 1 to 0.

    Differs from the curriculum of Deep Speech 2, a sorted first epoch, which is the default here, in that the change
    may take several epochs.

    Args:
        data: the `LengthBucketing` that `fit` trains on.
        schedule: the number of epochs until the order is fully shuffled, on a line; or a function from an epoch of the
            data, from 0, to `s` within [0, 1]. Default 1.

    Returns:
        A callback. It adds `s` to the logs as `curriculum`.

    Raises:
        TypeError: `data` is no data set in buckets, or `schedule` neither an integer nor a function.
        ValueError: `schedule` is below 1, or its values are outside of [0, 1].

    Randomness:
        The order is a function of the data set's seed, the epoch and `s`.

    Example:

    >>> import numpy as np
    >>> from keras_seqx import LengthBucketing, LengthCurriculum
    >>> data = LengthBucketing([np.zeros(length) for length in range(1, 9)], batch_size=1, seed=0)
    >>> curriculum = LengthCurriculum(data, 2)
    >>> [curriculum.by_length(epoch) for epoch in range(3)]
    [1.0, 0.5, 0.0]
    >>> curriculum.on_train_begin()
    >>> [data[i][0].shape[1] for i in range(8)]
    [1, 2, 3, 4, 5, 6, 7, 8]

    References:
        Amodei et al., Deep Speech 2, 2016, section 3.2.
    """

    def __init__(self, data: Any, schedule: int | Callable[[int], float] = 1):
        super().__init__()
        if not hasattr(data, "curriculum"):
            fix = "Hand it the data set that `fit` trains on"
            raise TypeError(errors.message(self, "data", "a LengthBucketing of finite data", data, fix))
        self.data = data
        if not callable(schedule):
            schedule = errors.positive_integer(self, "schedule", schedule, "It may be a function of the epoch, too")
        self.schedule = schedule

    def by_length(self, epoch: int) -> float:
        """Returns how much the order of an epoch is by length, within [0, 1]."""
        if not callable(self.schedule):
            return max(0.0, 1.0 - epoch / self.schedule)
        fix = f"Change what it returns for epoch {epoch}"
        return errors.probability(self, "schedule", self.schedule(epoch), fix)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.data.curriculum = self.by_length

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._now = self.by_length(self.data.epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["curriculum"] = self._now

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.data.curriculum = None

    def get_config(self) -> dict[str, Any]:
        """Returns the options, without the data set."""
        schedule = self.schedule
        return {"schedule": keras.saving.serialize_keras_object(schedule) if callable(schedule) else schedule}

    @classmethod
    def from_config(cls, config: dict[str, Any], data: Any = None) -> "LengthCurriculum":
        """Returns a callback of these options for a data set."""
        schedule = config["schedule"]
        return cls(data, schedule if isinstance(schedule, int) else keras.saving.deserialize_keras_object(schedule))
