"""What the tests draw from: cells with their oracles, and the ways to run a layer."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder
from keras_seqx.testing import execution
from keras_seqx.testing.execution import to_numpy

BACKEND = keras.backend.backend()
FEATURES = 3

# What is NumPy alone is tested once, in the suite of the default backend.
numpy_alone = pytest.mark.skipif(BACKEND != "tensorflow", reason="NumPy alone, the same on every backend")


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class LeakyCell(keras.layers.Layer):
    """Output and states differ in number, size and meaning; everything is declared."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units, units]
        self.output_size = units + 1

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.readout = self.add_weight(shape=(2 * self.units, self.units + 1), name="readout")
        super().build(input_shape)

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, self.units), self.compute_dtype) for _ in range(2)]

    def call(self, inputs, states, training=False):
        drive = ops.tanh(ops.matmul(inputs, self.kernel))
        slow, fast = 0.9 * states[0] + 0.1 * drive, 0.5 * states[1] + 0.5 * drive
        return ops.matmul(ops.concatenate([slow, fast], axis=-1), self.readout), [slow, fast]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class WindowCell(keras.layers.Layer):
    """One state of rank 3, an inner layer instead of a `build`, no output size and no `training`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.dense = keras.layers.Dense(units, use_bias=False)

    def get_initial_state(self, batch_size=None):
        return ops.zeros((batch_size, 3, self.units), self.compute_dtype)

    def call(self, inputs, states):
        state = ops.concatenate([states[0][:, 1:], self.dense(inputs)[:, None]], axis=1)
        return state[:, 0] + 2 * state[:, 1] - state[:, 2], [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class PlainCell(keras.layers.Layer):
    """Made of what every backend computes in float64: `keras.ops.matmul` on torch and `tanh` on JAX do not."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")
        super().build(input_shape)

    def call(self, inputs, states):
        state = ops.sigmoid(inputs @ self.kernel.value + states[0] @ self.recurrent.value)
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class PlainDense(keras.layers.Dense):
    """A dense layer of the same make."""

    def call(self, inputs, training=None):
        return inputs @ self.kernel.value + self.bias.value


def _zeros(*shapes):
    return lambda batch: [np.zeros((batch, *shape)) for shape in shapes]


CELLS = {
    "simple_rnn": (lambda: keras.layers.SimpleRNNCell(4), _zeros((4,))),
    "lstm": (lambda: keras.layers.LSTMCell(5), _zeros((5,), (5,))),
    "gru": (lambda: keras.layers.GRUCell(4), _zeros((4,))),
    "leaky": (lambda: LeakyCell(4), _zeros((4,), (4,))),
    "window": (lambda: WindowCell(4), _zeros((3, 4))),
    "plain": (lambda: PlainCell(4), _zeros((4,))),
}

# Names of leaf cells, nested as they are stacked; "layer:" stands for the RNN layer around the cell.
STACKS: list[Any] = [
    "lstm",
    ["gru", "lstm"],
    ["leaky"],
    ["layer:lstm", "simple_rnn"],
    ["window", ["lstm", ["gru"]], "leaky"],
    ["layer:gru", "layer:lstm", "lstm", "lstm"],
]


def leaves(stack):
    """The kinds of a stack's cells, in order."""
    if isinstance(stack, str):
        return [stack.removeprefix("layer:")]
    return [kind for part in stack for kind in leaves(part)]


def make_cell(stack):
    """What a user would pass as `cell`: nested lists below the top are `StackedRNNCells`."""
    if not isinstance(stack, str):
        return [
            make_cell(part) if isinstance(part, str) else keras.layers.StackedRNNCells(make_cell(part))
            for part in stack
        ]
    cell = CELLS[stack.removeprefix("layer:")][0]()
    if stack.startswith("layer:"):
        return {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[stack.removeprefix("layer:")](cell.units)
    return cell


def flatten_cells(cell):
    """The leaf layers of what `make_cell` made."""
    if isinstance(cell, (list, tuple)):
        return [leaf for part in cell for leaf in flatten_cells(part)]
    if isinstance(cell, keras.layers.StackedRNNCells):
        return flatten_cells(cell.cells)
    return [cell.cell if isinstance(cell, keras.layers.RNN) else cell]


def randomize(layer, rng):
    """Gives every trainable weight a value worth testing with: biases are no longer zero."""
    for v in layer.trainable_variables:
        v.assign(rng.normal(0, 0.5, v.shape))


@dataclasses.dataclass
class Reference:
    """The oracle's view of a decoder: its cells' kinds, weights, zero states and output weights."""

    cells: list
    output: Any
    zero_states: Any

    @classmethod
    def of(cls, stack, decoder):
        kinds = leaves(stack)
        weights = [[w.numpy().astype("float64") for w in c.trainable_weights] for c in flatten_cells(decoder.cell)]
        output = decoder.output_layer and [w.astype("float64") for w in decoder.output_layer.get_weights()]
        return cls(
            list(zip(kinds, weights, strict=True)), output, lambda batch: [CELLS[kind][1](batch) for kind in kinds]
        )


def build(stack, seed, covariates=0, output_layer=None, **kwargs):
    """A built decoder with random weights, and the oracle's view of it."""
    decoder = AutoregressiveDecoder(make_cell(stack), output_layer or keras.layers.Dense(FEATURES), **kwargs)
    extra = {"covariates": np.zeros((1, 1, covariates))} if covariates else {}
    decoder(np.zeros((1, 1, FEATURES)), steps=1, **extra)
    randomize(decoder, np.random.default_rng(seed))
    return decoder, Reference.of(stack, decoder)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(keras.config.floatx())


def _eager(layer, *args, **kwargs):
    return layer(*args, **kwargs)


def _tf_function(mode):
    return lambda layer, *args, **kwargs: execution.compiled(lambda: layer(*args, **kwargs), mode)()


def _jax_jit(layer, *args, **kwargs):
    if not layer.built:
        layer.build(args[0].shape)

    def pure(variables, tensors, static):
        with keras.StatelessScope(list(zip(layer.variables, variables, strict=True))):
            return layer(*tensors[0], **tensors[1], **static)

    arrays = {k: v for k, v in kwargs.items() if not isinstance(v, (int, bool, type(None)))}
    static = {k: v for k, v in kwargs.items() if k not in arrays}
    args = tuple(np.asarray(a) if not isinstance(a, (list, tuple, dict)) else a for a in args)
    variables = [v.value for v in layer.variables]
    return execution.compiled(lambda v, t: pure(v, t, static), "jit")(variables, (args, arrays))


def gradients(function, layer):
    """Gradients of the scalar `function()` by the trainable variables of `layer`, as arrays."""
    variables = layer.trainable_variables

    def pure(values):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(), None

    slopes = execution.compiled(execution.gradients(pure), execution.choose_mode("gradients", None))
    return to_numpy(slopes([v.value for v in variables])[0])


# Every way a layer is run on this backend. Torch has eager execution alone.
MODES = {
    "tensorflow": {"eager": _eager, "graph": _tf_function("graph"), "xla": _tf_function("xla")},
    "jax": {"eager": _eager, "jit": _jax_jit},
    "torch": {"eager": _eager},
}[BACKEND]
