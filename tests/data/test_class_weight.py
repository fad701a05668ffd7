"""Weights of classes: for each sequence or each step, whatever else weighs them, against NumPy."""

import json

import keras
import numpy as np
import pytest

from keras_seqx import LengthBucketing
from tests.cases import numpy_alone
from tests.data.cases import sequences, tagger

WEIGHT = {0: 0.25, 2: 3.0}  # class 1 has none, so 1
TABLE = np.array([0.25, 1.0, 3.0])


def expected_steps(y, row, padded, weights=1.0):
    made = np.zeros(padded, "float32")
    made[: len(y[row])] = (TABLE[y[row]] * weights).astype("float32")
    return made


def weights_of(data, targets=lambda weights: weights):
    """The weights of each sequence, by its number; those of filler rows are 0."""
    found = {}
    for index in range(len(data)):
        x, _, weights = data[index]
        x = x[0] if isinstance(x, tuple) else x
        for row, weight in zip(x, targets(weights), strict=True):
            if np.any(weight):
                found[int(row[0, 0]) - 1] = weight
    return found


@numpy_alone
@pytest.mark.parametrize("remainder", ["keep", "fill"])
@pytest.mark.parametrize("weighting", [None, "row", "step"])
@pytest.mark.parametrize("labels", ["integers", "last axis of 1", "one-hot", "floats"])
def test_steps_weigh_as_their_classes(remainder, weighting, labels):
    x, y = sequences(30)
    rng = np.random.default_rng(3)
    given = {"row": rng.random(30) + 0.5, "step": [rng.random(len(row)) + 0.5 for row in x]}.get(weighting)
    turned = {
        "integers": y,
        "last axis of 1": [row[:, None] for row in y],
        "one-hot": [np.eye(3, dtype="float32")[row] for row in y],
        "floats": [row.astype("float32") for row in y],
    }[labels]
    data = LengthBucketing(
        x, turned, given, class_weight=WEIGHT, batch_size=4, buckets=3, remainder=remainder, padding_value=2, seed=0
    )
    found = weights_of(data)
    assert set(found) == set(range(30))
    for row, weight in found.items():
        factor = 1.0 if given is None else given[row]
        np.testing.assert_allclose(weight, expected_steps(y, row, len(weight), factor), rtol=1e-6)


@numpy_alone
@pytest.mark.parametrize("labels", ["integers", "list", "last axis of 1", "one-hot"])
def test_sequences_weigh_as_their_classes(labels):
    x, steps = sequences(30)
    y = np.array([row[0] for row in steps])
    turned = {"integers": y, "list": y.tolist(), "last axis of 1": y[:, None], "one-hot": np.eye(3)[y]}[labels]
    given = np.linspace(0.5, 2, 30)
    data = LengthBucketing(x, turned, given, class_weight=WEIGHT, batch_size=4, remainder="fill", seed=0)
    found = weights_of(data)
    assert set(found) == set(range(30))
    np.testing.assert_allclose([found[row] for row in range(30)], TABLE[y] * given, rtol=1e-6)


@numpy_alone
def test_each_of_several_targets_has_its_own_classes():
    x, steps = sequences(20)
    y = {"steps": steps, "first": np.array([row[0] for row in steps]), "free": np.arange(20.0)}
    given = {"steps": WEIGHT, "first": {1: 5.0}}
    data = LengthBucketing(x, y, class_weight=given, batch_size=3, seed=0)
    for row, weight in weights_of(data, lambda w: w["steps"]).items():
        np.testing.assert_allclose(weight, expected_steps(steps, row, len(weight)))
    for row, weight in weights_of(data, lambda w: w["first"]).items():
        assert weight == (5 if y["first"][row] == 1 else 1)
    assert set(weights_of(data, lambda w: w["free"]).values()) == {1.0}
    tuples = LengthBucketing(x, (steps, y["first"].tolist()), class_weight={0: WEIGHT}, batch_size=3, seed=0)
    for row, weight in weights_of(tuples, lambda w: w[0]).items():
        np.testing.assert_allclose(weight, expected_steps(steps, row, len(weight)))


@numpy_alone
def test_parts_shards_and_streams_have_them_too():
    x, y = sequences(40)
    options = {"class_weight": WEIGHT, "batch_size": 2, "seed": 0}
    train, validation = LengthBucketing(x, y, **options).split(0.25)
    shards = [LengthBucketing(x, y, num_shards=2, shard_index=shard, **options) for shard in (0, 1)]
    stream = LengthBucketing(zip(x, y, strict=True), window=15, **options)
    streamed = {int(row[0, 0]) - 1: weight for batch in stream for row, weight in zip(batch[0], batch[2], strict=True)}
    for parts in ([train, validation], shards):
        found = {row: weight for part in parts for row, weight in weights_of(part).items()}
        assert set(found) == set(range(40))
        for row, weight in found.items():
            np.testing.assert_allclose(weight, expected_steps(y, row, len(weight)))
    assert set(streamed) == set(range(40))
    for row, weight in streamed.items():
        np.testing.assert_allclose(weight, expected_steps(y, row, len(weight)))


@numpy_alone
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("weighting", [None, "class", "sample"])
def test_normalized_weights_of_all_shards_add_up_to_one(shards, weighting):
    x, y = sequences(25)
    given = np.linspace(0.5, 2, 25)
    data = [
        LengthBucketing(
            x, y, given if weighting == "sample" else None, batch_size=2, buckets=2, seed=0, remainder="fill",
            class_weight=WEIGHT if weighting == "class" else None, normalize_weights=True, num_shards=shards,
            shard_index=shard,
        )
        for shard in range(shards)
    ]  # fmt: skip
    for index in range(len(data[0])):
        batches = [part[index] for part in data]
        together = np.concatenate([weights for *_, weights in batches])
        np.testing.assert_allclose(together.sum(), 1, rtol=1e-6)
        numbers = np.concatenate([batch[0][:, 0, 0] for batch in batches]).astype(int) - 1
        raw = np.zeros_like(together)
        for place in np.flatnonzero(together.any(axis=1)):
            row = numbers[place]
            factor = {None: 1.0, "class": TABLE[y[row]], "sample": given[row]}[weighting]
            raw[place, : len(y[row])] = np.ones(len(y[row])) * factor
        np.testing.assert_allclose(together, raw / raw.sum(), rtol=1e-5)


