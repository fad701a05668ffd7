"""Every function over private Keras does what it says, on each Keras that the package supports."""

import threading

import keras
import numpy as np
import pytest

from keras_seqx._core.keras_internals import patched_call

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
