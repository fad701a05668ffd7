"""Decoders that speak tokens, with their oracles, and layers compiled once for any values."""

import keras
import numpy as np
from keras import ops, tree

from keras_seqx import AutoregressiveDecoder
from keras_seqx.testing import execution
from keras_seqx.testing.execution import to_numpy
from tests.cases import BACKEND, Reference, make_cell, randomize
from tests.reference.search import decoder_logits

VOCABULARY, WIDTH = 7, 4

# The way of running in which many calls cost least.
MODE = {"tensorflow": "graph", "jax": "jit", "torch": "eager"}[BACKEND]


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class CountingCell(keras.layers.Layer):
    """A state of integers, which mixes the signs of all that was read; a second of rank 3."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [1, units]
        self.output_size = units

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, 1), "int32"), ops.zeros((batch_size, 2, self.units), self.compute_dtype)]

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        super().build(input_shape)

    def call(self, inputs, states):
        mixed, window = states
        positive = ops.sum(ops.cast(inputs > 0, "int32"), axis=-1, keepdims=True)
        mixed = ops.cast((3 * mixed + positive + 1) % 11, "int32")
        window = ops.concatenate([window[:, 1:], ops.matmul(inputs, self.kernel)[:, None]], axis=1)
        return window[:, 0] + window[:, 1] * ops.cast(mixed - 5, window.dtype) / 5, [mixed, window]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def build(stack, seed=0, mask_zero=False, covariates=0, **kwargs):
    """A built decoder of tokens with random weights; `stack` as in `tests.cases`, or cells."""
    cell = make_cell(stack) if isinstance(stack, str) or isinstance(stack[0], str) else stack
    embedding = keras.layers.Embedding(VOCABULARY, WIDTH, mask_zero=mask_zero)
    decoder = AutoregressiveDecoder(cell, keras.layers.Dense(VOCABULARY), embedding=embedding, **kwargs)
    # Not by a call, which JAX would compile.
    memory_shape = (None, None, 3) if decoder._core.cells.needs_memory else None
    decoder.build((None, None), memory_shape, (None, None, covariates) if covariates else None)
    reweigh(decoder, seed)
    return decoder


def reweigh(decoder, seed):
    """Random weights, with which one token leads to another: the embedding speaks up."""
    randomize(decoder, np.random.default_rng(seed))
    decoder.embedding.embeddings.assign(3 * decoder.embedding.embeddings.value)


def logits_of(stack, decoder, row=None, states=None, covariates=None):
    """The oracle of a decoder as a function from one row's tokens to its last logits."""
    reference = Reference.of(stack, decoder)
    states = reference.zero_states(1) if states is None else states
    known = None if covariates is None else covariates[row : row + 1]
    embedding = to_numpy(decoder.embedding.embeddings.value).astype("float64")
    return decoder_logits(reference.cells, reference.output, embedding, states, known)


def program(layer, mode=MODE, **static):
    """The layer as a function of arrays, compiled once whatever the values of its weights and of the arrays."""

    def run(values, args, kwargs):
        if values is None:
            return layer(*args, **kwargs, **static)
        with keras.StatelessScope(list(zip(layer.variables, values, strict=True))):
            return layer(*args, **kwargs, **static)

    function = execution.compiled(run, mode)

    def call(*args, **kwargs):
        tensors = tree.map_structure(lambda x: x if x is None else ops.convert_to_tensor(x), (args, kwargs))
        values = [v.value for v in layer.variables] if mode == "jit" else None
        return to_numpy(function(values, *tensors))

    return call
