"""The batches of LengthBucketing: what came is what leaves, padded on the right, each sequence once."""

import pickle

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_seqx import LengthBucketing, RaggedArray

# Rows are told apart by their first value, which is the row's number plus one.
OPTIONS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "max_tokens": st.sampled_from([None, 200]),
        "buckets": st.sampled_from([1, 3, 8, None]),
        "length_multiple": st.sampled_from([1, 4]),
        "padding_value": st.sampled_from([0, -1]),
        "remainder": st.sampled_from(["keep", "drop", "fill"]),
        "shuffle": st.booleans(),
        "num_shards": st.integers(1, 3),
        "seed": st.integers(0, 2**33),
        "workers": st.sampled_from([1, 3]),
    }
)


def sequences(lengths, seed, inner=(), kind="float32"):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 1000, (length, *inner)).astype(kind) for length in lengths]
    for number, row in enumerate(rows):
        row[0] = number + 1
    return rows


def unpadded(array, length, padding):
    assert (array[length:] == padding).all()
    return array[:length]


def make(*data, num_shards, remainder, batch_size, **options):
    """The data set of every shard, or None where everything is dropped."""
    try:
        return [
            LengthBucketing(
                *data,
                num_shards=num_shards,
                shard_index=shard,
                remainder=remainder,
                batch_size=batch_size,
                lengths_as_input="lengths",
                **options,
            )
            for shard in range(num_shards)
        ]
    except ValueError as error:
        if remainder == "drop" and "`remainder` must be such that a batch is left" in str(error):
            return None
        raise


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), OPTIONS, st.sampled_from(["step", "row"]), st.data())
def test_what_leaves_is_what_came(lengths, options, weighting, data):
    x = sequences(lengths, 0, (2,))
    y = sequences(lengths, 1, kind="int32")
    rng = np.random.default_rng(2)
    w = [rng.random(n).astype("float32") for n in lengths] if weighting == "step" else rng.random(len(lengths))
    shards = make(x, y, w, **options)
    if shards is None:
        return
    epoch = data.draw(st.integers(0, 3))
    left = []
    for shard in shards:
        shard.epoch = epoch
        for index in range(len(shard)):
            inputs, targets, weights = shard[index]
            assert inputs["lengths"].dtype == np.int32
            assert inputs["inputs"].shape[:2] == targets.shape
            assert inputs["inputs"].shape[1] % options["length_multiple"] == 0
            for row, length in enumerate(inputs["lengths"]):
                frames = unpadded(inputs["inputs"][row], length, options["padding_value"])
                labels = unpadded(targets[row], length, options["padding_value"])
                if not np.any(weights[row]):
                    assert length == 1  # a filler row
                    continue
                number = int(frames[0, 0]) - 1
                left.append(number)
                np.testing.assert_array_equal(frames, x[number])
                np.testing.assert_array_equal(labels, y[number])
                # Keras needs a weight for every step of targets with steps.
                weight = unpadded(weights[row], length, 0)
                np.testing.assert_array_equal(weight, np.broadcast_to(w[number].astype("float32"), length))
    expected = set(range(len(lengths)))
    report = shards[0].report()
    assert len(left) == len(set(left)) == len(lengths) - report.dropped
    assert set(left) <= expected
    assert report.dropped == 0 or options["remainder"] == "drop"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), OPTIONS)
