"""The plan of an epoch: which sequences share a batch, and the shape of each batch.

Everything here is a pure function of NumPy arrays. Sequences are known by their row, 0..R-1, and by C lengths each: one
where all their parts have the same, two where source and target differ.
"""

import dataclasses
import functools

import numpy as np

from keras_seqx._core import errors
from keras_seqx.data.planning.boundaries import optimal_boundaries
from keras_seqx.data.planning.options import OWNER, Options, check_buckets

CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Sequences sorted into shapes; what all epochs have in common.

    Attributes:
        boundaries: (K, C) padded lengths, or None where each batch is padded to its longest.
        rows: (K,) rows of a full batch of each bucket, for each shard.
        lengths: (R, C) lengths of the sequences, cut where they were too long.
        order: (R',) the sequences, grouped by bucket. Those that were dropped for their length are not among them.
        edges: (K + 1,) where the buckets begin and end in `order`.
        truncated: how many sequences were cut.
    """

    boundaries: np.ndarray | None
    rows: np.ndarray
    lengths: np.ndarray
    order: np.ndarray
    edges: np.ndarray
    truncated: int

    @property
    def dropped(self) -> int:
        """How many sequences were dropped because they were too long."""
        return len(self.lengths) - len(self.order)


def sort_into_buckets(lengths: np.ndarray, options: Options) -> Buckets:
    """Chooses the shapes and sorts the sequences into them.

    Args:
        lengths: integer array (R, C).
        options: the plan's options.

    Returns:
        The buckets.

    Raises:
        ValueError: a sequence is too long and `overlong="error"`; all are, and are dropped; a token budget holds no row
            of some shape.
    """
    check_buckets(options, lengths.shape[1])
    lengths, order, truncated = _settle_overlong(lengths, options)
    staying = lengths if len(order) == len(lengths) else lengths[order]
    if options.buckets is None:
        boundaries, shapes = None, round_up(staying.max(axis=0), options.length_multiple)[None]
    else:
        boundaries = shapes = _boundaries(staying, options)
    rows = np.array([options.rows(padded) for padded in shapes])
    if rows.min() < 1:
        needed = f"at least {shapes.sum(axis=1).max()}, the steps of one row in the largest shape"
        fix = "Raise it, or set `max_length` with `overlong='truncate'` or 'drop'"
        raise ValueError(errors.message(OWNER, "max_tokens", needed, options.max_tokens, fix))
    bucket = assign(staying, shapes)
    edges = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=len(shapes)))])
    turn = np.argsort(bucket, kind="stable")
    order = turn.astype(order.dtype) if len(order) == len(lengths) else order[turn]
    return Buckets(boundaries, rows, lengths, order, edges, truncated)


def _settle_overlong(lengths: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the lengths, cut where that is asked for, the sequences that stay, and how many were cut."""
    order = np.arange(len(lengths), dtype="int32" if len(lengths) < 2**31 else "int64")
    longest = np.inf if options.max_length is None else options.max_length
    limits = np.full((1, lengths.shape[1]), longest)
    if isinstance(options.buckets, tuple):
        limits = np.minimum(np.reshape(options.buckets, (-1, lengths.shape[1])), longest)
    if (lengths.max(axis=0) <= limits).all(axis=1).any():
        return lengths, order, 0
    fits = assign(lengths, limits) < len(limits)
    long = np.flatnonzero(~fits)
    argument, limit = ("buckets", options.buckets) if options.max_length is None else ("max_length", options.max_length)
    if len(long) and options.overlong == "error":
        where = f"{len(long)} are longer, the first at {long[0]} with {lengths[long[0]].max()} steps"
        text = f"no less than the longest sequence ({where})"
        fix = "Raise it, or say `overlong='drop'` or 'truncate'"
        raise ValueError(errors.message(OWNER, argument, text, limit, fix))
    if options.overlong == "drop":
        if not fits.any():
            text = f"no less than the shortest sequence (of {lengths.max(axis=1).min()} steps), or all are dropped"
            raise ValueError(errors.message(OWNER, argument, text, limit, "Raise it, or say `overlong='truncate'`"))
        return lengths, order[fits], 0
    truncated = lengths.copy()
    truncated[long] = np.minimum(lengths[long], limits[np.argmax(limits.sum(axis=1))])
    return truncated, order, len(long)


def _boundaries(lengths: np.ndarray, options: Options) -> np.ndarray:
    """Returns the boundaries that were given, or the best ones, (K, C)."""
    if isinstance(options.buckets, tuple):
        return np.array(options.buckets, "int64").reshape(len(options.buckets), -1)
    if lengths.shape[1] > 1:
        return optimal_boundaries(lengths, options.buckets, length_multiple=options.length_multiple)

    def filled(length: int) -> int:
        return max(options.rows(length), 1) * options.num_shards

    rows = filled if options.remainder == "fill" else None
    chosen = optimal_boundaries(lengths[:, 0], options.buckets, length_multiple=options.length_multiple, rows=rows)
    return chosen[:, None]


def assign(lengths: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Returns the cheapest shape that holds each sequence, (R,), and K where none does."""
    chosen = np.full(len(lengths), len(shapes), np.min_scalar_type(len(shapes)))
    dearest_first = np.argsort(shapes.sum(axis=1), kind="stable")[::-1]
    for start in range(0, len(lengths), CHUNK):
        part, found = lengths[start : start + CHUNK], chosen[start : start + CHUNK]
        if shapes.shape[1] == 1 and len(shapes) > 1:
            found[:] = np.searchsorted(shapes[:, 0], part[:, 0])
        else:
            for k in dearest_first:
                found[(part <= shapes[k]).all(axis=1)] = k
    return chosen


@dataclasses.dataclass(frozen=True)
class Plan:
    """One epoch's batches, in order, for all shards.

    Attributes:
        order: (R',) sequences; each batch is a run of them.
        start, stop: (M,) where each batch's run begins and ends in `order`.
        rows: (M,) rows of each batch, for each shard.
        padded: (M, C) padded lengths of each batch.
        bucket: (M,) the bucket of each batch.
        num_shards: how many shards share each run.
        lengths: (R, C) lengths of the sequences.
    """

    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    rows: np.ndarray
    padded: np.ndarray
    bucket: np.ndarray
    num_shards: int
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def sequences(self, index: int, shard: int) -> np.ndarray:
        """Returns the sequences of one shard's batch; it may have more rows than these, filled then."""
        return self.order[self.start.item(index) + shard : self.stop.item(index) : self.num_shards]

    def places(self, index: int, shard: int) -> np.ndarray:
        """Returns where in the shard's batch these sequences are: spread over its rows, so that devices share them."""
        count, rows = len(self.sequences(index, shard)), self.rows.item(index)
        return np.arange(count) * rows // max(count, 1)

    @functools.cached_property
    def valid_steps(self) -> np.ndarray:
        """Steps of sequences in each batch, all shards together, (M,)."""
        total = self.lengths[:, 0] if self.lengths.shape[1] == 1 else self.lengths.sum(axis=1)
        steps = np.zeros(len(self.order) + 1, "int64")
        np.cumsum(total[self.order], out=steps[1:])
        return steps[self.stop] - steps[self.start]

    @functools.cached_property
    def total_steps(self) -> np.ndarray:
        """Steps computed for each batch, padding and filler rows included, all shards together, (M,)."""
        return self.padded.sum(axis=1) * self.rows * self.num_shards

    @property
    def filler_rows(self) -> int:
        """Rows that are there for their batch's shape alone, all shards together."""
        return int((self.rows * self.num_shards - (self.stop - self.start)).sum())

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The distinct shapes (B, T) or (B, S, T) of a shard's batches, sorted."""
        distinct = np.unique(np.column_stack([self.rows, self.padded]), axis=0)
        return [tuple(int(size) for size in shape) for shape in distinct]


def plan_epoch(buckets: Buckets, options: Options, seed: int, epoch: int, by_length: float = 0.0) -> Plan:
    """Plans one epoch.

    Sequences are shuffled within their buckets, and the batches among each other. Where `num_shards` is not 1, a run of
    `order` is dealt out to the shards, which so see the same shapes at the same steps.

    Args:
        buckets: the sorted sequences.
        options: the plan's options.
        seed: integer of at least 0, which with `epoch` decides the order where `options.shuffle` is true.
        epoch: integer of at least 0.
        by_length: within [0, 1], how much of the batches' order is by length: 0 for none, 1 for short before long.

    Returns:
        The plan.
    """
    rng = np.random.default_rng([seed, epoch])
    order = buckets.order
    if options.shuffle:
        order = order.copy()
        for start, stop in zip(buckets.edges, buckets.edges[1:], strict=False):
            rng.shuffle(order[start:stop])
    start, stop, bucket = _cut_into_batches(buckets, options)
    size = -(-(stop - start) // options.num_shards)
    rows = buckets.rows[bucket] if options.remainder == "fill" else size
    if buckets.boundaries is None:
        padded = np.maximum.reduceat(buckets.lengths[order[: stop.max(initial=0)]], start, axis=0)
        padded = round_up(padded, options.length_multiple)
    else:
        padded = buckets.boundaries[bucket]
    turn = np.arange(len(start))
    if options.shuffle:
        rng.shuffle(turn)
    if by_length:
        # Each batch's place by length, those of one length as they were shuffled, against a place at random.
        by_size = np.argsort(padded[turn].sum(axis=1), kind="stable")
        place = np.empty(len(turn))
        place[by_size] = np.linspace(0, 1, len(turn))
        turn = turn[np.argsort(by_length * place + (1 - by_length) * rng.random(len(turn)), kind="stable")]
    _show_what_varies(turn, padded)
    start, stop, rows, padded, bucket = (part[turn] for part in (start, stop, rows, padded, bucket))
    return Plan(order, start, stop, rows, padded, bucket, options.num_shards, buckets.lengths)


def _show_what_varies(turn: np.ndarray, padded: np.ndarray) -> None:
    """Changes the order of the batches so that the first two differ in every length in which any two do.

    Keras on TensorFlow takes what its first two batches agree in for the shape of all.
    """
    if len(turn) < 2:
        return
    shown = padded[turn]
    varies = (shown != shown[0]).any(axis=0).sum()
    # Of two lengths, no batch may differ in both from the first; then one that differs in one has such a partner.
    for first in (0, int(np.argmax((shown != shown[0]).sum(axis=1)))):
        differs = (shown != shown[first]).sum(axis=1)
        if differs.max() == varies:
            break
    second = int(np.argmax(differs))
    if first != second:
        chosen = turn[[first, second]]
        others = np.delete(np.arange(len(turn)), [first, second])
        turn[:] = np.concatenate([chosen, turn[others]])


def _cut_into_batches(buckets: Buckets, options: Options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where each batch's run begins and ends, and its bucket."""
    size = buckets.rows * options.num_shards
    count = np.diff(buckets.edges)
    batches = count // size if options.remainder == "drop" else -(-count // size)
    bucket = np.repeat(np.arange(len(size)), batches)
    first = np.cumsum(batches) - batches
    start = buckets.edges[bucket] + (np.arange(len(bucket)) - first[bucket]) * size[bucket]
    return start, np.minimum(start + size[bucket], buckets.edges[bucket + 1]), bucket


def round_up(lengths: np.ndarray, multiple: int) -> np.ndarray:
    """Returns the least multiples that hold the lengths."""
    return -(-lengths // multiple) * multiple
