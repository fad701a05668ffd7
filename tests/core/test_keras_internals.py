"""What the package takes from Keras without a promise of Keras."""

import keras
import numpy as np

from keras_seqx._core import keras_internals


def test_rnn_calls_a_dropout_rnn_cell_before_and_after_its_loop():
    calls = []

    class Cell(keras_internals.dropout_rnn_cell(), keras.layers.Layer):
        state_size = 3

        def call(self, inputs, states):
            calls.append("call")
            return states[0], states

        def get_dropout_mask(self, step_input):
            calls.append(("inputs", tuple(step_input.shape)))

        def get_recurrent_dropout_mask(self, step_input):
            calls.append(("state", tuple(step_input.shape)))

        def reset_dropout_mask(self):
            calls.append("reset")

        def reset_recurrent_dropout_mask(self):
            calls.append("reset recurrent")

    assert isinstance(keras.layers.GRUCell(2), keras_internals.dropout_rnn_cell())
    keras.layers.RNN(Cell())(np.zeros((2, 4, 5), "float32"))
    steps = calls[2:-2]
    assert calls == [("inputs", (2, 5)), ("state", (2, 3)), *steps, "reset", "reset recurrent"]
    assert set(steps) == {"call"}
