"""The decoder computes what its contract says, to 1e-5, however it is run."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_seqx import AutoregressiveDecoder
from tests.cases import FEATURES, MODES, STACKS, Reference, build, flatten_cells, leaves, make_cell, normal, to_numpy
from tests.reference.decoder import decode

TOLERANCE = 1e-5


@pytest.mark.parametrize("mode", MODES)
@given(
    stack=st.sampled_from(STACKS),
    shape=st.sampled_from([(1, 1), (3, 1), (2, 4), (3, 6)]),
    more=st.sampled_from([None, 0, 1, 5]),
    covariates=st.sampled_from([0, 0, 2]),
    given_states=st.sampled_from([0, 0, 1, 99]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_numpy_loop(mode, stack, shape, more, covariates, given_states, seed):
    batch, forced = shape
    steps = None if more is None else forced + more
    decoder, reference = build(stack, seed, covariates, return_state=True)
    inputs = normal(seed, batch, forced, FEATURES)
    length = steps or forced
    known = normal(seed + 1, batch, length, covariates) if covariates else None
    states = reference.zero_states(batch)
    flat = [s for cell in states for s in cell]
    initial = [normal(seed + i, *s.shape) for i, s in enumerate(flat)][:given_states]
    for slot, value in zip(flat, initial, strict=False):
        slot[:] = value

    kwargs = {"initial_state": initial} if initial else {}
    outputs, *last = to_numpy(MODES[mode](decoder, inputs, covariates=known, steps=steps, **kwargs))

    expected, expected_last = decode(reference.cells, reference.output, inputs, states, length, covariates=known)
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE, rtol=TOLERANCE)
    for received, wanted in zip(last, expected_last, strict=True):
        np.testing.assert_allclose(received, wanted, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
@given(
    stack=st.sampled_from(STACKS),
    forced=st.sampled_from([1, 5]),
    more=st.sampled_from([0, 4]),
    mask=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=3, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_masked_steps_read_the_last_output(mode, stack, forced, more, mask, seed):
    decoder, reference = build(stack, seed)
    inputs, use = normal(seed, 3, forced, FEATURES), np.array(mask)[:, :forced]

    outputs = to_numpy(MODES[mode](decoder, inputs, steps=forced + more, mask=use))

    expected, _ = decode(reference.cells, reference.output, inputs, reference.zero_states(3), forced + more, use=use)
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
@given(stack=st.sampled_from(STACKS), forced=st.sampled_from([1, 4]), seed=st.integers(0, 2**16))
def test_n_steps_and_then_m_equal_n_plus_m(mode, stack, forced, seed):
    decoder, _ = build(stack, seed, return_state=True)
    run = MODES[mode]
    inputs = normal(seed, 2, forced, FEATURES)
    first, *states = to_numpy(run(decoder, inputs, steps=6))
    second, *last = to_numpy(run(decoder, first[:, -1:], initial_state=states, steps=3))
    at_once, *last_at_once = to_numpy(run(decoder, inputs, steps=9))
    np.testing.assert_allclose(np.concatenate([first, second], 1), at_once, atol=1e-6)
    for received, wanted in zip(last, last_at_once, strict=True):
        np.testing.assert_allclose(received, wanted, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stack", [s for s in STACKS if "window" not in leaves(s)], ids=str)
def test_full_forcing_equals_keras_rnn(mode, stack):
    decoder, _ = build(stack, 0)
    inputs = normal(1, 3, 6, FEATURES)
    x = keras.ops.convert_to_tensor(inputs)
    for cell in flatten_cells(decoder.cell):
        x = keras.layers.RNN(cell, return_sequences=True)(x)
    expected = to_numpy(decoder.output_layer(x))
    np.testing.assert_allclose(to_numpy(MODES[mode](decoder, inputs)), expected, atol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
def test_forced_outputs_may_have_another_width(mode):
    decoder = AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(7))
    inputs = normal(0, 2, 5, FEATURES)
    x = to_numpy(decoder(inputs))
    assert x.shape == (2, 5, 7)
    mask = np.arange(5) < np.array([[5], [3]])
    garbage = np.where(mask[:, :, None], inputs, np.nan)
    masked = to_numpy(MODES[mode](decoder, garbage, mask=mask))
    np.testing.assert_allclose(masked[mask], x[mask], atol=TOLERANCE)
    assert np.isfinite(masked).all()  # a weight of zero would not hide a NaN from a loss


def test_without_an_output_layer_the_cells_output_is_fed_back():
    stack = ["gru", "simple_rnn"]
    decoder = AutoregressiveDecoder(make_cell(stack))
    inputs = normal(0, 2, 1, 4)
    outputs = to_numpy(decoder(inputs, steps=5))
    reference = Reference.of(stack, decoder)
    expected, _ = decode(reference.cells, None, inputs, reference.zero_states(2), 5)
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE)


def test_an_encoders_state_fills_the_first_of_four_lstms():
    stack = ["lstm"] * 4
    decoder, reference = build(stack, 3)
    h, c = normal(1, 2, 5), normal(2, 2, 5)
    states = reference.zero_states(2)
    states[0] = [h, c]
    inputs = normal(0, 2, 1, FEATURES)
    expected, _ = decode(reference.cells, reference.output, inputs, states, 7)
    np.testing.assert_allclose(to_numpy(decoder(inputs, [h, c], steps=7)), expected, atol=TOLERANCE)


def test_steps_may_be_a_numpy_integer():
    decoder, _ = build("lstm", 0)
    assert decoder(normal(0, 2, 1, FEATURES), steps=np.int64(4)).shape[1] == 4


def test_integer_inputs_are_numbers():
    decoder, _ = build("lstm", 0)
    ones = np.ones((2, 1, FEATURES))
    expected = to_numpy(decoder(ones.astype("float32"), steps=4))
    np.testing.assert_allclose(to_numpy(decoder(ones.astype("int32"), steps=4)), expected, atol=1e-6)


class TwoCells(keras.layers.Layer):
    """A user's cell around two others, whose states nest as theirs do: [[h, c], [h]]."""

    def __init__(self, first, second):
        super().__init__()
        self.cells = [first, second]
        self.state_size = [first.state_size, [second.state_size]]
        self.output_size = second.units

    def get_initial_state(self, batch_size=None):
        return [cell.get_initial_state(batch_size=batch_size) for cell in self.cells]

    def call(self, inputs, states, training=False):
        new_states = []
        for cell, state in zip(self.cells, states, strict=True):
            inputs, state = cell(inputs, state, training=training)
            new_states.append(state)
        return inputs, new_states


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("forced", [1, 4])
def test_states_of_a_users_cell_may_nest(mode, forced):
    cells = [keras.layers.LSTMCell(5), keras.layers.GRUCell(FEATURES)]
    flat, nested = (AutoregressiveDecoder(cell, return_state=True) for cell in (cells, TwoCells(*cells)))
    inputs, given_states = normal(0, 2, forced, FEATURES), [normal(1, 2, 5), normal(2, 2, 5)]
    wanted = MODES[mode](flat, inputs, steps=6, initial_state=given_states)
    received = MODES[mode](nested, inputs, steps=6, initial_state=given_states)
    assert len(received) == 4
    for a, b in zip(to_numpy(received), to_numpy(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