def test_fillers_have_weight_zero_one_step_and_no_other_part(lengths, options):
    options |= {"remainder": "fill"}
    shards = make(sequences(lengths, 0), np.arange(len(lengths)), **options)
    fillers = 0
    for shard in shards:
        shapes = set()
        for index in range(len(shard)):
            inputs, targets, *weights = shard[index]
            shapes.add((len(targets), inputs["inputs"].shape[1]))
            if weights:
                fillers += int((weights[0] == 0).sum())
                assert set(weights[0].tolist()) <= {0.0, 1.0}
                assert (inputs["lengths"][weights[0] == 0] == 1).all()
        assert shapes == set(shard.report().shapes)
        if options["buckets"] is not None:
            assert len(shapes) <= options["buckets"]
            assert len({length for _, length in shapes}) == len(shapes)
    assert fillers == shards[0].report().duplicated


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=40), OPTIONS)
def test_source_and_target_of_their_own_lengths(lengths, options):
    options |= {"remainder": "keep", "num_shards": 1}
    source, target = ([pair[side] for pair in lengths] for side in (0, 1))
    x = {"source": sequences(source, 0, kind="int32"), "target": sequences(target, 1, kind="int32")}
    y = sequences(target, 2, kind="int32")
    data = (
        LengthBucketing(x, y, lengths_as_input={"source": "source_length", "target": "target_length"}, **options)
        if (source != target)
        else LengthBucketing(x, y, lengths_as_input="length", **options)
    )
    found = []
    for index in range(len(data)):
        inputs, targets = data[index]
        lengths_of = [inputs.get(f"{name}_length", inputs.get("length")) for name in ("source", "target")]
        for row in range(len(targets)):
            number = int(targets[row, 0]) - 1
            found.append(number)
            for name, lengths_in in zip(("source", "target"), lengths_of, strict=True):
                got = unpadded(inputs[name][row], lengths_in[row], options["padding_value"])
                np.testing.assert_array_equal(got, x[name][number])
            np.testing.assert_array_equal(
                unpadded(targets[row], lengths_of[1][row], options["padding_value"]), y[number]
            )
    assert sorted(found) == list(range(len(lengths)))
    if options["buckets"] is not None and source != target:
        assert len(data.boundaries) <= options["buckets"]


def batches(data):
    return [keras.tree.flatten(data[index]) for index in range(len(data))]


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)


@given(OPTIONS)
def test_the_same_seed_gives_the_same_batches_from_any_worker_and_copy(options):
    lengths = np.random.default_rng(1).integers(1, 30, 80)
    options |= {"num_shards": 1, "remainder": "keep"}
    x, y = sequences(lengths, 0), np.arange(80)
    data = LengthBucketing(x, y, **options)
    expected = batches(data)
    assert_same(batches(data), expected)
    assert_same(batches(LengthBucketing(x, y, **(options | {"workers": 4 - options["workers"]}))), expected)
    assert_same(batches(pickle.loads(pickle.dumps(data))), expected)
    assert_same([keras.tree.flatten(batch) for batch in data], expected)
    data.epoch = 2
    later = batches(data)
    again = LengthBucketing(x, y, **options)
    again.epoch = 2
    assert_same([keras.tree.flatten(again[i]) for i in reversed(range(len(again)))][::-1], later)


def test_threads_that_ask_at_once_get_the_right_batches():
    from concurrent.futures import ThreadPoolExecutor

    lengths = np.random.default_rng(1).integers(1, 30, 300)
    for workers in (1, 4):
        data = LengthBucketing(sequences(lengths, 0), np.arange(300), batch_size=4, seed=0, workers=workers)
        expected = batches(data)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(data.__getitem__, [*range(len(data))] * 3))
        assert_same([keras.tree.flatten(batch) for batch in found], expected * 3)


def test_floating_values_leave_in_floatx_and_integers_as_they_are():
    x = [np.ones((3, 2)), np.ones((4, 2))]
    (frames, labels), *_ = LengthBucketing(x, [np.arange(3), np.arange(4)], seed=0)
    assert (frames.dtype, labels.dtype) == (np.float32, np.int64)
    keras.config.set_floatx("float64")
    assert LengthBucketing(x, seed=0)[0][0].dtype == np.float64


