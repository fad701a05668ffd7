"""What the package takes from Keras without a promise of Keras."""

import contextlib
import threading

import keras
import numpy as np
import pytest

from keras_seqx._core import keras_internals
from keras_seqx._core.keras_internals import class_weight_of_fit, patched_call
from tests.cases import BACKEND


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


class Asks(keras.layers.Layer):
    answers: list = []  # noqa: RUF012

    def call(self, inputs):
        self.answers.append(keras_internals.exports_to_onnx())
        return 2 * inputs


@pytest.mark.skipif(BACKEND == "jax", reason="Keras exports to ONNX from JAX by a package of its own")
def test_a_layer_knows_that_it_is_exported_to_onnx(tmp_path):
    x = keras.Input((2,))
    model = keras.Model(x, Asks()(x))
    model.predict(keras.ops.ones((1, 2)), verbose=0)
    assert not any(Asks.answers)
    with contextlib.suppress(ImportError):  # after the trace, where a package is not installed
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert Asks.answers[-1]
    Asks.answers.clear()
    if BACKEND == "tensorflow":
        model.export(tmp_path / "model", verbose=False)
        assert Asks.answers
        assert not any(Asks.answers)


class Data(keras.utils.PyDataset):
    """Notes the class weights that it finds where Keras reads `workers`."""

    found: list

    @property
    def workers(self):
        self.found.append(class_weight_of_fit())
        return 1

    use_multiprocessing = property(lambda self: False)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros((2, 1), "float32"), np.zeros(2, "int32")


def test_class_weight_of_fit():
    data = Data()
    data.found = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data, class_weight={0: 2.0}, verbose=0)
    assert {0: 2.0} in data.found
    data.found.clear()
    model.fit(data, verbose=0)
    model.evaluate(data, verbose=0)
    assert data.workers == 1
    assert data.found
    assert not any(data.found)


X = np.ones((1, 2), "float32")


def plus(amount):
    return lambda call, inputs: call(inputs) + amount


def value(layer):
    return float(keras.ops.convert_to_numpy(layer(X))[0, 0])


def layer_of(kind):
    if kind == "layer":
        return keras.layers.Rescaling(3.0)
    inputs = keras.Input((2,))
    return keras.Model(inputs, inputs * 3.0)


@pytest.mark.parametrize("kind", ["layer", "model"])
def test_call_is_replaced_and_put_back(kind):
    layer = layer_of(kind)
    attributes = set(vars(layer))
    with patched_call(layer, plus(1)):
        assert value(layer) == 4
        with patched_call(layer, plus(10)):
            assert value(layer) == 13
        assert value(layer) == 4
    assert value(layer) == 3
    assert set(vars(layer)) == attributes


def test_call_is_put_back_after_an_exception():
    layer = layer_of("layer")
    with pytest.raises(ZeroDivisionError), patched_call(layer, plus(1)), patched_call(layer, plus(2)):
        raise ZeroDivisionError
    assert value(layer) == 3
    assert "call" not in vars(layer)


def test_a_call_set_by_the_user_is_kept():
    layer = layer_of("layer")
    own = lambda inputs: inputs * 5.0  # noqa: E731
    object.__setattr__(layer, "call", own)
    with patched_call(layer, plus(1)):
        assert value(layer) == 6
    assert layer.call is own


def test_each_thread_has_its_own_replacement():
    layer = layer_of("layer")
    found, both = {}, threading.Barrier(3, timeout=60)

    def work(amount):
        with patched_call(layer, plus(amount)):
            both.wait()  # All are inside.
            found[amount] = value(layer)
            both.wait()
        found[-amount] = value(layer)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (1, 2)]
    for thread in threads:
        thread.start()
    both.wait()
    found[0] = value(layer)
    both.wait()
    for thread in threads:
        thread.join()
    assert found == {0: 3, 1: 4, 2: 5, -1: 3, -2: 3}
    assert "call" not in vars(layer)
