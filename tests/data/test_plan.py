"""The plan of an epoch: every sequence once, whatever the options, and the same for the same seed."""

import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_seqx.data.planning.epoch_plan import plan_epoch, sort_into_buckets
from keras_seqx.data.planning.options import Options
from tests.cases import numpy_alone

pytestmark = numpy_alone


@st.composite
def lengths(draw, axes=None):
    """(R, C) lengths: few or many, all equal or wide apart. Shrinks towards one sequence of one step."""
    axes = axes or draw(st.sampled_from([1, 1, 2]))
    count = draw(st.one_of(st.integers(1, 12), st.integers(200, 3000)))
    longest = draw(st.sampled_from([1, 7, 60]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return rng.integers(1, longest, (count, axes), endpoint=True)


@st.composite
def options(draw, axes, longest):
    by_tokens = draw(st.booleans())
    multiple = draw(st.sampled_from([1, 4]))
    return Options(
        batch_size=draw(st.integers(1, 40)),
        max_tokens=draw(st.integers((longest + 3) * axes, (longest + 3) * axes * 30)) if by_tokens else None,
        buckets=draw(st.sampled_from([1, 3, 8, None])),
        length_multiple=multiple,
        remainder=draw(st.sampled_from(["keep", "drop", "fill"])),
        shuffle=draw(st.booleans()),
        num_shards=draw(st.integers(1, 4)),
    )


@st.composite
def cases(draw):
    drawn = draw(lengths())
    return drawn, draw(options(drawn.shape[1], int(drawn.max()))), draw(st.integers(0, 2**40)), draw(st.integers(0, 9))


def seen(plan, shard):
    return [plan.sequences(index, shard) for index in range(len(plan))]


@given(cases(), st.sampled_from([0.0, 0.3, 1.0]))
def test_every_sequence_is_seen_once_by_one_shard(case, by_length):
    data, option, seed, epoch = case
    buckets = sort_into_buckets(data, option)
    plan = plan_epoch(buckets, option, seed, epoch, by_length)
    rows = [row for shard in range(option.num_shards) for batch in seen(plan, shard) for row in batch.tolist()]
    assert len(rows) == len(set(rows))
    dropped = len(data) - len(rows)
    if option.remainder == "drop":
        sizes = [option.rows(shape) * option.num_shards for shape in plan.padded]
        if option.buckets is not None:
            left = np.diff(buckets.edges) % (buckets.rows * option.num_shards)
            assert dropped == left.sum()
        assert all(stop - start == size for start, stop, size in zip(plan.start, plan.stop, sizes, strict=True)) or (
            option.buckets is None
        )
    else:
        assert dropped == 0


@given(cases())
def test_shards_see_the_same_shapes_and_nearly_as_many_rows(case):
    data, option, seed, epoch = case
    plan = plan_epoch(sort_into_buckets(data, option), option, seed, epoch)
    for index in range(len(plan)):
        share = [len(plan.sequences(index, shard)) for shard in range(option.num_shards)]
        assert max(share) - min(share) <= 1
        assert max(share) <= plan.rows[index]
        if option.remainder != "fill":
            assert max(share) == plan.rows[index]
        run = plan.order[plan.start[index] : plan.stop[index]]
        assert (data[run] <= plan.padded[index]).all()
        assert (plan.padded[index] % option.length_multiple == 0).all()
        if option.max_tokens:
            assert plan.rows[index] * plan.padded[index].sum() <= option.max_tokens
        else:
            assert plan.rows[index] <= option.batch_size


@given(cases())
def test_the_same_seed_and_epoch_give_the_same_plan(case):
    data, option, seed, epoch = case
    buckets = sort_into_buckets(data, option)
    plan = plan_epoch(buckets, option, seed, epoch)
    plan_epoch(buckets, option, seed + 1, epoch)
    again = plan_epoch(sort_into_buckets(data.copy(), option), option, seed, epoch)
    for name in ("order", "start", "stop", "rows", "padded"):
        np.testing.assert_array_equal(getattr(plan, name), getattr(again, name))


@given(cases(), st.sampled_from([0.0, 1.0]))
def test_the_first_two_batches_show_every_length_that_varies(case, by_length):
    data, option, seed, epoch = case
    plan = plan_epoch(sort_into_buckets(data, option), option, seed, epoch, by_length)
    assume(len(plan) > 1)
    varies = (plan.padded != plan.padded[0]).any(axis=0)
    assert ((plan.padded[0] != plan.padded[1]) == varies).all()


def test_one_process_of_the_whole_batch_sees_what_shards_see_together():
    rng = np.random.default_rng(0)
    data = rng.integers(1, 50, (500, 1))
    whole = Options(batch_size=32, buckets=4)
    shards = Options(batch_size=8, buckets=4, num_shards=4)
    one = plan_epoch(sort_into_buckets(data, whole), whole, 3, 1)
    four = plan_epoch(sort_into_buckets(data, shards), shards, 3, 1)
    for index in range(len(one)):
        together = np.concatenate([four.sequences(index, shard) for shard in range(4)])
        assert sorted(together) == sorted(one.sequences(index, 0))


def test_epochs_differ_in_the_batches_and_in_their_order():
    data = np.random.default_rng(0).integers(1, 50, (1000, 1))
    option = Options(batch_size=10)
    buckets = sort_into_buckets(data, option)
    plans = [plan_epoch(buckets, option, 0, epoch) for epoch in range(2)]
    batches = [{frozenset(batch.tolist()) for batch in seen(plan, 0)} for plan in plans]
    assert len(batches[0] & batches[1]) <= 2
    assert (plans[0].padded[:, 0] != plans[1].padded[:, 0]).any()


@pytest.mark.parametrize("seed", range(5))
def test_lengths_of_consecutive_batches_are_uncorrelated(seed):
    data = np.random.default_rng(seed).lognormal(3.1, 0.62, (20_000, 1)).clip(1, 256).astype(int)
    option = Options(batch_size=8)
    padded = plan_epoch(sort_into_buckets(data, option), option, seed, 0).padded[:, 0]
    # Of 2,500 independent pairs the correlation has a standard deviation of .02.
    assert abs(np.corrcoef(padded[:-1], padded[1:])[0, 1]) < 0.08
    ordered = plan_epoch(sort_into_buckets(data, option), option, seed, 0, by_length=1.0).padded[2:, 0]
    assert (np.diff(ordered) >= 0).all()


def test_every_order_of_two_batches_and_every_pairing_occurs():
    option = Options(batch_size=2, buckets=1)
    buckets = sort_into_buckets(np.ones((4, 1), int), option)
    plans = [plan_epoch(buckets, option, 5, epoch) for epoch in range(300)]
    pairings = collections.Counter(tuple(sorted(plan.sequences(0, 0).tolist())) for plan in plans)
    assert len(pairings) == 6
    assert min(pairings.values()) > 25


@given(lengths(axes=1), st.sampled_from(["drop", "truncate"]), st.integers(0, 3))
def test_what_is_too_long_is_dropped_or_cut(data, overlong, seed):
    limit = max(1, int(data.max()) // 2)
    option = Options(batch_size=4, buckets=3, overlong=overlong, max_length=limit)
    too_long = data[:, 0] > limit
    if overlong == "drop" and too_long.all():
        with pytest.raises(ValueError, match="`max_length` must be no less than the shortest sequence"):
            sort_into_buckets(data, option)
        return
    buckets = sort_into_buckets(data, option)
    plan = plan_epoch(buckets, option, seed, 0)
    rows = sorted(np.concatenate(seen(plan, 0)).tolist())
    if overlong == "drop":
        assert rows == np.flatnonzero(~too_long).tolist()
        assert buckets.dropped == too_long.sum()
    else:
        assert rows == list(range(len(data)))
        assert buckets.truncated == too_long.sum()
        np.testing.assert_array_equal(buckets.lengths, np.minimum(data, limit))
    assert plan.padded.max() <= limit


def test_a_pair_goes_to_the_cheapest_shape_that_holds_it():
    data = np.array([[2, 2], [2, 9], [9, 2], [9, 9], [3, 3]])
    option = Options(batch_size=1, buckets=((9, 9), (9, 3), (3, 9), (3, 3)), shuffle=False)
    plan = plan_epoch(sort_into_buckets(data, option), option, 0, 0)
    found = {tuple(data[plan.sequences(i, 0)[0]]): tuple(plan.padded[i]) for i in range(len(plan))}
    assert found == {(2, 2): (3, 3), (2, 9): (3, 9), (9, 2): (9, 3), (9, 9): (9, 9), (3, 3): (3, 3)}


@pytest.mark.parametrize(
    ("mean", "deviation", "low", "high", "least"), [(3.1, 0.62, 1, 256, 0.82), (5.23, 0.67, 10, 2500, 0.8)]
)
def test_known_efficiencies_of_eight_buckets(mean, deviation, low, high, least):
    drawn = np.random.default_rng(0).lognormal(mean, deviation, (50_000, 1)).round().clip(low, high).astype(int)
    option = Options(batch_size=32)
    plan = plan_epoch(sort_into_buckets(drawn, option), option, 0, 0)
    assert plan.valid_steps.sum() / plan.total_steps.sum() > least
    assert len({shape[1:] for shape in plan.shapes}) == 8


@given(cases(), st.sampled_from([2, 3, 4]))
def test_devices_share_the_sequences_of_a_batch(case, devices):
    data, option, seed, epoch = case
    option = dataclasses.replace(option, remainder="fill", buckets=option.buckets or 1)
    plan = plan_epoch(sort_into_buckets(data, option), option, seed, epoch)
    for index in range(len(plan)):
        for shard in range(option.num_shards):
            places, rows = plan.places(index, shard), int(plan.rows[index])
            assert len(places) == len(plan.sequences(index, shard))
            assert (np.diff(places) > 0).all()
            assert not len(places) or (places[0] == 0 and places[-1] < rows)
            if rows % devices == 0:
                share = np.bincount(places // (rows // devices), minlength=devices)
                assert share.max() - share.min() <= 1
