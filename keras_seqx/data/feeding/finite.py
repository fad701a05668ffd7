"""The batches of all epochs, by their position."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_seqx._core import errors
from keras_seqx.data.planning.epoch_plan import Plan, plan_epoch, sort_into_buckets
from keras_seqx.data.planning.options import OWNER, Options
from keras_seqx.data.sequences.fields import Fields, Rows

# About so many steps of the data are looked at to tell them from others.
SAMPLED = 256


def collate(fields: Fields, plan: Plan, index: int, shard: int, weighted: bool) -> tuple:
    """Returns a shard's batch of a plan, filled to its shape; `weighted` says whether to make up weights."""
    sequences = plan.sequences(index, shard)
    run = plan.order[plan.start.item(index) : plan.stop.item(index)]
    rows = np.full(plan.rows.item(index), run[0], np.intp)  # which NumPy indexes with several times as fast
    padding_rows = np.ones(len(rows), bool)
    places = plan.places(index, shard)
    rows[places], padding_rows[places] = sequences, False
    batch = Rows(rows, padding_rows, run)
    return fields.batch(batch, plan.padded[index].tolist(), keras.config.floatx(), weighted)


class FiniteSource:
    """Finite data, sorted into buckets and planned epoch after epoch.

    A position counts batches from the first of epoch 0 on; all epochs have the same number.

    Args:
        fields: the data.
        options: the plan's options.
        seed: the seed.
        shard: which of the shards' batches these are.

    Attributes:
        curriculum: a function from an epoch to how much of its order is by length, within [0, 1], or None.
    """

    def __init__(self, fields: Fields, options: Options, seed: int, shard: int):
        self.options, self.seed, self.shard = options, seed, shard
        self.given = fields
        self.buckets = sort_into_buckets(fields.lengths, options)
        self.fields = fields.truncate(self.buckets.lengths)
        self._lock = threading.Lock()
        self.curriculum = None
        first = self.plan(0)
        if not len(first):
            fix = "Lower `batch_size` or `max_tokens`, or say `remainder='keep'`"
            raise ValueError(errors.message(OWNER, "remainder", "such that a batch is left", "drop", fix))
        self.batches = len(first)
        self.weighted = fields.weighted or first.filler_rows > 0

    @property
    def curriculum(self) -> Callable[[int], float] | None:
        return self._curriculum

    @curriculum.setter
    def curriculum(self, curriculum: Callable[[int], float] | None) -> None:
        self._curriculum = curriculum
        self._plans: dict[int, Plan] = {}

    def plan(self, epoch: int) -> Plan:
        """Returns the plan of an epoch; the last two stay at hand."""
        plan = self._plans.get(epoch)
        if plan is not None:
            return plan
        with self._lock:
            if epoch not in self._plans:
                by_length = 0.0 if self.curriculum is None else self.curriculum(epoch)
                plan = plan_epoch(self.buckets, self.options, self.seed, epoch, by_length)
                self._plans = {e: p for e, p in self._plans.items() if abs(e - epoch) == 1} | {epoch: plan}
            return self._plans[epoch]

    def batch(self, position: int) -> tuple:
        """Returns the batch at a position."""
        epoch, index = divmod(position, self.batches)
        return collate(self.fields, self.plan(epoch), index, self.shard, self.weighted)

    def steps(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns, of the batches at positions within [start, stop), valid steps, all steps, and shapes."""
        epoch, positions = start // self.batches, np.arange(start, stop)
        valid, total, shapes = [], [], []
        while len(positions):
            here = positions[positions // self.batches == epoch] - epoch * self.batches
            plan = self.plan(epoch)
            valid.append(plan.valid_steps[here])
            total.append(plan.total_steps[here])
            shapes.append(np.column_stack([plan.rows, plan.padded])[here])
            positions, epoch = positions[len(here) :], epoch + 1
        return np.concatenate(valid), np.concatenate(total), np.concatenate(shapes)

    def fingerprint(self) -> str:
        """Returns what tells these data and options from others."""
        digest = hashlib.blake2b(self.given.lengths.astype("int64").tobytes(), digest_size=16)
        digest.update(repr(dataclasses.astuple(self.options)).encode())
        for part in self.given.parts.values():
            for component in part.fields:
                values = getattr(component.data, "values", component.data)
                some = values[:: max(1, len(values) // SAMPLED)]
                digest.update(repr((values.shape, values.dtype)).encode() + some.tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_plans")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _plans={})
