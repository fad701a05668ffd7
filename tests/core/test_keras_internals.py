"""What `keras_internals` says of Keras, on the version at hand."""

import contextlib

import keras
import pytest

from keras_seqx._core import keras_internals
from tests.cases import BACKEND


class Asks(keras.layers.Layer):
    answers: list = []  # noqa: RUF012

    def call(self, inputs):
        self.answers.append(keras_internals.export_format())
        return 2 * inputs


@pytest.mark.skipif(BACKEND == "jax", reason="Keras exports to ONNX from JAX by a package of its own")
def test_a_layer_knows_that_it_is_exported_to_onnx(tmp_path):
    x = keras.Input((2,))
    model = keras.Model(x, Asks()(x))
    model.predict(keras.ops.ones((1, 2)), verbose=0)
    assert not any(Asks.answers)
    with contextlib.suppress(ImportError):  # after the trace, where a package is not installed
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert Asks.answers[-1] == "onnx"
    Asks.answers.clear()
    if BACKEND == "tensorflow":
        model.export(tmp_path / "model", verbose=False)
        assert Asks.answers[-1] == "saved_model"
