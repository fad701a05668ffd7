"""AttentionCell in Keras' own RNN, whose cells get nothing but states: the memory is the last of them."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder
from keras_seqx.layers.attention_cell import AttentionCell
from keras_seqx.testing import check_serialization
from tests.cases import BACKEND, FEATURES, normal, randomize, to_numpy

B, T, S, M, UNITS = 3, 4, 5, 6, 4
MASK = np.arange(S) < np.array([[5], [3], [1]])
DATA = [normal(0, B, T, FEATURES), normal(1, B, S, M), MASK.astype("float32")]


def built(attention="bahdanau", **options):
    cell = AttentionCell(keras.layers.LSTMCell(UNITS), attention, **options)
    cell.build((None, FEATURES), memory_shape=(None, None, M))
    return cell


def zeros(x, count):
    """Initial states of as many rows as `x` has."""
    return [ops.repeat(ops.zeros_like(x[:, 0, :1]), UNITS, axis=1) for _ in range(count)]


def single(masked=True, **rnn):
    x, memory, mask = (keras.Input(a.shape[1:]) for a in DATA)
    states = [*zeros(x, 3), memory, *([mask] if masked else [])]
    outputs = keras.layers.RNN(built(), return_sequences=True, name="rnn", **rnn)(x, initial_state=states)
    return keras.Model([x, memory, mask] if masked else [x, memory], outputs)


def stacked():
    x, memory, mask = (keras.Input(a.shape[1:]) for a in DATA)
    cells = keras.layers.StackedRNNCells([built("luong"), keras.layers.LSTMCell(UNITS)])
    states = [[*zeros(x, 3), memory, mask], zeros(x, 2)]
    outputs = keras.layers.RNN(cells, return_sequences=True, name="rnn")(x, initial_state=states)
    return keras.Model([x, memory, mask], outputs)


def monotonic():
    """The last alignments are a state as long as the memory."""
    x, memory, mask = (keras.Input(a.shape[1:]) for a in DATA)
    first = ops.one_hot(ops.zeros_like(x[:, 0, 0], dtype="int32"), S)
    rnn = keras.layers.RNN(built(monotonic="soft"), return_sequences=True, name="rnn")
    return keras.Model([x, memory, mask], rnn(x, initial_state=[*zeros(x, 3), first, memory, mask]))


def make(model):
    randomize(model, np.random.default_rng(0))
    return model, DATA[: len(model.inputs)]


def decoded(model, data):
    """What a decoder makes of the cells of the model's RNN."""
    mask = MASK if len(data) == 3 else None
    decoder = AutoregressiveDecoder(model.get_layer("rnn").cell)
    return to_numpy(decoder(data[0], memory=data[1], memory_mask=mask))


@pytest.mark.parametrize(("masked", "unroll"), [(True, False), (False, True)])
def test_equals_the_decoder(masked, unroll):
    model, data = make(single(masked, unroll=unroll))
    np.testing.assert_allclose(model.predict(data, verbose=0), decoded(model, data), atol=1e-5)


@pytest.mark.parametrize("build", [stacked, monotonic])
def test_equals_the_decoder_in_a_stack_and_with_a_state_of_the_memorys_length(build):
    model, data = make(build())
    np.testing.assert_allclose(model.predict(data, verbose=0), decoded(model, data), atol=1e-5)


def test_survives_files():
    check_serialization(*make(stacked()))


def test_trains():
    model, data = make(single())
    model.compile(keras.optimizers.Adam(0.05), "mse")
    losses = model.fit(data, normal(2, B, T, UNITS), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_returns_the_states():
    cell = built()
    randomize(cell, np.random.default_rng(0))
    rnn = keras.layers.RNN(cell, return_state=True)
    x = ops.convert_to_tensor(DATA[0])
    output, *states = rnn(x, initial_state=[*zeros(x, 3), *map(ops.convert_to_tensor, DATA[1:])])
    decoder = AutoregressiveDecoder(cell, return_state=True)
    outputs, *inner, attention = to_numpy(decoder(DATA[0], memory=DATA[1], memory_mask=MASK))
    np.testing.assert_allclose(to_numpy(output), outputs[:, -1], atol=1e-5)
    for received, state in zip(states, [attention, *inner, *DATA[1:]], strict=True):
        np.testing.assert_allclose(to_numpy(received), state, atol=1e-5)


def test_masked_inputs():
    """On JAX as the class describes it, which is right everywhere; the other backends take the memory as it is too."""
    valid = np.arange(T) < np.array([[4], [2], [1]])
    for flat in [True] if BACKEND == "jax" else [True, False]:
        x, memory, mask = (keras.Input(a.shape[1:]) for a in DATA)
        of_inputs = keras.Input((T,), dtype="bool")
        behind = [keras.layers.Flatten()(memory) if flat else memory, mask]
        rnn = keras.layers.RNN(built(), return_sequences=True, zero_output_for_mask=True, name="rnn")
        outputs = rnn(x, initial_state=[*zeros(x, 3), *behind], mask=of_inputs)
        model, _ = make(keras.Model([x, memory, mask, of_inputs], outputs))
        wanted = decoded(model, DATA) * valid[:, :, None]
        np.testing.assert_allclose(model.predict([*DATA, valid], verbose=0), wanted, atol=1e-5)


def test_a_memory_is_asked_for():
    x = keras.Input((T, FEATURES))
    with pytest.raises(ValueError, match=r"`memory` must be of shape .*memory_shape=.*initial_state"):
        keras.layers.RNN(AttentionCell(keras.layers.LSTMCell(UNITS)))(x)
    with pytest.raises(ValueError, match="`memory` must be of shape"):
        keras.layers.RNN(built())(ops.convert_to_tensor(DATA[0]))


@pytest.mark.parametrize("options", [{}, {"input_feeding": False}, {"output_units": UNITS + 1}])
def test_states_in_another_order_are_refused(options):
    x, memory, mask = map(ops.convert_to_tensor, DATA)
    cell = built(**options)
    inner_first = [*zeros(x, 2), ops.zeros((B, cell.output_size)), memory, mask]
    for states in ([*inner_first[:-3], memory, mask], [*inner_first, mask], [*zeros(x, 1), memory]):
        with pytest.raises(
            ValueError, match=r"AttentionCell: `(initial_state` must be \[output, \*inner, memory|memory`)"
        ):
            keras.layers.RNN(cell)(x, initial_state=states)
