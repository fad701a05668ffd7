"""A layer that draws random numbers in inference is not taken for one that leaks, nor does it hide one that does."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import AttentionCell, AutoregressiveDecoder, LengthBucketing, MaskedTimeDistributed
from keras_seqx.audit import audit_masking
from keras_seqx.generation import Categorical, Greedy
from tests.audit.models import DATA, IDS, mean, model

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not support masking")


class Noise(layers.Layer):
    """Adds a number that it draws for each feature, or for each feature of each step, in inference too."""

    def __init__(self, each="step", **kwargs):
        super().__init__(**kwargs)
        self.each, self.supports_masking = each, True
        self.generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        batch, steps, width = ops.shape(inputs)
        shape = (batch, steps, width) if self.each == "step" else (1, 1, width)
        return inputs + keras.random.normal(shape, seed=self.generator)


class NoisyModel(keras.Model):
    """Draws random numbers between its layers."""

    def __init__(self):
        super().__init__()
        self.words, self.head = layers.Embedding(9, 4, mask_zero=True), layers.Dense(3)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        h = self.words(inputs)
        noise = keras.random.normal(ops.shape(h), seed=self.generator)
        return self.head(h + noise)


def verdicts(audit):
    return {row.layer: row.verdict for row in audit.rows}


def decoder(sampler):
    phones, start = keras.Input((None,), dtype="int32"), keras.Input((1,), dtype="int32")
    memory = layers.Embedding(9, 4, mask_zero=True)(phones)
    cell = AttentionCell(layers.LSTMCell(4))
    options = {"embedding": layers.Embedding(5, 4), "sampler": sampler, "name": "decoder"}
    y = AutoregressiveDecoder([cell], layers.Dense(5), steps=4, **options)(start, memory=memory)
    audit = audit_masking(keras.Model([phones, start], y), [IDS, np.ones((len(IDS), 1), "int32")])
    return verdicts(audit)["decoder"]


def test_a_decoder_that_draws_its_tokens_is_random_and_mixes_no_rows():
    assert decoder(Categorical()) == "random"
    assert decoder(Greedy()) == "ok"


def test_a_random_layer_neither_leaks_nor_passes():
    audit = audit_masking(model(Noise(name="noise"), layers.Dense(2, name="head"), mean()), DATA)
    assert audit.leaks == [], str(audit)
    assert audit.not_compared == ["noise"]
    assert "random, so not compared: noise" in str(audit)
    with pytest.raises(AssertionError, match="random outputs could not be compared"):
        audit.raise_on_leak()


def test_a_leak_behind_a_random_layer_is_found():
    audit = audit_masking(model(Noise(name="noise"), layers.GlobalMaxPooling1D(name="pool")), DATA)
    assert audit.leaks == ["pool"], str(audit)
    assert verdicts(audit)["noise"] == "random"


def test_numbers_drawn_between_the_layers_of_a_model_are_no_leak():
    audit = audit_masking(NoisyModel(), IDS)
    assert "leak" not in verdicts(audit).values(), str(audit)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_statistics_behind_dropout_do_not_leak(dropout):
    inner = keras.Sequential([layers.Dropout(dropout, seed=0), layers.BatchNormalization()])
    audit = audit_masking(model(MaskedTimeDistributed(inner, name="inner")), DATA)
    assert "inner" not in audit.leaks, str(audit)
    assert any("statistics of inner are random" in note for note in audit.notes) == (dropout > 0)


@pytest.mark.parametrize("shape", ["feature", "step"])
@pytest.mark.parametrize("leaks", [False, True], ids=["right", "leaks"])
def test_the_quick_check_tells_padding_from_draws(leaks, shape):
    rows = [row[row > 0] for row in IDS]
    data = LengthBucketing(rows, batch_size=4, buckets=1, seed=0)
    words = layers.Embedding(9, 3, mask_zero=not leaks)
    noisy = keras.Sequential([words, Noise(shape), layers.GlobalAveragePooling1D(name="pool")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.predict(noisy, verbose=0)
    said = [str(warning.message) for warning in caught if "LengthBucketing.predict:" in str(warning.message)]
    assert len(said) == leaks, said
    assert not leaks or "pool: No mask reaches it" in said[0]
