"""A decoder survives files, clones, other processes and, on TensorFlow, the loss of this package."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_seqx import AutoregressiveDecoder, SequenceMask
from keras_seqx.testing import check_serialization
from tests.cases import BACKEND, FEATURES, STACKS, make_cell, normal, randomize


def functional():
    """The encoder's states fill the first of the stack; padded prompts, lengths carried explicitly."""
    context, prompt = keras.Input((None, 2), name="context"), keras.Input((None, FEATURES), name="prompt")
    lengths = keras.Input((), dtype="int32", name="lengths")
    _, *states = keras.layers.LSTM(5, return_state=True)(context)
    cells = [keras.layers.LSTMCell(5), keras.layers.GRU(4), keras.layers.StackedRNNCells([keras.layers.LSTMCell(3)])]
    decoder = AutoregressiveDecoder(cells, keras.layers.Dense(FEATURES), steps=6, name="decoder")
    return keras.Model([context, prompt, lengths], decoder(SequenceMask()([prompt, lengths]), initial_state=states))


def sequential():
    head = keras.Sequential([keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(FEATURES)])
    decoder = AutoregressiveDecoder(keras.layers.LSTM(4, dropout=0.2), head, steps=6, name="decoder")
    return keras.Sequential([keras.Input((1, FEATURES)), keras.layers.Dense(FEATURES), decoder])


def shared():
    """One LSTM layer reads the context and, by its cell, writes the completion."""
    x = keras.Input((None, FEATURES))
    lstm = keras.layers.LSTM(4, return_state=True)
    _, *states = lstm(x)
    decoder = AutoregressiveDecoder([lstm], keras.layers.Dense(FEATURES), steps=6, name="decoder")
    return keras.Model(x, decoder(x[:, -1:], initial_state=states))


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.layers.GRU(4, return_state=True)
        self.decoder = AutoregressiveDecoder([keras.layers.GRUCell(4)], keras.layers.Dense(FEATURES), steps=6)

    def call(self, x):
        _, state = self.encoder(x)
        return self.decoder(x[:, -1:], initial_state=state)


MODELS = {"functional": functional, "sequential": sequential, "shared": shared, "subclassed": Subclassed}
DATA = {
    "functional": [normal(0, 4, 7, 2), normal(1, 4, 3, FEATURES), np.array([3, 1, 2, 3], "int32")],
    "sequential": normal(2, 4, 1, FEATURES),
    "shared": normal(3, 4, 5, FEATURES),
    "subclassed": normal(4, 4, 5, FEATURES),
}

LOADER = """
import json, sys
import numpy as np
import keras
import keras_seqx
if "subclassed" in sys.argv[2]:
    import tests.layers.test_decoder_saving
folder, names = sys.argv[1], json.loads(sys.argv[2])
for name in names:
    model = keras.saving.load_model(f"{folder}/{name}.keras", safe_mode=True)
    data = np.load(f"{folder}/{name}.npz")
    x = [data[k] for k in sorted(data)]
    x = x if len(x) > 1 else x[0]
    np.save(f"{folder}/{name}.6.npy", model.predict(x, verbose=0))
    decoder = model.decoder if name == "subclassed" else model.get_layer("decoder")
    decoder.steps = 11
    model.make_predict_function(force=True)
    np.save(f"{folder}/{name}.11.npy", model.predict(x, verbose=0))
"""


def make(name):
    model = MODELS[name]()
    model(DATA[name])
    randomize(model, np.random.default_rng(0))
    return model


def predict(model, name, steps=6):
    decoder = model.decoder if name == "subclassed" else model.get_layer("decoder")
    decoder.steps = steps
    model.make_predict_function(force=True)
    return model.predict(DATA[name], verbose=0)


