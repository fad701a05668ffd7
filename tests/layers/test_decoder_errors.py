"""Bad input gets one error that names the class and argument, the constraint, what came, and a way out."""

import keras
import numpy as np
import pytest

from keras_seqx import AutoregressiveDecoder
from tests.cases import FEATURES


def lstm():
    return keras.layers.LSTMCell(4)


def dense(units=FEATURES):
    return keras.layers.Dense(units)


def x(*shape):
    return np.zeros(shape, "float32")


class NoLayer:
    state_size = 4

    def call(self, inputs, states):
        return inputs, states


MAKE = {
    "steps zero": (
        lambda: AutoregressiveDecoder(lstm(), steps=0),
        ValueError,
        "`steps` must be an integer of at least 1",
    ),
    "steps negative": (lambda: AutoregressiveDecoder(lstm(), steps=-3), ValueError, "Received: `steps`=-3"),
    "steps a float": (lambda: AutoregressiveDecoder(lstm(), steps=2.0), TypeError, "Received: `steps`=2.0"),
    "steps a bool": (lambda: AutoregressiveDecoder(lstm(), steps=True), TypeError, "Received: `steps`=True"),
    "steps NaN": (lambda: AutoregressiveDecoder(lstm(), steps=float("nan")), TypeError, "Received: `steps`=nan"),
    "probability above one": (
        lambda: AutoregressiveDecoder(lstm(), teacher_forcing=1.5),
        ValueError,
        "`teacher_forcing` must be a number within [0, 1]. Received: `teacher_forcing`=1.5",
    ),
    "probability below zero": (lambda: AutoregressiveDecoder(lstm(), teacher_forcing=-0.1), ValueError, "=-0.1"),
    "probability NaN": (lambda: AutoregressiveDecoder(lstm(), teacher_forcing=float("nan")), ValueError, "=nan"),
    "probability a bool": (lambda: AutoregressiveDecoder(lstm(), teacher_forcing=True), TypeError, "=True"),
    "probability a string": (lambda: AutoregressiveDecoder(lstm(), teacher_forcing="half"), TypeError, "='half'"),
    "no cell": (lambda: AutoregressiveDecoder(dense()), TypeError, "`cell` must be an RNN cell"),
    "no layer": (lambda: AutoregressiveDecoder(NoLayer()), TypeError, "`cell` must be an RNN cell"),
    "no cells": (lambda: AutoregressiveDecoder([]), ValueError, "`cell` must be an RNN cell"),
    "a cell and no cell": (lambda: AutoregressiveDecoder([lstm(), None]), TypeError, "Received: `cell`=None"),
    "bidirectional": (
        lambda: AutoregressiveDecoder(keras.layers.Bidirectional(keras.layers.LSTM(4))),
        TypeError,
        "`cell` must be an RNN cell",
    ),
    "backwards": (
        lambda: AutoregressiveDecoder(keras.layers.LSTM(4, go_backwards=True)),
        ValueError,
        "without `go_backwards` and `stateful`",
    ),
    "stateful": (
        lambda: AutoregressiveDecoder(keras.layers.LSTM(4, stateful=True)),
        ValueError,
        "without `go_backwards` and `stateful`",
    ),
    "output layer a number": (
        lambda: AutoregressiveDecoder(lstm(), 5),
        TypeError,
        "`output_layer` must be a Keras layer or None. Received: `output_layer`=5",
    ),
}

CALL = {
    "no forced input": (lambda d: d(x(2, 0, FEATURES)), "`inputs` must be at least one step long"),
    "rank 2": (lambda d: d(x(2, FEATURES)), "`inputs` must be of shape (B, T0, D)"),
    "rank 4": (lambda d: d(x(2, 1, 1, FEATURES)), "Received: `inputs`=(2, 1, 1, 3)"),
    "other features": (lambda d: d(x(2, 1, FEATURES + 1)), "Received: `inputs`=(2, 1, 4)"),
    "steps zero": (lambda d: d(x(2, 1, FEATURES), steps=0), "`steps` must be an integer of at least 1"),
    "too many states": (
        lambda d: d(x(2, 1, FEATURES), initial_state=[x(2, 4)] * 3),
        "`initial_state` must be at most 2 tensors, of shapes [(2, 4), (2, 4)]",
    ),
    "a wide state": (lambda d: d(x(2, 1, FEATURES), initial_state=[x(2, 5)]), "Received: `initial_state`=(2, 5)"),
    "a state of another batch": (
        lambda d: d(x(2, 1, FEATURES), initial_state=[x(3, 4)]),
        "`initial_state` must be of shape (B, units) with (B, units) = (2, 4)",
    ),
    "a state of rank 3": (lambda d: d(x(2, 1, FEATURES), initial_state=x(2, 1, 4)), "=(2, 1, 4)"),
    "covariates unbuilt": (lambda d: d(x(2, 1, FEATURES), covariates=x(2, 1, 2)), "`covariates` must be of shape"),
    "memory for no cell": (lambda d: d(x(2, 1, FEATURES), memory=x(2, 3, 2)), "`memory` must be None"),
    "mask of other steps": (
        lambda d: d(x(2, 3, FEATURES), mask=np.ones((2, 2), bool)),
        "`mask` must be of shape (B, T0) with (B, T0) = (2, 3)",
    ),
    "mask of rank 3": (lambda d: d(x(2, 3, FEATURES), mask=np.ones((2, 3, 1), bool)), "Received: `mask`=(2, 3, 1)"),
}


