"""optimal_boundaries: nothing cheaper is found by trying everything."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keras_seqx.data.planning import boundaries
from keras_seqx.data.planning.boundaries import count_lengths, optimal_boundaries
from tests.cases import numpy_alone
from tests.reference import boundaries as reference

pytestmark = numpy_alone

ROWS = {"as they come": None, "three rows": lambda T: 3, "sixty steps": lambda T: 60 // T}
filled = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
few_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=20)
few_pairs = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=10)


@filled
@given(lengths=few_lengths, buckets=st.integers(1, 4), multiple=st.sampled_from([1, 1, 3]))
@example(lengths=[1, 2, 2, 2, 2, 2, 2, 4, 4, 4, 7], buckets=2, multiple=3)
def test_no_other_boundaries_cost_less(rows, lengths, buckets, multiple):
    found = optimal_boundaries(lengths, buckets, length_multiple=multiple, rows=rows)
    assert found.dtype == "int64"
    assert len(found) <= buckets
    assert (np.diff(found) > 0).all()
    assert (found % multiple == 0).all()
    assert max(lengths) <= found[-1] < max(lengths) + multiple
    assert reference.cost(lengths, found.tolist(), rows) == reference.least_cost(lengths, buckets, multiple, rows)


@filled
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=200), buckets=st.integers(1, 9))
def test_many_lengths_cost_what_the_recurrence_says(rows, lengths, buckets):
    found = optimal_boundaries(lengths, buckets, rows=rows).tolist()
    assert reference.cost(lengths, found, rows) == reference.least_cost_by_recurrence(lengths, buckets, rows)


@filled
@given(seed=st.integers(0, 99), size=st.integers(1, 40))
def test_more_buckets_never_cost_more(rows, seed, size):
    lengths = np.random.default_rng(seed).permutation(np.repeat(np.arange(1, 61, 3), 2))[:size].tolist()
    costs = [reference.cost(lengths, optimal_boundaries(lengths, k, rows=rows).tolist(), rows) for k in range(1, 21)]
    assert costs == sorted(costs, reverse=True)
    if rows is None:
        assert costs[-1] == sum(lengths)


def test_fewer_buckets_where_filler_rows_cost_more_than_padding():
    assert optimal_boundaries([1, 2, 3], 3).tolist() == [1, 2, 3]
    assert optimal_boundaries([1, 2, 3], 3, rows=lambda T: 4).tolist() == [3]


@pytest.mark.parametrize(
    ("mean", "deviation", "shortest", "longest", "efficiency"),
    [(3.1, 0.62, 1, 256, 0.82), (5.23, 0.67, 10, 2500, 0.80)],
    ids=["sentences", "recordings"],
)
def test_eight_buckets_of_natural_lengths_are_nearly_full(mean, deviation, shortest, longest, efficiency):
    drawn = np.random.default_rng(0).lognormal(mean, deviation, 50_000)
    lengths = np.clip(np.round(drawn), shortest, longest).astype("int32")
    found = optimal_boundaries(lengths, 8)
    padded = found[np.searchsorted(found, lengths)].sum()
    assert efficiency <= lengths.sum() / padded < efficiency + 0.03


def test_very_many_lengths_are_thinned_where_batches_are_filled():
    lengths = np.random.default_rng(0).integers(1, 6000, 20_000)
    exact, thinned = optimal_boundaries(lengths, 4), optimal_boundaries(lengths, 4, rows=lambda T: 1)
    assert thinned[-1] == lengths.max()
    costs = [found[np.searchsorted(found, lengths)].sum() for found in (exact, thinned)]
    assert costs[0] <= costs[1] < 1.001 * costs[0]


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=50),
    dtype=st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]),
)
def test_any_integers_will_do(lengths, dtype):
    expected = [optimal_boundaries(lengths, 4).tolist(), optimal_boundaries([[n, 7] for n in lengths], 4).tolist()]
    array = np.array(lengths, dtype)
    pairs = np.stack([array, np.full_like(array, 7)], axis=1)
    assert [optimal_boundaries(array, 4).tolist(), optimal_boundaries(pairs, 4).tolist()] == expected


@pytest.mark.parametrize("longest", [9, boundaries.COUNTERS + 9], ids=["counted", "sorted"])
@pytest.mark.parametrize("size", [0, 1, boundaries.CHUNK + 3])
def test_lengths_are_counted(longest, size):
    lengths = np.random.default_rng(0).integers(longest - 8, longest, size, endpoint=True)
    values, counts = count_lengths(lengths.astype("int32"))
    assert values.dtype == counts.dtype == "int64"
    assert values.tolist() == sorted(set(lengths.tolist()))
    assert counts.tolist() == [(lengths == value).sum() for value in values]


@given(pairs=few_pairs, shapes=st.integers(1, 4), multiple=st.sampled_from([1, 1, 3]))
@example(pairs=[(1, 2), (2, 1), (3, 2), (1, 1), (3, 2), (1, 2), (1, 1), (1, 3)], shapes=2, multiple=1)
@example(pairs=[(4, 5), (5, 2), (4, 3), (2, 1)], shapes=2, multiple=1)
def test_shapes_hold_every_pair_and_cost_no_more_than_nested_ones(pairs, shapes, multiple):
    found = optimal_boundaries(pairs, shapes, length_multiple=multiple)
    assert found.dtype == "int64"
    assert found.shape[1:] == (2,)
    assert len(found) <= shapes
    assert (found % multiple == 0).all()
    found = [tuple(shape) for shape in found.tolist()]
    assert found == sorted(found)
    assert {reference.cheapest_shape(pair, found) for pair in pairs} == set(found)
    rounded = [reference.round_up(pair, multiple) for pair in pairs]
    least = reference.least_cost_of_pairs(rounded, shapes)
    assert least <= reference.cost_of_pairs(pairs, found) <= reference.least_cost_of_nested(rounded, shapes)


@given(pairs=few_pairs, shapes=st.integers(1, 4))
@example(pairs=[(1, 1), (1, 4), (4, 2)], shapes=3)
@example(pairs=[(2, 1), (2, 4), (4, 2), (4, 3)], shapes=4)
def test_the_search_starts_no_worse_than_from_the_best_nested_shapes(pairs, shapes):
    sources, targets = (np.unique(column) for column in zip(*pairs, strict=True))
    counts = np.array([[pairs.count((S, T)) for T in targets] for S in sources])
    starts = [
        boundaries._nested(sources, targets, counts, shapes),
        boundaries._nested(targets, sources, counts.T, shapes)[:, ::-1],
    ]
    found = [[(sources[i], targets[j]) for i, j in start] for start in starts]
    least = reference.least_cost_of_nested(pairs, shapes)
    assert min(reference.cost_of_pairs(pairs, start) for start in found) <= least


@pytest.mark.parametrize(
    "pair",
    [lambda n: (3, n), lambda n: (n, 3), lambda n: (n, n)],
    ids=["equal sources", "equal targets", "source equals target"],
)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=20), shapes=st.integers(1, 3))
def test_pairs_that_differ_in_one_length_are_optimal(pair, lengths, shapes):
    pairs = [pair(length) for length in lengths]
    found = optimal_boundaries(pairs, shapes).tolist()
    assert reference.cost_of_pairs(pairs, found) == reference.least_cost_of_pairs(pairs, shapes)


@pytest.mark.parametrize(
    ("pairs", "shapes"),
    [
        ([(2, 2), (2, 3), (1, 2), (2, 5), (1, 3), (5, 2)], 2),
        ([(3, 2), (3, 3), (4, 3), (4, 2), (3, 2)], 2),
        ([(1, 3), (4, 1), (2, 3), (1, 1), (1, 2)], 3),
    ],
    ids=["cross", "block", "corner"],
)
def test_shapes_that_are_not_nested_are_found(pairs, shapes):
    total = reference.cost_of_pairs(pairs, optimal_boundaries(pairs, shapes).tolist())
    assert total == reference.least_cost_of_pairs(pairs, shapes) < reference.least_cost_of_nested(pairs, shapes)


@given(seed=st.integers(0, 99))
def test_as_many_shapes_as_pairs_leave_no_padding(seed):
    pairs = np.random.default_rng(seed).integers(1, 30, (20, 2))
    np.testing.assert_array_equal(optimal_boundaries(pairs, 20), np.unique(pairs, axis=0))


def test_very_many_lengths_of_pairs_are_thinned():
    lengths = np.random.default_rng(0).integers(1, 400, 5000)
    single, pairs = optimal_boundaries(lengths, 6), optimal_boundaries(np.stack([lengths, lengths], axis=1), 6)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert pairs[-1, 0] == lengths.max()
    costs = [found[np.searchsorted(found, lengths)].sum() for found in (single, pairs[:, 0])]
    assert costs[0] <= costs[1] < 1.001 * costs[0]


def test_rows_do_not_matter_to_pairs():
    pairs = [(1, 2), (3, 4), (2, 7)]
    np.testing.assert_array_equal(optimal_boundaries(pairs, 2, rows=lambda shape: 0), optimal_boundaries(pairs, 2))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lengths": []}, ValueError, "`lengths` must be of shape (R,) or (R, 2) with R of at least 1"),
        ({"lengths": np.ones((0, 2), int)}, ValueError, "`lengths` must be of shape (R,) or (R, 2)"),
        ({"lengths": 5}, ValueError, "`lengths` must be of shape (R,) or (R, 2)"),
        ({"lengths": [[1, 2, 3]]}, ValueError, "`lengths` must be of shape (R,) or (R, 2)"),
        ({"lengths": [[[1], [2]]]}, ValueError, "`lengths` must be of shape (R,) or (R, 2)"),
        ({"lengths": [1.0, np.nan]}, TypeError, "`lengths` must be integers. Received: `lengths`=dtype('float64')"),
        ({"lengths": [True]}, TypeError, "`lengths` must be integers"),
        ({"lengths": [5, 0, 7, 0]}, ValueError, "`lengths` must be at least 1. Received: `lengths`=0 (row 1)"),
        ({"lengths": [[5, 5], [5, -1]]}, ValueError, "at least 1. Received: `lengths`=[5, -1] (row 1)"),
        ({"lengths": [2**60, 2**60]}, ValueError, "`lengths` must be such that all rows have below 2**61 steps"),
        ({"length_multiple": 2**63}, ValueError, "`lengths` must be such that all rows have below 2**61 steps"),
        ({"buckets": 0}, ValueError, "`buckets` must be an integer of at least 1"),
        ({"buckets": 2.0}, TypeError, "`buckets` must be an integer of at least 1"),
        ({"length_multiple": 0}, ValueError, "`length_multiple` must be an integer of at least 1"),
        ({"length_multiple": True}, TypeError, "`length_multiple` must be an integer of at least 1"),
        ({"rows": 32}, TypeError, "`rows` must be a function of the padded length, or None"),
        ({"rows": lambda T: 8 // T}, ValueError, "`rows(9)` must be an integer of at least 1"),
        ({"rows": lambda T: 100 / T}, TypeError, "`rows(3)` must be an integer of at least 1"),
        ({"rows": lambda T: 2**60}, ValueError, "`rows` must be such that all rows have below 2**61 steps"),
    ],
    ids=[
        "no length",
        "no pair",
        "no axis",
        "triples",
        "three axes",
        "floats",
        "bools",
        "a length of 0",
        "a negative target",
        "too long to be added up",
        "too large a multiple",
        "no bucket",
        "float buckets",
        "multiple of 0",
        "bool multiple",
        "rows are a number",
        "no row",
        "float rows",
        "too many rows",
    ],
)
def test_invalid_arguments(arguments, error, words):
    with pytest.raises(error) as caught:
        optimal_boundaries(**{"lengths": [3, 5, 9], "buckets": 2} | arguments)
    assert str(caught.value).startswith("optimal_boundaries: ")
    assert words in str(caught.value)
