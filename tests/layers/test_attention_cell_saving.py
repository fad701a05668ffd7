"""AttentionCell survives files, clones and its own configuration, and refuses what cannot be meant."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder
from keras_seqx.layers.attention_cell import AttentionCell
from keras_seqx.testing import check_serialization
from tests.cases import FEATURES, normal, randomize, to_numpy

B, S, M = 3, 5, 6


def lstm(units=4):
    return keras.layers.LSTMCell(units)


STACKS = {
    "around": lambda: AttentionCell([lstm(), keras.layers.GRU(5)], monotonic="soft", sigmoid_noise=0.5, seed=1),
    "stacked": lambda: keras.layers.StackedRNNCells([AttentionCell(lstm(), "luong_scaled", output_units=3), lstm()]),
}


@pytest.mark.parametrize("stack", STACKS)
def test_files_and_clones(stack):
    x, memory = keras.Input((None, FEATURES)), keras.Input((None, M))
    decoder = AutoregressiveDecoder(STACKS[stack](), keras.layers.Dense(FEATURES), steps=6)
    model = keras.Model([x, memory], decoder(x, memory=memory))
    randomize(model, np.random.default_rng(0))
    check_serialization(model, [normal(0, B, 2, FEATURES), normal(1, B, S, M)])


OPTIONS = [
    {"attention": "bahdanau_normalized", "units": 3, "output_units": 7, "input_feeding": False, "name": "a"},
    {
        "attention": "luong",
        "monotonic": "hard",
        "sigmoid_noise": 0.5,
        "score_bias": -2.0,
        "seed": 4,
        "dtype": "float64",
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "monotonic"])
def test_config_round_trip(options):
    config = AttentionCell([lstm(), lstm(5)], **options).get_config()
    before = repr(config)
    again = AttentionCell.from_config(config)
    assert repr(config) == before
    assert again.get_config() == config
    for name in options:
        assert getattr(again, name) == options[name]
    assert [cell.units for cell in again.cell] == [4, 5]


@pytest.mark.parametrize("attention", ["bahdanau_normalized", "luong_scaled"])
def test_comes_back_built(attention):
    cell = AttentionCell(lstm(), attention, monotonic="soft")
    cell.build((None, FEATURES), memory_shape=(None, None, M))
    randomize(cell, np.random.default_rng(0))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cell))
    assert again.built
    assert [w.path.split("/")[-1] for w in again.weights] == [w.path.split("/")[-1] for w in cell.weights]
    again.set_weights(cell.get_weights())
    x, memory = normal(0, B, FEATURES), normal(1, B, S, M)
    one, other = (to_numpy(c(x, c.get_initial_state(memory=memory), memory=memory)[0]) for c in (cell, again))
    np.testing.assert_array_equal(one, other)


def test_states_fit_keras_protocol():
    cell = AttentionCell([lstm(), keras.layers.GRUCell(5)], output_units=7, monotonic="soft")
    assert cell.state_size == [4, 4, 5, 7, None]
    assert cell.output_size == 7
    assert [tuple(s.shape) for s in cell.get_initial_state(batch_size=2)] == [(2, 4), (2, 4), (2, 5), (2, 7), (2, 1)]
    states = cell.get_initial_state(memory=np.zeros((3, S, M)))
    assert to_numpy(states[-1]).tolist() == [[1] + [0] * (S - 1)] * 3
    assert AttentionCell(lstm(), input_feeding=False).state_size == [4, 4]


def cell(*args, **options):
    return AttentionCell(lstm(), *args, **options)


def built(attention="bahdanau", **options):
    made = cell(attention, **options)
    made.build((None, FEATURES), memory_shape=(None, None, M))
    return made


def step(made, *memory, states=None):
    states = made.get_initial_state(B) if states is None else states
    return made(normal(0, B, FEATURES), states, memory=memory[0], memory_mask=memory[1] if memory[1:] else None)


ERRORS = {
    "no cell": (lambda: AttentionCell(keras.layers.Dense(3)), TypeError, "`cell` must be an RNN cell"),
    "no cells": (lambda: AttentionCell([]), ValueError, "`cell` must be an RNN cell"),
    "an unknown score": (lambda: cell("general"), ValueError, "`attention` must be one of 'bahdanau', "),
    "a score of another kind": (lambda: cell(3), TypeError, "Received: `attention`=3"),
    "units zero": (lambda: cell(units=0), ValueError, "`units` must be an integer of at least 1"),
    "units a float": (lambda: cell(units=3.0), TypeError, "`units` must be an integer of at least 1"),
    "units of Luong": (lambda: cell("luong", units=3), ValueError, "`units` must be None where `attention` is 'luong'"),
    "output units a bool": (lambda: cell(output_units=True), TypeError, "`output_units` must be an integer"),
    "an unknown monotony": (lambda: cell(monotonic="strict"), ValueError, "`monotonic` must be one of None, 'soft', "),
    "monotony a bool": (lambda: cell(monotonic=True), TypeError, "Received: `monotonic`=True"),
    "noise below zero": (lambda: cell(monotonic="soft", sigmoid_noise=-1.0), ValueError, "`sigmoid_noise` must be"),
    "noise NaN": (lambda: cell(monotonic="soft", sigmoid_noise=float("nan")), ValueError, "=nan"),
    "noise a string": (lambda: cell(monotonic="soft", sigmoid_noise="a"), TypeError, "`sigmoid_noise` must be"),
    "noise of a softmax": (lambda: cell(sigmoid_noise=1.0), ValueError, "must be 0 without `monotonic`"),
    "bias of a softmax": (lambda: cell(score_bias=1.0), ValueError, "must be 0 without `monotonic`"),
    "bias infinite": (lambda: cell(monotonic="soft", score_bias=float("inf")), ValueError, "`score_bias` must be"),
    "no memory": (lambda: step(cell(), None), ValueError, "`memory` must be of shape (B, S, M)"),
    "no memory once built": (lambda: step(built(), None), ValueError, "`memory` must be of shape (B, S, M)"),
    "memory of rank 2": (lambda: step(cell(), normal(1, B, M)), ValueError, "Received: `memory`=(3, 6)"),
    "memory of open width": (
        lambda: cell().build((None, FEATURES), memory_shape=(None, S, None)),
        ValueError,
        "`memory` must be of shape (B, S, M) with a known M",
    ),
    "memory of another width": (
        lambda: step(built(), normal(1, B, S, 2)),
        ValueError,
        "Received: `memory`=(3, 5, 2)",
    ),
    "memory of another width than the cell": (
        lambda: step(cell("luong_dot"), normal(1, B, S, M)),
        ValueError,
        "`memory` must be 4 wide, as the inner cell's output, for 'luong_dot'",
    ),
    "mask of another length": (
        lambda: step(built(), normal(1, B, S, M), np.ones((B, S + 1), bool)),
        ValueError,
        "`memory_mask` must be of shape (B, S) with (B, S) = (3, 5)",
    ),
    "mask of rank 3": (
        lambda: built().prepare_memory(ops.ones((B, S, M)), ops.ones((B, S, 1))),
        ValueError,
        "Received: `memory_mask`=(3, 5, 1)",
    ),
}


@pytest.mark.parametrize(("run", "error", "words"), ERRORS.values(), ids=ERRORS)
def test_errors(run, error, words):
    with pytest.raises(error) as caught:
        run()
    text = str(caught.value)
    assert "AttentionCell: `" in text
    assert words in text
    assert "Received: " in text


def test_a_decoder_without_a_memory_asks_for_one():
    with pytest.raises(ValueError, match="`memory` must be"):
        AutoregressiveDecoder(cell())(normal(0, B, 1, FEATURES))