def check(caught, words):
    text = str(caught.value)
    assert "AutoregressiveDecoder: `" in text
    assert words in text
    assert "Received: " in text


@pytest.mark.parametrize(("make", "error", "words"), MAKE.values(), ids=MAKE)
def test_construction(make, error, words):
    with pytest.raises(error) as caught:
        make()
    check(caught, words)


@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@pytest.mark.parametrize(("call", "words"), CALL.values(), ids=CALL)
def test_call(call, words, symbolic):
    decoder = AutoregressiveDecoder(lstm(), dense())
    decoder(x(2, 1, FEATURES))

    def run(*args, **kwargs):
        if not symbolic:
            return decoder(*args, **kwargs)
        args, kwargs = keras.tree.map_structure(
            lambda a: keras.Input(batch_shape=a.shape, dtype=str(a.dtype)) if isinstance(a, np.ndarray) else a,
            (args, kwargs),
        )
        return decoder(*args, **kwargs)

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        call(run)
    check(caught, words)


@pytest.mark.parametrize("value", [1.0, True, float("nan"), "5"], ids=str)
def test_steps_of_a_call_must_be_an_integer(value):
    with pytest.raises(TypeError) as caught:
        AutoregressiveDecoder(lstm(), dense())(x(2, 1, FEATURES), steps=value)
    check(caught, "`steps` must be an integer of at least 1")


BUILD = {
    "open features": (
        lambda: AutoregressiveDecoder(lstm(), dense())(keras.Input((1, None))),
        "`inputs` must be of shape (B, T0, D) with a known D",
    ),
    "output too wide to feed back": (
        lambda: AutoregressiveDecoder(lstm(), dense(7), steps=5)(x(2, 1, FEATURES)),
        "`output_layer` must be of output width 3",
    ),
    "output too wide to be drawn": (
        lambda: AutoregressiveDecoder(lstm(), dense(7), teacher_forcing=0.5)(x(2, 4, FEATURES)),
        "`teacher_forcing` is below 1",
    ),
    "output too wide to go on behind a mask": (
        lambda: AutoregressiveDecoder(lstm(), dense(7), return_state=True)(
            x(2, 4, FEATURES), mask=np.ones((2, 4), bool)
        ),
        "its output width is 7",
    ),
    "output of rank 3": (
        lambda: AutoregressiveDecoder(lstm(), keras.layers.Reshape((2, 2)))(x(2, 1, FEATURES)),
        "its output has shape (None, 2, 2)",
    ),
    "covariates of rank 2": (
        lambda: AutoregressiveDecoder(lstm(), dense())(x(2, 1, FEATURES), covariates=x(2, 2)),
        "`covariates` must be of shape (B, steps, C)",
    ),
    "covariates too short": (
        lambda: AutoregressiveDecoder(lstm(), dense(), steps=5)(x(2, 1, FEATURES), covariates=x(2, 4, 2)),
        "`covariates` must be of shape (B, steps, C) with (B, steps, C) = (2, 5, 2)",
    ),
    "covariates of another batch": (
        lambda: AutoregressiveDecoder(lstm(), dense(), steps=5)(x(2, 1, FEATURES), covariates=x(3, 5, 2)),
        "`covariates` must be of shape",
    ),
    "activity regularizer": (
        lambda: AutoregressiveDecoder(lstm(), keras.layers.Dense(3, activity_regularizer="l2"))(x(2, 1, FEATURES)),
        "`output_layer` must be without `activity_regularizer`",
    ),
}


@pytest.mark.parametrize(("make", "words"), BUILD.values(), ids=BUILD)
def test_build(make, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        make()
    check(caught, words)


def test_covariates_that_the_layer_was_built_with_are_needed():
    decoder = AutoregressiveDecoder(lstm(), dense())
    decoder(x(2, 1, FEATURES), covariates=x(2, 1, 2))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        decoder(x(2, 1, FEATURES))
    check(caught, "`covariates` must be of shape (B, steps, C) with C = 2")


def test_a_cell_built_for_another_width_is_named():
    cell = lstm()
    cell.build((None, 9))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        AutoregressiveDecoder([keras.layers.GRUCell(5), cell], dense())(x(2, 1, FEATURES))
    check(caught, "A cell built before must have been built for that width")
