"""Files of Keras 1 and 2: real ones, and ones written here as those wrote them, beside NumPy."""

import json
import pathlib

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import AutoregressiveDecoder, MaskedTimeDistributed, transfer_weights
from tests.transfer.models import outputs

DATA = pathlib.Path(__file__).parent / "data"


def many_to_many(wrap=layers.TimeDistributed):
    hidden = [layers.LSTM(8, return_sequences=True), layers.LSTM(4, return_sequences=True)]
    return keras.Sequential([keras.Input((None, 5)), *hidden, wrap(layers.Dense(2, activation="sigmoid"))])


def bidirectional_repeat_vector(wrap=layers.TimeDistributed):
    x = keras.Input((6, 5))
    code = layers.Bidirectional(layers.LSTM(6))(layers.Masking(0.0)(x))
    hidden = layers.GRU(7, return_sequences=True)(layers.RepeatVector(6)(code))
    return keras.Model(x, wrap(layers.Dense(3))(hidden))


def stateful_reset_before(batch_size=4):
    cells = [layers.LSTM(5, stateful=True, return_sequences=True), layers.GRU(3, reset_after=False)]
    return keras.Sequential([keras.Input(batch_shape=(batch_size, 6, 5)), *cells])


def unrolled_decoder(names=(None, None)):
    """What was 9 calls of a layer by hand is one layer."""
    context, start = keras.Input((None, 5)), keras.Input((1, 5))
    _, *state = layers.LSTM(6, return_state=True, name=names[0])(context)
    decoder = AutoregressiveDecoder(layers.LSTMCell(6), layers.Dense(5), steps=9, name=names[1])
    return keras.Model([context, start], decoder(start, initial_state=state))


def arrays(name):
    with np.load(DATA / f"{name}.npz") as file:
        return [file[key] for key in sorted(file.files) if key != "y"], file["y"]


@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("many_to_many", many_to_many),
        ("many_to_many", lambda: many_to_many(MaskedTimeDistributed)),
        ("bidirectional_repeat_vector", bidirectional_repeat_vector),
        ("bidirectional_repeat_vector", lambda: bidirectional_repeat_vector(MaskedTimeDistributed)),
        ("stateful_reset_before", stateful_reset_before),
    ],
)
def test_real_files(name, build, ending):
    x, expected = arrays(name)
    target = build()
    report = transfer_weights(DATA / (name + ending), target)
    np.testing.assert_allclose(outputs(target, x[0])[0], expected, atol=1e-5)
    assert set(report.counts) == {"copied"}


@pytest.mark.parametrize("names", [(None, None), ("encoder", "decoder"), (None, "decoder")])
def test_an_unrolled_decoder_becomes_one_layer(names):
    x, expected = arrays("unrolled_decoder")
    target = unrolled_decoder(names)
    report = transfer_weights(DATA / "unrolled_decoder.h5", target)
    np.testing.assert_allclose(outputs(target, x)[0], expected, atol=1e-5)
    assert report.counts == {"copied": 8, "kept": 1}


def test_an_unrolled_decoder_in_a_file_of_weights_alone():
    """It tells neither names nor who reads whom, and both LSTMs have the same shapes."""
    x, expected = arrays("unrolled_decoder")
    target = unrolled_decoder(("encoder", "decoder"))
    with pytest.raises(ValueError, match="can be told apart"):
        transfer_weights(DATA / "unrolled_decoder.weights.h5", target)
    mapping = {"layers/lstm": "encoder", "layers/lstm_1": "decoder"}
    transfer_weights(DATA / "unrolled_decoder.weights.h5", target, mapping=mapping)
    np.testing.assert_allclose(outputs(target, x)[0], expected, atol=1e-5)


def test_another_batch_size_and_length():
    target = stateful_reset_before(batch_size=2)
    x, expected = arrays("stateful_reset_before")
    transfer_weights(DATA / "stateful_reset_before.h5", target)
    np.testing.assert_allclose(outputs(target, x[0][:2])[0], expected[:2], atol=1e-5)


