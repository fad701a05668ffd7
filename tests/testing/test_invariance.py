"""The laws of a batch hold where they should, and catch each planted fault by name."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import SequenceMask
from keras_seqx.testing import check_batch_independence, check_padding_invariance, modes
from tests.cases import BACKEND, to_numpy
from tests.testing.faults import (
    IDS,
    LENGTHS,
    CountingLoss,
    CountingStatistics,
    LeakingGradient,
    LeakingInputGradient,
    LosingMask,
    MixingRows,
    NamedSum,
    NumberingRows,
    WithoutRows,
    X,
    attention,
)

HOLDING = {
    "dense": (lambda: layers.Dense(3, activation="tanh"), X, LENGTHS, {}),
    "lstm": (lambda: layers.LSTM(3, return_sequences=True, return_state=True), X, LENGTHS, {}),
    "backwards": (lambda: layers.Bidirectional(layers.GRU(2)), X, LENGTHS, {}),
    "layer normalization": (layers.LayerNormalization, X, LENGTHS, {}),
    "batch normalization": (layers.BatchNormalization, X, LENGTHS, {}),
    "mean": (layers.GlobalAveragePooling1D, X, LENGTHS, {}),
    "embedding": (lambda: layers.Embedding(9, 3), IDS, LENGTHS, {}),
    "zero ids": (
        lambda: keras.Sequential([layers.Embedding(9, 3, mask_zero=True), layers.GlobalAveragePooling1D()]),
        IDS,
        LENGTHS,
        {"padding_value": 0, "attach_masks": False},
    ),
    "attention": (attention, [X, np.concatenate([X, X[:, :, :1]], 2)[:, :4]], [LENGTHS, [1, 4, 1, 4]], {}),
    "named": (NamedSum, {"frames": X, "speaker": X[:, 0]}, {"frames": LENGTHS, "speaker": None}, {}),
    "own lengths": (
        SequenceMask,
        [X, np.array(LENGTHS, "int32")],
        [LENGTHS, None],
        {"attach_masks": False},
    ),
}


@pytest.mark.parametrize("name", HOLDING)
def test_padding_invariance_holds(name):
    make, inputs, lengths, options = HOLDING[name]
    for training in (False, True):
        check_padding_invariance(make(), inputs, lengths=lengths, training=training, **options)


@pytest.mark.parametrize("mode", modes())
def test_every_mode(mode):
    check_padding_invariance(layers.SimpleRNN(2, return_sequences=True), X, lengths=LENGTHS, mode=mode)
    check_batch_independence(layers.SimpleRNN(2), X, lengths=LENGTHS, mode=mode)
    with pytest.raises(AssertionError, match="changes output 0"):
        check_padding_invariance(layers.GlobalMaxPooling1D(), X, lengths=LENGTHS, mode=mode, gradients=False)


BOTH = (False, True)


@pytest.mark.parametrize(
    ("make", "words", "training"),
    [
        (layers.GlobalMaxPooling1D, "changes output 0 at [", BOTH),
        (lambda: layers.Conv1D(2, 3, padding="same"), "changes output 0 at [1, 1, ", BOTH),
        (lambda: layers.GroupNormalization(1), "changes output 0 at", BOTH),
        (lambda: layers.Dense(2, activity_regularizer="l2"), "changes loss 0 from", BOTH),
        (CountingLoss, "changes loss 0 from", BOTH),
        (CountingStatistics, "changes variable 'counting_statistics/count'", (True,)),
        (LeakingGradient, "changes the gradient by 'leaking_gradient", BOTH),
        (LeakingInputGradient, "changes the gradient by input 0 at padded steps", BOTH),
        (LosingMask, "changes the mask of output 0 at padded steps at [0, 5] from 0 to 1", BOTH),
        (WithoutRows, "rows an output 0 of shape ().", BOTH),
        (lambda: keras.Sequential([layers.Reshape((10,)), layers.Dense(2)]), "fails on rows [1, 3] alone", BOTH),
    ],
    ids=[
        "maximum",
        "convolution",
        "group normalization",
        "activity regularizer",
        "loss",
        "statistics",
        "gradient by weight",
        "gradient by input",
        "mask",
        "no rows",
        "one length",
    ],
)
def test_padding_invariance_catches(make, words, training):
    for phase in training:
        with pytest.raises(AssertionError) as caught:
            check_padding_invariance(make(), X, lengths=LENGTHS, training=phase)
        law = "padding_invariance_in_training: " if phase else "padding_invariance: "
        assert str(caught.value).startswith(law)
        assert words in str(caught.value)


def test_what_only_some_comparisons_show():

    class CountsLongest(layers.Layer):
        def call(self, inputs, mask=None):
            return inputs[:, :1] + keras.ops.max(keras.ops.sum(keras.ops.cast(mask, "float32"), axis=1))

    with pytest.raises(AssertionError, match=r"changes output 0 at \[\d, 0, 0\] .* beside the rows alone and unpadded"):
        check_padding_invariance(CountsLongest(), X, lengths=LENGTHS)
    check_padding_invariance(CountsLongest(), X, lengths=LENGTHS, training=True)
    check_padding_invariance(LeakingGradient(), X, lengths=LENGTHS, gradients=False)


def test_the_layer_stays_as_it_is():
    layer = layers.BatchNormalization()
    layer(X)
    before = to_numpy([v.value for v in layer.variables])
    check_padding_invariance(layer, X, lengths=LENGTHS, training=True)
    for a, b in zip(before, to_numpy([v.value for v in layer.variables]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tolerances_scale_with_the_numbers():
    layer = CountingLoss()
    with pytest.raises(AssertionError, match=r"The tolerance is"):
        check_padding_invariance(layer, X, lengths=LENGTHS)
    check_padding_invariance(layer, X, lengths=LENGTHS, rtol=1e3)
    check_padding_invariance(layer, X, lengths=LENGTHS, atol=1e3)


# Before 3.15, Keras loses the mask of what it casts.
@pytest.mark.parametrize("dtype", ["float64", "mixed_float16"] if keras.version() > "3.15" else ["float64"])
def test_other_precisions(dtype):
    tolerance = {"float64": 1e-9, "mixed_float16": 2e-2}[dtype]
    x = X.astype("float64" if dtype == "float64" else "float32")
    layer = layers.GlobalAveragePooling1D(dtype=dtype)
    check_padding_invariance(layer, x, lengths=LENGTHS, atol=tolerance, rtol=tolerance)


def test_batch_independence_holds():
    check_batch_independence(layers.BatchNormalization(), X)
    check_batch_independence(layers.Embedding(9, 3), IDS, lengths=LENGTHS)
    check_batch_independence(attention(), [X, X[:, :, [0, 1, 1]]], lengths=[LENGTHS, [1, 3, 5, 2]])


@pytest.mark.parametrize(
    ("layer", "words"),
    [(MixingRows, "when other rows change"), (NumberingRows, "when the rows are reversed")],
)
def test_batch_independence_catches(layer, words):
    with pytest.raises(AssertionError) as caught:
        check_batch_independence(layer(), X)
    assert str(caught.value).startswith(f"batch_independence: {layer.__name__} ")
    assert words in str(caught.value)


BAD_ARGUMENTS = [
    ({"inputs": []}, ValueError, "`inputs` must be one or more arrays (B, ...) of the same B >= 1"),
    ({"inputs": [X, X[:2]]}, ValueError, "`inputs` must be one or more arrays (B, ...) of the same B >= 1"),
    ({"inputs": np.float32(1)}, ValueError, "`inputs` must be one or more arrays (B, ...) of the same B >= 1"),
    ({"lengths": None}, ValueError, "`lengths` must be given for an input or more"),
    ({"lengths": [5, 2]}, ValueError, "`lengths` must be integers (B,) within [1, T]"),
    ({"lengths": [5, 2, 4, 0]}, ValueError, "`lengths` must be integers (B,) within [1, T]"),
    ({"lengths": [5, 2, 4, 6]}, ValueError, "`lengths` must be integers (B,) within [1, T]"),
    ({"inputs": X[:, 0, 0]}, ValueError, "`lengths` must be integers (B,) within [1, T]"),
    ({"lengths": np.ones(4)}, TypeError, "`lengths` must be integers (B,)"),
    ({"inputs": [X, X], "lengths": [LENGTHS]}, ValueError, "`lengths` must be integers (B,), or nested as the in"),
    ({"inputs": [X, X], "lengths": {"a": LENGTHS}}, ValueError, "`lengths` must be integers (B,), or nested as"),
    ({"extra_padding": 0}, ValueError, "`extra_padding` must be an integer of at least 1"),
    ({"extra_padding": 1.5}, TypeError, "`extra_padding` must be an integer of at least 1"),
    ({"mode": "fast"}, ValueError, "`mode` must be one of 'eager'"),
]


def test_bad_arguments():
    for changes, error, words in BAD_ARGUMENTS:
        with pytest.raises(error) as caught:
            check_padding_invariance(layers.Dense(2), **{"inputs": X, "lengths": LENGTHS} | changes)
        assert f"check_padding_invariance: {words}" in str(caught.value)
        assert "Received: " in str(caught.value)
    with pytest.raises(ValueError, match=r"check_batch_independence: `inputs` must be of at least 2 rows"):
        check_batch_independence(layers.Dense(2), X[:1])


def test_modes():
    assert modes()[0] == "eager"
    assert len(modes()) == {"tensorflow": 3, "jax": 2, "torch": 1}[BACKEND]
