"""Which padded lengths to batch by: those that cost the fewest padded steps."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_seqx._core import errors

OWNER = "optimal_boundaries"
CHUNK = 2**20  # How many lengths are looked at together.
COUNTERS = 2**22  # Up to this length, every length has a counter of its own.
CANDIDATES = 4096  # Boundaries are chosen among this many lengths where `rows` makes the search quadratic.
GRID = 64  # Shapes of pairs are chosen among this many lengths either way.
UNREACHABLE = 2**62  # Costs stay below it, so that two of them can be added.


def optimal_boundaries(
    lengths: Any, buckets: int, *, length_multiple: int = 1, rows: Callable[[Any], int] | None = None
) -> np.ndarray:
    """Returns the padded lengths that cost the fewest padded steps.

    A sequence is padded to the smallest boundary that holds it, at a cost of as many steps. A pair of sequences, such
    as a source and its translation, is padded to the cheapest shape (S, T) that holds both, of the least S + T and
    among equals the first, at a cost of S + T steps.

    The boundaries of single sequences are optimal. The shapes of pairs are at least as good as the best nested grid:
    intervals of one length, each with its own intervals of the other. Of more than 64 different sources or targets,
    only those 64 make shapes that are optimal for them alone.

    Args:
        lengths: integers of shape (R,), one per sequence, or (R, 2) for pairs; each at least 1. Were all as long as
            the longest, they would have to stay below 2**61 steps.
        buckets: the most padded lengths or shapes allowed, at least 1.
        length_multiple: what every boundary is a multiple of, at least 1. Default 1.
        rows: a function from a padded length T to the number of rows to which every batch of its bucket is filled,
            as in `lambda T: budget // T`. A bucket of n sequences then costs `T * rows(T) * ceil(n / rows(T))` steps,
            and fewer buckets can be cheaper. Where more than 4096 lengths differ, the boundaries are the best among
            4096 of them, evenly spread. The shapes of pairs are chosen as without it. Default None: no batch is
            filled.

    Returns:
        An int64 array of shape (K,), strictly increasing, whose last holds the longest, with K at most `buckets`; for
        pairs (K, 2), in lexicographic order.

    Raises:
        TypeError: `lengths` are not integers, `rows` is no function, or another argument is no integer.
        ValueError: `lengths` has another shape, no row, or a length below 1; they are too long to be added up; another
            argument or what `rows` returns is below 1.

    Example:

    >>> import numpy as np
    >>> from keras_seqx.data import optimal_boundaries
    >>> optimal_boundaries(np.array([3, 4, 4, 5, 9, 10, 30]), buckets=3).tolist()
    [5, 10, 30]
    >>> optimal_boundaries(np.array([3, 4, 4, 5, 9, 10, 30]), buckets=3, length_multiple=8).tolist()
    [8, 16, 32]
    >>> optimal_boundaries(np.array([[3, 8], [4, 4], [4, 9], [12, 10]]), buckets=2).tolist()
    [[4, 9], [12, 10]]
    """
    lengths = _checked(lengths)
    buckets = errors.positive_integer(OWNER, "buckets", buckets, "Say how many shapes there may be at most")
    fix = "Give the number that divides every padded length, 1 for any"
    multiple = errors.positive_integer(OWNER, "length_multiple", length_multiple, fix)
    if rows is not None and not callable(rows):
        fix = "Wrap a fixed number of rows as in `lambda T: 32`"
        raise TypeError(errors.message(OWNER, "rows", "a function of the padded length, or None", rows, fix))
    _addable("lengths", (int(lengths.max()) + multiple) * lengths.size)
    columns = [_round_up(*count_lengths(column), multiple) for column in np.atleast_2d(lengths.T)]
    if lengths.ndim == 2:
        return _of_pairs(lengths, [_optimum(*column, GRID) for column in columns], buckets)
    return _optimum(*columns[0], buckets) if rows is None else _optimum_of_filled(*columns[0], buckets, rows)


def count_lengths(lengths: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct lengths and how often each occurs.

    Args:
        lengths: integer array of shape (R,), each at least 0.

    Returns:
        Two int64 arrays of shape (L,): the lengths, strictly increasing, and their counts.
    """
    lengths = np.asarray(lengths)
    longest = int(lengths.max(initial=0))
    if longest > COUNTERS:
        values, counts = np.unique(lengths, return_counts=True)
        return values.astype(np.int64), counts.astype(np.int64)
    counts = np.zeros(longest + 1, np.int64)
    for chunk in _chunks(lengths):
        counts += np.bincount(chunk, minlength=longest + 1)
    values = np.flatnonzero(counts)
    return values, counts[values]


