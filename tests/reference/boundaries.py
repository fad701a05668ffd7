"""What padded lengths cost, and the least that any cost, found by trying all of them."""

import itertools
import math


def round_up(lengths, multiple):
    return [math.ceil(length / multiple) * multiple for length in lengths]


def cost_of_bucket(length, n, rows):
    """Steps of n sequences of one padded length, in batches that are filled to `rows(length)` rows, or not at all."""
    return length * n if rows is None else length * rows(length) * math.ceil(n / rows(length))


def cost(lengths, boundaries, rows=None):
    """Steps of sequences that are each padded to the smallest boundary that holds it; infinite where none does."""
    held_below = [sum(length <= boundary for length in lengths) for boundary in [0, *sorted(boundaries)]]
    if held_below[-1] < len(lengths):
        return math.inf
    members = [after - before for before, after in itertools.pairwise(held_below)]
    return sum(cost_of_bucket(T, n, rows) for T, n in zip(sorted(boundaries), members, strict=True))


def cheapest_shape(pair, shapes):
    """The shape of the fewest steps that holds the pair, and of those the first; None where none does."""
    holding = [shape for shape in sorted(shapes) if pair[0] <= shape[0] and pair[1] <= shape[1]]
    return min(holding, key=sum, default=None)


def cost_of_pairs(pairs, shapes):
    """Steps of pairs that are each padded to the cheapest shape; infinite where one does not fit."""
    chosen = [cheapest_shape(pair, shapes) for pair in pairs]
    return math.inf if None in chosen else sum(map(sum, chosen))


def subsets(items, most):
    return itertools.chain.from_iterable(itertools.combinations(items, size) for size in range(1, most + 1))


def least_cost(lengths, buckets, multiple=1, rows=None):
    """The least cost over all choices among the distinct lengths, rounded up."""
    candidates = sorted(set(round_up(lengths, multiple)))
    return min(cost(lengths, chosen, rows) for chosen in subsets(candidates, buckets))


def least_cost_by_recurrence(lengths, buckets, rows=None):
    """The same in less time: of the lengths up to the j-th, the last bucket holds those from the i-th on."""
    values = sorted(set(lengths))
    below = [sum(length < value for length in lengths) for value in values] + [len(lengths)]
    totals = [0] + [math.inf] * len(values)
    for _ in range(buckets):
        totals = [0] + [
            min(totals[i] + cost_of_bucket(value, below[j] - below[i], rows) for i in range(j))
            for j, value in enumerate(values, 1)
        ]
    return totals[-1]


def least_cost_of_pairs(pairs, shapes):
    """The least cost over all choices among the shapes that the lengths of the pairs make."""
    grid = itertools.product(*(sorted(set(column)) for column in zip(*pairs, strict=True)))
    return min(cost_of_pairs(pairs, chosen) for chosen in subsets(list(grid), shapes))


def least_cost_of_nested(pairs, shapes):
    """The least cost over all ways to cut one of the lengths, and the other within each cut, to so many shapes."""
    best = math.inf
    for outer, inner in (0, 1), (1, 0):
        longest = max(pair[outer] for pair in pairs)
        for cuts in subsets(sorted({pair[outer] for pair in pairs}), shapes):
            if cuts[-1] < longest:
                continue
            groups = [
                [pair[inner] for pair in pairs if low < pair[outer] <= high]
                for low, high in itertools.pairwise((0, *cuts))
            ]
            base = sum(high * len(group) for high, group in zip(cuts, groups, strict=True))
            for share in itertools.product(range(1, shapes + 1), repeat=len(cuts)):
                if sum(share) <= shapes:
                    best = min(best, base + sum(map(least_cost, groups, share)))
    return best
