"""Every object that Keras can save comes back from its configuration before it was built or called."""

import json

import keras
import numpy as np
import pytest

import keras_seqx as ks
from keras_seqx import AttentionCell, AutoregressiveDecoder, TransformerDecoderCell
from keras_seqx.generation.search import GreedySearch
from keras_seqx.testing.batches import OutputMasks

LSTM, GRU = keras.layers.LSTMCell, keras.layers.GRUCell


def decoder(**options):
    embedding = keras.layers.Embedding(5, 4)
    return AutoregressiveDecoder(TransformerDecoderCell(8, 2, max_length=7), embedding=embedding, **options)


CELLS = {
    "TransformerDecoderCell": lambda: TransformerDecoderCell(8, 2, max_length=7, dropout=0.5, seed=1),
    "TransformerDecoderCell with memory": lambda: TransformerDecoderCell(8, 2, max_length=7, cross_attention=True),
    "AttentionCell": lambda: AttentionCell(LSTM(3), "luong", output_units=5),
    "AttentionCell of a list": lambda: AttentionCell([LSTM(3), GRU(4)], monotonic="soft", sigmoid_noise=0.5),
    "AttentionCell of layers": lambda: AttentionCell([keras.layers.LSTM(3), keras.layers.GRU(4)], input_feeding=False),
    "AttentionCell in itself": lambda: AttentionCell(AttentionCell(LSTM(3))),
    "AttentionCell of a block": lambda: AttentionCell(TransformerDecoderCell(8, 2, max_length=7), input_feeding=False),
}
CASES = {
    **CELLS,
    **{f"RNN of {name}": (lambda make=make: keras.layers.RNN(make())) for name, make in CELLS.items()},
    **{
        f"Bidirectional RNN of {name}": (lambda make=make: keras.layers.Bidirectional(keras.layers.RNN(make())))
        for name, make in CELLS.items()
    },
    **{
        f"AutoregressiveDecoder of {name}": (lambda make=make: AutoregressiveDecoder(make()))
        for name, make in CELLS.items()
    },
    "StackedRNNCells": lambda: keras.layers.StackedRNNCells([make() for make in CELLS.values()]),
    "AutoregressiveDecoder": lambda: AutoregressiveDecoder([LSTM(3), GRU(4)], keras.layers.Dense(2), steps=5, seed=2),
    "AutoregressiveDecoder of tokens": lambda: decoder(
        output_layer=keras.layers.Dense(5), sampler=ks.Categorical(top_k=2)
    ),
    "TokenGenerator": lambda: ks.TokenGenerator(decoder(), end_token=1, max_steps=4, processors=[ks.TopK(2)]),
    "TokenGenerator of beams": lambda: ks.TokenGenerator(
        decoder(), end_token=1, max_steps=4, search=ks.BeamSearch(3, length_penalty=0.5), num_return_sequences=2
    ),
    "KeepMask": lambda: ks.KeepMask(keras.layers.LSTM(3, return_sequences=True)),
    "MaskedTimeDistributed": lambda: ks.MaskedTimeDistributed(keras.layers.Dense(3), skip_masked=True),
    "RepeatToLength": lambda: ks.RepeatToLength(),
    "SequenceMask": lambda: ks.SequenceMask(),
    "OutputMasks": lambda: OutputMasks(),
    "EditDistance": lambda: ks.EditDistance(normalize=False, end_token=1),
    "SequenceAccuracy": lambda: ks.SequenceAccuracy(pad_token=0),
    "TeacherForcingSchedule": lambda: ks.TeacherForcingSchedule("linear", start=0.9, end=0.1, epochs=3),
    "StopThreshold": lambda: ks.StopThreshold(0.7, feature=2),
    "Identity": lambda: ks.Identity(),
    "Greedy": lambda: ks.Greedy(),
    "Categorical": lambda: ks.Categorical(temperature=0.5, top_k=3, top_p=0.9),
    "Gaussian": lambda: ks.Gaussian(0.5),
    "GreedySearch": lambda: GreedySearch(),
    "Sampling": lambda: ks.Sampling(num_samples=3, top_p=0.5),
    "BeamSearch": lambda: ks.BeamSearch(3, length_penalty=0.5),
    "Temperature": lambda: ks.Temperature(0.5),
    "TopK": lambda: ks.TopK(3),
    "TopP": lambda: ks.TopP(0.5),
    "MinP": lambda: ks.MinP(0.1),
    "RepetitionPenalty": lambda: ks.RepetitionPenalty(1.5),
    "NoRepeatNGram": lambda: ks.NoRepeatNGram(2),
    "MinLength": lambda: ks.MinLength(2, end_token=1),
    "SuppressTokens": lambda: ks.SuppressTokens([1, 2]),
    "ForcedTokens": lambda: ks.ForcedTokens({0: 2}),
    "PrefixConstrained": lambda: ks.PrefixConstrained([[2, 3], [3]], end_token=1),
}

DATA = [np.ones((n, 2), "float32") for n in (1, 3, 2)]
BUCKETING = {"batch_size": 2, "buckets": 2}
# Objects whose data no configuration holds: `from_config` takes it.
WITH_DATA = {
    "LengthBucketing": (lambda x: ks.LengthBucketing(x, **BUCKETING, shuffle=True, seed=3), [DATA]),
    "PaddingMonitor": (lambda data: ks.PaddingMonitor(data), [ks.LengthBucketing(DATA, **BUCKETING)]),
    "LengthCurriculum": (lambda data: ks.LengthCurriculum(data, 3), [ks.LengthBucketing(DATA, **BUCKETING)]),
    "SequencePlot": (lambda x, y: ks.SequencePlot(x, y, freq=2), [DATA[0][None], DATA[0][None]]),
}
BASES = {"LogitsProcessor", "Sampler", "StopCondition"}


def test_every_registered_class_is_here():
    registered = {name.split(">")[1] for name in keras.saving.get_custom_objects() if name.startswith("keras_seqx>")}
    assert registered - {name.split()[0] for name in [*CASES, *WITH_DATA]} - BASES == set()


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_comes_back_unbuilt(make):
    written = keras.saving.serialize_keras_object(make())
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(written)), safe_mode=True)
    assert not getattr(again, "built", False) or not again.weights
    assert json.dumps(keras.saving.serialize_keras_object(again)) == json.dumps(written)
    keras.saving.deserialize_keras_object(written)


@pytest.mark.parametrize(("make", "data"), WITH_DATA.values(), ids=WITH_DATA)
def test_options_come_back_with_the_data_given_again(make, data):
    config = make(*data).get_config()
    again = type(make(*data)).from_config(json.loads(json.dumps(config)), *data)
    assert json.dumps(again.get_config()) == json.dumps(config)
