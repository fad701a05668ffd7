"""PaddingMonitor: how much of the work is padding, and how far training is."""

import math
import threading
import time
from typing import Any

import keras

from keras_seqx._core import errors
from keras_seqx.audit.padding_check import warn_of_padding
from keras_seqx.data import LengthBucketing


@keras.saving.register_keras_serializable(package="keras_seqx")
class PaddingMonitor(keras.callbacks.Callback):
    """Logs what part of each epoch's steps was valid, and how many valid steps a second were trained on.

    When training begins, it tries the model on a few steps with and without padding. If padding changes the valid
    outputs, the loss or a metric, it warns once, with the name of the layer at fault and what to do about it. The model
    is not compiled for that, and nothing of it changes.

    It also counts the batches trained on, which `data.state_dict()` needs in the middle of an epoch: put it before a
    callback that asks for that.

    Args:
        data: the `LengthBucketing` that `fit` trains on.

    Returns:
        A callback. At the end of each epoch it adds to the logs, and so to the progress bar, to `History` and to the
        callbacks behind it: `efficiency`, valid steps / all steps, padding and filler rows included;
        `valid_steps_per_second`, over the time from the epoch's begin to its validation; `shapes`, the number of
        distinct shapes of batches since training began, each of which may have cost a compilation.

    Raises:
        TypeError: `data` is no data set in buckets.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import LengthBucketing, PaddingMonitor
    >>> x = [np.ones((length, 1)) for length in (1, 2, 3, 4, 10, 10)]
    >>> data = LengthBucketing(x, np.ones(6), batch_size=2, buckets=2, seed=0)
    >>> model = keras.Sequential([keras.Input((None, 1)), keras.layers.GRU(1)])
    >>> model.compile("adam", "mse")
    >>> history = model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[PaddingMonitor(data)])
    >>> [round(float(value), 3) for value in history.history["efficiency"]]
    [0.833, 0.833]
    """

    # Nothing here reads the losses, so Keras need not wait for them.
    async_safe = True

    def __init__(self, data: Any):
        super().__init__()
        if not isinstance(data, LengthBucketing):
            fix = "Hand it the data set that `fit` trains on"
            raise TypeError(errors.message(self, "data", "a LengthBucketing", data, fix))
        self.data: Any = data
        self._lock = threading.Lock()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        warn_of_padding(type(self).__name__, self.model, self.data.probe(), losses=True)
        self.data.batches_trained = self.data.position
        self._shapes: set[tuple[int, ...]] = set()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._first = self.data.batches_trained
        self._began = time.perf_counter()
        self._took: float | None = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        with self._lock:  # Keras may call this from several threads, and out of order.
            self.data.batches_trained = max(self.data.batches_trained or 0, self._first + batch + 1)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Of the validation at the epoch's end; a `PaddingMonitor` may also sit in `evaluate`.
        if getattr(self, "_took", 0.0) is None:
            # What was handed to a device may still be under way: a weight is known when the last step is done.
            for weight in sorted(self.model.trainable_weights, key=lambda w: math.prod(w.shape))[:1]:
                keras.ops.convert_to_numpy(weight.value)
            self._took = time.perf_counter() - self._began

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        took = time.perf_counter() - self._began if self._took is None else self._took
        if logs is None or self.data.batches_trained == self._first:
            return
        valid, total, shapes = self.data.steps(self._first, self.data.batches_trained)
        self._shapes.update(map(tuple, shapes.tolist()))
        logs["efficiency"] = float(valid.sum() / total.sum())
        logs["valid_steps_per_second"] = float(valid.sum() / took)
        logs["shapes"] = len(self._shapes)

    def get_config(self) -> dict[str, Any]:
        """Returns the options, of which there are none; the data set is handed to `from_config`."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], data: Any = None) -> "PaddingMonitor":
        """Returns a callback for a data set."""
        return cls(data, **config)
