"""float64: outputs exact to 1e-10, gradients of free running equal to finite differences of the oracle.

`keras.ops.matmul` on torch and `keras.ops.tanh` on JAX compute in float32 whatever they are given, and Keras' own
cells with them. There the exactness is that of a cell and an output layer without the two.
"""

import keras
import numpy as np
import pytest

from tests.cases import BACKEND, FEATURES, MODES, PlainDense, build, gradients, normal, to_numpy
from tests.reference.decoder import decode

STACKS = {"plain": ["plain", "plain"], "keras": ["lstm", "gru", "leaky"]}
USE = np.arange(4) < np.array([[4], [1], [3]])


@pytest.fixture(autouse=True)
def _float64(_fresh_keras):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def make(kind):
    return build(STACKS[kind], 5, output_layer=PlainDense(FEATURES) if kind == "plain" else None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", STACKS)
def test_outputs(kind, mode):
    decoder, reference = make(kind)
    inputs = normal(0, 3, 4, FEATURES)
    outputs = to_numpy(MODES[mode](decoder, inputs, steps=20, mask=USE))
    expected, _ = decode(reference.cells, reference.output, inputs, reference.zero_states(3), 20, use=USE)
    assert outputs.dtype == "float64"
    exact = kind == "plain" or BACKEND == "tensorflow"
    np.testing.assert_allclose(outputs, expected, atol=1e-10 if exact else 1e-5, rtol=0)


@pytest.mark.parametrize("use", [None, USE], ids=["full", "masked"])
@pytest.mark.parametrize("kind", STACKS)
def test_gradients_equal_finite_differences(kind, use):
    decoder, reference = make(kind)
    inputs, weigh = normal(0, 3, 4, FEATURES), normal(1, 3, 9, FEATURES)

    def loss():
        return keras.ops.sum(decoder(inputs, steps=9, mask=use) * keras.ops.convert_to_tensor(weigh))

    def oracle():
        states = reference.zero_states(3)
        return (decode(reference.cells, reference.output, inputs, states, 9, use=use)[0] * weigh).sum()

    received = gradients(loss, decoder)
    # The oracle's arrays stand in the order of the layer's variables: moving an entry moves its loss.
    arrays = [w for _, weights in reference.cells for w in weights] + list(reference.output)
    rng, exact = np.random.default_rng(0), kind == "plain" or BACKEND == "tensorflow"
    assert [g.shape for g in received] == [a.shape for a in arrays]
    for gradient, array in zip(received, arrays, strict=True):
        for index in {tuple(rng.integers(array.shape)) for _ in range(4)}:
            old, eps = array[index], 1e-5
            array[index] = old + eps
            above = oracle()
            array[index] = old - eps
            difference = (above - oracle()) / (2 * eps)
            array[index] = old
            np.testing.assert_allclose(
                gradient[index], difference, rtol=1e-6 if exact else 1e-3, atol=1e-7 if exact else 1e-4
            )
