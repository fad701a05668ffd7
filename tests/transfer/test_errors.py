"""Bad input: one error that says what is wrong with what, and how to mend it."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import transfer_weights
from tests.transfer.models import assert_same, randomize, values


def network(units=2, name=None):
    return keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(units, name=name)])


class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


CASES = {
    "no path": (
        lambda: (3, network(), {}),
        TypeError,
        "`source` must be a Keras model or a path. Received: `source`=3",
    ),
    "bytes": (lambda: (b"a.h5", network(), {}), TypeError, "`source` must be a Keras model or a path"),
    "a layer": (lambda: (layers.Dense(2), network(), {}), TypeError, "`source` must be a Keras model or a path"),
    "missing": (lambda: ("no_such.keras", network(), {}), FileNotFoundError, "`source` must be .*'no_such.keras'"),
    "no target": (lambda: (network(), "a.keras", {}), TypeError, "`target` must be a Keras model. .*'a.keras'"),
    "target not built": (lambda: (network(), Unbuilt(), {}), ValueError, "`target` must be a model with weights"),
    "source not built": (lambda: (Unbuilt(), network(), {}), ValueError, "`source` must be a model with weights"),
    "no match": (
        lambda: (network(), keras.Sequential([keras.Input((3, 2)), layers.LSTM(4)]), {}),
        ValueError,
        r"(?s)`source` must be of weights that fit the target.*'lstm/lstm_cell' \(kernel \(2, 16\), .*nothing in the "
        r"source fits; it has 'dense', 'dense_1'.*by `mapping`, .*`on_mismatch=\"skip\"`",
    ),
    "shapes": (
        lambda: (network(2), network(5), {}),
        ValueError,
        r"(?s)'dense_3' \(kernel \(4, 5\), bias \(5,\)\): from 'dense_1' \(kernel \(4, 2\), bias \(2,\)\)",
    ),
    "shapes of a name": (
        lambda: (network(2, "head"), network(5, "head"), {}),
        ValueError,
        r"(?s)'head' \(kernel \(4, 5\), bias \(5,\)\): from 'head' \(kernel \(4, 2\), bias \(2,\)\)",
    ),
    "on_mismatch": (
        lambda: (network(), network(), {"on_mismatch": "ignore"}),
        ValueError,
        "`on_mismatch` must be one of .*'skip', 'truncate', 'interpolate'.*Received: `on_mismatch`='ignore'",
    ),
    "on_mismatch of a layer": (
        lambda: (network(), network(), {"on_mismatch": {"dense": 3}}),
        ValueError,
        "`on_mismatch` must be one of",
    ),
    "on_mismatch of no layer": (
        lambda: (network(), network(), {"on_mismatch": {"head": "skip"}}),
        ValueError,
        "`on_mismatch` must be of layers of the target. .*'head'.*the target has 'dense_2', 'dense_3'",
    ),
    "on_mismatch by no expression": (
        lambda: (network(), network(), {"on_mismatch": {"(dense": "skip"}}),
        ValueError,
        "`on_mismatch` must be of valid regular expressions",
    ),
    "mapping of what": (
        lambda: (network(), network(), {"mapping": ["dense"]}),
        TypeError,
        "`mapping` must be a dict of str to str",
    ),
    "mapping from nowhere": (
        lambda: (network(), network(), {"mapping": {"encoder": "dense_2"}}),
        ValueError,
        "`mapping` must be name, path or expression of layers of the source.*'encoder' .*has 'dense', 'dense_1'",
    ),
    "mapping to nowhere": (
        lambda: (network(), network(), {"mapping": {"dense": "encoder"}}),
        ValueError,
        "`mapping` must be to layers of the target.*the target has 'dense_2', 'dense_3'",
    ),
    "mapping turned round": (
        lambda: (network(2, "ours"), network(2, "theirs"), {"mapping": {"theirs": "ours"}}),
        ValueError,
        "'theirs' is of the target, and a mapping goes from source to target",
    ),
    "mapping by no expression": (
        lambda: (network(), network(), {"mapping": {"(dense": "dense"}}),
        ValueError,
        "`mapping` must be a valid regular expression and replacement",
    ),
    "mapping of other shapes": (
        lambda: (network(), network(), {"mapping": {"dense": "dense_3"}}),
        ValueError,
        r"'dense_3' \(kernel \(4, 2\), bias \(2,\)\): from 'dense' \(kernel \(3, 4\), bias \(4,\)\)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    make, error, message = CASES[case]
    source, target, options = make()
    before = values(target) if isinstance(target, keras.Model) else []
    with pytest.raises(error, match=message) as caught:
        transfer_weights(source, target, **options)
    assert str(caught.value).startswith("transfer_weights: `")
    assert str(caught.value).endswith(".")
    assert_same(before, values(target) if before else [])


def test_a_computed_weight_cannot_be_set():
    source, target = randomize(network()), network()
    target.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"computes its weights \(LoRA or quantization\)"):
        transfer_weights(source, target)
    transfer_weights(target, source)  # but read
    np.testing.assert_allclose(*(keras.ops.convert_to_numpy(m.layers[0].kernel) for m in (source, target)), atol=1e-6)
