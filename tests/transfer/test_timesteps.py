"""A model at another length computes what it did at the old one, and nothing of it stays behind."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import AutoregressiveDecoder, MaskedTimeDistributed, RepeatToLength, SequenceMask
from keras_seqx.transfer.timesteps.change_timesteps import change_timesteps
from tests.cases import randomize

T, D = 6, 3


def graph(function, shape=(T, D), named=None, **kwargs):
    x = keras.Input(shape, **kwargs)
    return keras.Model(x, function(x), name=named)


class Positions(layers.Layer):
    """A learned table of positions, as many write it."""

    def __init__(self, sequence_length, **kwargs):
        super().__init__(**kwargs)
        self.sequence_length = sequence_length

    def build(self, shape):
        self.table = self.add_weight(shape=(self.sequence_length, shape[-1]), name="table")

    def call(self, x):
        return x + self.table[: ops.shape(x)[1]]

    def get_config(self):
        return {**super().get_config(), "sequence_length": self.sequence_length}


class Subclassed(keras.Model):
    def __init__(self, timesteps, **kwargs):
        super().__init__(**kwargs)
        self.timesteps = timesteps
        self.encoder = layers.LSTM(4)
        self.repeat = layers.RepeatVector(timesteps)
        self.heads = [layers.Dense(3), layers.Dense(3)]

    def call(self, x):
        h = self.repeat(self.encoder(x))
        return self.heads[0](h) - 2 * self.heads[1](h)

    def get_config(self):
        return {**super().get_config(), "timesteps": self.timesteps}


class Constructed(keras.Model):
    """Makes its graph in its constructor."""

    def __init__(self, timesteps, **kwargs):
        x = keras.Input((timesteps, D))
        super().__init__(x, layers.Dense(2)(layers.RepeatVector(timesteps)(layers.LSTM(4)(x))), **kwargs)
        self.timesteps = timesteps

    def get_config(self):
        return {"name": self.name, "timesteps": self.timesteps}


class Trained(keras.Model):
    """A graph with somebody's own training step."""

    def train_step(self, *args):
        return super().train_step(*args)