def test_the_optimizer_of_an_old_file():
    target = bidirectional_repeat_vector()
    target.compile("adam", "mse")
    report = transfer_weights(DATA / "bidirectional_repeat_vector.h5", target, include_optimizer=True)
    assert report.counts["kept"] == 1  # that Keras kept no learning rate among them
    assert len(report.rows) == 11 + 22 + 2
    with h5py.File(DATA / "bidirectional_repeat_vector.h5") as file:
        expected = np.array(file["optimizer_weights/Adam/v/gru/gru_cell/bias:0"])
    row = next(v for v in target.optimizer.variables if v.path.endswith("gru_cell_bias_velocity"))
    np.testing.assert_array_equal(row.numpy(), expected)
    assert int(target.optimizer.iterations) == 1


# Files as Keras 1.2.2 and 2.x wrote them.


def write(path, groups, *, version=None, config=None, whole=False):
    """Writes {layer: {weight name: array}} in the old layout."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        root.attrs["layer_names"] = [name.encode() for name in groups]
        if version:
            root.attrs["keras_version"], root.attrs["backend"] = version.encode(), b"tensorflow"
        if config:
            file.attrs["model_config"] = json.dumps(config).encode()
        for layer, weights in groups.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                group[name] = value
    return path


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


RNG = np.random.default_rng(5)
X = RNG.normal(size=(3, 7, 4)).astype("float32")


def draw(*shape):
    return RNG.normal(0, 0.4, shape).astype("float32")


def lstm_by_gates(x, gates):
    """The last output of an LSTM; `gates` are {gate: (kernel, recurrent kernel, bias)} for i, f, c, o."""
    h = c = np.zeros((len(x), len(gates["i"][2])))
    for t in range(x.shape[1]):
        i, f, new, o = (x[:, t] @ gates[g][0] + h @ gates[g][1] + gates[g][2] for g in "ifco")
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
    return h


def gru_by_gates(x, gates, reset_after_bias=None):
    """The last output of a GRU; gates z, r, h; with a second bias, the reset gate works behind the product."""
    h = np.zeros((len(x), len(gates["z"][2])))
    for t in range(x.shape[1]):
        z, r = (sigmoid(x[:, t] @ gates[g][0] + h @ gates[g][1] + gates[g][2]) for g in "zr")
        behind = reset_after_bias is not None
        inner = r * (h @ gates["h"][1] + reset_after_bias) if behind else (r * h) @ gates["h"][1]
        h = z * h + (1 - z) * np.tanh(x[:, t] @ gates["h"][0] + inner + gates["h"][2])
    return h


def gate_arrays(letters, width, units):
    return {g: (draw(width, units), draw(units, units), draw(units)) for g in letters}


def keras_1(name, gates):
    return {f"{name}_{kind}_{g}": gates[g][i] for g in gates for i, kind in enumerate("WUb")}


@pytest.mark.parametrize("named", [True, False])
def test_keras_1(named, tmp_path):
    """An array for each gate, LSTM in the order i, c, f, o; a convolution over time with an axis too many."""
    lstm, gru = gate_arrays("icfo", 6, 5), gate_arrays("zrh", 5, 4)
    conv, bias = draw(3, 1, 4, 6), draw(6)
    dense = draw(4, 2), draw(2)
    path = write(
        tmp_path / "old.h5",
        {
            "convolution1d_1": {"convolution1d_1_W": conv, "convolution1d_1_b": bias},
            "lstm_1": keras_1("lstm_1", lstm),
            "repeatvector_1": {},
            "gru_1": keras_1("gru_1", gru),
            "dense_1": {"dense_1_W": dense[0], "dense_1_b": dense[1]},
        },
    )
    names = ["convolution1d_1", "lstm_1", "gru_1", "dense_1"] if named else [None] * 4
    target = keras.Sequential(
        [
            keras.Input((7, 4)),
            layers.Conv1D(6, 3, name=names[0]),
            layers.LSTM(5, name=names[1]),
            layers.RepeatVector(3),
            layers.GRU(4, reset_after=False, name=names[2]),
            layers.Dense(2, name=names[3]),
        ]
    )
    assert transfer_weights(path, target).counts == {"copied": 10}
    hidden = sum(X[:, k : k + 5] @ conv[k, 0] for k in range(3)) + bias
    hidden = np.repeat(lstm_by_gates(hidden, lstm)[:, None], 3, axis=1)
    expected = gru_by_gates(hidden, gru) @ dense[0] + dense[1]
    np.testing.assert_allclose(outputs(target, X)[0], expected, atol=1e-5)


def test_keras_1_bidirectional_and_time_distributed(tmp_path):
    forward, backward = gate_arrays("icfo", 4, 5), gate_arrays("icfo", 4, 5)
    kernel, bias = draw(10, 2), draw(2)
    path = write(
        tmp_path / "old.h5",
        {
            "bidirectional_1": {**keras_1("forward_lstm_1", forward), **keras_1("backward_lstm_1", backward)},
            "timedistributed_1": {"dense_1_W": kernel, "dense_1_b": bias},
        },
    )
    code = layers.Bidirectional(layers.LSTM(5))
    dense = MaskedTimeDistributed(layers.Dense(2))
    target = keras.Sequential([keras.Input((7, 4)), code, layers.RepeatVector(2), dense])
    transfer_weights(path, target)
    hidden = np.concatenate([lstm_by_gates(X, forward), lstm_by_gates(X[:, ::-1], backward)], -1)
    expected = np.repeat((hidden @ kernel + bias)[:, None], 2, axis=1)
    np.testing.assert_allclose(outputs(target, X)[0], expected, atol=1e-5)


def cudnn(gates, order, second_bias):
    """CuDNN's arrays: every gate's matrices transposed within the rows, both biases end to end."""
    kernel = np.concatenate([_cudnn_kernel(gates[g][0]) for g in order], axis=1)
    recurrent = np.concatenate([gates[g][1].T for g in order], axis=1)
    bias = np.concatenate([*(gates[g][2] - second_bias[g] for g in order), *(second_bias[g] for g in order)])
    return kernel, recurrent, bias


def _cudnn_kernel(kernel):
    """The inverse of Keras' reading: `k.T.reshape(k.shape, order="F")` of it gives the kernel back."""
    return kernel.reshape(kernel.shape[::-1], order="F").T


