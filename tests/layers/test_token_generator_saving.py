"""A generator survives files, other processes and exports, and shares its decoder's weights in them."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_seqx import AttentionCell, AutoregressiveDecoder, BeamSearch, Sampling, TokenGenerator, generation
from tests.cases import BACKEND, randomize

VOCABULARY, END = 7, 2
SOURCE = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [3, 0, 0, 0]], "int32")
TARGET = np.array([[1, 3, 4], [1, 5, 0], [1, 6, 2]], "int32")


def translation(search="greedy", processors=(), **kwargs):
    """An encoder, a decoder that attends to it, and both ways to call it: a model to train and one to generate with."""
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(VOCABULARY, 3, mask_zero=True)(source)
    memory = keras.layers.LSTM(4, return_sequences=True)(embedded)
    decoder = AutoregressiveDecoder(
        [AttentionCell(keras.layers.LSTMCell(5)), keras.layers.GRUCell(4)],
        keras.layers.Dense(VOCABULARY),
        embedding=keras.layers.Embedding(VOCABULARY, 4, mask_zero=True),
        name="decoder",
    )
    generator = TokenGenerator(
        decoder,
        end_token=END,
        max_steps=5,
        search=search,
        processors=processors,
        return_alignments=True,
        name="generator",
        **kwargs,
    )
    logits = decoder(target, memory=memory)
    found = generator(keras.ops.ones_like(source[:, :1]), memory=memory)
    training, generating = keras.Model([source, target], logits), keras.Model(source, found)
    randomize(training, np.random.default_rng(0))
    return training, generating


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_allclose(value, b[key], atol=1e-5)


BEAMS = BeamSearch(3, length_penalty=0.7, length_normalization="gnmt", num_groups=3, diversity_penalty=0.2)
PROCESSORS = [
    generation.MinLength(2, [END, 6]),
    generation.ForcedTokens({0: 3}),
    generation.NoRepeatNGram(2),
    generation.RepetitionPenalty(1.2),
    generation.SuppressTokens([1]),
]

LOADER = """
import sys
import numpy as np
import keras
import keras_seqx
folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/model.keras", safe_mode=True)
data = np.load(f"{folder}/data.npz")
np.savez(f"{folder}/found.npz", **model.predict(data["source"], verbose=0))
"""


def test_a_file_loads_in_a_new_process(tmp_path):
    training, generating = translation(BEAMS, PROCESSORS, num_return_sequences=2)
    training.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    training.fit([SOURCE, TARGET], TARGET, verbose=0)
    expected = generating.predict(SOURCE, verbose=0)
    generating.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", source=SOURCE)
    command = [sys.executable, "-c", LOADER, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert_same(expected, dict(np.load(tmp_path / "found.npz")))


@pytest.mark.parametrize("first", ["decoder", "generator"])
def test_decoder_and_generator_in_one_file_share_their_weights(first, tmp_path):
    training, generating = translation()
    outputs = {"a" if first == "decoder" else "z": training.output, **generating.output}
    both = keras.Model(training.inputs, outputs)  # whose layers stand in the order of the names of its outputs
    names = [layer.name for layer in both.layers]
    assert (names.index("decoder") < names.index("generator")) == (first == "decoder")
    both.save(tmp_path / "both.keras")
    loaded = keras.saving.load_model(tmp_path / "both.keras")
    assert loaded.get_layer("generator").decoder is loaded.get_layer("decoder")
    assert len(loaded.weights) == len(both.weights)
    expected = both.predict([SOURCE, TARGET], verbose=0)
    assert_same(loaded.predict([SOURCE, TARGET], verbose=0), expected)
    loaded.get_layer("decoder").output_layer.bias.assign(np.eye(VOCABULARY)[5] * 99)
    assert (loaded.predict([SOURCE, TARGET], verbose=0)["tokens"] == 5).all()


SEARCHES = {"greedy": "greedy", "sampling": Sampling(0.7, top_k=3, top_p=0.9, num_samples=2), "beams": BEAMS}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_config_round_trip(search):
    decoder = AutoregressiveDecoder(
        keras.layers.GRUCell(4), keras.layers.Dense(VOCABULARY), embedding=keras.layers.Embedding(VOCABULARY, 4)
    )
    generator = TokenGenerator(
        decoder,
        end_token=[END, 5],
        max_steps=9,
        search=search,
        processors=[*PROCESSORS, generation.PrefixConstrained([[1], [1, 3]], [END, 5])],
        pad_token=6,
        force_end=True,
        num_return_sequences=1,
        seed=3,
        name="g",
    )
    config = generator.get_config()
    again = TokenGenerator.from_config(config)
    assert again.get_config() == config
    assert config == generator.get_config()  # which loading did not change
    assert again.decoder is not decoder
    assert [type(p) for p in again.processors] == [type(p) for p in generator.processors]


SERVE = """
import sys
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
data = np.load(f"{folder}/data.npz")
served = tf.saved_model.load(f"{folder}/model")
np.savez(f"{folder}/found.npz", **{k: v.numpy() for k, v in served.serve(tf.constant(data["source"])).items()})
assert "keras_seqx" not in sys.modules
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is what the TensorFlow backend exports")
def test_exports_to_a_saved_model_that_needs_no_package_of_ours(tmp_path):
    _, generating = translation(BeamSearch(3), PROCESSORS)
    expected = generating.predict(SOURCE, verbose=0)
    generating.export(tmp_path / "model", verbose=False)
    np.savez(tmp_path / "data.npz", source=SOURCE)
    subprocess.run([sys.executable, "-c", SERVE, str(tmp_path)], check=True, cwd=tmp_path)
    assert_same(expected, dict(np.load(tmp_path / "found.npz")))


def test_an_export_follows_a_stream(tmp_path):
    """What a stream compiled is no part of the layer that a file or an export sees."""
    _, generating = translation()
    generator = generating.get_layer("generator")
    memory = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    list(generator.stream(np.ones((2, 1), "int32"), memory=memory))
    generating.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded.predict(SOURCE, verbose=0), generating.predict(SOURCE, verbose=0))
