"""`fit`, `evaluate` and their options over a LengthBucketing: what is trained on, and what it adds up to."""

import logging
import warnings

import keras
import numpy as np
import pytest

from keras_seqx import LengthBucketing
from tests.cases import BACKEND
from tests.data.cases import recording_model, rows_of, sequences, tagger


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("multiprocessing", [False, True])
def test_fit_trains_on_each_batch_of_each_epoch_once_in_order(workers, multiprocessing):
    x, _ = sequences()
    data = LengthBucketing(
        x, np.zeros(len(x)), batch_size=4, seed=2, workers=workers, use_multiprocessing=multiprocessing
    )
    model, seen = recording_model()
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert seen == rows_of(data, 0) + rows_of(data, 1)
    model.fit(data, epochs=1, shuffle=False, verbose=0)
    assert seen[2 * len(data) :] == rows_of(data, 2)
    assert data.epoch == 3


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_an_epoch_of_few_batches_is_not_skipped(count):
    x, _ = sequences(count)
    data = LengthBucketing(x, np.zeros(count), batch_size=2, buckets=1, seed=2)
    model, seen = recording_model()
    model.build((None, None, 2))
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    # To build the model, Keras asks for a batch in an epoch of its own, on JAX for one more ahead of that: where these
    # are all there are, they look like an epoch of training.
    if len(data) > {"tensorflow": 0, "torch": 1, "jax": 2}[BACKEND]:
        assert seen == rows_of(data, 0) + rows_of(data, 1)
    for epoch in (seen[: len(data)], seen[len(data) :]):
        assert sorted(row for batch in epoch for row in batch) == list(range(1, count + 1))


