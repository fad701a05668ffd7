"""KeepMask: the output of a layer carries its input's mask, on every Keras."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import KeepMask, SequenceMask, transfer_weights
from tests.cases import MODES, normal, to_numpy

LENGTHS = np.array([5, 3, 1], "int32")
STEPS = int(LENGTHS.max())


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Doubled(keras.layers.Layer):
    """A user's layer that says nothing about masks."""

    def call(self, x):
        return 2 * x


# Layers whose valid outputs do not depend on padding, and which end a mask on some Keras.
LAYERS = {
    "lstm": lambda: layers.LSTM(4, return_sequences=True),
    "gru": lambda: layers.GRU(4, return_sequences=True),
    "cell": lambda: layers.RNN(layers.SimpleRNNCell(4), return_sequences=True),
    "bidirectional": lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
    "sum": lambda: layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum"),
    "causal": lambda: layers.Conv1D(4, 2, padding="causal"),
    "user's": Doubled,
    "model": lambda: keras.Sequential([layers.Dense(4), layers.LSTM(4, return_sequences=True)]),
}


class ByFit(keras.Model):
    """A subclassed model without a `build`: its first call is in `fit`."""

    def __init__(self, layer):
        super().__init__()
        self.mask, self.encode, self.head = SequenceMask(), KeepMask(layer), layers.Dense(2)

    def call(self, inputs):
        return self.head(self.encode(self.mask(inputs)))


def padded(x, extra, value):
    """The sequences (B, T, D) with `value` at all steps after their lengths, `extra` more than before."""
    x = np.pad(x, ((0, 0), (0, extra), (0, 0)))
    x[np.arange(x.shape[1]) >= LENGTHS[:, None]] = value
    return x


def functional(layer, head):
    x, lengths = keras.Input((None, 3)), keras.Input((), dtype="int32")
    return keras.Model([x, lengths], head(KeepMask(layer)(SequenceMask()([x, lengths]))))


