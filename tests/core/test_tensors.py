"""New tensors with old values, and values that are known without waiting."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx._core import mask_metadata, tensors
from tests.cases import BACKEND, MODES, gradients, normal, to_numpy


class Copies(keras.layers.Layer):
    """Copies a tensor with a mask, gives the copy another one, and records what it sees."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True
        self.built = True
        object.__setattr__(self, "seen", [])

    def call(self, inputs):
        mask = ops.ones_like(inputs, dtype="bool")
        marked = mask_metadata.write(inputs, mask)
        copy = tensors.new_tensor(marked)
        empty = mask_metadata.read(copy) is None
        other = mask_metadata.write(marked, ops.logical_not(mask))
        kept = mask_metadata.read(marked) is mask and mask_metadata.read(other) is not mask
        self.seen.append((copy is not marked, other is not marked, empty, kept, mask_metadata.read(inputs) is None))
        return copy


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("values", [np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3)], ids=["float", "int"])
def test_a_copy_is_another_tensor_without_a_mask(mode, values):
    layer, values = Copies(), values.astype("float32" if values.dtype.kind == "f" else "int32")
    np.testing.assert_array_equal(to_numpy(MODES[mode](layer, ops.convert_to_tensor(values))), values)
    assert layer.seen
    assert all(all(seen) for seen in layer.seen)


def test_a_symbolic_copy():
    x = keras.KerasTensor((None, 3), dtype="int32")
    copy = tensors.new_tensor(x)
    assert copy is not x
    assert (copy.shape, copy.dtype) == (x.shape, x.dtype)


def test_gradients_flow_through_a_copy():
    layer, x = keras.layers.Dense(2, use_bias=False), normal(0, 3, 4)
    layer.build((3, 4))
    received = gradients(lambda: ops.sum(tensors.new_tensor(layer(x)) ** 2), layer)
    y = x @ to_numpy(layer.kernel)
    np.testing.assert_allclose(received[0], x.T @ (2 * y), atol=1e-4)


def test_values_are_known_where_they_are_in_memory():
    x = ops.convert_to_tensor(np.array([3, 1], "int32"))
    np.testing.assert_array_equal(tensors.host_values(x), [3, 1])
    assert tensors.host_values(keras.KerasTensor((2,), dtype="int32")) is None


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "eager"])
def test_values_of_a_traced_tensor_are_not_known(mode):
    class Known(keras.layers.Layer):
        def call(self, inputs):
            object.__setattr__(self, "seen", tensors.host_values(inputs + 1))
            return inputs + 1

    layer = Known()
    layer.built = True
    MODES[mode](layer, ops.convert_to_tensor(np.array([3, 1], "int32")))
    assert layer.seen is None


@pytest.mark.skipif(BACKEND != "torch", reason="only torch trains eagerly")
def test_a_torch_device_is_not_waited_for():
    import torch

    assert tensors.host_values(torch.empty(2, device="meta", dtype=torch.int32)) is None
