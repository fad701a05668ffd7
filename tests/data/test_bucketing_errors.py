"""Bad input gets one error, which names the argument and says how to mend it."""

import keras
import numpy as np
import pytest

from keras_seqx import LengthBucketing, LengthCurriculum, PaddingMonitor

X = [np.ones((length, 2), "float32") for length in (3, 5, 9)]
NAN = float("nan")

CASES = {
    "no data": ({"x": None}, TypeError, "`x` must be sequences"),
    "empty data": ({"x": []}, ValueError, "`x` must be of at least 1 sequence"),
    "empty dict": ({"x": {}}, ValueError, "`x` must be a structure with something in it"),
    "empty sequence": ({"x": [*X, np.ones((0, 2), "float32")]}, ValueError, "`x` must be of at least 1 step"),
    "empty target": ({"x": X, "y": [[1], [], [1, 2]]}, ValueError, "`y` must be of at least 1 step"),
    "nan lengths": ({"x": (np.ones(3), np.array([1.0, NAN]))}, TypeError, r"integers \(R,\)"),
    "fewer targets": ({"x": X, "y": [0, 1]}, ValueError, "`y` must be of 3 rows"),
    "more targets": ({"x": X, "y": [[0, 1]] * 4}, ValueError, "`y` must be of 3 rows"),
    "fewer weights": (
        {"x": X, "y": [0, 1, 2], "sample_weight": [1.0]},
        ValueError,
        "`sample_weight` must be of 3 rows",
    ),
    "weights of other steps": (
        {"x": X, "y": [0, 1, 2], "sample_weight": [[1.0], [1.0, 2.0], [1.0]]},
        ValueError,
        "`sample_weight` must be one number for each sequence, or as long as `x` or `y`",
    ),
    "nan weights": (
        {"x": X, "y": [0, 1, 2], "sample_weight": [1.0, NAN, 1.0]},
        ValueError,
        "`sample_weight` must be finite",
    ),
    "weights without targets": ({"x": X, "sample_weight": [1.0] * 3}, ValueError, "`sample_weight` must be None where"),
    "weights of another structure": (
        {"x": X, "y": {"a": [0, 1, 2]}, "sample_weight": {"b": [1.0, 1.0, 1.0]}},
        ValueError,
        "`sample_weight` must be of the structure of `y`",
    ),
    "parts of other rows": ({"x": {"a": X, "b": X[:2]}}, ValueError, r"`x\['b'\]` must be of 3 rows"),
    "ragged inside": ({"x": [np.ones((3, 2)), np.ones((3, 4))]}, ValueError, "one shape|as in row 0|shape"),
    "mixed dtypes": ({"x": [np.ones(3), np.ones(3, "int32")]}, TypeError, "arrays of one dtype"),
    "text": ({"x": [["a", "b"], ["c"]]}, TypeError, "numbers"),
    "text targets": ({"x": X, "y": np.array(["a", "b", "c"])}, TypeError, "`y` must be"),
    "numbers for sequences": ({"x": [1, 2, 3]}, TypeError, "`x` must be a sequence in each row"),
    "arrays alone": ({"x": {"a": np.ones((3, 4))}}, ValueError, "`x` must be sequences, in one of its parts"),
    "unsorted": ({"x": X, "buckets": [9, 5]}, ValueError, "`buckets` must be increasing integers of at least 1"),
    "repeated": ({"x": X, "buckets": [9, 9]}, ValueError, "`buckets` must be increasing"),
    "no boundary": ({"x": X, "buckets": []}, ValueError, "`buckets` must be increasing"),
    "fractions": ({"x": X, "buckets": [4.5, 9.0]}, ValueError, "`buckets` must be increasing"),
    "pairs for one length": ({"x": X, "buckets": [(3, 4), (9, 9)]}, ValueError, "`buckets` must be increasing"),
    "one length for pairs": ({"x": X, "y": [[1], [1, 2], [1]], "buckets": [9]}, ValueError, "2 integers of at least 1"),
    "boundary too short": ({"x": X, "buckets": [4, 8]}, ValueError, "1 are longer, the first at 2 with 9 steps"),
    "no multiple": ({"x": X, "buckets": [5, 12], "length_multiple": 4}, ValueError, "multiples of `length_multiple`=4"),
    "zero buckets": ({"x": X, "buckets": 0}, ValueError, "`buckets` must be an integer of at least 1"),
    "buckets by name": ({"x": X, "buckets": "auto"}, TypeError, "`buckets` must be an integer of at least 1"),
    "longer than the limit": ({"x": X, "max_length": 8}, ValueError, "`max_length` must be no less than the longest"),
    "all dropped": ({"x": X, "max_length": 2, "overlong": "drop"}, ValueError, "or all are dropped"),
    "budget": ({"x": X, "max_tokens": 8}, ValueError, "`max_tokens` must be at least 9"),
    "budget without buckets": (
        {"x": X, "max_tokens": 8, "buckets": None},
        ValueError,
        "`max_tokens` must be at least 9",
    ),
    "budget with fillers": (
        {"x": X, "max_tokens": 8, "remainder": "fill"},
        ValueError,
        "`max_tokens` must be at least 9",
    ),
    "nothing left": ({"x": X, "remainder": "drop"}, ValueError, "`remainder` must be such that a batch is left"),
    "batch size": ({"x": X, "batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1"),
    "fractional batch": ({"x": X, "batch_size": 2.5}, TypeError, "`batch_size` must be an integer of at least 1"),
    "multiple": ({"x": X, "length_multiple": 0}, ValueError, "`length_multiple` must be"),
    "remainder": ({"x": X, "remainder": "pad"}, ValueError, "`remainder` must be one of"),
    "overlong": ({"x": X, "overlong": "cut"}, ValueError, "`overlong` must be one of"),
    "shard": (
        {"x": X, "num_shards": 2, "shard_index": 2, "seed": 0},
        ValueError,
        "`shard_index` must be an integer within",
    ),
    "negative shard": ({"x": X, "shard_index": -1}, ValueError, "`shard_index` must be an integer within"),
    "no shards": ({"x": X, "num_shards": 0}, ValueError, "`num_shards` must be an integer of at least 1"),
    "shards without seed": ({"x": X, "num_shards": 2}, ValueError, "`seed` must be an integer where shards shuffle"),
    "negative seed": ({"x": X, "seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
    "fractional seed": ({"x": X, "seed": 0.5}, ValueError, "`seed` must be an integer of at least 0"),
    "padding": ({"x": [[1, 2], [3]], "padding_value": 0.5}, ValueError, "`padding_value` must be a number"),
    "name taken": (
        {"x": {"n": X}, "lengths_as_input": "n"},
        ValueError,
        "`lengths_as_input` must be a name of its own",
    ),
    "two lengths": (
        {"x": {"a": X, "b": X[::-1]}, "lengths_as_input": "n"},
        ValueError,
        "`lengths_as_input` must be a dict where the components of `x` differ",
    ),
    "unknown part": (
        {"x": {"a": X}, "lengths_as_input": {"b": "n"}},
        ValueError,
        "`lengths_as_input` must be an input's",
    ),
    "misspelt": ({"x": X, "bucket": 8}, TypeError, "`bucket` must be a known argument.*Did you mean `buckets`"),
    "misspelt for Keras": ({"x": X, "worker": 8}, TypeError, "Did you mean `workers`"),
    "of another class": ({"x": X, "drop_last": True}, TypeError, "The arguments are `batch_size`, `buckets`"),
    "window": ({"x": iter([X[0]]), "window": 0}, ValueError, "`window` must be an integer of at least 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_arguments(case):
    arguments, error, text = CASES[case]
    with pytest.raises(error, match=text) as raised:
        LengthBucketing(**arguments)
    assert str(raised.value).startswith("LengthBucketing: `")
    assert "Received: `" in str(raised.value)


def test_an_index_out_of_range():
    data = LengthBucketing(X, batch_size=1)
    for index in (3, -4):
        with pytest.raises(IndexError, match="an epoch has 3 batches"):
            data[index]
    for one, other in zip(keras.tree.flatten(data[-1]), keras.tree.flatten(data[2]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("fraction", [0, 1, 0.01, -1, 2])
def test_bad_fractions(fraction):
    with pytest.raises(ValueError, match="`fraction` must be within"):
        LengthBucketing(X).split(fraction)


def test_targets_that_nearly_have_the_steps_of_the_inputs_warn():
    x = [[1] * length for length in range(1, 21)]
    y = [*x[:-1], [1] * 19]
    with pytest.warns(UserWarning, match=r"as long as `x` in all but 1 of 20 rows \(row 19 has 19 steps, in `x` 20\)"):
        LengthBucketing(x, y)


def test_callbacks_want_the_data():
    for callback in (PaddingMonitor, LengthCurriculum):
        with pytest.raises(TypeError, match="`data` must be a LengthBucketing"):
            callback([1, 2])
    with pytest.raises(ValueError, match="`schedule` must be an integer of at least 1"):
        LengthCurriculum(LengthBucketing(X), 0)
    with pytest.raises(ValueError, match=r"`schedule` must be a number within \[0, 1\]"):
        LengthCurriculum(LengthBucketing(X), lambda epoch: 2.0).by_length(0)


@pytest.mark.parametrize("model", [None, "model", keras.Model])
def test_predict_without_a_model(model):
    with pytest.raises(TypeError, match="LengthBucketing: `model` must be a Keras model"):
        LengthBucketing(X).predict(model)
