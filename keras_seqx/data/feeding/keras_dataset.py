"""What a data set is to Keras: passes through batches, epoch after epoch."""

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_seqx._core import errors, keras_internals
from keras_seqx._core.keras_internals import class_weight_of_fit
from keras_seqx._core.probe import Probe, Probed
from keras_seqx.data.feeding.finite import FiniteSource
from keras_seqx.data.feeding.position import PositionTracker
from keras_seqx.data.feeding.prefetch import Prefetcher
from keras_seqx.data.feeding.probe import make_probe
from keras_seqx.data.feeding.stream import StreamSource

# For so many batches Keras asks on TensorFlow, before it trains, to learn their shapes.
LOOKS = 2


class BatchDataset(keras.utils.PyDataset, Probed):
    """Delivers the batches of `FiniteSource`, or of a `StreamSource`, and knows how far training is."""

    _finite_source: FiniteSource
    _stream: StreamSource | None = None
    _look = False

    def _open(self, source: FiniteSource | StreamSource) -> None:
        """Starts at the first epoch, or at the beginning of a stream."""
        self._track: StreamSource | PositionTracker
        if isinstance(source, StreamSource):
            self._track = self._stream = source
            return
        self._finite_source = source
        self._track = self._tracker = PositionTracker(source.batches)
        self._look = self._warned = False
        self._start_threads()

    def _start_threads(self) -> None:
        """Makes what no process shares with another."""
        self._lock = threading.Lock()
        given = keras_internals.queue_options(self)
        workers, size = given["workers"], given["max_queue_size"]
        self._ahead = Prefetcher(self._finite_source.batch, workers, size) if workers > 1 else None

    @property
    def workers(self) -> int:
        """One: Keras asks in order, in one thread, and `Prefetcher` does the rest."""
        self._check_call()  # Keras reads this first
        return 1

    use_multiprocessing = property(lambda self: False)

    def _check_call(self) -> None:
        """Raises if `fit` or `evaluate` would weigh or share out the batches wrongly."""
        distribution = keras.distribution.distribution()
        shards = getattr(distribution, "num_data_shards", 1)  # from Keras 3.16 on; before, Keras itself refuses
        if shards > 1 and getattr(distribution, "auto_shard_dataset", False):
            text = "False, as the data set shares out each batch itself, in equal shapes for all processes"
            fix = f"Say `auto_shard_dataset=False` for the distribution, and `num_shards={shards}` for the data set"
            raise ValueError(errors.message(self, "auto_shard_dataset", text, True, fix))
        class_weight = class_weight_of_fit()
        if class_weight is None:
            return
        source: Any = self._finite_source if self._stream is None else self._stream
        fields = source.fields
        weighted = source.weighted or fields.weighted or "sample_weight" in fields.parts
        if weighted or not fields.has_one_class_each():
            text = "given to the data set, not to `fit`, where targets have steps or several parts, or batches weights"
            fix = "Say `LengthBucketing(..., class_weight=...)`"
            raise ValueError(errors.message(self, "class_weight", text, class_weight, fix))

    def __len__(self) -> int:
        return self._finite("len").batches

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch, None for a stream."""
        self._look = keras.backend.backend() == "tensorflow"
        return None if self._stream is not None else self._finite_source.batches

    def __getitem__(self, index: int) -> tuple:
        if self._stream is not None:
            if self._look and index < LOOKS and not self._stream.in_epoch:
                return self._stream.peek(index)
            self._look = False
            return self._stream.batch(index)
        batches = self._finite_source.batches
        if not -batches <= index < batches:
            raise IndexError(f"LengthBucketing: an epoch has {batches} batches, number {index} is not among them.")
        with self._lock:
            tracker, index = self._tracker, int(index) % batches
            position = tracker.ask(index)
            if self._look and index < LOOKS and tracker.start % batches and not tracker.in_epoch:
                # Keras looks at two batches to learn what all have in common. In the middle of an epoch the next two
                # may agree in length by chance, the first two of its plan do not.
                return self._finite_source.batch(tracker.start // batches * batches + index)
            self._look = False
            warn = not (tracker.in_order or self._warned)
            self._warned = self._warned or warn
        if warn:
            text = "`fit` shuffles the batches once more, in an order that `seed` does not decide. Say `shuffle=False`"
            warnings.warn(f"LengthBucketing: {text} in `fit`; this data set shuffles by itself.", stacklevel=2)
        return self._finite_source.batch(position) if self._ahead is None else self._ahead.get(position)

    def __iter__(self) -> Iterator[tuple]:
        """Yields the batches of a pass."""
        return iter(self._stream) if self._stream is not None else map(self.__getitem__, range(len(self)))

    def on_epoch_begin(self) -> None:
        """Notes that Keras begins an epoch."""
        self._track.begin()

    def on_epoch_end(self) -> None:
        """Notes that Keras ends an epoch; if all its batches were asked for, the next one follows, in another order."""
        self._track.end()

    @property
    def position(self) -> int:
        """Batches from the first of epoch 0 to the one that index 0 stands for; set it to start a pass there."""
        return self._track.start

    @position.setter
    def position(self, position: int) -> None:
        self._finite("position")
        self._tracker.move(position)
        if self._ahead is not None:
            self._ahead.clear()

    @property
    def epoch(self) -> int:
        """The epoch of the pass under way, from 0; set it to start that epoch."""
        return self.position // self._finite("epoch").batches

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.position = epoch * self._finite("epoch").batches

    @property
    def batches_trained(self) -> int | None:
        """The position of the first batch not trained on, counted by `PaddingMonitor`; None without one."""
        return self._track.batches_trained

    @batches_trained.setter
    def batches_trained(self, position: int | None) -> None:
        self._track.batches_trained = position

    def steps(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what the batches at positions within [start, stop) hold, M of them.

        Returns:
            Valid steps (M,), all steps (M,), padding and filler rows included, and shapes (M, 1 + C), of all shards.
        """
        return (self._stream or self._finite_source).steps(start, stop)

    @property
    def curriculum(self) -> Callable[[int], float] | None:
        """A function from an epoch to how much its batches come by length, short ones first, within [0, 1]; or None."""
        return self._finite("curriculum").curriculum

    @curriculum.setter
    def curriculum(self, curriculum: Callable[[int], float] | None) -> None:
        self._finite("curriculum").curriculum = curriculum
        if self._ahead is not None:
            self._ahead.clear()

    def probe(self) -> Probe:
        """Returns a few of the sequences, for checks of a model: `audit_masking(model, data)` reads them."""
        if self._stream is not None:
            return self._stream.probe()
        return make_probe(
            self._finite_source.fields,
            self._finite_source.buckets,
            self._finite_source.options,
            self._finite_source.weighted,
        )

    def _finite(self, name: str) -> FiniteSource:
        """Returns the epochs; raises for a stream, which has none."""
        if self._stream is not None:
            fix = "Read part of the stream into lists, and make a data set of them"
            raise TypeError(errors.message(self, "x", f"finite for `{name}`", "a stream", fix))
        return self._finite_source

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_threads()
