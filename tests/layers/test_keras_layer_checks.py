"""Keras' own checks of a layer, over every layer and cell: config, build, symbolic and eager call, training, precision.

They are `keras.src.testing.TestCase.run_layer_test`. Keras does not export it; no file but this one imports it.
"""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.testing import TestCase

import keras_seqx
from keras_seqx import (
    AttentionCell,
    AutoregressiveDecoder,
    KeepMask,
    MaskedTimeDistributed,
    RepeatToLength,
    SequenceMask,
    TokenGenerator,
    TransformerDecoderCell,
)
from tests.cases import BACKEND, normal

B, T, D, S, M, VOCABULARY = 2, 4, 6, 5, 3, 7
LSTM, GRU, Dense = keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.Dense
X = normal(0, B, T, D)


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class FirstStep(TransformerDecoderCell):
    """A cell as a layer of one argument: its first step."""

    def build(self, inputs_shape):
        super().build(inputs_shape)

    def build_from_config(self, config):
        self.build(config["inputs_shape"])

    def call(self, inputs, training=None):
        return super().call(inputs, self.get_initial_state(ops.shape(inputs)[0]), training)[0]

    def compute_output_spec(self, inputs, training=None):
        # Keras' trace of `call`, outside of a call, would see weights that are not cast to the compute dtype.
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class FirstLook(AttentionCell):
    """A cell as a layer of two arguments: its first step."""

    def build(self, inputs_shape, memory_shape):
        super().build(inputs_shape, memory_shape=memory_shape)

    def call(self, inputs, memory, training=None):
        return super().call(inputs, self.get_initial_state(memory=memory), training, memory)[0]

    def compute_output_spec(self, inputs, memory, training=None):
        states = [keras.KerasTensor((None, 1))] * len(self.state_size)
        return super().compute_output_spec(inputs, states, training, memory)[0]


def decoder(cell, output_layer=None, **options):
    """Makes a decoder of parts that have its dtype."""
    return lambda **layer: AutoregressiveDecoder(
        cell(**layer), None if output_layer is None else output_layer(**layer), **options, **layer
    )


def token_decoder(**layer):
    embedding = keras.layers.Embedding(VOCABULARY, D, **layer)
    return AutoregressiveDecoder(LSTM(8, **layer), Dense(VOCABULARY, **layer), embedding=embedding, **layer)


def block(**layer):
    return TransformerDecoderCell(D, 3, max_length=9, dropout=0.5, **layer)


def attention(**layer):
    return AttentionCell(GRU(D, dropout=0.5, **layer), monotonic="soft", sigmoid_noise=1.0, **layer)


# What takes several tensors by name. Keras' training check passes them as one dictionary, which is for layers of one.
AND_MEMORY = {
    "input_shape": {"inputs_shape": (B, T, D), "memory_shape": (B, S, M)},
    "input_dtype": {"inputs_shape": "float32", "memory_shape": "float32"},
    "run_training_check": False,
}
# Keras' training check hands a list of inputs to a `tf.data` signature on TensorFlow, which takes none. There, `fit` on
# these layers is in `test_masks_of_callers.py` and `test_repeat_to_length.py`.
PAIR = {"run_training_check": BACKEND != "tensorflow"}
IDS = {"input_data": np.array([[1, 2, 3, 4], [5, 6, 1, 2]], "int32")}

# A layer for the arguments of every Keras layer; what it reads; what it answers.
CASES = {
    "AttentionCell": (
        lambda **layer: FirstLook(GRU(D, **layer), monotonic="soft", sigmoid_noise=1.0, **layer),
        AND_MEMORY | {"input_shape": {"inputs_shape": (B, D), "memory_shape": (B, S, M)}},
        {"expected_output_shape": (B, D)},
    ),
    "AttentionCell in a decoder": (decoder(attention), AND_MEMORY, {"expected_output_shape": (B, T, D)}),
    "AutoregressiveDecoder": (
        decoder(lambda **layer: [LSTM(8, **layer), GRU(5, **layer)], lambda **layer: Dense(D, **layer)),
        {"input_data": X},
        {"expected_output_shape": (B, T, D), "supports_masking": True},
    ),
    "AutoregressiveDecoder, free": (
        decoder(lambda **layer: LSTM(D, dropout=0.5, **layer), steps=7, teacher_forcing=0.5, return_state=True),
        {"input_data": X},
        {"expected_output_shape": ((B, 7, D), (B, D), (B, D)), "supports_masking": True},
    ),
    "AutoregressiveDecoder of tokens": (token_decoder, IDS, {"expected_output_shape": (B, T, VOCABULARY)}),
    "KeepMask": (
        lambda **layer: KeepMask(keras.layers.GRU(5, return_sequences=True, **layer), **layer),
        {"input_data": X},
        {"expected_output_shape": (B, T, 5), "supports_masking": True, "expected_num_trainable_weights": 3},
    ),
    "KeepMask of sequences and states": (
        lambda **layer: KeepMask(keras.layers.LSTM(5, return_sequences=True, return_state=True, **layer), **layer),
        {"input_data": X},
        {"expected_output_shape": ((B, T, 5), (B, 5), (B, 5)), "supports_masking": True},
    ),
    "MaskedTimeDistributed": (
        lambda **layer: MaskedTimeDistributed(Dense(5, **layer), **layer),
        {"input_data": X},
        {"expected_output_shape": (B, T, 5), "supports_masking": True, "expected_num_trainable_weights": 2},
    ),
    "RepeatToLength": (
        RepeatToLength,
        PAIR | {"input_data": [normal(0, B, D), X]},
        {"expected_output_shape": (B, T, D), "supports_masking": True},
    ),
    "SequenceMask": (
        SequenceMask,
        PAIR | {"input_data": [X, np.array([4, 2], "int32")]},
        {"expected_output_shape": (B, T, D), "supports_masking": True, "expected_num_trainable_weights": 0},
    ),
    "TokenGenerator": (
        lambda **layer: TokenGenerator(token_decoder(**layer), end_token=1, max_steps=3, **layer),
        IDS | {"run_training_check": False},  # tokens have no gradient
        {"expected_output_shape": {"tokens": (B, 3), "lengths": (B,), "scores": (B,)}},
    ),
    "TransformerDecoderCell": (
        lambda **layer: FirstStep(D, 3, max_length=9, dropout=0.5, **layer),
        {"input_data": X[:, 0]},
        {"expected_output_shape": (B, D), "expected_num_seed_generators": 1},
    ),
    "TransformerDecoderCell in a decoder": (decoder(block), {"input_data": X}, {"expected_output_shape": (B, T, D)}),
    "TransformerDecoderCell in RNN": (
        lambda **layer: keras.layers.RNN(block(**layer), return_sequences=True, return_state=True, **layer),
        {"input_data": X},
        {"expected_output_shape": ((B, T, D), (B, D), (B, 9 * D), (B, 9 * D), (B, 1))},
    ),
    "TransformerDecoderCell in Bidirectional": (
        lambda **layer: keras.layers.Bidirectional(keras.layers.RNN(block(**layer), **layer), **layer),
        {"input_data": X},
        {"expected_output_shape": (B, 2 * D)},
    ),
}


def test_every_layer_is_checked():
    layers = {name for name, value in vars(keras_seqx.layers).items() if isinstance(value, type)}
    assert layers - {case.split()[0].strip(",") for case in CASES} == set()


@pytest.mark.parametrize(("make", "arguments", "expected"), CASES.values(), ids=CASES)
def test_keras_checks(make, arguments, expected):
    TestCase().run_layer_test(make, init_kwargs={}, **arguments, **expected)