@pytest.mark.parametrize("whole", [True, False])
def test_cudnn_arrays(whole, tmp_path):
    lstm, gru = gate_arrays("ifco", 4, 5), gate_arrays("zrh", 5, 3)
    halves = {g: draw(5) for g in "ifco"}
    behind = {g: draw(3) for g in "zrh"}
    config = {
        "class_name": "Sequential",
        "config": [
            {"class_name": "CuDNNLSTM", "config": {"name": "cu_dnnlstm_1", "units": 5, "time_major": False}},
            {"class_name": "RepeatVector", "config": {"name": "repeat_vector_1", "n": 2}},
            {"class_name": "CuDNNGRU", "config": {"name": "cu_dnngru_1", "units": 3}},
        ],
    }
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    groups = {
        name: {f"{name}/{weight}": value for weight, value in zip(names, values, strict=True)}
        for name, values in (
            ("cu_dnnlstm_1", cudnn(lstm, "ifco", halves)),
            ("cu_dnngru_1", cudnn(gru, "zrh", behind)),
        )
    }
    path = write(tmp_path / "old.h5", groups, version="2.2.4", config=config if whole else None, whole=whole)
    target = keras.Sequential([keras.Input((7, 4)), layers.LSTM(5), layers.RepeatVector(2), layers.GRU(3)])
    transfer_weights(path, target)
    hidden = np.repeat(lstm_by_gates(X, lstm)[:, None], 2, axis=1)
    gates = {**gru, "h": (*gru["h"][:2], gru["h"][2] - behind["h"])}
    expected = gru_by_gates(hidden, gates, behind["h"])
    np.testing.assert_allclose(outputs(target, X)[0], expected, atol=1e-5)


