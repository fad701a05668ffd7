"""What the same cells learnt, in every layer that holds them; and what can be converted exactly, and what not."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import AutoregressiveDecoder, MaskedTimeDistributed, transfer_weights
from tests.transfer.models import assert_same, outputs, randomize, values

CELLS = (layers.LSTMCell, layers.LSTMCell, layers.GRUCell, layers.GRUCell)
LAYERS = {layers.LSTMCell: layers.LSTM, layers.GRUCell: layers.GRU}
UNITS = 4
X = np.random.default_rng(0).normal(size=(2, 5, UNITS)).astype("float32")


def _through(*stack):
    return keras.Sequential([keras.Input((5, UNITS)), *stack])


FORMS = {
    "layers": lambda: _through(*(LAYERS[c](UNITS, return_sequences=True) for c in CELLS), layers.Dense(UNITS)),
    "RNN of a cell": lambda: _through(
        *(layers.RNN(c(UNITS), return_sequences=True) for c in CELLS), layers.TimeDistributed(layers.Dense(UNITS))
    ),
    "RNN of stacked cells": lambda: _through(
        layers.RNN([c(UNITS) for c in CELLS], return_sequences=True), MaskedTimeDistributed(layers.Dense(UNITS))
    ),
    "decoder of cells": lambda: _through(AutoregressiveDecoder([c(UNITS) for c in CELLS], layers.Dense(UNITS))),
    "decoder of layers": lambda: _through(
        AutoregressiveDecoder([LAYERS[c](UNITS) for c in CELLS], layers.Dense(UNITS))
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_stack(form, tmp_path):
    source = randomize(FORMS[form]())
    expected = outputs(source, X)
    source.save(tmp_path / "model.keras")
    for other in FORMS.values():
        for origin in (source, tmp_path / "model.keras"):
            target = other()
            report = transfer_weights(origin, target)
            assert_same(expected, outputs(target, X), 1e-6)
            assert sum("teacher_forcing" not in row.target for row in report.rows if row.action == "copied") == 14


@pytest.mark.parametrize("wrappers", itertools.product([layers.TimeDistributed, MaskedTimeDistributed, None], repeat=2))
def test_time_distributed(wrappers):
    source, target = (
        _through(layers.Conv1D(3, 1), *((wrap(layers.Dense(2)) if wrap else layers.Dense(2)),)) for wrap in wrappers
    )
    randomize(source)
    transfer_weights(source, target)
    assert_same(outputs(source, X), outputs(target, X), 1e-6)


def test_bidirectional_halves_keep_their_sides():
    for inner in (lambda: layers.LSTM(3, return_sequences=True), lambda: layers.RNN(layers.LSTMCell(3))):
        source = randomize(_through(layers.Bidirectional(layers.LSTM(3, return_sequences=inner().return_sequences))))
        target = _through(layers.Bidirectional(inner()))
        transfer_weights(source, target)
        assert_same(outputs(source, X), outputs(target, X), 1e-6)


@pytest.mark.parametrize("batch_sizes", [(4, 2), (2, 4)])
def test_stateful_batch_sizes(batch_sizes):
    source, target = (
        keras.Sequential([keras.Input(batch_shape=(size, 5, UNITS)), layers.GRU(3, stateful=True), layers.Dense(2)])
        for size in batch_sizes
    )
    randomize(source)
    transfer_weights(source, target)
    x = np.concatenate([X, X])
    rows = [outputs(model, x[:size])[0][:2] for model, size in zip((source, target), batch_sizes, strict=True)]
    np.testing.assert_allclose(*rows, atol=1e-6)


def gru(reset_after, units=3, use_bias=True):
    return _through(layers.GRU(units, reset_after=reset_after, use_bias=use_bias), layers.Dense(2))


def diagonal(model, bias_behind=False):
    """Makes the candidate's part of the recurrent kernel diagonal, and its bias behind the reset gate zero."""
    cell = model.layers[0].cell
    units = cell.units
    recurrent = np.array(keras.ops.convert_to_numpy(cell.recurrent_kernel))
    recurrent[:, 2 * units :] *= np.eye(units)
    cell.recurrent_kernel.assign(recurrent)
    if cell.use_bias and cell.reset_after and not bias_behind:
        bias = np.array(keras.ops.convert_to_numpy(cell.bias))
        bias[1, 2 * units :] = 0
        cell.bias.assign(bias)
    return model


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("units", [1, 3])
def test_gru_reset_after_where_it_is_exact(units, reset_after, use_bias):
    source, target = diagonal(randomize(gru(reset_after, units, use_bias))), gru(not reset_after, units, use_bias)
    report = transfer_weights(source, target)
    assert report.counts.get("converted", 0) == use_bias
    if keras.backend.backend() == "jax" and not use_bias:
        pytest.skip("Keras' GRU without a bias does not run on JAX in 64-bit mode, which the suite is in")
    assert_same(outputs(source, X), outputs(target, X), 1e-6)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_reset_after_where_it_is_not(reset_after, use_bias):
    source, target = randomize(gru(reset_after, use_bias=use_bias)), gru(not reset_after, use_bias=use_bias)
    before = values(target)
    with pytest.raises(ValueError, match=f"reset gate works before.*build the target with `reset_after={reset_after}`"):
        transfer_weights(source, target)
    assert_same(before, values(target))
    report = transfer_weights(source, target, on_mismatch="skip")
    assert report.counts == {"kept": 2 + use_bias, "copied": 2}