class Gate(layers.Layer):
    """Holds a layer whose activation nobody has registered."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return x * self.inner(x)

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "inner": keras.saving.deserialize_keras_object(config["inner"])})


def halved(x):
    return x / 2


def subclassed():
    model = Subclassed(T)
    model(np.zeros((2, T, D), "float32"))
    return model


def autoencoder():
    return keras.Sequential(
        [
            keras.Input((T, D)),
            layers.Bidirectional(layers.LSTM(4)),
            layers.RepeatVector(T),
            layers.GRU(4, return_sequences=True),
            layers.TimeDistributed(layers.Dense(D)),
        ]
    )


def decoder(frame=False):
    x = keras.Input((T, D))
    _, h, c = layers.LSTM(4, return_state=True)(x)
    cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(2)])
    steps = AutoregressiveDecoder(cells, layers.Dense(D), steps=T)
    if not frame:
        return keras.Model(x, steps(x[:, -1:], initial_state=[h, c]))
    start = keras.Input((1, D))
    return keras.Model([x, start], steps(start, initial_state=[h, c]))


def repeated_frame():
    steps = AutoregressiveDecoder([layers.GRUCell(4)], layers.Dense(4), steps=T)
    return graph(lambda x: steps(layers.RepeatVector(1)(layers.GRU(4)(x))))


def forecaster():
    x, known = keras.Input((T, D)), keras.Input((4, 2))
    steps = AutoregressiveDecoder([layers.GRUCell(4)], layers.Dense(D), steps=4)
    return keras.Model([x, known], steps(x[:, -1:], initial_state=layers.GRU(4)(x), covariates=known))


def composite():
    x = keras.Input((T, D))
    h = layers.LSTM(4)(x)
    outputs = [layers.GRU(2, return_sequences=True)(layers.RepeatVector(n)(h)) for n in (T, 4)]
    return keras.Model(x, outputs)


def nested():
    encoder = keras.Sequential([keras.Input((T, D)), layers.Reshape((2, 3 * D)), layers.LSTM(4)], name="encoder")
    z = keras.Input((4,))
    head = keras.Model(z, layers.GRU(D, return_sequences=True)(layers.RepeatVector(T)(z)), name="head")
    return keras.Sequential([keras.Input((T, D)), encoder, head])


def siamese():
    encoder = graph(layers.LSTM(4))
    x, y = keras.Input((T, D)), keras.Input((T, D))
    return keras.Model([x, y], encoder(x) * encoder(y))


def shared():
    """One layer in two nested models, one in the graph and in a wrapper."""
    rnn, dense = layers.LSTM(D, return_sequences=True), layers.Dense(D)
    one, two = graph(lambda x: rnn(layers.Dense(D)(x))), graph(rnn)
    return graph(lambda x: layers.TimeDistributed(dense)(dense(one(x) + two(x))))


def dictionaries():
    a, b = keras.Input((T, D), name="a"), keras.Input((T, D), name="b")
    inner = keras.Model({"a": a, "b": b}, {"sum": a + b, "last": layers.LSTM(3)(a)}, name="inner")
    x = keras.Input((T, D), name="x")
    made = inner({"a": x, "b": layers.Dense(D)(x)})
    return keras.Model({"x": x}, {"one": layers.GRU(2)(made["sum"]), "two": made["last"]})


def teacher():
    x, y = keras.Input((T, D)), keras.Input((4, 2))
    _, h, c = layers.LSTM(4, return_state=True)(x)
    return keras.Model([x, y], layers.LSTM(4, return_sequences=True)(y, initial_state=[h, c]))


def masked():
    x, lengths, flags = keras.Input((T, D)), keras.Input((), dtype="int32"), keras.Input((T,), dtype="bool")
    h = MaskedTimeDistributed(keras.Sequential([keras.Input((D,)), layers.Dense(2)]))(SequenceMask()([x, lengths]))
    r = layers.Dense(2)(RepeatToLength()([layers.LSTM(4)(x, mask=flags), x]))
    return keras.Model([x, lengths, flags], layers.LSTM(2)(h) + layers.GRU(2)(r))


def pictures():
    frames, picture = keras.Input((T, T, T, 1)), keras.Input((T, T, 1))
    see = keras.Sequential([keras.Input((T, T, 1)), layers.Conv2D(2, 3), layers.Flatten()])
    return keras.Model(
        [frames, picture], layers.LSTM(3)(layers.TimeDistributed(see)(frames)) + layers.Dense(3)(see(picture))
    )


def beside(function, shape, dtype="float32"):
    x, other = keras.Input((T, D)), keras.Input(shape, dtype=dtype)
    return keras.Model([x, other], function(x, other))


def stateful():
    shape = keras.Input(batch_shape=(2, T, D))
    return keras.Sequential([shape, layers.LSTM(4, stateful=True, return_sequences=True), layers.GRU(2, stateful=True)])


# Models, how they are asked to change, and the axes 1 (all axes of stateful ones) of the new inputs and outputs.
CASES = {
    "autoencoder": (autoencoder, {"timesteps": 12}, [12], [12]),
    "shorter": (autoencoder, {"timesteps": 3}, [3], [3]),
    "autoencoder, other horizon": (autoencoder, {"timesteps": 12, "steps": 4}, [12], [4]),
    "open, horizon given": (autoencoder, {"steps": 4}, [None], [4]),
    "decoder": (decoder, {"timesteps": 12}, [12], [12]),
    "decoder, open": (decoder, {"steps": 9}, [None], [9]),
    "start frame": (lambda: decoder(True), {"timesteps": 12}, [12, 1], [12]),
    "forecaster": (forecaster, {"timesteps": 12}, [12, 4], [4]),
    "forecaster, other horizon": (forecaster, {"timesteps": 12, "steps": 8}, [12, 8], [8]),
    "repeated start frame": (repeated_frame, {"timesteps": 12, "steps": 9}, [12], [9]),
    "composite": (composite, {"timesteps": 12}, [12], [12, 4]),
    "composite, other horizon": (composite, {"timesteps": 12, "steps": 8}, [12], [12, 8]),
    "teacher forcing": (teacher, {"timesteps": 12, "steps": 8}, [12, 8], [8]),
    "nested": (nested, {"timesteps": 12}, [12], [12]),
    "siamese": (siamese, {}, [None, None], [4]),
    "shared": (shared, {"timesteps": 12}, [12], [12]),
    "dictionaries": (dictionaries, {"timesteps": 12}, [12], [2, 3]),
    "masked": (masked, {"timesteps": 12}, [12, None, 12], [2]),
    "pictures": (pictures, {"timesteps": 12}, [12, T], [3]),
    "subclassed": (subclassed, {"timesteps": 12}, None, [12]),
    "constructed": (lambda: Constructed(T), {"timesteps": 12}, [12], [12]),
    "own training step": (
        lambda: (lambda x: Trained(x, layers.GRU(2)(x)))(keras.Input((T, D))),
        {"timesteps": 12},
        [12],
        [2],
    ),
    "open to fixed": (lambda: graph(layers.LSTM(2), (None, D)), {"timesteps": 12}, [12], [2]),
    "nothing changes": (lambda: graph(layers.LSTM(2), (None, D)), {}, [None], [2]),
    "one step": (lambda: graph(layers.LSTM(2), (1, D), named="one"), {"timesteps": 12}, [12], [2]),
    "tokens": (
        lambda: graph(lambda x: layers.LSTM(2)(layers.Embedding(9, 4, mask_zero=True)(x)), (T,), dtype="int32"),
        {"timesteps": 12},
        [12],
        [2],
    ),
    "series without features": (
        lambda: graph(lambda x: layers.LSTM(2)(layers.Reshape((T, 1))(x)), (T,)),
        {"timesteps": 12},
        [12],
        [2],
    ),
    "weights of steps": (
        lambda: beside(lambda x, w: layers.Dense(2)(x * ops.expand_dims(w, -1)), (T,)),
        {"timesteps": 12},
        [12, 12],
        [12],
    ),
    "features as many as steps": (
        lambda: beside(lambda x, f: layers.LSTM(2)(x) + layers.Dense(2)(f), (T,)),
        {"timesteps": 12},
        [12, T],
        [2],
    ),
    "categories": (
        lambda: beside(lambda x, c: layers.LSTM(4)(x) + layers.Flatten()(layers.Embedding(3, 2)(c)), (2,), "int32"),
        {"timesteps": 12},
        [12, 2],
        [4],
    ),
    "attention": (lambda: graph(lambda x: layers.MultiHeadAttention(2, 3)(x, x)), {}, [None], [None]),
    "down and up": (
        lambda: graph(
            lambda x: layers.Conv1DTranspose(2, 3, strides=2, padding="same")(layers.Conv1D(4, 2, strides=2)(x))
        ),
        {"timesteps": 12},
        [12],
        [12],
    ),
    "square reshape": (
        lambda: graph(lambda x: layers.Conv2D(2, 3)(layers.Reshape((T, T, 1))(x)), (T, T)),
        {"timesteps": 12},
        [12],
        [10],
    ),
    "reshape to features": (lambda: graph(lambda x: layers.LSTM(2)(layers.Reshape((T, -1))(x))), {}, [None], [2]),
    "upsampling reshape": (
        lambda: graph(lambda x: layers.LSTM(2)(layers.Reshape((T, 2))(layers.Conv1D(6, 3, strides=3)(x)))),
        {"timesteps": 12},
        [12],
        [2],
    ),
    "reshape of an operation": (
        lambda: graph(lambda x: layers.LSTM(2)(ops.reshape(x, (-1, T, D, 1))[..., 0])),
        {"timesteps": 12},
        [12],
        [2],
    ),
    "code of others": (
        lambda: graph(lambda x: layers.Lambda(lambda z: 2 * z)(Gate(layers.Dense(D, activation=halved))(x))),
        {"timesteps": 12},
        [12],
        [12],
    ),
    "positions, truncated": (
        lambda: graph(Positions(T, name="positions")),
        {"timesteps": 4, "on_mismatch": {"positions": "truncate"}},
        [4],
        [4],
    ),
}


def data_for(model, steps):
    rng = np.random.default_rng(0)
    tensors = getattr(model, "inputs", None) or [keras.KerasTensor((None, T, D))]
    made = []
    for x in tensors:
        shape = (2, *(steps if n is None else n for n in x.shape[1:]))
        floats = "float" in x.dtype
        made.append(rng.normal(size=shape).astype(x.dtype) if floats else rng.integers(1, 3, shape).astype(x.dtype))
    if len(made) == 1 and not isinstance(getattr(model, "_inputs_struct", None), dict):
        return made[0]
    return keras.tree.pack_sequence_as(model.input, made)


def outputs_of(model, data):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(data, training=False))]


def names_of(model):
    return [model.name, *(names_of(layer) if isinstance(layer, keras.Model) else layer.name for layer in model.layers)]


def state_of(model):
    config = repr(model.get_config())
    calls = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    return config, calls, [np.array(ops.convert_to_numpy(v)) for v in model.variables]


@pytest.mark.parametrize(("make", "change", "inputs", "outputs"), CASES.values(), ids=CASES.keys())
def test_there_and_back(make, change, inputs, outputs):
    """The new shapes, the same names; back at the old length, the same outputs; the model itself is untouched."""
    model = make()
    randomize(model, np.random.default_rng(0))
    before = state_of(model)
    new = change_timesteps(model, **change)
    assert type(new) is type(model)
    if inputs is not None:
        assert [(*x.shape, None)[1] for x in new.inputs] == inputs
        assert [x.shape[1] for x in new.outputs] == outputs
        # What a constructor names, it names anew.
        assert isinstance(model, Constructed) or names_of(new) == names_of(model)
    else:
        assert [x.shape[1] for x in outputs_of(new, np.zeros((2, 12, D), "float32"))] == outputs
    after = state_of(model)
    assert after[:2] == before[:2]
    np.testing.assert_equal(after[2], before[2])
    if "on_mismatch" in change:
        table = ops.convert_to_numpy(new.get_layer("positions").table)
        np.testing.assert_array_equal(table, before[2][0][:4])
        return
    again = new
    if change:
        back = {"steps": model.outputs[-1].shape[1]} if "steps" in change else {}
        again = change_timesteps(new, 1 if model.name == "one" else T, **back)
    data = data_for(model, T)
    if change and inputs is not None:
        assert [x.shape for x in again.inputs] == [
            x.shape if x.shape[1:2] != (None,) else (None, T, *x.shape[2:]) for x in model.inputs
        ]
    for expected, got in zip(outputs_of(model, data), outputs_of(again, data), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_longer_inputs_are_read_to_their_end():
    """What the new model computes of the longer inputs is what an open model with these weights does."""
    model = graph(lambda x: layers.GRU(3)(layers.Conv1D(4, 3, padding="same")(x)))
    new, opened = change_timesteps(model, 12), change_timesteps(model, None)
    data = np.random.default_rng(0).normal(size=(2, 12, D)).astype("float32")
    np.testing.assert_allclose(outputs_of(new, data)[0], outputs_of(opened, data)[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"incompatible|expected shape"):
        new(data[:, :T])


def test_stateful_batch():
    model = stateful()
    randomize(model, np.random.default_rng(0))
    data = np.random.default_rng(0).normal(size=(2, T, D)).astype("float32")
    first = outputs_of(model, data)[0]
    assert np.abs(outputs_of(model, data)[0] - first).max() > 1e-3  # it went on from its state
    new = change_timesteps(model, 12, batch_size=4)
    assert (new.input_shape, new.output_shape) == ((4, 12, D), (4, 2))
    opened = change_timesteps(model, None, batch_size=4)
    assert opened.input_shape == (4, None, D)
    # States start at zero, and are kept from one batch to the next.
    doubled = np.concatenate([data, data])
    np.testing.assert_allclose(outputs_of(opened, doubled)[0], np.concatenate([first, first]), atol=1e-6)
    assert np.abs(outputs_of(opened, doubled)[0][:2] - first).max() > 1e-3
    same_batch = change_timesteps(model, T)
    np.testing.assert_allclose(outputs_of(same_batch, data)[0], first, atol=1e-6)


def test_open_parts_stay_open():
    inner = graph(layers.GRU(2), (None, D), named="inner")
    new = change_timesteps(graph(inner), 12)
    assert new.input_shape == (None, 12, D)
    assert new.get_layer("inner").input_shape == (None, None, D)


def test_configs_are_not_edited_in_place():
    class Careless(Positions):
        def get_config(self):
            if not hasattr(self, "kept"):
                self.kept = super().get_config()
            return self.kept

    model = graph(Careless(T))
    change_timesteps(model, 4, on_mismatch="truncate")
    assert model.layers[-1].get_config()["sequence_length"] == T


def test_parts_stay_shared():
    model = change_timesteps(shared(), 12)
    one, two = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    dense = next(layer for layer in model.layers if type(layer) is layers.Dense)
    wrapper = next(layer for layer in model.layers if isinstance(layer, layers.TimeDistributed))
    assert one.layers[-1] is two.layers[-1]
    assert wrapper.layer is dense


def test_the_new_model_is_whole(tmp_path):
    """It saves and loads, and its layers' outputs can be asked for."""
    new = change_timesteps(nested(), 12)
    data = np.ones((2, 12, D), "float32")
    new.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(outputs_of(loaded, data)[0], outputs_of(new, data)[0], atol=1e-6)
    encoder = new.get_layer("encoder")
    assert keras.Model(encoder.inputs, encoder.layers[0].output).output_shape == (None, 4, 3 * D)