def test_rows_of_one_size_are_no_sequences():
    lengths = [2, 5, 9]
    one_hot = [np.eye(4)[label] for label in (0, 3, 1)]
    for y in (one_hot, np.array(one_hot), [row.tolist() for row in one_hot]):
        data = LengthBucketing(sequences(lengths, 0), y, batch_size=1, length_multiple=8, seed=0)
        assert {batch[1].shape for batch in data} == {(1, 4)}
    # As long as x, they are.
    data = LengthBucketing(sequences([4, 4, 4], 0), one_hot, batch_size=3, length_multiple=8, seed=0)
    assert data[0][1].shape == (3, 8)


def test_inputs_without_time_tuples_and_targets_in_a_dict():
    lengths = [2, 5, 9, 9]
    still = np.arange(8).reshape(4, 2)
    x, y = (sequences(lengths, 0), still), {"step": sequences(lengths, 1), "row": np.arange(4)}
    data = LengthBucketing(x, y, batch_size=3, buckets=1, remainder="fill", seed=0)
    (frames, rows), targets, weights = min(data, key=lambda batch: batch[2]["row"].sum())
    assert (frames.shape, rows.shape) == ((3, 9), (3, 2))
    assert {name: value.shape for name, value in targets.items()} == {"step": (3, 9), "row": (3,)}
    assert set(weights) == {"step", "row"}
    assert weights["row"].tolist() == [1, 0, 0]
    number = int(frames[0, 0]) - 1
    assert weights["step"].tolist() == [[step < lengths[number] for step in range(9)], [0] * 9, [0] * 9]
    np.testing.assert_array_equal(rows[0], still[number])


def test_flat_values_are_not_copied_and_parts_share_them():
    values, lengths = np.arange(100.0, dtype="float32"), np.array([10, 20, 30, 40])
    data = LengthBucketing((values, lengths), np.arange(4), seed=0, overlong="truncate", max_length=25)
    parts = data.split(0.5)
    for part in (data, *parts):
        kept = part._finite_source.fields.parts["x"].fields[0].data
        assert isinstance(kept, RaggedArray)
        assert np.shares_memory(kept.values, values)
        assert kept.lengths.max() <= 25


def test_split_shares_out_every_sequence_and_keeps_the_options():
    lengths = np.random.default_rng(0).integers(1, 50, 100)
    data = LengthBucketing(sequences(lengths, 0), np.arange(100), seed=4, batch_size=8)
    train, validation = data.split(0.2)
    rows = [sorted(row for _, y in part for row in y.tolist()) for part in (train, validation)]
    assert [len(part) for part in rows] == [80, 20]
    assert sorted(rows[0] + rows[1]) == list(range(100))
    assert [part.rows.tolist() for part in (train, validation)] == rows
    assert len(train.boundaries) == len(validation.boundaries) == 8
    assert not validation.options.shuffle
    again = LengthBucketing(sequences(lengths, 0), np.arange(100), seed=4, batch_size=8).split(0.2)[1]
    assert sorted(row for _, y in again for row in y.tolist()) == rows[1]


def test_options_round_trip_without_the_data():
    data = LengthBucketing(
        sequences([3, 9], 0),
        buckets=[4, 12],
        length_multiple=4,
        remainder="fill",
        seed=3,
        lengths_as_input="n",
        workers=2,
    )
    config = data.get_config()
    again = LengthBucketing.from_config(config, sequences([3, 9], 0))
    assert again.get_config() == config
    assert_same(batches(again), batches(data))
    assert keras.saving.get_registered_object("keras_seqx>LengthBucketing") is LengthBucketing


def test_keras_seeds_the_order_where_none_is_given():
    def first(seed):
        keras.utils.set_random_seed(seed)
        return [y.tolist() for _, y in LengthBucketing(sequences([5] * 50, 0), np.arange(50), batch_size=50)]

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize("shuffle", [True, False])
def test_workers_of_keras_are_not_used(shuffle):
    data = LengthBucketing(sequences([5] * 8, 0), shuffle=shuffle, seed=0, workers=4, use_multiprocessing=True)
    assert (data.workers, data.use_multiprocessing) == (1, False)
