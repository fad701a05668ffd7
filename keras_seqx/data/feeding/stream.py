"""Batches from a stream of samples, within bounded memory."""

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from keras_seqx._core import errors
from keras_seqx._core.probe import Probe
from keras_seqx.data.feeding.finite import collate
from keras_seqx.data.feeding.probe import make_probe
from keras_seqx.data.planning.epoch_plan import plan_epoch, sort_into_buckets
from keras_seqx.data.planning.options import OWNER, Options
from keras_seqx.data.sequences.fields import Fields, read_fields
from keras_seqx.data.sequences.ragged_array import read

# So many batches stay at hand, for Keras asks for the first ones more than once.
KEPT = 16


class StreamSource:
    """Makes batches of samples as they come, a window of them at a time.

    A window is planned as an epoch is, except that sequences too few for a batch wait for the next window. The shapes
    are those that are best for the first.

    Args:
        samples: an iterator of `x`, `(x, y)` or `(x, y, sample_weight)`.
        options: the plan's options.
        seed: the seed.
        shard: which of the shards' batches these are; all shards read the same samples.
        window: how many samples to hold.
        **read_arguments: of `read_fields`.
    """

    def __init__(
        self,
        samples: Iterator,
        options: Options,
        seed: int,
        shard: int,
        window: int,
        **read_arguments: Any,
    ):
        self.options, self.shard = options, shard
        self.weighted = options.remainder == "fill" or options.num_shards > 1
        self._samples, self._seed, self._window = samples, seed, window
        self._read_arguments = read_arguments
        self._lock = threading.Lock()
        self._template: Fields | None = None
        self._waiting: list = []
        self._batches = self._make()
        self._recent: dict[int, tuple] = {}
        self._first: list[tuple] = []
        self._steps: list[tuple] = []
        self._asked = 0
        self.start = 0
        self.batches_trained: int | None = None
        self.in_epoch = False

    def begin(self) -> None:
        """Notes that Keras begins an epoch."""
        self.in_epoch = True

    def end(self) -> None:
        """Notes that Keras ends an epoch."""
        self.in_epoch = False

    def __iter__(self) -> Iterator[tuple]:
        """Yields the batches from here to the stream's end."""
        self.begin()
        try:
            for index in itertools.count():
                yield self.batch(index)
        except IndexError:
            return
        finally:
            self.end()

    def boundaries(self) -> tuple | None:
        """Returns the padded lengths, which the first window decides."""
        self._read_first()
        return self.options.buckets

    @property
    def fields(self) -> Fields:
        """What the samples consist of, which the first window decides."""
        return self._read_first()

    def _read_first(self) -> Fields:
        """Returns the components of the first samples, which it reads if nothing was read yet."""
        with self._lock:
            if self._template is None:
                self._waiting = list(itertools.islice(self._samples, self._window))
                self._fields(self._waiting)
            return cast(Fields, self._template)

    def batch(self, index: int) -> tuple:
        """Returns a batch by its index in the pass under way; in `fit`, index 0 begins the next one."""
        with self._lock:
            if index == 0 and self._asked:
                self.start, self._asked = self.start + self._asked, 0
            position = self.start + index
            self._make_until(position)
            if position not in self._recent:
                raise IndexError(f"{OWNER}: batch {index} is gone, a stream does not go back.")
            if self.in_epoch:
                self._asked = max(self._asked, index + 1)
            return self._recent[position]

    def peek(self, index: int) -> tuple:
        """Returns batch 0 or 1 of the stream, which differ in every length that varied in the first window."""
        with self._lock:
            self._make_until(index)
            return self._first[index]

    def probe(self) -> Probe:
        """Returns a few samples of the first window."""
        with self._lock:
            self._make_until(0)
            return self._probe

    def _make_until(self, position: int) -> None:
        """Makes all batches up to a position."""
        while len(self._steps) <= position:
            try:
                made, steps = next(self._batches)
            except StopIteration:
                raise IndexError(f"{OWNER}: the stream has ended, after {len(self._steps)} batches.") from None
            self._first = [*self._first, made][:2]
            self._recent[len(self._steps)] = made
            self._recent.pop(len(self._steps) - KEPT, None)
            self._steps.append(steps)

    def steps(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns, of the batches at positions within [start, stop), valid steps, all steps, and shapes."""
        valid, total, shapes = zip(*self._steps[start:stop], strict=True)
        return np.array(valid), np.array(total), np.array(shapes)

    def _make(self) -> Iterator[tuple[tuple, tuple]]:
        """Yields batches, and the steps and shape of each."""
        for number in itertools.count():
            wanted = max(self._window - len(self._waiting), self._window // 2, 1)
            new = list(itertools.islice(self._samples, wanted))
            samples, ended = self._waiting + new, len(new) < wanted
            if not samples:
                if not number:
                    raise ValueError(errors.message(OWNER, "x", "an iterator of samples", "none", "Give a fresh one"))
                return
            fields, options = self._fields(samples), self.options
            weighted = self.weighted or fields.weighted
            if not ended:
                options = dataclasses.replace(options, remainder="drop")
            buckets = sort_into_buckets(fields.lengths, options)
            plan = plan_epoch(buckets, options, self._seed, number)
            fields = fields.truncate(buckets.lengths)
            if not number:
                self._probe = make_probe(fields, buckets, options, weighted)
            for index in range(len(plan)):
                shape = (plan.rows[index], *plan.padded[index])
                steps = plan.valid_steps[index], plan.total_steps[index], shape
                yield collate(fields, plan, index, self.shard, weighted), steps
            if ended:
                return
            waits = np.ones(len(samples), bool)
            waits[[row for i in range(len(plan)) for row in plan.order[plan.start[i] : plan.stop[i]]]] = False
            self._waiting = [samples[row] for row in buckets.order if waits[row]]

    def _fields(self, samples: list) -> Fields:
        """Returns the samples as components; the first ones decide what each component is."""
        columns = iter([list(column) for column in zip(*map(_flatten, samples), strict=True)])
        if self._template is None:
            self._open(samples[0], list(columns))
            return self._fields(samples)
        parts: dict = {}
        lengths: dict[int, np.ndarray] = {}
        for name, part in self._template.parts.items():
            fields = []
            for component, label in zip(part.fields, part.labels(), strict=True):
                column = next(columns)
                if component.axis is None:
                    fields.append(dataclasses.replace(component, data=np.asarray(column)))
                    continue
                data = read(column, OWNER, label)
                fields.append(dataclasses.replace(component, data=data))
                if not np.array_equal(lengths.setdefault(component.axis, data.lengths), data.lengths):
                    text = f"as long as what it was as long as in the first {self._window} samples"
                    raise ValueError(errors.message(OWNER, label, text, data, "Mend the samples"))
            parts[name] = dataclasses.replace(part, fields=tuple(fields))
        stacked = np.stack([lengths[axis] for axis in range(len(lengths))], axis=1)
        made = dataclasses.replace(self._template, parts=parts, lengths=stacked)
        made.check_classes()
        return made

    def _open(self, sample: Any, columns: list[list]) -> None:
        """Takes the components' roles, and the shapes, from the first samples."""
        given: list = []
        rest = iter(columns)
        for part in _parts(sample):
            values = [next(rest) for _ in _values(part)]
            if isinstance(part, dict):
                given.append(dict(zip(part, values, strict=True)))
            else:
                given.append(tuple(values) if isinstance(part, tuple) else values[0])
        x, y, sample_weight = (*given, None, None)[:3]
        self._template = read_fields(x, y, sample_weight, **self._read_arguments)
        lengths = self._template.lengths
        if self.options.max_length is not None:
            # Longer ones may come than any of the first.
            lengths = np.concatenate([lengths, np.full((1, lengths.shape[1]), self.options.max_length)])
        boundaries = sort_into_buckets(lengths, self.options).boundaries
        if boundaries is not None:
            self.options = dataclasses.replace(self.options, buckets=tuple(map(tuple, boundaries.tolist())))


def _parts(sample: Any) -> tuple:
    """Returns a sample's `x`, and `y` and `sample_weight` where it has them."""
    return sample if isinstance(sample, tuple) and 1 <= len(sample) <= 3 else (sample,)


def _values(part: Any) -> tuple:
    """Returns the components of one part of a sample."""
    if isinstance(part, dict):
        return tuple(part.values())
    return part if isinstance(part, tuple) else (part,)


def _flatten(sample: Any) -> list:
    """Returns all components of a sample."""
    return [value for part in _parts(sample) for value in _values(part)]