def test_keras_2_weights_alone_with_stacked_cells_and_a_nested_model(tmp_path):
    """Keras 2 named what lies in a layer without its place; a nested model's arrays lie flat in its group."""
    source = keras.Sequential(
        [
            keras.Input((7, 4)),
            keras.Sequential([keras.Input((7, 4)), layers.Dense(4), layers.BatchNormalization()]),
            layers.RNN([layers.LSTMCell(4), layers.LSTMCell(4)]),
        ]
    )
    for variable in source.weights:
        variable.assign(np.abs(draw(*variable.shape)) + 0.1)
    dense, norm, first, second = (
        [np.array(w) for w in layer.get_weights()] for layer in (*source.layers[0].layers, *source.layers[1].cell.cells)
    )
    cell = ("kernel:0", "recurrent_kernel:0", "bias:0")
    path = write(
        tmp_path / "old.h5",
        {
            "sequential_1": {
                "dense_7/kernel:0": dense[0],
                "dense_7/bias:0": dense[1],
                "batch_normalization_2/gamma:0": norm[0],
                "batch_normalization_2/beta:0": norm[1],
                "batch_normalization_2/moving_mean:0": norm[2],
                "batch_normalization_2/moving_variance:0": norm[3],
            },
            "rnn_1": {
                f"rnn_1/{name}/{weight}": value
                for name, values in (("lstm_cell_1", first), ("lstm_cell_2", second))
                for weight, value in zip(cell, values, strict=True)
            },
        },
        version="2.10.0",
    )
    target = keras.models.clone_model(source)
    transfer_weights(path, target)
    np.testing.assert_allclose(outputs(target, X)[0], outputs(source, X)[0], atol=1e-6)


def test_theano_and_lists_that_lie(tmp_path):
    path = write(tmp_path / "old.h5", {"conv1d_1": {"conv1d_1/kernel:0": draw(3, 4, 6)}}, version="2.0.1")
    with h5py.File(path, "a") as file:
        file.attrs["backend"] = b"theano"
    target = keras.Sequential([keras.Input((7, 4)), layers.Conv1D(6, 3, use_bias=False)])
    with pytest.raises(ValueError, match=r"trained on Theano, whose convolutions run backwards"):
        transfer_weights(path, target)
    with h5py.File(path, "a") as file:
        file["conv1d_1"].attrs["weight_names"] = [b"conv1d_1/kernel:0", b"conv1d_1/bias:0"]
    with pytest.raises(ValueError, match=r"lists 'conv1d_1/bias:0', which is not there"):
        transfer_weights(path, target)


def test_settings_that_differ_are_noted(tmp_path):
    """An old default, `hard_sigmoid`, fits every array and gives other numbers."""
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "sequential_1",
            "layers": [
                {
                    "class_name": "LSTM",
                    "config": {
                        "name": "lstm_1",
                        "units": 5,
                        "recurrent_activation": "hard_sigmoid",
                        "time_major": True,
                    },
                }
            ],
        },
    }
    arrays = {"kernel:0": draw(4, 20), "recurrent_kernel:0": draw(5, 20), "bias:0": draw(20)}
    groups = {"lstm_1": {f"lstm_1/{name}": value for name, value in arrays.items()}}
    path = write(tmp_path / "old.h5", groups, version="2.2.0", config=config, whole=True)
    report = transfer_weights(path, keras.Sequential([keras.Input((7, 4)), layers.LSTM(5)]))
    assert any("`recurrent_activation`" in note and "hard_sigmoid" in note for note in report.notes)
    assert any("time_major" in note for note in report.notes)
