"""Samplers: the distributions they claim, from noise drawn beforehand, in every compiled loop."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_seqx._core import control_flow
from keras_seqx.generation import samplers
from keras_seqx.testing import execution
from keras_seqx.testing.execution import to_numpy
from tests.reference import processors as reference

DRAWS = 40_000
LOGITS = np.array([0.3, -1.2, 1.1, -np.inf, 0.9, -0.4, 1.1], "float32")

SAMPLERS = {
    "plain": {},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.9},
    "top k": {"top_k": 3},
    "top p": {"top_p": 0.77},
    "min p": {"min_p": 0.3},
    "all": {"temperature": 1.4, "top_k": 5, "top_p": 0.93, "min_p": 0.2},
}


def distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The probabilities by which a token should come, in float64."""
    x = logits.astype("float64") / temperature
    for function, argument in ((reference.top_k, top_k), (reference.top_p, top_p), (reference.min_p, min_p)):
        x = x if argument is None else function(x, None, None, argument)
    return reference.softmax(x)


def assert_drawn_from(counts, probabilities):
    """Chi-square: counts that would come less often than once in 10,000 times fail."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * counts.sum()
    assert expected.min() > 5
    statistic, freedom = ((counts[possible] - expected) ** 2 / expected).sum(), possible.sum() - 1
    if freedom:  # Wilson and Hilferty's normal deviate
        spread = 2 / (9 * freedom)
        assert ((statistic / freedom) ** (1 / 3) - 1 + spread) / np.sqrt(spread) < 3.72


def draw(sampler, logits, steps, seed=0, mode="eager"):
    """Ids (DRAWS, steps) from the same logits everywhere."""
    outputs = ops.broadcast_to(ops.convert_to_tensor(logits), (DRAWS, len(logits)))
    noise = sampler.noise(DRAWS, steps, len(logits), keras.random.SeedGenerator(seed))
    run = execution.compiled(sampler, mode)
    return np.stack([to_numpy(run(outputs, noise[:, t])) for t in range(steps)], axis=1)


@pytest.mark.parametrize("mode", execution.modes())
@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_from_the_exact_distribution(name, mode):
    ids = draw(samplers.Categorical(**SAMPLERS[name]), LOGITS, 1, mode=mode)
    assert ids.dtype == "int32"
    assert_drawn_from(np.bincount(ids[:, 0], minlength=len(LOGITS)), distribution(LOGITS, **SAMPLERS[name]))


def test_rows_and_steps_are_independent():
    sampler = samplers.Categorical(temperature=1.4)
    probabilities = distribution(LOGITS, temperature=1.4)
    pairs = np.outer(probabilities, probabilities).reshape(-1)
    ids = draw(sampler, LOGITS, 2)
    for first, second in ((ids[:, 0], ids[:, 1]), (ids[::2, 0], ids[1::2, 0]), (ids[:-1:2, 1], ids[1::2, 0])):
        assert_drawn_from(np.bincount(first * len(LOGITS) + second, minlength=len(pairs)), pairs)


def test_a_seed_repeats():
    sampler = samplers.Categorical()
    first, again, other = (draw(sampler, LOGITS, 2, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("mode", execution.modes())
def test_inverts_the_cumulative_distribution(mode):
    run = execution.compiled(samplers.Categorical(), mode)

    @given(
        logits=st.lists(st.one_of(st.floats(-9, 9, width=32), st.just(-np.inf)), min_size=6, max_size=6),
        noise=st.lists(st.floats(0, 1 - 2**-24, width=32), min_size=4, max_size=4),
    )
    def check(logits, noise):
        logits = np.array([*logits, -20], "float32")
        noise = np.array([*noise, 0, 1 - 2**-24], "float32")
        ids = to_numpy(run(ops.tile(ops.convert_to_tensor(logits)[None], (6, 1)), ops.convert_to_tensor(noise)))
        probabilities = reference.softmax(logits)
        assert (probabilities[ids] > 0).all()
        sums = np.cumsum(probabilities)
        assert (noise <= sums[ids] + 1e-6).all()
        assert (noise >= sums[ids] - probabilities[ids] - 1e-6).all()

    check()


@pytest.mark.parametrize("mode", execution.modes())
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_what_has_no_probability_never_comes(dtype, mode):
    # Long enough that sums are taken in blocks, with nothing likely at the ends or between, at every noise there is.
    vocabulary, rng = 3000, np.random.default_rng(0)
    logits = np.where(rng.uniform(size=(64, vocabulary)) < 0.1, rng.normal(size=(64, vocabulary)), -np.inf)
    logits[:, :500] = logits[:, -500:] = -np.inf
    logits[:, ::7] = -30000  # its exponential is zero
    noise = rng.uniform(size=(64, 40)).astype("float32")
    noise[:, 0], noise[:, 1], noise[:, 2] = 0, 1 - 2**-24, 2**-24
    outputs = ops.repeat(ops.cast(logits, dtype), 40, axis=0)
    ids = to_numpy(execution.compiled(samplers.Categorical(), mode)(outputs, noise.reshape(-1)))
    assert (np.repeat(logits, 40, axis=0)[np.arange(64 * 40), ids] > -30000).all()


def test_ties_and_a_vocabulary_of_one():
    logits = ops.convert_to_tensor(np.array([[0, 2, 2, 1]], "float32"))
    assert to_numpy(samplers.Greedy()(logits)).tolist() == [1]
    ids = draw(samplers.Categorical(top_k=1), np.array([0, 2, 2, 1], "float32"), 1)
    assert_drawn_from(np.bincount(ids[:, 0], minlength=4), np.array([0, 0.5, 0.5, 0]))
    one = np.zeros(1, "float32")
    for options in SAMPLERS.values():
        options = {**options, "top_k": 1}
        assert (draw(samplers.Categorical(**options), one, 1) == 0).all()


def test_any_leading_axes():
    noise = np.random.default_rng(0).uniform(size=(2, 3)).astype("float32")
    logits = np.random.default_rng(1).normal(size=(2, 3, 5)).astype("float32")
    for sampler in (samplers.Categorical(0.7, top_k=4, top_p=0.9, min_p=0.01), samplers.Greedy()):
        whole = to_numpy(sampler(*map(ops.convert_to_tensor, (logits, noise))))
        row = to_numpy(sampler(*map(ops.convert_to_tensor, (logits[1], noise[1]))))
        np.testing.assert_array_equal(whole[1], row)


@pytest.mark.parametrize("mode", execution.modes())
def test_runs_in_a_compiled_loop(mode):
    table = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(5, 5)).astype("float32"))
    sampler = samplers.Categorical(temperature=0.9, top_k=4, top_p=0.97, min_p=0.01)
    noise = sampler.noise(3, 6, 5, keras.random.SeedGenerator(0))

    def step(ids, u):
        ids = sampler(ops.take(table, ids, axis=0), u)
        return ids, ids

    def chain(noise):
        first = ops.zeros((3,), dtype="int32")
        return control_flow.scan(step, first, noise, 6, output=keras.KerasTensor((None,), dtype="int32"))[1]

    ids, expected = ops.zeros((3,), dtype="int32"), []
    for t in range(6):
        ids, _ = step(ids, noise[:, t])
        expected.append(to_numpy(ids))
    np.testing.assert_array_equal(to_numpy(execution.compiled(chain, mode)(noise)), np.stack(expected, axis=1))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("mode", execution.modes()[-1:])
def test_a_gaussian_has_its_mean_and_deviation(mode, dtype):
    sampler = samplers.Gaussian(0.5)
    outputs = ops.cast(np.tile(np.array([[1.0, -2, 3, 0, 0.5, -1]]), (DRAWS, 1)), dtype)
    noise = sampler.noise(DRAWS, 1, 6, keras.random.SeedGenerator(0))
    assert tuple(noise.shape) == (DRAWS, 1, 3)
    received = to_numpy(execution.compiled(sampler, mode)(outputs, noise[:, 0]))
    assert received.dtype == dtype
    mean, deviation = np.array([1, -2, 3]), 0.5 * np.exp([0, 0.5, -1])
    tolerance = {"float16": 4e-3}.get(dtype, 1e-6)
    np.testing.assert_allclose(received, mean + deviation * to_numpy(noise)[:, 0], rtol=tolerance, atol=tolerance)
    received = received.astype("float64")
    np.testing.assert_allclose(received.mean(axis=0), mean, atol=4 * deviation.max() / DRAWS**0.5)
    np.testing.assert_allclose(received.std(axis=0), deviation, rtol=4 / (2 * DRAWS) ** 0.5)
    correlations = np.corrcoef(received.T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / DRAWS**0.5


def test_a_gaussian_without_temperature_is_its_mean():
    outputs = ops.convert_to_tensor(np.arange(4, dtype="float32")[None])
    assert to_numpy(samplers.Gaussian(0)(outputs, ops.ones((1, 2)))).tolist() == [[0, 1]]


def test_what_is_not_random_draws_nothing():
    outputs = ops.convert_to_tensor(np.array([[1.0, 3.0, 2.0]], "float32"))
    for sampler in (samplers.Identity(), samplers.Greedy()):
        assert sampler.noise(1, 2, 3, 0) is None
    assert to_numpy(samplers.Identity()(outputs)).tolist() == [[1, 3, 2]]
    assert to_numpy(samplers.Greedy()(outputs)).dtype == "int32"
    assert [
        s.samples_tokens for s in (samplers.Identity, samplers.Greedy, samplers.Categorical, samplers.Gaussian)
    ] == [
        False,
        True,
        True,
        False,
    ]
    assert [samplers.Identity().sample_width(6), samplers.Gaussian().sample_width(6)] == [6, 3]


def test_comes_back_from_its_config():
    every = [samplers.Identity(), samplers.Greedy(), samplers.Gaussian(0.3)]
    every += [samplers.Categorical(**options) for options in SAMPLERS.values()]
    text = json.dumps(keras.saving.serialize_keras_object(every))
    for again, sampler in zip(keras.saving.deserialize_keras_object(json.loads(text)), every, strict=True):
        assert type(again) is type(sampler)
        assert again.get_config() == sampler.get_config()


def test_get():
    assert type(samplers.get("identity")) is samplers.Identity
    assert type(samplers.get("greedy")) is samplers.Greedy
    sampler = samplers.Categorical()
    assert samplers.get(sampler) is sampler
    words = 'Decoder: `feed` must be "identity", "greedy" or a Sampler. Received: `feed`='
    for bad, error in (("beam", ValueError), (3, TypeError), (samplers.Greedy, TypeError)):
        with pytest.raises(error) as caught:
            samplers.get(bad, "Decoder", "feed")
        assert str(caught.value).startswith(words)


BAD = {
    "temperature 0": ({"temperature": 0}, ValueError, "`temperature` must be a finite number above 0. Received: `t"),
    "negative": ({"temperature": -1.0}, ValueError, 'use `Greedy()` ("greedy")'),
    "nan": ({"temperature": float("nan")}, ValueError, "`temperature` must be"),
    "array": ({"temperature": [1.0, 2.0]}, TypeError, "`temperature` must be a finite number above 0"),
    "text": ({"temperature": "hot"}, TypeError, "`temperature` must be"),
    "k 0": ({"top_k": 0}, ValueError, "`top_k` must be an integer of at least 1"),
    "k float": ({"top_k": 2.0}, TypeError, "`top_k` must be an integer of at least 1"),
    "p 0": ({"top_p": 0.0}, ValueError, "`top_p` must be a number above 0 and at most 1"),
    "p 2": ({"top_p": 2}, ValueError, "`top_p` must be a number above 0 and at most 1"),
    "p bool": ({"top_p": True}, TypeError, "`top_p` must be a number above 0 and at most 1"),
    "min p": ({"min_p": 1.5}, ValueError, "`min_p` must be a number within [0, 1]"),
}


def test_bad_arguments():
    for name, (options, error, words) in BAD.items():
        with pytest.raises(error, match=r"^Categorical: ") as caught:
            samplers.Categorical(**options)
        assert words in str(caught.value), name
    with pytest.raises(ValueError, match="Gaussian: `temperature` must be a finite number"):
        samplers.Gaussian(-1)
    for call in (lambda s: s.sample_width(5), lambda s: s.noise(1, 1, 5, 0), lambda s: s(ops.zeros((1, 5)), 0)):
        with pytest.raises(ValueError, match="Gaussian: `outputs` must be an even width"):
            call(samplers.Gaussian())
