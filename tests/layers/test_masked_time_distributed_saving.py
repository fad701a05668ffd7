"""MaskedTimeDistributed survives files and clones, and its weights move to and from Keras' TimeDistributed."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import MaskedTimeDistributed, RepeatToLength, SequenceMask, transfer_weights
from tests.cases import normal, randomize


def convolution():
    return keras.Sequential([layers.Conv1D(3, 2), layers.BatchNormalization(), layers.Flatten(), layers.Dense(2)])


def model(wrap=MaskedTimeDistributed, time=None, **kwargs):
    x, lengths = keras.Input((time, 4, 2), name="x"), keras.Input((), dtype="int32", name="lengths")
    steps = wrap(convolution(), name="steps", **kwargs)(SequenceMask()([x, lengths]))
    # From Keras 3.16 on the mask ends at `keras.layers.TimeDistributed`.
    steps = SequenceMask()([steps, lengths])
    summary = layers.LSTM(3)(steps)
    outputs = wrap(layers.Dense(2), name="head", **kwargs)(RepeatToLength()([summary, steps]))
    made = keras.Model({"x": x, "lengths": lengths}, outputs)
    randomize(made, np.random.default_rng(0))
    return made


DATA = {"x": normal(0, 3, 5, 4, 2), "lengths": np.array([5, 2, 3], "int32")}
VALID = np.arange(5) < DATA["lengths"][:, None]

LOADER = """
import sys
import numpy as np
import keras
import keras_seqx
data = np.load(f"{sys.argv[1]}/data.npz")
model = keras.saving.load_model(f"{sys.argv[1]}/model.keras", safe_mode=True)
np.save(f"{sys.argv[1]}/outputs.npy", model.predict(dict(data), verbose=0))
"""


@pytest.mark.parametrize("skip_masked", [False, True])
def test_loads_in_a_new_process(skip_masked, tmp_path):
    made = model(masked_value=-1.0, skip_masked=skip_masked)
    expected = made.predict(DATA, verbose=0)
    assert (expected[~VALID] == -1).all()
    made.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", **DATA)
    command = [sys.executable, "-c", LOADER, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, atol=1e-6)


def test_clone_model():
    made = model(masked_value=-1.0, skip_masked=True)
    clone = keras.models.clone_model(made)
    clone.set_weights(made.get_weights())
    assert clone.get_layer("steps").masked_value == -1
    assert clone.get_layer("steps").skip_masked
    np.testing.assert_allclose(clone.predict(DATA, verbose=0), made.predict(DATA, verbose=0), atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        MaskedTimeDistributed(layers.Dense(2)),
        MaskedTimeDistributed(layers.Dense(2), masked_value=2.0),
        MaskedTimeDistributed(layers.Dense(2), activity_regularizer=keras.regularizers.L2(0.5)),
        RepeatToLength(),
    ],
    ids=repr,
)
def test_config_round_trip(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_masked_value_of_files():
    """None is the default, and zeros stay where an earlier file has them."""
    config = MaskedTimeDistributed(layers.Dense(2)).get_config()
    assert config["masked_value"] is None
    assert MaskedTimeDistributed.from_config({**config, "masked_value": 0.0}).masked_value == 0.0


@pytest.mark.parametrize("kind", ["model", "model.keras", "model.weights.h5"])
@pytest.mark.parametrize(
    ("writer", "reader"),
    [(layers.TimeDistributed, MaskedTimeDistributed), (MaskedTimeDistributed, layers.TimeDistributed)],
    ids=["of Keras' layer", "for Keras' layer"],
)
def test_weights_move_to_and_from_time_distributed(writer, reader, kind, tmp_path):
    written, read = model(writer, time=5), model(reader, time=5)
    # Other moving statistics than those that a layer starts with.
    for v in written.non_trainable_variables:
        v.assign(np.full(v.shape, 0.5))
    if kind == "model.keras":
        written.save(tmp_path / kind)
    elif kind == "model.weights.h5":
        written.save_weights(tmp_path / kind)
    for v in read.trainable_variables:
        v.assign(np.zeros(v.shape))
    transfer_weights(written if kind == "model" else tmp_path / kind, read)
    expected = written.predict(DATA, verbose=0)
    np.testing.assert_allclose(read.predict(DATA, verbose=0)[VALID], expected[VALID], atol=1e-6)


def test_a_weights_file_of_other_shapes_is_told(tmp_path):
    keras.Sequential([keras.Input((5, 4)), MaskedTimeDistributed(layers.Dense(3))]).save_weights(
        tmp_path / "a.weights.h5"
    )
    other = keras.Sequential([keras.Input((5, 4)), MaskedTimeDistributed(layers.Dense(2))])
    with pytest.raises(ValueError, match=r"4, 2\b.*4, 3\b"):
        other.load_weights(tmp_path / "a.weights.h5")


def test_it_is_registered_by_its_own_name():
    assert keras.saving.get_registered_name(MaskedTimeDistributed) == "keras_seqx>MaskedTimeDistributed"
    config = keras.saving.serialize_keras_object(MaskedTimeDistributed(layers.Dense(2)))
    assert isinstance(keras.saving.deserialize_keras_object(config), MaskedTimeDistributed)