@pytest.mark.parametrize("kind", LAYERS)
def test_what_follows_does_not_read_padding(kind):
    model = functional(LAYERS[kind](), layers.GlobalAveragePooling1D())
    x = normal(0, len(LENGTHS), STEPS, 3)
    expected = [model.predict_on_batch([x[i : i + 1, :n], LENGTHS[i : i + 1]]) for i, n in enumerate(LENGTHS)]
    received = model.predict_on_batch([padded(x, 2, 100.0), LENGTHS])
    np.testing.assert_allclose(received, np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize("subclassed", [False, True])
def test_padding_counts_in_no_loss(subclassed):
    x, y = normal(0, len(LENGTHS), STEPS, 3), normal(1, len(LENGTHS), STEPS, 2)
    bidirectional = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
    model = ByFit(bidirectional) if subclassed else functional(bidirectional, layers.Dense(2))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit([padded(x, 2, 100.0), LENGTHS], padded(y, 2, 100.0), epochs=1, verbose=0)
    errors = []
    for i, n in enumerate(LENGTHS):
        alone = model.predict_on_batch([x[i : i + 1, :n], LENGTHS[i : i + 1]])
        errors.append(np.square(alone - y[i : i + 1, :n]).mean(axis=-1).ravel())
    np.testing.assert_allclose(history.history["loss"][0], np.concatenate(errors).mean(), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_computes_what_the_layer_computes(mode):
    layer = layers.LSTM(4, return_sequences=True, return_state=True)
    x, mask = normal(0, 3, STEPS, 3), np.arange(STEPS) < LENGTHS[:, None]
    states = [ops.convert_to_tensor(normal(n, 3, 4)) for n in (1, 2)]
    expected = to_numpy(layer(x, initial_state=states, mask=ops.convert_to_tensor(mask)))
    wrapper = KeepMask(layer)
    wrapper.build(x.shape)
    received = MODES[mode](wrapper, ops.convert_to_tensor(x), mask=ops.convert_to_tensor(mask), initial_state=states)
    for mine, own in zip(to_numpy(list(received)), expected, strict=True):
        np.testing.assert_allclose(mine, own, atol=1e-6)


def test_an_rnn_with_initial_states_gets_the_mask():
    x, lengths, state = keras.Input((None, 3)), keras.Input((), dtype="int32"), keras.Input((4,))
    encode = KeepMask(layers.GRU(4, return_sequences=True, return_state=True))
    model = keras.Model([x, lengths, state], encode(SequenceMask()([x, lengths]), initial_state=state))
    frames, start = normal(0, 3, STEPS, 3), normal(1, 3, 4)
    _, last = model.predict_on_batch([padded(frames, 1, 100.0), LENGTHS, start])
    for i, n in enumerate(LENGTHS):
        _, alone = model.predict_on_batch([frames[i : i + 1, :n], LENGTHS[i : i + 1], start[i : i + 1]])
        np.testing.assert_allclose(last[i : i + 1], alone, atol=1e-6)


def test_the_first_output_alone_carries_the_mask():
    # As many units as steps: the states' shapes do not tell them from a sequence.
    encode = KeepMask(layers.LSTM(STEPS, return_sequences=True, return_state=True))
    x = SequenceMask()([ops.convert_to_tensor(normal(0, 3, STEPS, 2)), ops.convert_to_tensor(LENGTHS)])
    sequence, *states = encode(x)
    pool = layers.GlobalAveragePooling1D()
    expected = [to_numpy(sequence)[i, :n].mean(axis=0) for i, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(to_numpy(pool(sequence)), expected, atol=1e-6)
    assert [getattr(state, "_keras_mask", None) for state in states] == [None, None]


def test_a_step_is_valid_where_all_inputs_say_so():
    a, b = (keras.Input((STEPS, 2)) for _ in range(2))
    first, second = (keras.Input((), dtype="int32") for _ in range(2))
    pair = [SequenceMask()([a, first]), SequenceMask()([b, second])]
    joined = KeepMask(layers.Lambda(lambda pair: pair[0] + pair[1]))(pair)
    model = keras.Model([a, first, b, second], layers.GlobalAveragePooling1D()(joined))
    x, y, other = normal(0, 3, STEPS, 2), normal(1, 3, STEPS, 2), np.array([2, 5, 4], "int32")
    received = model.predict_on_batch([x, LENGTHS, y, other])
    shorter = np.minimum(LENGTHS, other)
    expected = [(x + y)[i, :n].mean(axis=0) for i, n in enumerate(shorter)]
    np.testing.assert_allclose(received, expected, atol=1e-6)


def test_without_a_mask_there_is_none():
    x = normal(0, 3, STEPS, 2)
    pooled = layers.GlobalAveragePooling1D()(KeepMask(Doubled())(x))
    np.testing.assert_allclose(to_numpy(pooled), 2 * x.mean(axis=1), atol=1e-6)


def test_keras_does_not_warn_that_the_mask_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = keras.Sequential([keras.Input((STEPS, 3)), layers.Masking()])
        for kind in ("lstm", "bidirectional", "causal", "user's"):
            model.add(KeepMask(LAYERS[kind]()))
        model.predict_on_batch(normal(0, 3, STEPS, 3))


LOADED = """
import sys, keras, numpy as np, keras_seqx
with np.load(sys.argv[2]) as data:
    received = keras.models.load_model(sys.argv[1], safe_mode=True).predict_on_batch([data["x"], data["lengths"]])
np.save(sys.argv[3], received)
"""


def test_a_saved_model_predicts_the_same(tmp_path):
    model = functional(layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.GlobalAveragePooling1D())
    inputs = [padded(normal(0, 3, STEPS, 3), 2, 100.0), LENGTHS]
    expected = model.predict_on_batch(inputs)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=inputs[0], lengths=inputs[1])
    names = [str(tmp_path / name) for name in ("model.keras", "data.npz", "received.npy")]
    subprocess.run([sys.executable, "-c", LOADED, *names], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "received.npy"), expected, atol=1e-6)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_allclose(copy.predict_on_batch(inputs), expected, atol=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("file", [None, "model.keras", "model.weights.h5"])
def test_weights_move_to_and_from_the_layer_alone(wrapped, file, tmp_path):
    def model(wrap):
        parts = [layers.LSTM(4, return_sequences=True), layers.Bidirectional(layers.GRU(2, return_sequences=True))]
        return keras.Sequential([keras.Input((STEPS, 3)), *map(wrap, parts), layers.Dense(2)])

    ways = [KeepMask, lambda layer: layer]
    source, target = (model(wrap) for wrap in (ways if wrapped else ways[::-1]))
    if file is not None:
        source.save_weights(tmp_path / file) if "weights" in file else source.save(tmp_path / file)
    transfer_weights(source if file is None else tmp_path / file, target)
    x = normal(0, 3, STEPS, 3)
    np.testing.assert_allclose(target.predict_on_batch(x), source.predict_on_batch(x), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: KeepMask("lstm"), TypeError, "`layer` must be a Keras layer that keeps the time axis"),
        (lambda: KeepMask(layers.LSTM(4)), ValueError, "Set its `return_sequences=True`"),
        (lambda: KeepMask(layers.GlobalAveragePooling1D())(np.ones((2, 5, 3))), ValueError, "its output has shape"),
        (lambda: KeepMask(layers.Conv1D(2, 2))(keras.Input((5, 3))), ValueError, "(None, 4, 2)"),
        (
            lambda: KeepMask(layers.Lambda(lambda pair: 2 * pair[0]))(
                [SequenceMask()([np.ones((2, steps, 3)), np.array([1, 2])]) for steps in (4, 5)]
            ),
            ValueError,
            "masks have one shape",
        ),
    ],
    ids=["no layer", "last step", "pooled", "shorter", "two lengths"],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match="KeepMask: ") as caught:
        call()
    assert words in str(caught.value)
    assert "Received: " in str(caught.value)