def test_skip_leaves_fresh_weights_in_what_does_not_fit():
    model = graph(lambda x: layers.Dense(T, name="head")(layers.Flatten()(layers.Dense(2, name="first")(x))))
    randomize(model, np.random.default_rng(0))
    new = change_timesteps(model, 12, on_mismatch={"head": "skip"})
    assert new.get_layer("head").kernel.shape == (24, T)
    for mine, theirs in zip(new.get_layer("first").weights, model.get_layer("first").weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(theirs))
    bias = ops.convert_to_numpy(new.get_layer("head").bias)
    assert (bias == 0).all()


def test_interpolated_positions():
    model = graph(Positions(T))
    model.layers[-1].table.assign(np.arange(T)[:, None] * np.ones((1, D)))
    new = change_timesteps(model, 12, on_mismatch="interpolate")
    table = ops.convert_to_numpy(new.layers[-1].table)
    assert table.shape == (12, D)
    assert (np.diff(table, axis=0) >= 0).all()
    assert new.layers[-1].sequence_length == 12


def test_names_of_parts_of_a_subclassed_model_are_those_of_the_source():
    class Tabled(keras.Model):
        def __init__(self, maxlen, **kwargs):
            super().__init__(**kwargs)
            self.maxlen = maxlen
            self.table = layers.Embedding(maxlen, D)

        def call(self, x):
            return x + self.table(ops.arange(self.maxlen))

        def get_config(self):
            return {**super().get_config(), "maxlen": self.maxlen}

    model = Tabled(T)
    model(np.zeros((2, T, D), "float32"))
    new = change_timesteps(model, 4, on_mismatch={model.table.name: "truncate"})
    np.testing.assert_array_equal(
        ops.convert_to_numpy(new.table.embeddings), ops.convert_to_numpy(model.table.embeddings)[:4]
    )


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
def test_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = graph(layers.GRU(2))
    keras.config.set_dtype_policy("float32")
    new = change_timesteps(model, 12)
    assert [layer.dtype_policy.name for layer in new._flatten_layers()] == [
        layer.dtype_policy.name for layer in model._flatten_layers()
    ]
    assert [v.dtype for v in new.weights] == [v.dtype for v in model.weights]
    assert new.dtype_policy.name == policy


def test_a_cell_in_two_layers_stays_one():
    cell, x = layers.LSTMCell(4), keras.Input((10, 3))
    model = keras.Model(x, layers.RNN(cell, name="a")(x) + layers.RNN(cell, name="b")(x))
    longer = change_timesteps(model, 12)
    assert longer.get_layer("a").cell is longer.get_layer("b").cell
    assert len(longer.weights) == len(model.weights)
    data = np.random.default_rng(0).normal(size=(2, 10, 3)).astype("float32")
    shorter = change_timesteps(longer, 10)
    np.testing.assert_allclose(shorter.predict_on_batch(data), model.predict_on_batch(data), atol=1e-6)