@numpy_alone
def test_options_round_trip_through_json():
    x, y = sequences(8)
    for y_given, class_weight in ((y, WEIGHT), ({"a": y}, {"a": WEIGHT}), (y, {np.int64(0): np.float32(2)})):
        data = LengthBucketing(x, y_given, class_weight=class_weight, normalize_weights=True, seed=0)
        config = json.loads(json.dumps(data.get_config()))
        again = LengthBucketing.from_config(config, x, y_given)
        assert again.get_config() == data.get_config()
        assert again.normalize_weights
        np.testing.assert_array_equal(keras.tree.flatten(again[0][2])[0], keras.tree.flatten(data[0][2])[0])


def test_fit_weighs_as_numpy_does():
    x, y = sequences(12)
    data = LengthBucketing(
        x, y, class_weight=WEIGHT, batch_size=12, buckets=1, shuffle=False, lengths_as_input="lengths"
    )
    model = tagger(reduction="mean_with_sample_weight")
    total = divisor = 0.0
    for frames, labels in zip(x, y, strict=True):
        logits = model.predict_on_batch({"inputs": frames[None], "lengths": np.array([len(frames)])})[0]
        logits = logits.astype("float64") - logits.max(axis=-1, keepdims=True)
        entropy = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(labels)), labels]
        total, divisor = total + (TABLE[labels] * entropy).sum(), divisor + TABLE[labels].sum()
    results = model.evaluate(data, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(total / divisor, abs=1e-5)
    assert np.isfinite(model.fit(data, shuffle=False, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    "case", ["steps", "one-hot steps", "weights", "fillers", "class weights", "targets", "fixed", "stream"]
)
def test_the_argument_of_fit_is_refused_where_keras_would_weigh_wrongly(case):
    """With as many steps as rows, Keras on TensorFlow would go on with the wrong weights."""
    x = [np.ones((4, 2), "float32")] * 5
    y, row = [np.array([0, 1, 2, 1])] * 5, np.zeros(5, "int32")
    data = {
        "steps": lambda: LengthBucketing(x, y, batch_size=4),
        "one-hot steps": lambda: LengthBucketing(x, [np.eye(3)[labels] for labels in y], batch_size=4),
        "weights": lambda: LengthBucketing(x, row, np.ones(5), batch_size=4),
        "fillers": lambda: LengthBucketing(x, row, batch_size=4, remainder="fill"),
        "class weights": lambda: LengthBucketing(x, row, batch_size=4, class_weight={0: 2.0}),
        "fixed": lambda: LengthBucketing(x, np.ones((5, 5), "int32"), batch_size=4),
        "targets": lambda: LengthBucketing(x, {"a": row, "b": row}, batch_size=4),
        "stream": lambda: LengthBucketing(iter(zip(x, y, strict=True)), batch_size=4),
    }[case]()
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="LengthBucketing: `class_weight` must be given to the data set, not to `fit`"):
        model.fit(data, class_weight={0: 2.0}, shuffle=False, verbose=0)


X, Y = [np.ones((3, 2)), np.ones((2, 2))], [[0, 1, 2], [1, 1]]
CASES = {
    "no targets": ({"class_weight": {0: 1.0}}, ValueError, "`class_weight` must be None where `y` is"),
    "a list": ({"y": Y, "class_weight": [1.0, 2.0]}, TypeError, "`class_weight` must be a dict"),
    "negative": ({"y": Y, "class_weight": {0: -1.0}}, ValueError, "of finite weights of at least 0"),
    "nan": ({"y": Y, "class_weight": {0: float("nan")}}, ValueError, "of finite weights of at least 0"),
    "text": ({"y": Y, "class_weight": {0: "a"}}, TypeError, "`class_weight` must be a dict `{class: weight}`"),
    "names": ({"y": Y, "class_weight": {"cat": 1.0}}, TypeError, "with integers for keys"),
    "fractions": ({"y": [[0.5, 1], [1]], "class_weight": {0: 1.0}}, TypeError, "`y` must be whole numbers"),
    "no one-hot": ({"y": np.ones((2, 3)), "class_weight": {0: 1.0}}, TypeError, "`y` must be integers, or one-hot"),
    "vectors": (
        {"y": [np.ones((3, 4)), np.ones((2, 4))], "class_weight": {0: 1.0}},
        TypeError,
        "`y` must be integers, or one-hot",
    ),
    "flat for several": ({"y": {"a": Y}, "class_weight": {0: 1.0}}, ValueError, "where `y` has several targets"),
    "other target": ({"y": {"a": Y}, "class_weight": {"b": {0: 1.0}}}, ValueError, "where `y` has several targets"),
    "nested for one": ({"y": Y, "class_weight": {0: {0: 1.0}}}, TypeError, "the weight of class 0"),
    "normalize": ({"y": Y, "normalize_weights": 1}, TypeError, "`normalize_weights` must be True or False"),
}


@numpy_alone
@pytest.mark.parametrize("case", CASES)
def test_bad_arguments(case):
    arguments, error, text = CASES[case]
    with pytest.raises(error, match=text) as raised:
        LengthBucketing(X, **arguments)
    assert str(raised.value).startswith("LengthBucketing: `")