def test_gru_with_a_bias_behind_the_reset_gate():
    source = diagonal(randomize(gru(True)), bias_behind=True)
    with pytest.raises(ValueError, match="adds a bias behind its reset gate"):
        transfer_weights(source, gru(False))


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Positions(keras.layers.Layer):
    """Adds a learnt table of positions, as people write it."""

    def __init__(self, length, batched=False, **kwargs):
        super().__init__(**kwargs)
        self.length, self.batched = length, batched

    def build(self, input_shape):
        shape = (self.length, input_shape[-1])
        self.table = self.add_weight(shape=(1, *shape) if self.batched else shape, name="table")

    def call(self, x):
        return x + self.table

    def get_config(self):
        return {**super().get_config(), "length": self.length, "batched": self.batched}


def positions(length, batched=False):
    table = Positions(length, batched, name="positions")
    return keras.Sequential([keras.Input((length, 3)), table, layers.Dense(2)])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", ["model", "model.keras"])
def test_tables_of_positions(batched, kind, tmp_path):
    source = randomize(positions(4, batched))
    origin = source
    if kind == "model.keras":
        source.save(origin := tmp_path / kind)
    table = source.get_weights()[0].reshape(4, 3)

    target = positions(7, batched)
    with pytest.raises(ValueError, match=r"'positions' \(table \((1, )?7, 3\)\): from 'positions' \(.* \((1, )?4, 3\)"):
        transfer_weights(origin, target)
    with pytest.raises(ValueError, match="'truncate' fits tables"):  # there is nothing to cut off
        transfer_weights(origin, target, on_mismatch="truncate")
    report = transfer_weights(origin, target, on_mismatch={"positions": "interpolate"})
    assert report.counts == {"interpolated": 1, "copied": 2}
    expected = [np.interp(np.linspace(0, 3, 7), np.arange(4), column) for column in table.T]
    np.testing.assert_allclose(target.get_weights()[0].reshape(7, 3), np.stack(expected, -1), atol=1e-6)

    target = positions(2, batched)
    assert transfer_weights(origin, target, on_mismatch="truncate").counts == {"truncated": 1, "copied": 2}
    assert_same([table[:2]], [target.get_weights()[0].reshape(2, 3)])
    transfer_weights(origin, target, on_mismatch="interpolate")
    np.testing.assert_allclose(target.get_weights()[0].reshape(2, 3), table[[0, 3]], atol=1e-6)


def test_a_dense_layer_over_flattened_time_is_no_table():
    def network(steps):
        return keras.Sequential([keras.Input((steps, 3)), layers.Flatten(), layers.Dense(2, name="head")])

    source, target = network(4), network(6)
    for way in ("error", "truncate", "interpolate"):
        with pytest.raises(ValueError, match=r"'head' \(kernel \(18, 2\), bias \(2,\)\): from 'head' \(kernel \(12, 2"):
            transfer_weights(source, target, on_mismatch=way)
