"""Streams: an iterator in, batches of few shapes out, within bounded memory."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_seqx import LengthBucketing, PaddingMonitor
from tests.data.cases import recording_model, tagger

OPTIONS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 6),
        "buckets": st.sampled_from([1, 3, [5, 20], None]),
        "remainder": st.sampled_from(["keep", "fill"]),
        "shuffle": st.booleans(),
        "window": st.sampled_from([1, 10, 1000]),
    }
)


def samples(count, seed=0, longest=20):
    rng = np.random.default_rng(seed)
    for number in range(count):
        length = rng.integers(1, longest, endpoint=True)
        yield np.full((length, 2), number + 1, "float32"), rng.integers(0, 3, length).astype("int32")


@given(st.integers(1, 60), OPTIONS)
def test_every_sample_of_a_finite_stream_leaves_once(count, options):
    data = LengthBucketing(samples(count), seed=1, overlong="truncate", max_length=20, lengths_as_input="n", **options)
    original = list(samples(count))
    left = []
    for inputs, targets, *weights in data:
        for row, length in enumerate(inputs["n"]):
            if weights and not weights[0][row].any():
                continue
            number = int(inputs["inputs"][row, 0, 0]) - 1
            left.append(number)
            np.testing.assert_array_equal(inputs["inputs"][row, :length], original[number][0][:length])
            np.testing.assert_array_equal(targets[row, :length], original[number][1][:length])
    assert sorted(left) == list(range(count))
    assert data.num_batches is None


def test_no_more_samples_are_read_than_the_window_holds():
    read = itertools.count()

    def endless():
        for sample in itertools.cycle(samples(50)):
            next(read)
            yield sample

    data = LengthBucketing(endless(), batch_size=4, buckets=3, window=64, seed=0)
    delivered = sum(len(data[index][1]) for index in range(200))
    assert next(read) <= delivered + 64 + 3 * 4


def test_shapes_are_few_and_known_from_the_first_window():
    data = LengthBucketing(itertools.cycle(samples(200)), batch_size=4, buckets=3, window=100, max_length=30, seed=0)
    assert len(data.boundaries) == 3
    assert data.boundaries[-1] == 30
    assert {data[index][0].shape[:2] for index in range(100)} <= {(4, length) for length in data.boundaries}


def test_shards_of_one_stream():
    shards = [
        LengthBucketing(samples(60), batch_size=2, num_shards=2, shard_index=shard, seed=0, window=30)
        for shard in (0, 1)
    ]
    left = []
    for one, other in zip(*shards, strict=True):
        assert one[0].shape == other[0].shape
        for frames, _, weights in (one, other):
            left += [int(row[0, 0]) for row, weight in zip(frames, weights, strict=True) if weight.any()]
    assert sorted(left) == list(range(1, 61))


def test_fit_goes_on_where_it_stopped():
    def endless():
        for number in itertools.count(1):
            yield np.full((number % 7 + 1, 2), number, "float32"), np.zeros(1, "float32")

    data = LengthBucketing(endless(), batch_size=2, buckets=2, window=20, seed=0)
    model, seen = recording_model()
    history = model.fit(data, epochs=3, steps_per_epoch=5, verbose=0, shuffle=False, callbacks=[PaddingMonitor(data)])
    assert 0 < history.history["efficiency"][-1] <= 1
    first = [row for batch in seen for row in batch]
    assert len(first) == len(set(first)) == 30
    model.fit(data, epochs=1, steps_per_epoch=5, verbose=0, shuffle=False)
    rows = [row for batch in seen for row in batch]
    assert len(rows) == len(set(rows)) == 40


def test_fit_and_evaluate_a_tagger():
    data = LengthBucketing(itertools.cycle(samples(50)), batch_size=4, seed=0, lengths_as_input="lengths", window=50)
    model = tagger()
    history = model.fit(data, steps_per_epoch=6, epochs=2, verbose=0, shuffle=False)
    assert np.isfinite(history.history["loss"]).all()


def test_what_a_stream_cannot_do():
    data = LengthBucketing(samples(3), seed=0)
    for call in (data.report, data.state_dict, lambda: data.split(0.5), lambda: data.predict(None), lambda: len(data)):
        with pytest.raises(TypeError, match="`x` must be finite"):
            call()
    with pytest.raises(ValueError, match="`x` must be no iterator where `y` is given apart"):
        LengthBucketing(samples(3), [1, 2, 3])
    with pytest.raises(ValueError, match="`x` must be an iterator of samples"):
        LengthBucketing(iter(()), seed=0)[0]
    data[0]
    with pytest.raises(IndexError, match="the stream has ended, after 3 batches"):
        LengthBucketing(samples(3), seed=0, batch_size=1)[3]
    longer = itertools.chain(samples(20, longest=5), [(np.ones((9, 2), "float32"), np.ones(9, "int32"))])
    with pytest.raises(ValueError, match="`buckets` must be no less than the longest sequence"):
        list(LengthBucketing(longer, seed=0, batch_size=2, window=10))
