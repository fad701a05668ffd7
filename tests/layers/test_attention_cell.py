"""AttentionCell computes what was published, masked or not, step by step and at once, however it is run."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder
from keras_seqx.layers.attention_cell import AttentionCell
from keras_seqx.testing import execution
from tests.cases import BACKEND, CELLS, FEATURES, MODES, normal, randomize, to_numpy
from tests.reference import attention as oracle

KINDS = ["bahdanau", "bahdanau_normalized", "luong", "luong_scaled", "luong_dot"]
MONOTONIC = [None, "soft", "hard"]
B, T, S = 3, 4, 5
LENGTHS = np.array([[5], [3], [1]])
MASK = np.arange(S) < LENGTHS
# On JAX single steps run compiled, as the compilation of every operation on its own takes longest of all.
STEP_MODES = {mode: run for mode, run in MODES.items() if (BACKEND, mode) != ("jax", "eager")}
TOLERANCE = 1e-5


def make(kind="bahdanau", inner="lstm", seed=0, **kwargs):
    """A decoder of one attention cell alone, which puts out what the cell does, and the cell; built, random weights."""
    dtype = kwargs.pop("dtype", None)
    cell = AttentionCell(CELLS[inner][0](), kind, dtype=dtype, **kwargs)
    decoder = AutoregressiveDecoder(cell, return_state=True, dtype=dtype)
    width = cell.state_size[0] if kind == "luong_dot" else 6
    decoder(np.zeros((1, 1, FEATURES)), memory=np.zeros((1, 1, width)))
    randomize(cell, np.random.default_rng(seed))
    return decoder, cell, width


def arrays(cell):
    """The inner cell's weights and the attention's own, as the oracle wants them."""
    inner = [w.numpy().astype("float64") for w in cell.cell.trainable_weights]
    return inner, [w.numpy().astype("float64") for w in cell._trainable_variables]


def initial_states(cell, seed, batch=B, length=S):
    """States unlike those that a cell starts with; alignments that sum to one, or a single one."""
    states = [normal(seed + i, batch, size) for i, size in enumerate(cell.state_size) if size is not None]
    if cell.monotonic == "soft":
        weights = np.exp(normal(seed, batch, length))
        states.append((weights / weights.sum(1, keepdims=True)).astype(weights.dtype))
    elif cell.monotonic == "hard":
        states.append(np.eye(length, dtype=keras.config.floatx())[np.arange(batch) % length])
    return states


def expected(cell, inner, inputs, states, memory, mask=None):
    mask = np.ones(memory.shape[:2], bool) if mask is None else mask
    of_cell, own = arrays(cell)
    return oracle.run(
        (inner, of_cell), own, inputs, states, memory, mask, cell.attention, cell.input_feeding, cell.monotonic
    )


# The score, input feeding, monotonic attention, the widths of the hidden layer and of the output.
CASES = [
    ("bahdanau", True, None, 3, 7),
    ("bahdanau", False, "hard", None, None),
    ("bahdanau_normalized", False, None, 3, None),
    ("bahdanau_normalized", True, "soft", None, 7),
    ("luong", True, "hard", None, None),
    ("luong", False, "soft", None, 7),
    ("luong_scaled", True, None, None, None),
    ("luong_dot", False, None, None, 7),
    ("luong_dot", True, "soft", None, None),
]


@pytest.mark.parametrize("mode", STEP_MODES)
@pytest.mark.parametrize(("kind", "input_feeding", "monotonic", "units", "output_units"), CASES)
def test_steps_equal_the_published_equations(mode, kind, input_feeding, monotonic, units, output_units):
    """Each row is a case of its own: whatever mask, all and nothing included, and whatever state."""
    rows, rng = 16, np.random.default_rng(0)
    _, cell, width = make(
        kind, units=units, output_units=output_units, input_feeding=input_feeding, monotonic=monotonic
    )
    inputs, memory = normal(0, rows, 2, FEATURES), normal(1, rows, S, width)
    states, mask = initial_states(cell, 2, rows), rng.random((rows, S)) < 0.6
    mask[0], mask[1] = True, False
    wanted, wanted_alignments, wanted_states = expected(cell, "lstm", inputs, states, memory, mask)
    for t in range(2):
        (output, alignments), states = to_numpy(
            STEP_MODES[mode](cell, inputs[:, t], states, memory=memory, memory_mask=mask, return_alignments=True)
        )
        np.testing.assert_allclose(output, wanted[:, t], atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_allclose(alignments, wanted_alignments[:, t], atol=TOLERANCE, rtol=TOLERANCE)
    for received, state in zip(states, wanted_states, strict=True):
        np.testing.assert_allclose(received, state, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("input_feeding", "monotonic"), [(True, None), (False, None), (True, "soft"), (False, "hard")])
def test_a_decoder_runs_it_as_published(mode, input_feeding, monotonic):
    decoder, cell, width = make(input_feeding=input_feeding, monotonic=monotonic)
    inputs, memory = normal(0, B, T, FEATURES), normal(1, B, S, width)
    outputs, *last = to_numpy(MODES[mode](decoder, inputs, memory=memory))
    states = to_numpy(cell.get_initial_state(memory=memory))
    wanted, _, wanted_last = expected(cell, "lstm", inputs, states, memory)
    np.testing.assert_allclose(outputs, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    for received, state in zip(last, wanted_last, strict=True):
        np.testing.assert_allclose(received, state, atol=TOLERANCE, rtol=TOLERANCE)


def differentiate(cell, inputs, states, memory, mask, weigh):
    """Gradients of the weighed outputs of T steps by weights, inputs, memory and states."""
    variables = cell.trainable_variables

    def pure(values):
        values = list(values)
        weights = [values.pop(0) for _ in variables]
        with keras.StatelessScope(list(zip(variables, weights, strict=True))):
            x, memory, *states = values
            prepared = cell.prepare_memory(memory, mask)
            total = 0.0
            for t in range(inputs.shape[1]):
                output, states = cell(x[:, t], states, memory=prepared)
                total = total + ops.sum(output * ops.convert_to_tensor(weigh[:, t]))
        return total, None

    values = [v.value for v in variables] + [ops.convert_to_tensor(a) for a in (inputs, memory, *states)]
    return to_numpy(execution.compiled(execution.gradients(pure), execution.choose_mode("gradients", None))(values)[0])


def check_gradients(cell, inner, rtol, atol):
    width = cell._memory_width
    inputs, memory, weigh = normal(0, B, 2, FEATURES), normal(1, B, S, width), normal(2, B, 2, cell.output_size)
    states = initial_states(cell, 3)
    received = differentiate(cell, inputs, states, memory, MASK, weigh)
    of_cell, own = arrays(cell)
    order = [id(v) for v in cell.trainable_variables]
    sources = list(cell.cell.trainable_weights) + list(cell._trainable_variables)
    values = [a.astype("float64") for a in (*of_cell, *own, inputs, memory, *states)]
    places = [order.index(id(v)) for v in sources] + list(range(len(order), len(received)))

    def loss(*arrays):
        split = len(of_cell) + len(own)
        weights, (x, memory, *states) = arrays[:split], arrays[split:]
        outputs, _, _ = oracle.run(
            (inner, weights[: len(of_cell)]),
            weights[len(of_cell) :],
            x,
            states,
            memory,
            MASK,
            cell.attention,
            cell.input_feeding,
            cell.monotonic,
        )
        return np.sum(outputs * weigh)

    rng = np.random.default_rng(0)
    assert len(received) == len(values)
    for i, place in enumerate(places):
        array = values[i]
        for index in {tuple(rng.integers(array.shape)) for _ in range(4)}:
            slope = oracle.derivative(lambda a, i=i: loss(*values[:i], a, *values[i + 1 :]), array, index)
            np.testing.assert_allclose(received[place][index], slope, rtol=rtol, atol=atol)


OPTIONS = [(kind, True, None) for kind in KINDS] + [
    ("bahdanau", False, None),
    ("bahdanau", True, "soft"),
    ("luong", False, "soft"),
]


@pytest.mark.parametrize(("kind", "monotonic"), [("bahdanau", None), ("luong", "soft")])
def test_gradients_in_float32(kind, monotonic):
    _, cell, _ = make(kind, monotonic=monotonic)
    check_gradients(cell, "lstm", rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "input_feeding", "monotonic"), OPTIONS)
def test_float64_is_exact(kind, input_feeding, monotonic):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    _, cell, width = make(kind, "plain", input_feeding=input_feeding, monotonic=monotonic)
    inputs, memory, states = normal(0, B, 1, FEATURES), normal(1, B, S, width), initial_states(cell, 2)
    wanted, _, _ = expected(cell, "plain", inputs, states, memory, MASK)
    run = STEP_MODES[list(STEP_MODES)[-1]]
    output = to_numpy(run(cell, inputs[:, 0], states, memory=memory, memory_mask=MASK)[0])
    assert output.dtype == "float64"
    np.testing.assert_allclose(output, wanted[:, 0], atol=1e-12, rtol=0)
    check_gradients(cell, "plain", rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(("kind", "monotonic"), [("bahdanau_normalized", None), ("luong_scaled", "soft")])
def test_mixed_precision_comes_close(policy, kind, monotonic):
    keras.config.set_dtype_policy(policy)
    decoder, cell, width = make(kind, monotonic=monotonic)
    inputs, memory = normal(0, B, T, FEATURES), normal(1, B, S, width)
    states = [to_numpy(ops.cast(s, "float64")) for s in cell.get_initial_state(memory=memory)]
    wanted, _, _ = expected(cell, "lstm", inputs, states, memory, MASK)
    for v in cell.trainable_variables:
        assert keras.backend.standardize_dtype(v.dtype) == "float32"
    outputs = decoder(inputs, memory=memory, memory_mask=MASK)[0]
    assert keras.backend.standardize_dtype(outputs.dtype) == cell.compute_dtype
    np.testing.assert_allclose(to_numpy(ops.cast(outputs, "float32")), wanted, atol=0.1 if "b" in policy else 0.02)


@pytest.mark.parametrize("mode", STEP_MODES)
@pytest.mark.parametrize(("kind", "monotonic"), [("bahdanau", None), ("luong", "soft"), ("luong_dot", "hard")])
def test_masked_memory_equals_truncated_memory(mode, kind, monotonic):
    _, cell, width = make(kind, monotonic=monotonic)
    x, memory, states = normal(0, B, FEATURES), normal(1, B, S, width), initial_states(cell, 2)
    garbage = np.where(MASK[:, :, None], memory, np.array([np.nan, np.inf, 1e30])[:, None, None]).astype("float32")
    together, _ = to_numpy(STEP_MODES[mode](cell, x, states, memory=garbage, memory_mask=MASK))
    for row, (length,) in enumerate(LENGTHS):
        one = slice(row, row + 1)
        own = [s[one, :length] if i == 3 else s[one] for i, s in enumerate(states)]  # the alignments stand fourth
        alone, _ = to_numpy(cell(x[one], own, memory=memory[one, :length]))
        np.testing.assert_allclose(together[one], alone, atol=1e-6)


@pytest.mark.parametrize(("kind", "monotonic"), [("bahdanau", None), ("luong", "soft"), ("luong_dot", None)])
def test_no_gradient_comes_from_behind_a_mask(kind, monotonic):
    _, cell, width = make(kind, monotonic=monotonic)
    inputs, memory, weigh = normal(0, B, 2, FEATURES), normal(1, B, S, width), normal(2, B, 2, cell.output_size)
    states, mask = initial_states(cell, 3), MASK & (np.arange(B) < 2)[:, None]  # the last row is nothing but mask
    received = differentiate(cell, inputs, states, np.where(mask[:, :, None], memory, np.float32(np.nan)), mask, weigh)
    wanted = differentiate(cell, inputs, states, memory * mask[:, :, None], mask, weigh)
    for gradient, other in zip(received, wanted, strict=True):
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient, other, atol=1e-6)
    of_memory = received[len(cell.trainable_variables) + 1]
    assert (of_memory[~mask] == 0).all()
    assert (of_memory[mask] != 0).all()


@pytest.mark.parametrize("monotonic", MONOTONIC)
def test_a_row_of_nothing_but_mask_finds_nothing(monotonic):
    _, cell, width = make(monotonic=monotonic)
    x, memory, states = normal(0, 2, FEATURES), normal(1, 2, S, width), initial_states(cell, 2, batch=2)
    memory[0] = np.nan
    mask = np.array([[False] * S, [True] * S])
    (output, alignments), _ = to_numpy(cell(x, states, memory=memory, memory_mask=mask, return_alignments=True))
    assert (alignments[0] == 0).all()
    assert np.isfinite(output).all()
    without, _ = to_numpy(cell(x, states, memory=memory * 0, memory_mask=mask * 0))
    np.testing.assert_allclose(output[0], without[0], atol=1e-6)


def test_alignments_of_symbolic_tensors():
    _, cell, width = make(monotonic="soft")
    states = [keras.Input((S if size is None else size,)) for size in cell.state_size]
    (output, alignments), new = cell(
        keras.Input((FEATURES,)), states, memory=keras.Input((S, width)), return_alignments=True
    )
    assert (output.shape, alignments.shape) == ((None, cell.output_size), (None, S))
    assert [s.shape for s in new] == [s.shape for s in states]


@pytest.mark.parametrize("kind", ["bahdanau_normalized", "luong_scaled"])
def test_a_sequence_at_once_equals_its_steps(kind):
    _, cell, width = make(kind, input_feeding=False)
    inputs, memory, states = normal(0, B, T, FEATURES), normal(1, B, S, width), initial_states(cell, 2)
    wanted, wanted_alignments, wanted_last = expected(cell, "lstm", inputs, states, memory, MASK)
    memory = cell.prepare_memory(ops.convert_to_tensor(memory), MASK)
    (outputs, alignments), last = cell.call_sequence(
        ops.convert_to_tensor(inputs), [ops.convert_to_tensor(s) for s in states], memory=memory, return_alignments=True
    )
    np.testing.assert_allclose(to_numpy(outputs), wanted, atol=TOLERANCE)
    np.testing.assert_allclose(to_numpy(alignments), wanted_alignments, atol=TOLERANCE)
    for received, state in zip(to_numpy(last), wanted_last, strict=True):
        np.testing.assert_allclose(received, state, atol=TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"input_feeding": False, "monotonic": "soft"}], ids=["fed", "monotonic"])
def test_what_must_go_step_by_step_offers_no_sequence(options):
    assert make(**options)[1].call_sequence is None


def test_soft_monotonic_attention_survives_extreme_scores():
    """Where the product of the chances to go on is below any float, quotients of such products are not."""
    from keras_seqx._attention.functions import soft_monotonic

    rng = np.random.default_rng(0)
    scores = np.concatenate([np.full(70, 30.0), rng.normal(0, 4, 57), np.full(4, -60.0)])[None].astype("float32")
    for start in (0, 50, 90, 130):
        previous = np.eye(scores.shape[1], dtype="float32")[[start]]
        received = to_numpy(soft_monotonic(ops.convert_to_tensor(scores), ops.convert_to_tensor(previous), None))
        np.testing.assert_allclose(received[0], oracle.soft(scores[0].astype("float64"), previous[0]), atol=1e-6)


def test_hard_monotonic_attention_leaves_the_memory_for_good():
    from keras_seqx._attention.functions import hard_monotonic

    previous = ops.convert_to_tensor(np.eye(5, dtype="float32")[[2]])
    seen = []
    for scores in ([1, 1, -1, -1, 1], [-1, -1, -1, -1, -1], [1, 1, 1, 1, 1]):
        previous = hard_monotonic(ops.convert_to_tensor(np.array([scores], "float32")), previous, None)
        seen.append(to_numpy(previous)[0].tolist())
    assert seen == [[0, 0, 0, 0, 1], [0] * 5, [0] * 5]


def test_hard_attention_is_soft_in_training():
    _, soft, width = make(monotonic="soft")
    _, hard, _ = make(monotonic="hard")
    x, memory, states = normal(0, B, FEATURES), normal(1, B, S, width), initial_states(hard, 2)
    of = {training: to_numpy(hard(x, states, memory=memory, training=training)[0]) for training in (True, False)}
    np.testing.assert_array_equal(of[True], to_numpy(soft(x, states, memory=memory)[0]))
    assert np.abs(of[True] - of[False]).max() > 1e-3


def test_noise_comes_in_training_anew_at_every_step_and_the_same_for_a_seed():
    def states(seed, training, steps=2):
        keras.utils.set_random_seed(0)
        cell = AttentionCell(CELLS["lstm"][0](), monotonic="soft", sigmoid_noise=3.0, seed=seed)
        cell.build((None, FEATURES), memory_shape=(None, None, 6))
        decoder = AutoregressiveDecoder(cell, return_state=True)
        memory, inputs = normal(0, B, S, 6), normal(1, B, steps, FEATURES)
        # The same memory and nothing read: the probabilities of both steps differ by the noise alone.
        return to_numpy(decoder(inputs * 0, memory=memory, training=training)[-1])

    np.testing.assert_array_equal(states(1, True), states(1, True))
    assert np.abs(states(1, True) - states(2, True)).max() > 1e-3
    np.testing.assert_array_equal(states(1, False), states(2, False))
    _, noisy, width = make(monotonic="soft", sigmoid_noise=3.0, seed=None)
    x, memory, initial = normal(0, B, FEATURES), normal(1, B, S, width), initial_states(noisy, 2)
    first, second = (to_numpy(noisy(x, initial, memory=memory, training=True)[0]) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_the_bias_of_monotonic_scores_is_where_it_starts():
    cell = AttentionCell(CELLS["lstm"][0](), monotonic="soft", score_bias=-2.5)
    cell.build((None, FEATURES), memory_shape=(None, None, 6))
    assert float(cell.score_offset.numpy()) == -2.5
    gain = AttentionCell(CELLS["lstm"][0](), "bahdanau_normalized", units=4)
    gain.build((None, FEATURES), memory_shape=(None, None, 6))
    assert [float(w.numpy()) for w in gain.weights if w.name == "gain"] == [0.5]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monotonic", [None, "soft"])
def test_free_running_equals_forcing_what_was_written(mode, monotonic):
    cell = AttentionCell([keras.layers.LSTMCell(5), keras.layers.GRUCell(4)], monotonic=monotonic)
    decoder = AutoregressiveDecoder([cell, keras.layers.LSTMCell(4)], keras.layers.Dense(FEATURES))
    start, memory = normal(0, B, 1, FEATURES), normal(1, B, S, 6)
    decoder(start, memory=memory)
    randomize(decoder, np.random.default_rng(0))
    written = to_numpy(MODES[mode](decoder, start, memory=memory, memory_mask=MASK, steps=7))
    inputs = np.concatenate([start, written[:, :-1]], axis=1)
    read = to_numpy(MODES[mode](decoder, inputs, memory=memory, memory_mask=MASK))
    np.testing.assert_allclose(read, written, atol=TOLERANCE)
    alone = to_numpy(decoder(start[1:2], memory=memory[1:2, :3], steps=7))
    np.testing.assert_allclose(written[1:2], alone, atol=TOLERANCE)


def test_attention_inside_attention():
    inner = AttentionCell(keras.layers.GRUCell(4), "luong", input_feeding=False)
    decoder = AutoregressiveDecoder(AttentionCell([inner, keras.layers.LSTMCell(5)]))
    inputs, memory = normal(0, B, T, FEATURES), normal(1, B, S, 6)
    together = to_numpy(decoder(inputs, memory=memory, memory_mask=MASK))
    alone = to_numpy(decoder(inputs[1:2], memory=memory[1:2, :3]))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("dropout", "options"),
    [(0.2, {}), (0.2, {"input_feeding": False}), (0.0, {"monotonic": "soft", "sigmoid_noise": 1.0, "seed": 0})],
    ids=["fed", "at once", "monotonic"],
)
def test_fit_learns_to_copy_the_memory(dropout, options):
    """Every backend's compiled training step: gradients, dropout masks held, noise drawn in the loop."""
    cell = AttentionCell(keras.layers.GRUCell(16, dropout=dropout), **options)
    x, memory = keras.Input((None, FEATURES)), keras.Input((None, FEATURES))
    outputs = AutoregressiveDecoder(cell, keras.layers.Dense(FEATURES), seed=0)(x, memory=memory)
    model = keras.Model([x, memory], outputs)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    target = normal(1, 32, 4, FEATURES)
    data = [np.concatenate([target[:, :1] * 0, target[:, :-1]], axis=1), target]
    losses = model.fit(data, target, epochs=10, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only a graph of TensorFlow leaves an axis open")
@pytest.mark.parametrize("monotonic", [None, "soft"])
def test_the_length_of_the_memory_may_be_open(monotonic):
    import tensorflow as tf

    decoder, _, width = make(monotonic=monotonic)
    inputs, memory = normal(0, B, T, FEATURES), normal(1, B, S, width)
    open_memory = tf.TensorSpec((None, None, width))
    compiled = tf.function(lambda memory: decoder(inputs, memory=memory)[0], input_signature=[open_memory])
    for length in (1, 2, S):
        wanted = to_numpy(decoder(inputs, memory=memory[:, :length])[0])
        np.testing.assert_allclose(to_numpy(compiled(memory[:, :length])), wanted, atol=1e-6)
