"""A decoder whose rows end: what its outputs, masks and states are, and that its loop ends with the last of them."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder, SequenceMask, StopCondition, StopThreshold
from tests.cases import BACKEND, FEATURES, MODES, Reference, build, gradients, make_cell, normal, randomize, to_numpy
from tests.reference import decoder as reference

STEPS, TOLERANCE = 7, 1e-5
# JAX compiles any loop; XLA compiles on TensorFlow too.
JIT = {"tensorflow": [True, False], "jax": [True], "torch": [False]}[BACKEND]


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class FirstIsNegative(StopCondition):
    def __call__(self, outputs):
        return outputs[:, 0] < 0


def masked_model(decoder, inputs_length=None, covariates=0):
    """A model of a decoder over ragged inputs, which returns outputs, states and the outputs' mask."""
    x, lengths = keras.Input((inputs_length, FEATURES)), keras.Input((), dtype="int32")
    known = keras.Input((STEPS, covariates)) if covariates else None
    outputs = decoder(SequenceMask()([x, lengths]), covariates=known)
    outputs, *states = outputs if decoder.return_state else [outputs]
    found = {"outputs": outputs, "mask": MaskOf()(outputs), **{f"state_{i}": s for i, s in enumerate(states)}}
    return keras.Model([x, lengths, known] if covariates else [x, lengths], found)


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class MaskOf(keras.layers.Layer):
    """The mask that its input carries, as floats; 1 where it has none."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return ops.ones_like(inputs[..., 0]) if mask is None else ops.cast(mask, inputs.dtype)


def check(found, expected):
    outputs, states, lengths = expected
    np.testing.assert_allclose(found["outputs"], outputs, atol=TOLERANCE)
    np.testing.assert_array_equal(found["mask"], np.arange(STEPS) < lengths[:, None])
    for i, state in enumerate(states):
        np.testing.assert_allclose(found[f"state_{i}"], state, atol=TOLERANCE)


@pytest.mark.parametrize("jit", JIT)
@pytest.mark.parametrize("length", [None, 3], ids=["open", "static"])
def test_rows_end_as_in_the_textbook(length, jit):
    """Prompts of different lengths, covariates, states of rank 3; the oracle runs each row alone."""
    stack = ["window", "lstm"]
    decoder, oracle = build(
        stack, 0, covariates=2, stop=StopThreshold(0.6), steps=STEPS, return_state=True, name="decoder"
    )
    model = masked_model(decoder, length, covariates=2)
    model.compile(jit_compile=jit and length is not None)
    lengths, seen = np.array([3, 1, 2, 3], "int32"), set()
    for seed in range(8):
        randomize(decoder, np.random.default_rng(seed))
        oracle = Reference.of(stack, decoder)
        x, known = normal(seed, 4, 3, FEATURES), normal(seed + 1, 4, STEPS, 2)
        use = np.arange(3) < lengths[:, None]
        expected = reference.decode_until(
            lambda y: y[-1] > 0.6, oracle.cells, oracle.output, x, oracle.zero_states(4), STEPS, use, known
        )
        check(model.predict([x, lengths, known], verbose=0), expected)
        seen.update(expected[2].tolist())
    assert len(seen) > 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given_steps", [1, 3])
def test_every_way_of_running_gives_the_same(given_steps, mode):
    """Without a mask: one start frame, or inputs that are all read layer by layer."""
    decoder, oracle = build("gru", 2, stop=FirstIsNegative(), steps=STEPS)
    x = normal(1, 6, given_steps, FEATURES)
    outputs, _, lengths = reference.decode_until(
        lambda y: y[0] < 0, oracle.cells, oracle.output, x, oracle.zero_states(6), STEPS
    )
    assert len(set(lengths)) > 1
    np.testing.assert_allclose(to_numpy(MODES[mode](decoder, x)), outputs, atol=TOLERANCE)


class CountingCell(keras.layers.Layer):
    """Counts its steps where the backend runs them; its output is the number of steps that the row has taken."""

    state_size = output_size = 1
    steps_run = 0

    def call(self, inputs, states):
        count = states[0] + 1
        if BACKEND == "tensorflow":
            import tensorflow as tf

            count = tf.py_function(self.counted, [count], count.dtype)
            count.set_shape((None, 1))
        elif BACKEND == "jax":
            import jax

            jax.debug.callback(self.counted, count)
        else:
            self.counted(count)
        return count, [count]

    def counted(self, count):
        CountingCell.steps_run += 1
        return count


@pytest.mark.parametrize("given_steps", [1, 2])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "xla"])  # which knows no Python functions
def test_the_loop_ends_when_all_rows_have(mode, given_steps):
    decoder = AutoregressiveDecoder(CountingCell(), stop=StopThreshold(4.5), steps=200)
    x = np.zeros((2, given_steps, 1), "float32")
    decoder.build(x.shape)
    CountingCell.steps_run = 0
    outputs = to_numpy(MODES[mode](decoder, x, initial_state=[np.array([[0.0], [2.0]], "float32")]))
    if BACKEND == "jax":
        import jax

        jax.effects_barrier()
    assert CountingCell.steps_run <= 7  # five, and what a backend runs to see shapes
    expected = np.minimum(np.arange(1, 201) + np.array([[0], [2]]), 5)
    np.testing.assert_array_equal(outputs[..., 0], expected)


def test_training_and_forced_inputs_know_no_end():
    """Outputs, masks and gradients are those of a decoder without a condition."""
    stops, _ = build("lstm", 0, stop=StopThreshold(-9.0), steps=None)
    plain, _ = build("lstm", 0)
    x, target = normal(0, 3, 5, FEATURES), normal(1, 3, 5, FEATURES)
    # As many outputs as inputs; and more of them, in training.
    np.testing.assert_array_equal(to_numpy(stops(x)), to_numpy(plain(x)))
    free = [to_numpy(d(x, steps=STEPS, training=True)) for d in (stops, plain)]
    np.testing.assert_array_equal(*free)
    assert np.ptp(free[0][:, 5:], axis=1).min() > 0
    slopes = [
        gradients(lambda d=d: ops.mean((d(x, training=True) - ops.convert_to_tensor(target)) ** 2), d)
        for d in (stops, plain)
    ]
    for a, b in zip(*slopes, strict=True):
        np.testing.assert_array_equal(a, b)
    model = masked_model(stops)
    lengths = np.array([5, 2, 3], "int32")
    np.testing.assert_array_equal(model.predict([x, lengths], verbose=0)["mask"], np.arange(5) < lengths[:, None])


def test_gradients_reach_through_a_loop_that_ends():
    """In inference too; those of the steps that were run, as a loop that runs all steps has them."""
    decoder, oracle = build("gru", 2, stop=FirstIsNegative(), steps=STEPS)
    x = normal(1, 6, 3, FEATURES)
    lengths = reference.decode_until(lambda y: y[0] < 0, oracle.cells, oracle.output, x, oracle.zero_states(6), STEPS)[
        2
    ]
    valid = (np.arange(STEPS) < lengths[:, None]).astype("float32")[..., None]
    plain, _ = build("gru", 2, steps=STEPS)
    slopes = [gradients(lambda d=d: ops.sum((ops.convert_to_tensor(valid) * d(x)) ** 2), d) for d in (decoder, plain)]
    assert lengths.max() < STEPS
    for a, b in zip(*slopes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


LOADER = """
import sys
import numpy as np
import keras
import keras_seqx
folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/model.keras", safe_mode=True)
np.savez(f"{folder}/found.npz", found=model.predict(np.load(f"{folder}/x.npy"), verbose=0))
"""


def test_a_file_loads_in_a_new_process_and_a_clone_is_the_same(tmp_path):
    x = keras.Input((1, FEATURES))
    cell = keras.layers.GRUCell(4)
    decoder = AutoregressiveDecoder(cell, keras.layers.Dense(FEATURES), stop=StopThreshold(0.1, feature=1), steps=STEPS)
    model = keras.Model(x, keras.layers.GlobalAveragePooling1D()(decoder(x)))  # which reads the mask
    randomize(model, np.random.default_rng(0))
    data = normal(2, 6, 1, FEATURES)
    expected = model.predict(data, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", data)
    command = [sys.executable, "-c", LOADER, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    np.testing.assert_allclose(np.load(tmp_path / "found.npz")["found"], expected, atol=TOLERANCE)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone.predict(data, verbose=0), expected, atol=TOLERANCE)
    outputs = to_numpy(decoder(data))
    valid = np.cumsum(np.cumsum(outputs[..., 1] > 0.1, axis=1), axis=1) <= 1
    assert not valid.all()
    means = (outputs * valid[..., None]).sum(1) / valid.sum(1)[:, None]
    np.testing.assert_allclose(expected, means, atol=TOLERANCE)


class Pairs(StopCondition):
    def __call__(self, outputs):
        return outputs > 0


ERRORS = {
    "a function": (
        lambda: {"stop": np.any},
        TypeError,
        "AutoregressiveDecoder: `stop` must be a StopCondition or None",
    ),
    "a feature too many": (
        lambda: {"stop": StopThreshold(0.5, FEATURES)},
        ValueError,
        "AutoregressiveDecoder: `stop` must be of a feature of the output, whose width is 3",
    ),
    "booleans for features": (
        lambda: {"stop": Pairs()},
        ValueError,
        "AutoregressiveDecoder: `stop` must be a condition from outputs (B, D) to booleans (B,)",
    ),
    "tokens": (
        lambda: {"stop": StopThreshold(), "embedding": keras.layers.Embedding(FEATURES, 2)},
        ValueError,
        "AutoregressiveDecoder: `stop` must be None, as a token ends a sequence of tokens",
    ),
    "a threshold NaN": (
        lambda: {"stop": StopThreshold(float("nan"))},
        ValueError,
        "StopThreshold: `threshold` must be a finite number. Received: `threshold`=nan",
    ),
    "half a feature": (
        lambda: {"stop": StopThreshold(0.5, 0.5)},
        TypeError,
        "StopThreshold: `feature` must be an integer. Received: `feature`=0.5",
    ),
}


@pytest.mark.parametrize(("options", "error", "words"), ERRORS.values(), ids=ERRORS)
def test_bad_conditions(options, error, words):
    def make_and_call():
        decoder = AutoregressiveDecoder(make_cell("gru"), keras.layers.Dense(FEATURES), **options())
        decoder(np.zeros((2, 1, FEATURES), "float32"), steps=3)

    with pytest.raises(error) as caught:
        make_and_call()
    assert words in str(caught.value)