def test_part_of_an_epoch_at_a_time():
    x, _ = sequences()
    data = LengthBucketing(x, np.zeros(len(x)), batch_size=4, seed=2)
    model, seen = recording_model()
    model.fit(data, epochs=4, steps_per_epoch=len(data) // 2 + len(data) % 2, shuffle=False, verbose=0)
    assert seen[: len(data)] == rows_of(data, 0)
    assert seen[len(data) : 2 * len(data)] == rows_of(data, 1)[: len(seen) - len(data)]


def test_validation_and_evaluation_do_not_disturb_training():
    x, _ = sequences()
    data, validation = LengthBucketing(x, np.zeros(len(x)), batch_size=4, seed=2).split(0.3)
    model, seen = recording_model()
    model.fit(data, validation_data=validation, epochs=2, initial_epoch=0, shuffle=False, verbose=0)
    model.evaluate(validation, verbose=0)
    numbers = [int(x[0, 0]) for x in data._finite_source.given.parts["x"].fields[0].data]
    assert seen == [[numbers[row - 1] for row in batch] for batch in rows_of(data, 0) + rows_of(data, 1)]


def test_fit_that_would_shuffle_once_more_warns():
    x, _ = sequences()
    data = LengthBucketing(x, np.zeros(len(x)), batch_size=4, seed=2)
    model, seen = recording_model()
    with pytest.warns(UserWarning, match="LengthBucketing: `fit` shuffles the batches once more"):
        model.fit(data, epochs=2, verbose=0)
    # Even so each epoch has every sequence once.
    for epoch in (seen[: len(data)], seen[len(data) :]):
        assert sorted(row for batch in epoch for row in batch) == list(range(1, len(x) + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data = LengthBucketing(x, np.zeros(len(x)), batch_size=4, seed=2)
        model.fit(data, epochs=1, shuffle=False, verbose=0)


def alone(model, x, y):
    """The loss of each sequence by itself, unpadded."""
    losses = []
    for frames, target in zip(x, y, strict=True):
        losses.append(
            model.test_on_batch({"inputs": frames[None], "lengths": np.array([len(frames)])}, target[None])[0]
        )
        model.reset_metrics()
    return np.array(losses)


@pytest.mark.parametrize("remainder", ["keep", "fill"])
def test_steps_of_a_batch_count_as_they_do_alone(remainder):
    x, y = sequences(30)
    model = tagger(reduction="mean_with_sample_weight" if remainder == "fill" else "sum_over_batch_size")
    weights = np.random.default_rng(3).random(30).astype("float32") + 0.5
    options = {"batch_size": 4, "buckets": 3, "remainder": remainder, "seed": 0, "lengths_as_input": "lengths"}
    data, weighted = LengthBucketing(x, y, **options), LengthBucketing(x, y, weights, **options)
    each, steps = alone(model, x, y), np.array([len(row) for row in x])
    for index in range(len(data)):
        rows = np.array(rows_of(data, 0)[index]) - 1
        loss, metric = model.test_on_batch(*data[index])
        assert loss == pytest.approx(np.average(each[rows], weights=steps[rows]), abs=1e-5)
        assert metric == pytest.approx(loss, abs=1e-5)
        model.reset_metrics()
        loss, metric = model.test_on_batch(*weighted[index])
        expected = np.average(each[rows], weights=(steps * weights)[rows])
        assert metric == pytest.approx(expected, abs=1e-5)
        if remainder == "fill":
            assert loss == pytest.approx(expected, abs=1e-5)
        model.reset_metrics()


@pytest.mark.parametrize("remainder", ["keep", "fill"])
def test_steps_of_an_epoch_of_one_length_count_as_they_do_alone(remainder):
    """Keras' metrics divide the sums of a batch by its padded length, so they add up where that is the same."""
    x, y = sequences(30)
    model = tagger(reduction="mean_with_sample_weight")
    weights = np.random.default_rng(3).random(30).astype("float32") + 0.5
    each, steps = alone(model, x, y), np.array([len(row) for row in x])
    for given in (None, weights):
        data = LengthBucketing(
            x, y, given, batch_size=4, buckets=1, remainder=remainder, seed=0, lengths_as_input="lengths"
        )
        expected = np.average(each, weights=steps if given is None else steps * weights)
        assert model.evaluate(data, verbose=0, return_dict=True)["entropy"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("remainder", ["keep", "fill"])
def test_targets_of_a_sequence_count_as_they_do_alone(remainder):
    x, _ = sequences(30)
    y = np.random.default_rng(1).integers(0, 3, 30)
    model = tagger(per_step=False, reduction="mean_with_sample_weight")
    weights = np.random.default_rng(3).random(30).astype("float32") + 0.5
    each = alone(model, x, y[:, None])
    for given in (None, weights):
        data = LengthBucketing(
            x, y, given, batch_size=4, buckets=3, remainder=remainder, seed=0, lengths_as_input="lengths"
        )
        results = model.evaluate(data, verbose=0, return_dict=True)
        assert results["entropy"] == pytest.approx(np.average(each, weights=given), abs=1e-5)
        if remainder == "keep" and given is None:
            assert results["loss"] == pytest.approx(each.mean(), abs=1e-5)


@pytest.mark.parametrize("case", ["class_weight", "sample_weight", "step_weight", "fill", "drop", "max_tokens"])
def test_fit_with(case):
    x, steps = sequences(40)
    per_step = case in ("step_weight", "fill")
    y = steps if per_step else np.array([row[0] for row in steps])
    weight = {"sample_weight": np.linspace(0.5, 1, 40), "step_weight": [np.ones(len(row)) for row in x]}.get(case)
    options = {"fill": {"remainder": "fill"}, "drop": {"remainder": "drop"}, "max_tokens": {"max_tokens": 60}}
    data = LengthBucketing(
        x, y, weight, batch_size=6, buckets=2, seed=0, lengths_as_input="lengths", **options.get(case, {})
    )
    train, validation = data.split(0.25)
    fit = {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}} if case == "class_weight" else {}
    model = tagger(per_step=per_step)
    history = model.fit(
        train, validation_data=validation, epochs=4, initial_epoch=2, steps_per_epoch=3, shuffle=False, verbose=0, **fit
    )
    assert history.epoch == [2, 3]
    assert np.isfinite(history.history["loss"] + history.history["val_loss"]).all()


def test_class_weights_change_the_loss_as_weights_of_sequences_do():
    x, steps = sequences(40)
    y = np.array([row[0] for row in steps])
    by_class = {0: 1.0, 1: 2.0, 2: 0.5}
    ends = []
    for weight, fit in ((None, {"class_weight": by_class}), (np.array([by_class[c] for c in y]), {})):
        data = LengthBucketing(x, y, weight, batch_size=6, buckets=2, seed=0, lengths_as_input="lengths")
        model = tagger(per_step=False)
        model.fit(data, epochs=2, shuffle=False, verbose=0, **fit)
        ends.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(*ends, atol=1e-6)


def test_padding_trains_to_the_same_weights():
    """Much padding or little, in rows and in steps: the same weights after an epoch of the same batches."""
    x, y = sequences(24)
    ends = []
    for options in ({}, {"length_multiple": 16}, {"remainder": "fill"}):
        data = LengthBucketing(
            x, y, batch_size=5, buckets=1, shuffle=False, lengths_as_input="lengths", padding_value=2, **options
        )
        model = tagger(reduction="mean_with_sample_weight")
        model.fit(data, epochs=2, shuffle=False, verbose=0)
        ends.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)
    np.testing.assert_allclose(ends[2], ends[0], atol=1e-5)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("resumed", [False, True])
def test_the_first_batches_do_not_fix_the_shape(shuffle, resumed):
    """Of 41 batches 40 have one length, so any two in a row have, save those that are put first on purpose."""
    x = [np.ones((3, 2), "float32")] * 40 + [np.ones((9, 2), "float32")]
    data = LengthBucketing(x, np.zeros(41), batch_size=1, buckets=2, seed=0, shuffle=shuffle)
    if resumed:
        data.position = 10
    model = keras.Sequential([keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    history = model.fit(data, epochs=3, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 3
    assert data.epoch == 3


@pytest.mark.skipif(BACKEND != "jax", reason="counts compilations of JAX")
@pytest.mark.parametrize("remainder", ["keep", "fill"])
def test_fit_compiles_one_program_for_each_shape(remainder, caplog):
    import jax

    x, y = sequences(50)
    data = LengthBucketing(x, y, batch_size=8, buckets=3, remainder=remainder, seed=0, lengths_as_input="lengths")
    model = tagger(reduction="mean_with_sample_weight")
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        model.fit(data, epochs=3, shuffle=False, verbose=0)
    programs = [r for r in caplog.messages if r.startswith("Compiling") and "step" in r.split("with")[0]]
    assert 0 < len(programs) <= len(data.report().shapes)