@pytest.mark.parametrize("names", [["functional", "sequential", "shared"], ["subclassed"]], ids=" ".join)
def test_loads_in_a_new_process(names, tmp_path):
    expected = {}
    for name in names:
        model = make(name)
        model.save(tmp_path / f"{name}.keras")
        x = DATA[name] if isinstance(DATA[name], list) else [DATA[name]]
        np.savez(tmp_path / f"{name}.npz", **{str(i): a for i, a in enumerate(x)})
        expected |= {(name, steps): predict(model, name, steps) for steps in (6, 11)}
    command = [sys.executable, "-c", LOADER, str(tmp_path), json.dumps(names)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    for (name, steps), outputs in expected.items():
        assert outputs.shape == (4, steps, FEATURES)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.{steps}.npy"), outputs, atol=1e-6)


@pytest.mark.parametrize("name", ["functional", "sequential"])
def test_config_files_and_clones(name):
    check_serialization(make(name), DATA[name])


def settings(config):
    """A configuration without the shapes that its layers were built with."""
    if isinstance(config, dict):
        return {key: settings(value) for key, value in config.items() if key != "build_config"}
    return [settings(value) for value in config] if isinstance(config, (list, tuple)) else config


@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_config_round_trip(stack):
    decoder = AutoregressiveDecoder(
        make_cell(stack),
        keras.layers.Dense(FEATURES),
        steps=3,
        teacher_forcing=0.25,
        return_state=True,
        seed=4,
        name="d",
        dtype="float32",
    )
    decoder(normal(0, 2, 2, FEATURES))
    config = decoder.get_config()
    again = AutoregressiveDecoder.from_config(config)
    assert settings(again.get_config()) == settings(config)
    again(normal(0, 2, 2, FEATURES))
    again.set_weights(decoder.get_weights())
    x = normal(1, 2, 2, FEATURES)
    for a, b in zip(again(x, steps=5), decoder(x, steps=5), strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), atol=1e-6)


def test_a_shared_layer_keeps_one_set_of_weights(tmp_path):
    model = make("shared")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_variables) == len(model.trainable_variables) == 5


def test_teacher_forcing_is_saved(tmp_path):
    model = make("sequential")
    model.get_layer("decoder").teacher_forcing.assign(0.125)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.get_layer("decoder").teacher_forcing.value) == 0.125


SERVE = """
import sys
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
data = np.load(f"{folder}/data.npz")
served = tf.saved_model.load(f"{folder}/model")
x = [tf.constant(data[k]) for k in sorted(data)]
np.save(f"{folder}/served.npy", served.serve(x if len(x) > 1 else x[0]))
assert "keras_seqx" not in sys.modules
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is what the TensorFlow backend exports")
@pytest.mark.parametrize("name", ["functional", "sequential", "shared"])
def test_exports_to_a_saved_model_that_needs_no_package_of_ours(name, tmp_path):
    model = make(name)
    expected = predict(model, name)
    model.export(tmp_path / "model", verbose=False)
    x = DATA[name] if isinstance(DATA[name], list) else [DATA[name]]
    np.savez(tmp_path / "data.npz", **{str(i): a for i, a in enumerate(x)})
    subprocess.run([sys.executable, "-c", SERVE, str(tmp_path)], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "served.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("forced", [1, 2, 5, 8])
def test_one_model_for_any_number_of_inputs(forced):
    """Training and inference with one graph: an open time axis, and a mask on it."""
    x, lengths = keras.Input((None, FEATURES)), keras.Input((), dtype="int32")
    decoder = AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(FEATURES), steps=5)
    model = keras.Model([x, lengths], decoder(SequenceMask()([x, lengths])))
    data = [normal(0, 3, forced, FEATURES), np.array([forced, 1, min(2, forced)], "int32")]
    eager = keras.ops.convert_to_numpy(model(data))
    for size in (2, 3, 4):  # other lengths first, so that TensorFlow relaxes the time axis
        model.predict([normal(1, 3, size, FEATURES), np.array([1, 2, size], "int32")], verbose=0)
    np.testing.assert_allclose(model.predict(data, verbose=0), eager, atol=1e-5)
