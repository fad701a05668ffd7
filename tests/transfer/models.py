"""Models to transfer between: what people train on sequences, under automatic names and small."""

import keras
import numpy as np
from keras import layers, ops

from keras_seqx import AutoregressiveDecoder, MaskedTimeDistributed, RepeatToLength, SequenceMask

STEPS, FEATURES, BATCH = 6, 4, 3


def _sequence(steps=STEPS):
    return keras.Input((steps, FEATURES))


def stacked_lstm():
    x = _sequence(None)
    hidden = x
    for _ in range(3):
        hidden = layers.LSTM(FEATURES, return_sequences=True)(hidden)
    return keras.Model(x, layers.TimeDistributed(layers.Dense(2))(hidden))


def sequential_gru():
    return keras.Sequential(
        [_sequence(), layers.Masking(), layers.GRU(5, return_sequences=True), layers.GRU(5), layers.Dense(5)]
    )


def repeat_vector():
    x = _sequence()
    code = layers.Bidirectional(layers.LSTM(5))(x)
    hidden = layers.Bidirectional(layers.GRU(5, return_sequences=True))(layers.RepeatVector(STEPS)(code))
    return keras.Model(x, layers.Dropout(0.1)(layers.Dense(FEATURES)(hidden)))


def decoder():
    context, start = _sequence(None), keras.Input((1, FEATURES))
    _, *state = layers.LSTM(5, return_state=True)(context)
    cells = [layers.LSTMCell(5), layers.GRUCell(5), layers.GRUCell(5)]
    decode = AutoregressiveDecoder(cells, layers.Dense(FEATURES), steps=7)
    return keras.Model([context, start], decode(start, initial_state=state))


def nested():
    x = _sequence()
    encoder = keras.Sequential([_sequence(), layers.Conv1D(5, 3, padding="causal"), layers.BatchNormalization()])
    inner = keras.Input((STEPS, 5))
    block = keras.Model(inner, layers.Add()([inner, layers.Dense(5, "tanh")(inner)]))
    hidden = block(block(encoder(x)))
    return keras.Model(x, layers.RNN([layers.LSTMCell(4), layers.LSTMCell(4)], return_sequences=True)(hidden))


def attention():
    tokens = keras.Input((STEPS,), dtype="int32")
    hidden = layers.Embedding(11, 6, mask_zero=True)(tokens)
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 3)(hidden, hidden)
        hidden = layers.LayerNormalization()(layers.Add()([hidden, attended]))
        hidden = layers.LayerNormalization()(layers.Add()([hidden, layers.Dense(6)(layers.Dense(6, "relu")(hidden))]))
    return keras.Model(tokens, layers.GlobalAveragePooling1D()(hidden))


def twins():
    """Towers that nothing tells apart: either pairing is right, half of one and half of the other is not."""
    x = _sequence()
    towers = [layers.Dense(4)(layers.Dense(4, "tanh")(x)) for _ in range(2)]
    return keras.Model(x, layers.Add()(towers))


def branches():
    """Two inputs, and branches of equal shapes that the order of a concatenation alone tells apart."""
    x, lengths = _sequence(), keras.Input((), dtype="int32")
    masked = SequenceMask()([x, lengths])
    left, right = (layers.LSTM(4, return_sequences=True)(masked) for _ in range(2))
    both = layers.Concatenate()([left, right])
    net = keras.Sequential([layers.Dense(5), layers.BatchNormalization()])
    steps = MaskedTimeDistributed(net)(both)
    summary = layers.LSTM(4)(steps)
    return keras.Model([x, lengths], [layers.Dense(3)(RepeatToLength()([summary, masked])), steps])


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Tagger(keras.Model):
    """A subclassed model that keeps layers as attributes and in lists."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.read = layers.LSTM(units, return_sequences=True)
        self.stack = [layers.Dense(units), layers.Dense(units)]
        self.head = layers.Dense(units)

    def build(self, input_shape):
        hidden = self.read(keras.KerasTensor(input_shape))
        for layer in [*self.stack, self.head]:
            hidden = layer(hidden)
        self.built = True

    def call(self, x):
        hidden = self.read(x)
        for layer in self.stack:
            hidden = ops.tanh(layer(hidden))
        return self.head(hidden)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed():
    model = Tagger()
    model.build((None, STEPS, FEATURES))
    return model


MODELS = {
    build.__name__: build
    for build in (
        stacked_lstm,
        sequential_gru,
        repeat_vector,
        decoder,
        nested,
        attention,
        branches,
        twins,
        subclassed,
    )
}


def inputs_of(name, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, STEPS, FEATURES)).astype("float32")
    if name == "attention":
        return rng.integers(1, 11, (BATCH, STEPS))
    return {"decoder": [x, x[:, -1:]], "branches": [x, np.array([6, 3, 1])]}.get(name, x)


def randomize(model, seed=0):
    """Gives every weight a value of its own, those that are not trained included."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" not in variable.path and variable.shape != ():
            value = rng.normal(0, 0.5, variable.shape)
            variable.assign(np.abs(value) + 0.5 if "variance" in variable.path else value)
    return model


def outputs(model, x):
    """The model's outputs, as NumPy arrays, without compiling anything."""
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=False))]


def values(model):
    """What a model's variables hold, to see that nothing changed."""
    return [keras.ops.convert_to_numpy(variable.value).copy() for variable in model.variables]


def assert_same(before, after, atol=0):
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, atol=atol, rtol=0)
