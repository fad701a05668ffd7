"""`LengthBucketing.predict`: unpadded, in the order of the data, alike on every backend."""

import keras
import numpy as np
import pytest

from keras_seqx import KeepMask, LengthBucketing, SequenceMask
from tests.data.cases import sequences


def model_of(*outputs, features=2):
    """A masked model without randomness; each output is a function of its hidden states."""
    frames, lengths = keras.Input((None, features), name="inputs"), keras.Input((), dtype="int32", name="lengths")
    read = KeepMask(keras.layers.SimpleRNN(3, return_sequences=True))
    hidden = read(SequenceMask()([frames, lengths]))
    model = keras.Model({"inputs": frames, "lengths": lengths}, [output(hidden) for output in outputs])
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model


def steps(hidden):
    return keras.layers.Dense(4)(hidden)


def last(hidden):
    return keras.layers.Dense(5)(keras.layers.GlobalAveragePooling1D()(hidden))


def numbers(hidden):
    return keras.layers.Flatten()(keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(hidden)))


def expected(model, x):
    made = [model.predict_on_batch({"inputs": row[None], "lengths": np.array([len(row)], "int32")}) for row in x[:6]]
    return [[np.asarray(out[leaf][0]) for out in made] for leaf in range(len(made[0]))]


@pytest.mark.parametrize(
    "options",
    [{}, {"remainder": "fill"}, {"remainder": "drop"}, {"buckets": None}, {"num_shards": 2, "shard_index": 1}],
    ids=str,
)
def test_outputs_come_back_in_order(options):
    x, _ = sequences(30)
    data = (
        LengthBucketing(x, lengths_as_input="lengths", batch_size=4, buckets=3, seed=0)
        if not options
        else (LengthBucketing(x, lengths_as_input="lengths", batch_size=4, seed=0, **({"buckets": 3} | options)))
    )
    model = model_of(steps, last, numbers)
    per_step, per_row, single = data.predict(model, verbose=0)
    assert isinstance(per_step, list)
    assert [row.shape for row in per_step] == [(len(row), 4) for row in x]
    assert (per_row.shape, single.shape) == ((30, 5), (30, 1))
    for found, wanted in zip((per_step, per_row, single), expected(model, x), strict=True):
        for a, b in zip(found, wanted, strict=False):
            assert type(a) is np.ndarray
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("length", [4, 5])
def test_an_output_as_wide_as_the_only_length_is_no_sequence(length):
    """All sequences have 4 or 5 steps and the outputs 4 or 5 features: the model says which is time."""
    x = [np.ones((length, 2), "float32") * row for row in range(3)]
    data = LengthBucketing(x, lengths_as_input="lengths")
    per_step, per_row = data.predict(model_of(steps, last), verbose=0)
    assert [row.shape for row in per_step] == [(length, 4)] * 3
    assert per_row.shape == (3, 5)


def test_outputs_as_long_as_the_target():
    source, _ = sequences(20, features=2)
    target, _ = sequences(20, seed=9, features=3)
    first, second = keras.Input((None, 2), name="source"), keras.Input((None, 3), name="target")
    state = keras.layers.GlobalAveragePooling1D()(first)
    merged = keras.layers.Dense(4)(second) + keras.ops.expand_dims(keras.layers.Dense(4)(state), 1)
    model = keras.Model({"source": first, "target": second}, merged)
    data = LengthBucketing({"source": source, "target": target}, [row[:, :1] for row in target], batch_size=3, seed=0)
    found = data.predict(model, verbose=0)
    assert [len(row) for row in found] == [len(row) for row in target]


@pytest.mark.parametrize("batch_size", [3, 20])
def test_every_axis_that_follows_a_length_is_cut_to_it(batch_size):
    """A product of each step with each, of two sequences and of one with itself; a single batch leaves none open."""
    source, _ = sequences(20, features=2)
    target, _ = sequences(20, seed=9, features=2)
    first, second = keras.Input((None, 2), name="source"), keras.Input((None, 2), name="target")
    product = keras.layers.Dot(axes=2)
    outputs = {"crossed": product([second, first]), "own": product([first, first]), "fixed": 2 * first}
    model = keras.Model({"source": first, "target": second}, outputs)
    data = LengthBucketing({"source": source, "target": target}, batch_size=batch_size, seed=0)
    found = data.predict(model, verbose=0)
    for row, (s, t) in enumerate(zip(source, target, strict=True)):
        np.testing.assert_allclose(found["crossed"][row], t @ s.T, atol=1e-6, rtol=1e-5)
        np.testing.assert_allclose(found["own"][row], s @ s.T, atol=1e-6, rtol=1e-5)
        np.testing.assert_allclose(found["fixed"][row], 2 * s, rtol=1e-6)


def test_a_subclassed_model_and_outputs_in_a_dict():
    class Model(keras.Model):
        def call(self, x):
            return {"steps": x * 2, "mean": keras.ops.mean(x * 0 + 1, axis=1)}

    x, _ = sequences(20)
    found = LengthBucketing(x, batch_size=3, seed=0).predict(Model(), verbose=0)
    assert set(found) == {"steps", "mean"}
    for row, original in zip(found["steps"], x, strict=True):
        np.testing.assert_allclose(row, original * 2)
    assert found["mean"].shape == (20, 2)


def test_truncated_sequences_are_predicted_as_far_as_they_go():
    x, _ = sequences(20)
    data = LengthBucketing(x, overlong="truncate", max_length=5, lengths_as_input="lengths")
    assert [len(row) for row in data.predict(model_of(steps), verbose=0)] == [min(len(row), 5) for row in x]


def test_what_cannot_be_unpadded_is_refused():
    x, _ = sequences(20)

    class Halves(keras.Model):
        def call(self, x):
            return x[:, ::2]

    with pytest.raises(ValueError, match="the output of `model` must have a step for each step of its input"):
        LengthBucketing(x, batch_size=3, seed=0).predict(Halves(), verbose=0)
    with pytest.raises(ValueError, match="`overlong` must be one that keeps all sequences"):
        LengthBucketing(x, overlong="drop", max_length=5).predict(Halves(), verbose=0)


def test_a_bar_shows_progress(capsys):
    x, _ = sequences(20)
    LengthBucketing(x, lengths_as_input="lengths", batch_size=4).predict(model_of(steps))
    assert "/step" in capsys.readouterr().out