def _checked(lengths: Any) -> np.ndarray:
    """Returns the lengths as an array of shape (R,) or (R, 2) that holds nothing but lengths."""
    lengths = np.asarray(lengths)
    fix = "Give one length per sequence, or two for pairs"
    if not lengths.size or lengths.ndim not in (1, 2) or lengths.shape[1:] not in ((), (2,)):
        constraint = "of shape (R,) or (R, 2) with R of at least 1"
        raise ValueError(errors.message(OWNER, "lengths", constraint, lengths.shape, fix, "its shape"))
    if lengths.dtype.kind not in "iu":
        fix = "Lengths count steps: cast them to 'int32', and drop what is NaN"
        raise TypeError(errors.message(OWNER, "lengths", "integers", lengths.dtype, fix, "dtype"))
    if lengths.min() < 1:
        row = int(np.argmax(lengths.reshape(len(lengths), -1).min(axis=1) < 1))
        fix, received = "Drop the sequences without steps", lengths[row].tolist()
        raise ValueError(errors.message(OWNER, "lengths", "at least 1", received, fix, f"row {row}"))
    return lengths


def _addable(argument: str, steps: int) -> None:
    """Raises where so many steps are too many to be counted in int64."""
    if steps >= UNREACHABLE // 2:
        constraint, fix = "such that all rows have below 2**61 steps", "Shorten the lengths, or fill fewer rows"
        raise ValueError(errors.message(OWNER, argument, constraint, steps, fix, "steps"))


