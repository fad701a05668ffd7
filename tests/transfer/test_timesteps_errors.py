"""What cannot follow is refused by name, with the reason and a way out."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import AutoregressiveDecoder
from keras_seqx.transfer.timesteps.change_timesteps import change_timesteps
from tests.transfer.test_timesteps import (
    D,
    Positions,
    T,
    beside,
    composite,
    decoder,
    forecaster,
    graph,
    teacher,
)


class Stubborn(keras.Model):
    """Keeps its length in its code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.repeat = layers.LSTM(4), layers.RepeatVector(T, name="again")

    def call(self, x):
        return self.repeat(self.encoder(x))

    def get_config(self):
        return super().get_config()


class Operating(Stubborn):
    """Keeps it where no layer shows it."""

    def call(self, x):
        return ops.repeat(self.encoder(x)[:, None], T, axis=1)


class Fixed(keras.Model):
    def __init__(self, **kwargs):
        x = keras.Input((T, D))
        super().__init__(x, layers.LSTM(2)(x), **kwargs)

    def get_config(self):
        return {"name": self.name}


class Secret(keras.Model):
    """Has no config."""

    def __init__(self, units):
        super().__init__()
        self.rnn = layers.LSTM(units)

    def call(self, x):
        return self.rnn(x)


class Holder(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.shape = layers.Reshape((T, 1), name="inside")

    def call(self, x):
        return ops.mean(self.shape(ops.mean(x, axis=-1)), axis=1)


class Silent(keras.Model):
    """Compiles in its own way and does not tell how."""

    def compile(self, **kwargs):
        super().compile(optimizer="sgd", loss="mse")


def called(model):
    model(np.zeros((2, T, D), "float32"))
    return model


def silent():
    x = keras.Input((T, D))
    model = Silent(x, layers.GRU(2)(x))
    model.compile()
    return model


def flattened():
    return graph(lambda x: layers.Dense(2, name="head")(layers.Flatten()(x)))


REPEATED = (lambda x: layers.RepeatVector(T, name="again")(layers.GRU(2)(x)),)

# A model, the arguments, and what the error says: which argument, who, why, what to do.
REFUSED = {
    "flattened": (
        flattened,
        {"timesteps": 12},
        "timesteps",
        r"Dense 'head' reads flattened time.*kernel \(18, 2\) would be \(36, 2\)",
        "GlobalAveragePooling1D",
    ),
    "flattened, open": (flattened, {}, "timesteps", "Dense 'head' reads flattened time", "MaskedTimeDistributed"),
    "flattened, and somebody else named": (
        flattened,
        {"timesteps": 3, "on_mismatch": {"nobody": "skip"}},
        "on_mismatch",
        "'nobody'",
        "the target has 'head'",
    ),
    "time as features": (
        lambda: graph(lambda x: layers.Dense(5, name="mix")(layers.Permute((2, 1))(x))),
        {"timesteps": 12},
        "timesteps",
        "Dense 'mix' reads the time axis",
        "MaskedTimeDistributed",
    ),
    "mixed back": (
        lambda: graph(lambda x: layers.Dense(T, name="mix")(layers.Permute((2, 1))(x))),
        {"timesteps": 12, "on_mismatch": "skip"},
        "timesteps",
        "Dense 'mix' reads the time axis",
        "MaskedTimeDistributed",
    ),
    "equation": (
        lambda: graph(layers.EinsumDense("btd,ts->bsd", output_shape=(T, D), name="mix")),
        {"timesteps": 12},
        "timesteps",
        "EinsumDense 'mix' writes 6 steps",
        "length from its inputs",
    ),
    "normalized time": (
        lambda: graph(layers.LayerNormalization(axis=[1, 2], name="norm")),
        {"timesteps": 12},
        "timesteps",
        r"LayerNormalization 'norm' has weights along the time axis.*gamma \(6, 3\)",
        "interpolate",
    ),
    "normalized time, open": (
        lambda: graph(layers.LayerNormalization(axis=[1, 2], name="norm")),
        {},
        "timesteps",
        "LayerNormalization 'norm' does not take inputs",
        "Give a number",
    ),
    "slopes": (
        lambda: graph(layers.PReLU(name="slopes")),
        {"timesteps": 12},
        "timesteps",
        "PReLU 'slopes' has weights along the time axis",
        "skip",
    ),
    "positions": (
        lambda: graph(Positions(T, name="table")),
        {"timesteps": 12},
        "timesteps",
        r"Positions 'table' holds a table of positions.*\(6, 3\) would be \(12, 3\)",
        "'interpolate'",
    ),
    "positions, open": (
        lambda: graph(Positions(T, name="table")),
        {},
        "timesteps",
        "Positions 'table'",
        "Give a number",
    ),
    "more positions, too few": (
        lambda: graph(Positions(8, name="table")),
        {"timesteps": 12},
        "timesteps",
        "Positions 'table' holds at most 8 steps by its `sequence_length`",
        "at most 8",
    ),
    "repeated, open": (
        lambda: graph(*REPEATED),
        {},
        "timesteps",
        "RepeatVector 'again' writes 6 steps",
        "RepeatToLength",
    ),
    "decoder, open": (decoder, {}, "timesteps", "AutoregressiveDecoder '.*' writes 6 steps", "steps="),
    "repeated, unknown": (
        lambda: graph(REPEATED[0], (None, D)),
        {"timesteps": 12},
        "steps",
        "RepeatVector 'again' writes 6 steps",
        "steps=6",
    ),
    "latent steps": (
        lambda: graph(lambda x: layers.UpSampling1D(3, name="up")(layers.RepeatVector(2)(layers.GRU(2)(x)))),
        {"timesteps": 12},
        "timesteps",
        "UpSampling1D 'up' writes 6 steps",
        "`steps`",
    ),
    "no horizon": (flattened, {"timesteps": 6, "steps": 3}, "steps", "", "Leave `steps` out"),
    "two horizons": (
        lambda: graph(lambda x: [layers.RepeatVector(n, name=f"r{n}")(layers.GRU(2)(x)) for n in (3, 4)]),
        {"timesteps": 12, "steps": 8},
        "steps",
        "3 in RepeatVector 'r3'; 4 in RepeatVector 'r4'",
        "one horizon",
    ),
    "two lengths": (teacher, {"timesteps": 12}, "timesteps", "input_layer.* has 6, input_layer.* has 4", "steps"),
    "no time": (lambda: graph(layers.Dense(2), (D,)), {"timesteps": 12}, "timesteps", r"\(None, 3\)", "time axis"),
    "a picture": (
        lambda: graph(layers.Conv2D(2, 3), (T, T, 1)),
        {"timesteps": 12},
        "timesteps",
        r"\(None, 6, 6, 1\)",
        "time axis",
    ),
    "summary to steps": (
        lambda: graph(lambda x: layers.Reshape((T, 2), name="steps")(layers.Dense(12, name="wide")(layers.GRU(2)(x)))),
        {"timesteps": 12},
        "timesteps",
        "Reshape 'steps' spreads.*Dense 'wide' makes them",
        "RepeatVector",
    ),
    "transposed by reshape": (
        lambda: graph(layers.Reshape((D, T), name="shape")),
        {"timesteps": 12},
        "timesteps",
        "Reshape 'shape' makes .* cannot be told",
        "-1",
    ),
    "windows": (
        lambda: graph(layers.Reshape((3, 2, D), name="shape")),
        {"timesteps": 12},
        "timesteps",
        "Reshape 'shape' makes .* cannot be told",
        "-1",
    ),
    "indivisible": (
        lambda: graph(layers.Reshape((2, 9), name="shape")),
        {"timesteps": 13},
        "timesteps",
        "Reshape 'shape' makes 2 parts of 6 steps",
        "-1",
    ),
    "a slice": (
        lambda: graph(lambda x: layers.GRU(2)(x[:, 1:T])),
        {"timesteps": 12},
        "timesteps",
        "GetItem '.*' is told 6",
        r"x\[:, -1\]",
    ),
    "the last step": (
        lambda: graph(lambda x: layers.Dense(2)(x[:, T - 1])),
        {"timesteps": 12},
        "timesteps",
        "GetItem '.*' is told 5",
        r"x\[:, -1\]",
    ),
    "a mean": (
        lambda: graph(lambda x: layers.Dense(2)(ops.sum(x, axis=1) / T)),
        {"timesteps": 12},
        "timesteps",
        "TrueDivide '.*' is told 6",
        "layer",
    ),
    "repeated by an operation": (
        lambda: graph(lambda x: ops.repeat(x[:, :1], T, axis=1)),
        {"timesteps": 12},
        "timesteps",
        "Repeat '.*' writes 6 steps",
        "length from its inputs",
    ),
    "a function": (
        lambda: graph(
            layers.Lambda(
                lambda z: ops.broadcast_to(ops.mean(z, 1, keepdims=True), (2, T, D)), output_shape=(T, D), name="own"
            )
        ),
        {"timesteps": 12},
        "timesteps",
        "Lambda 'own' writes 6 steps",
        "length from its inputs",
    ),
    "features beside": (
        lambda: beside(
            lambda x, f: layers.GRU(2, return_sequences=True)(x) + layers.Dense(2, name="d")(layers.RepeatVector(T)(f)),
            (4,),
        ),
        {"timesteps": 12, "steps": 9},
        "timesteps",
        "Add '.*' does not take",
        "length",
    ),
    "code of a model": (
        lambda: called(Stubborn()),
        {"timesteps": 12},
        "timesteps",
        "RepeatVector 'again' writes 6 steps still",
        "config",
    ),
    "operations of a model": (
        lambda: called(Operating()),
        {"timesteps": 12, "steps": None},
        "timesteps",
        "'again' writes 6 steps still|Operating '.*' writes 6",
        "config",
    ),
    "a constructor": (
        Fixed,
        {"timesteps": 12},
        "timesteps",
        r"Fixed '.*' makes inputs of \[\(None, 6, 3\)\]",
        "config",
    ),
    "code of a layer": (
        lambda: graph(Holder(name="holder")),
        {"timesteps": 12},
        "timesteps",
        "Holder 'holder' does not take|Reshape 'inside'",
        "length",
    ),
    "no config": (
        lambda: called(Secret(2)),
        {"timesteps": 12},
        "timesteps",
        "Secret '.*' has no config",
        "Implement `get_config`",
    ),
    "own compile": (silent, {"timesteps": 12}, "model", "", "get_compile_config"),
    "not built": (lambda: keras.Sequential([layers.GRU(2)]), {"timesteps": 12}, "model", "", "Call it"),
    "steps of covariates": (lambda: forecaster(), {"timesteps": 12, "steps": 0}, "steps", "=0", "number of steps"),
    "zero": (composite, {"timesteps": 0}, "timesteps", "=0", "number of steps"),
    "negative": (composite, {"timesteps": -1}, "timesteps", "=-1", "number of steps"),
    "no batch": (composite, {"batch_size": 0}, "batch_size", "=0", "Leave it out"),
    "no way": (composite, {"timesteps": 12, "on_mismatch": "ignore"}, "on_mismatch", "'ignore'", "Choose"),
}


@pytest.mark.parametrize(("make", "arguments", "argument", "who", "advice"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(make, arguments, argument, who, advice):
    model = make()
    before = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    with pytest.raises(ValueError, match=r"^(change_timesteps|transfer_weights): ") as caught:
        change_timesteps(model, **arguments)
    text = str(caught.value)
    said, received = text.split(". Received: ", 1)
    assert f"`{argument}` must be " in said
    assert re.search(who, received, re.DOTALL), text
    assert re.search(advice, text[text.index("Received") :], re.DOTALL), text
    assert text.endswith(".")
    np.testing.assert_equal([ops.convert_to_numpy(v) for v in model.variables], before)


@pytest.mark.parametrize("argument", ["timesteps", "steps", "batch_size"])
def test_no_integers(argument):
    model = composite()
    for value in (2.5, True, "12"):
        with pytest.raises(TypeError, match=rf"change_timesteps: `{argument}` must be an integer of at least 1\. Rec"):
            change_timesteps(model, **{argument: value})


@pytest.mark.parametrize("value", [layers.Dense(2), None, "model.keras"], ids=["layer", "none", "path"])
def test_no_models(value):
    with pytest.raises(TypeError, match="change_timesteps: `model` must be a Keras model"):
        change_timesteps(value, 12)


def test_every_layer_that_does_not_fit_is_told():
    model = graph(lambda x: [layers.Dense(2, name=name)(layers.Flatten()(x)) for name in ("one", "two")])
    with pytest.raises(ValueError, match=r"(?s)Dense 'one'.*Dense 'two'"):
        change_timesteps(model, 12)


def test_a_nested_decoder_is_found():
    """In a layer that nobody else looks into."""

    class Around(layers.Layer):
        def __init__(self, inner, **kwargs):
            super().__init__(**kwargs)
            self.inner = inner

        def call(self, x):
            return self.inner(x)

        def compute_output_shape(self, shape):
            return self.inner.compute_output_shape(shape)

        def get_config(self):
            return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

        @classmethod
        def from_config(cls, config):
            return cls(**{**config, "inner": keras.saving.deserialize_keras_object(config["inner"])})

    steps = AutoregressiveDecoder([layers.GRUCell(4)], layers.Dense(D), steps=T)
    model = graph(lambda x: Around(steps)(x[:, -1:]))
    assert change_timesteps(model, 12).output_shape == (None, 12, D)
