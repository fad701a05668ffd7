"""Our cells in Keras' own RNN: stateful, with masks, and with random numbers, as the rows and pieces computed alone."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AttentionCell, AutoregressiveDecoder, TransformerDecoderCell
from tests.cases import normal, randomize, to_numpy

B, T, S, M, UNITS = 3, 6, 5, 4, 4
LENGTH = 7
MEMORY = normal(7, B, S, M)
MEMORY_MASK = (np.arange(S) < np.array([[5], [3], [1]])).astype("float32")


def block(**options):
    return TransformerDecoderCell(UNITS, 2, max_length=LENGTH, **options)


def attention(inner=None, **options):
    cell = AttentionCell(inner or keras.layers.LSTMCell(UNITS), **options)
    cell.build((None, UNITS), memory_shape=(None, None, M))
    return cell


def stack(*cells):
    return keras.layers.StackedRNNCells(cells)


# Cells that need nothing but the states that they start with, and what they draw in training.
CELLS = {
    "block": lambda **dropout: block(**dropout),
    "block in a stack": lambda **dropout: stack(keras.layers.LSTMCell(UNITS), block(**dropout)),
    "stack that ends with Keras' cell": lambda **dropout: stack(block(**dropout), keras.layers.LSTMCell(UNITS)),
}
# Attention, whose output is as wide as the inner cell's first state, and is not that state.
ATTENTION = {
    "fed": {},
    "not fed": {"input_feeding": False},
    "monotonic": {"monotonic": "soft"},
    "wider": {"output_units": 5, "input_feeding": False, "monotonic": "hard"},
}


def first_states(cell, x, memory, mask):
    """States for `keras.layers.RNN` of an attention cell: zeros, alignments at the first place, the memory, flat."""

    def zeros(width):
        return ops.repeat(ops.zeros_like(x[:, 0, :1]), width, axis=1)

    inner = cell.state_size[: len(cell.state_size) - cell.input_feeding - bool(cell.monotonic)]
    at_first = [zeros(S) + np.eye(1, S, dtype="float32")] if cell.monotonic else []
    return [zeros(cell.output_size), *map(zeros, inner), *at_first, memory, mask]


def arguments(cell, x, rows=slice(None)):
    """What an RNN over the cell has to be given with inputs `x`."""
    if not isinstance(cell, AttentionCell):
        return {}
    x = ops.convert_to_tensor(x)
    of_memory = map(ops.convert_to_tensor, (MEMORY.reshape(B, -1)[rows], MEMORY_MASK[rows]))
    return {"initial_state": first_states(cell, x, *of_memory)}


def shared_storage(states):
    """The indices of variables made of the states that change when one of them, or one of its rows, is written."""
    variables = [keras.Variable(s, trainable=False, dtype=s.dtype) for s in states]
    changed = []
    for i, variable in enumerate(variables):
        value = np.array(to_numpy(variable))
        value[0] = value[0] + 1
        variable.assign(value)
        now = [np.array(to_numpy(v)) for v in variables]
        changed += [j for j, v in enumerate(now) if j > i and not np.array_equal(v, to_numpy(states[j]))]
        np.testing.assert_array_equal(now[i], value)
    return changed


def test_states_share_no_storage():
    cells = [block(), attention(), attention(monotonic="soft"), attention(block(), input_feeding=False)]
    for cell in cells:
        kwargs = {"memory": ops.convert_to_tensor(MEMORY)} if isinstance(cell, AttentionCell) else {}
        before = cell.get_initial_state(B, **kwargs)
        assert shared_storage(before) == []
        after = cell.get_initial_state(B, **kwargs)
        for state, again in zip(before, after, strict=True):
            np.testing.assert_array_equal(np.ptp(to_numpy(again), axis=0), 0)
            assert state is not again


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_a_stateful_rnn_reads_in_two_pieces_as_in_one(make):
    x, cell = normal(0, B, T, UNITS), make()
    whole = keras.layers.RNN(cell, return_sequences=True)
    whole.build(x.shape)
    randomize(whole, np.random.default_rng(0))
    stateful = keras.layers.RNN(cell, return_sequences=True, stateful=True)
    pieces = [to_numpy(stateful(x[:, i : i + 3])) for i in (0, 3)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), to_numpy(whole(x)), atol=1e-5)


# Padded on the right, masked here and there, and padded on the left.
MASK = np.array([[1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1]], bool)


def alone(cell, states, x, valid):
    """One row's outputs (T, D), computed at its valid steps alone, and last states.

    As Keras documents it, the output of a masked step is that of the step before, zeros at first.
    """
    outputs = []
    for t in range(T):
        if valid[t]:
            output, states = cell(ops.convert_to_tensor(x[None, t]), states)
        outputs.append(to_numpy(output)[0] if valid[: t + 1].any() else None)
    zeros = np.zeros_like(outputs[-1])
    return np.array([zeros if y is None else y for y in outputs]), [to_numpy(s)[0] for s in keras.tree.flatten(states)]


def check_masked(cell, states):
    """Compares an RNN over the cell with each row alone; `states` gives the first states of rows, a slice."""
    x = normal(0, B, T, UNITS)
    rnn = keras.layers.RNN(cell, return_sequences=True, return_state=True)
    rnn.build(x.shape)
    randomize(rnn, np.random.default_rng(0))
    outputs, *last = rnn(ops.convert_to_tensor(x), initial_state=states(slice(None)), mask=ops.convert_to_tensor(MASK))
    for row in range(B):
        wanted, wanted_last = alone(cell, states(slice(row, row + 1)), x[row], MASK[row])
        np.testing.assert_allclose(to_numpy(outputs)[row], wanted, atol=1e-5)
        for received, state in zip(keras.tree.flatten(last), wanted_last, strict=True):
            np.testing.assert_allclose(to_numpy(received)[row], state, atol=1e-5)


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_a_masked_row_equals_the_row_alone(make):
    cell = make()
    check_masked(cell, lambda rows: cell.get_initial_state(len(range(B)[rows])))


@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
def test_a_masked_row_of_attention_equals_the_row_alone(options):
    cell = attention(**options)
    check_masked(cell, lambda rows: arguments(cell, normal(0, B, T, UNITS)[rows], rows)["initial_state"])


def test_a_masked_row_of_attention_in_a_stack_equals_the_row_alone():
    first, second = keras.layers.LSTMCell(UNITS), attention()

    def states(rows):
        x = normal(0, B, T, UNITS)[rows]
        return [first.get_initial_state(len(x)), arguments(second, x, rows)["initial_state"]]

    check_masked(stack(first, second), states)


def noisy_attention(**options):
    return attention(monotonic="soft", sigmoid_noise=2.0, **options)


def model_and_data(cell, masked=False, **rnn):
    """A model of an RNN over the cell, that takes the memory too where the cell attends, and its data."""
    x = keras.Input((T, UNITS))
    inputs, data, kwargs = [x], [normal(0, B, T, UNITS)], {}
    if masked:
        inputs.append(keras.Input((T,), dtype="bool"))
        data.append(MASK)
        kwargs["mask"] = inputs[1]
    if isinstance(cell, AttentionCell):
        of_memory = [keras.Input((S * M,)), keras.Input((S,))]
        inputs += of_memory
        data += [MEMORY.reshape(B, -1), MEMORY_MASK]
        kwargs["initial_state"] = first_states(cell, x, *of_memory)
    return keras.Model(inputs, keras.layers.RNN(cell, return_sequences=True, name="rnn", **rnn)(x, **kwargs)), data


RANDOM = {
    "block": (lambda: block(dropout=0.5), True),
    "stack": (lambda: stack(block(dropout=0.5), keras.layers.LSTMCell(UNITS, dropout=0.5)), False),
    "attention with noise": (noisy_attention, True),
    "attention over cells that draw": (
        lambda: attention([block(dropout=0.5), keras.layers.LSTMCell(UNITS, dropout=0.5)], input_feeding=False),
        False,
    ),
}


@pytest.mark.parametrize(("make", "masked"), RANDOM.values(), ids=RANDOM)
def test_a_cell_that_draws_trains_and_is_whole_after(make, masked):
    cell = make()
    model, data = model_and_data(cell, masked)
    model.compile("sgd", "mse")
    first = model.predict(data, verbose=0)
    model.fit(data, normal(1, B, T, UNITS), epochs=2, verbose=0)
    assert np.abs(model.predict(data, verbose=0) - first).max() > 1e-5
    assert all(np.isfinite(to_numpy(v)).all() for v in model.variables)
    x = ops.convert_to_tensor(data[0])
    states = arguments(cell, x).get("initial_state") or cell.get_initial_state(B)
    assert np.isfinite(to_numpy(cell(x[:, 0], states, training=True)[0])).all()


@pytest.mark.parametrize("unroll", [False, True], ids=["", "unrolled"])
def test_dropout_differs_from_step_to_step_and_from_call_to_call(unroll):
    """A block that reads the same at every step answers the same, without dropout."""
    x = np.repeat(normal(0, B, 1, UNITS), T, axis=1)
    rnn = keras.layers.RNN(block(dropout=0.5), return_sequences=True, unroll=unroll)
    quiet = to_numpy(rnn(x))
    np.testing.assert_allclose(quiet, np.repeat(quiet[:, :1], T, axis=1), atol=1e-5)
    first, second = (to_numpy(rnn(x, training=True)) for _ in range(2))
    # With half of the features dropped, two steps of a row are the same by chance alone.
    assert (np.abs(np.diff(first, axis=1)).max(axis=(0, 2)) > 1e-2).all()
    assert np.abs(first - second).max() > 1e-2


def test_noise_differs_from_step_to_step_and_from_call_to_call():
    """Without anything to learn from, all that moves the alignments is the noise."""
    cell = noisy_attention(seed=1, input_feeding=False)
    rnn = keras.layers.RNN(cell, return_sequences=True)
    x = normal(0, B, T, UNITS)
    quiet = to_numpy(rnn(x, **arguments(cell, x)))
    runs = [to_numpy(rnn(x, training=True, **arguments(cell, x))) for _ in range(2)]
    assert np.abs(runs[0] - runs[1]).max() > 1e-3
    assert np.abs(runs[0] - quiet).max() > 1e-3


def test_inner_dropout_masks_are_held_through_the_loop_and_drawn_again_for_the_next():
    """h = x, dropped or doubled; the output is tanh(h)."""
    inner = keras.layers.SimpleRNNCell(UNITS, "linear", dropout=0.5, seed=0)
    cell = attention(inner, input_feeding=False)
    inner.set_weights([np.eye(UNITS), np.zeros((UNITS, UNITS)), np.zeros(UNITS)])
    kernel = np.zeros((UNITS + M, UNITS))
    kernel[:UNITS] = np.eye(UNITS)
    cell.output_kernel.assign(kernel)
    rnn = keras.layers.RNN(cell, return_sequences=True)
    x = normal(0, B, T, UNITS)
    kept = []
    for _ in range(2):
        y = np.arctanh(to_numpy(rnn(x, training=True, **arguments(cell, x))).astype("float64"))
        mask = np.abs(y) > 1e-6
        np.testing.assert_allclose(y, 2 * x * mask, atol=1e-3)
        np.testing.assert_array_equal(mask, np.repeat(mask[:, :1], T, axis=1))
        kept.append(mask[:, 0])
    assert (kept[0] != kept[1]).any()
    np.testing.assert_allclose(np.arctanh(to_numpy(rnn(x, **arguments(cell, x)))), x, atol=1e-3)


def test_an_error_in_the_loop_leaves_no_trace():
    cell = block(dropout=0.5, cross_attention=True)
    cell.build((None, UNITS), memory_shape=(None, None, M))
    x = normal(0, B, T, UNITS)
    with pytest.raises(ValueError, match="`memory` must be of shape"):
        keras.layers.RNN(cell)(x)
    decoder = AutoregressiveDecoder(cell)
    first, second = (to_numpy(decoder(x[:, :2], memory=MEMORY, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-2


@pytest.mark.parametrize(("dtype", "length"), [("mixed_bfloat16", 257), ("mixed_float16", 2049)])
def test_more_steps_than_the_dtype_of_states_counts_are_refused(dtype, length):
    x = np.zeros((1, 2, UNITS), "float32")
    fits, too_long = (TransformerDecoderCell(UNITS, 2, max_length=n, dtype=dtype) for n in (length - 1, length))
    keras.layers.RNN(fits, dtype=dtype)(x)
    with pytest.raises(ValueError, match=f"`max_length` must be at most {length - 1} within `keras.layers.RNN`"):
        keras.layers.RNN(too_long, dtype=dtype)(x)
    assert AutoregressiveDecoder(too_long, dtype=dtype)(x).shape == (1, 2, UNITS)