def _chunks(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the lengths as int64 arrays, few enough at a time to need little memory."""
    for start in range(0, len(lengths), CHUNK):
        yield lengths[start : start + CHUNK].astype(np.int64)


def _round_up(values: np.ndarray, counts: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct multiples to which the lengths are rounded up, and their counts."""
    values, starts = np.unique(-(-values // multiple) * multiple, return_index=True)
    return values, np.add.reduceat(counts, starts)


def _optimum(values: np.ndarray, counts: np.ndarray, buckets: int) -> np.ndarray:
    """Returns the boundaries that cost the fewest steps where no batch is filled, in O(K L log L)."""
    if buckets >= len(values):
        return values
    cumulative = np.pad(counts.cumsum(), (1, 0))
    totals = np.pad(values, (1, 0)) * cumulative
    layers = [np.zeros_like(totals)]
    for _ in range(buckets - 1):
        totals, begins = _one_bucket_more(values, cumulative, totals)
        layers.append(begins)
    return _trace(values, layers)


def _one_bucket_more(values: np.ndarray, cumulative: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the first j lengths cost with one bucket more, and where its last bucket begins, (L + 1,) each.

    The more lengths there are, the later their last bucket begins: a longer boundary costs more for every sequence
    below it. So the beginnings known for some j bound those in between, and each round, which doubles the known ones,
    tries about L beginnings altogether.
    """
    size = len(values)
    totals, begins = np.zeros_like(before), np.full(size + 1, size - 1)
    begins[0] = 0
    stride = 2 ** (size.bit_length() - 1)
    while stride:
        ends = np.arange(stride, size + 1, 2 * stride)
        lowest = begins[ends - stride]
        highest = np.minimum(begins[np.minimum(ends + stride, size)], ends - 1)
        # The ranges lowest..highest of all ends, one after the other.
        sizes = highest - lowest + 1
        starts = sizes.cumsum() - sizes
        begin, end = np.arange(sizes.sum()) + np.repeat(lowest - starts, sizes), np.repeat(ends, sizes)
        costs = before[begin] + values[end - 1] * (cumulative[end] - cumulative[begin])
        totals[ends] = np.minimum.reduceat(costs, starts)
        cheapest = np.flatnonzero(costs == totals[end])
        begins[ends] = begin[cheapest[np.searchsorted(cheapest, starts)]]
        stride //= 2
    return totals, begins


def _trace(values: np.ndarray, layers: Any) -> np.ndarray:
    """Returns the boundaries to which the beginnings lead, from the last length back to the first."""
    ends = [len(values)]
    for begins in reversed(layers):
        ends.append(begins[ends[-1]])
    return values[np.unique(ends)[1:] - 1]


def _optimum_of_filled(values: np.ndarray, counts: np.ndarray, buckets: int, rows: Callable[[Any], int]) -> np.ndarray:
    """Returns the boundaries that cost the fewest steps where batches are filled to `rows(T)` rows."""
    size = min(len(values), CANDIDATES)
    ends = np.arange(1, size + 1) * len(values) // size
    values, cumulative = values[ends - 1], np.pad(counts.cumsum()[ends - 1], (1, 0))
    fix = "Let it return how many rows a batch of this padded length has"
    filled = [errors.positive_integer(OWNER, f"rows({T})", rows(T), fix) for T in values.tolist()]
    _addable("rows", max(filled) * int(values[-1]))
    return _trace(values, _exhaustive(values, cumulative, np.array(filled), min(buckets, size))[1])


def _exhaustive(
    values: np.ndarray, cumulative: np.ndarray, filled: np.ndarray, buckets: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the first j lengths cost with at most k buckets, and where the last one begins, in O(K L^2).

    Many problems that share their lengths are solved at once: `cumulative` is of shape (..., L + 1), both results
    (..., K + 1, L + 1).
    """
    *problems, size = cumulative.shape
    totals = np.full((*problems, buckets + 1, size), UNREACHABLE)
    begins = np.zeros_like(totals)
    totals[..., 0] = 0
    for end in range(1, size):
        counts = cumulative[..., end, None] - cumulative[..., :end]
        steps = values[end - 1] * filled[end - 1] * -(-counts // filled[end - 1])
        costs = totals[..., :-1, :end] + steps[..., None, :]
        begins[..., 1:, end] = costs.argmin(axis=-1)
        totals[..., 1:, end] = costs.min(axis=-1)
        # A length that does not occur needs no bucket.
        totals[..., end] = np.where(counts[..., -1:] == 0, totals[..., end - 1], totals[..., end])
    return totals, begins


def _of_pairs(lengths: np.ndarray, axes: list[np.ndarray], shapes: int) -> np.ndarray:
    """Returns the shapes for pairs, out of the grid of all those that the lengths in `axes` make.

    Below, a shape is its place in the grid: `counts` (I, J) says how many pairs need it, `prices` (I, J) its steps.
    """
    sources, targets = axes
    prices = sources[:, None] + targets
    counts = np.zeros(prices.shape, np.int64)
    for chunk in _chunks(lengths):
        source, target = np.searchsorted(sources, chunk[:, 0]), np.searchsorted(targets, chunk[:, 1])
        counts += np.bincount(source * len(targets) + target, minlength=counts.size).reshape(counts.shape)
    # No more shapes than different pairs: an idle one would move to where it saves steps, so none ends up idle.
    shapes = min(shapes, int(np.count_nonzero(counts)))
    by_source = _nested(sources, targets, counts, shapes)
    by_target = _nested(targets, sources, counts.T, shapes)[:, ::-1]
    largest = np.tile(np.array(counts.shape) - 1, (shapes, 1))
    found = [_exchange(prices, counts, start) for start in (by_source, by_target, largest)]
    best = np.unique(min(found, key=lambda pair: pair[0])[1], axis=0)
    return np.stack([sources[best[:, 0]], targets[best[:, 1]]], axis=1)


def _nested(outer: np.ndarray, inner: np.ndarray, counts: np.ndarray, shapes: int) -> np.ndarray:
    """Returns the best intervals of the outer length, each with its own intervals of the inner one, as shapes (K, 2).

    The last is repeated where fewer than K cost as little.
    """
    most, size = min(shapes, len(inner)), len(outer) + 1
    begins, ends = np.triu_indices(size, 1)
    cumulative = np.pad(counts.cumsum(axis=0).cumsum(axis=1), (1, 0))
    cumulative = cumulative[ends] - cumulative[begins]
    totals, _ = _exhaustive(inner, cumulative, np.ones_like(inner), most)
    # What outer lengths begin..end cost with 1, 2, ... shapes, (most, I + 1, I + 1).
    steps = np.zeros((most, size, size), np.int64)
    steps[:, begins, ends] = totals[:, 1:, -1].T + outer[ends - 1] * cumulative[:, -1]

    least = np.full((shapes + 1, size), UNREACHABLE)
    least[:, 0] = 0
    choices = np.zeros_like(least)
    for end in range(1, size):
        for allowed in range(1, shapes + 1):
            used = np.arange(1, min(allowed, most) + 1)
            costs = least[allowed - used, :end] + steps[used - 1, :end, end]
            least[allowed, end], choices[allowed, end] = costs.min(), costs.argmin()

    found, end, allowed = [], len(outer), shapes
    while end:
        fewer, begin = divmod(int(choices[allowed, end]), end)
        occurring = counts[begin:end].sum(axis=0)
        boundaries = _optimum(inner[occurring > 0], occurring[occurring > 0], fewer + 1)
        found += [(end - 1, place) for place in np.searchsorted(inner, boundaries)]
        end, allowed = begin, allowed - fewer - 1
    return np.array(found + found[-1:] * (shapes - len(found)))


def _exchange(prices: np.ndarray, counts: np.ndarray, shapes: np.ndarray) -> tuple[int, np.ndarray]:
    """Returns the total and the shapes after each in turn moved to where the total is least, until none moves."""
    shapes, moved = shapes.copy(), True
    while moved:
        moved = False
        for k in range(len(shapes)):
            totals = _totals_with_one_more(prices, counts, np.delete(shapes, k, axis=0))
            best = np.unravel_index(totals.argmin(), totals.shape)
            if totals[best] < totals[tuple(shapes[k])]:
                shapes[k], moved = best, True
    return int(totals[best]), shapes


def _totals_with_one_more(prices: np.ndarray, counts: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Returns what all pairs cost with `shapes` and any one shape of the grid besides, (I, J)."""
    receivers, paid = _receivers(prices, shapes), prices[tuple(shapes.T)][:, None, None]
    received = counts * (receivers == np.arange(len(shapes))[:, None, None])
    left = counts * (receivers == len(shapes))
    # The shape takes from each other one what it holds, where it is cheaper, and it must hold what is left.
    held = received.cumsum(axis=1).cumsum(axis=2)
    saved = (np.maximum(paid - prices, 0) * held).sum(axis=0)
    totals = (paid * received).sum() + prices * left.sum() - saved
    return np.where(left.cumsum(axis=0).cumsum(axis=1) == left.sum(), totals, UNREACHABLE)


def _receivers(prices: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Returns which shape is the cheapest to hold each pair of the grid, (I, J): its number, K where none does."""
    receivers = np.full(prices.shape, len(shapes))
    for k in np.argsort(prices[tuple(shapes.T)], kind="stable")[::-1]:
        receivers[: shapes[k, 0] + 1, : shapes[k, 1] + 1] = k
    return receivers
