"""TransformerDecoderCell: a block that reads step by step equals the published block over the whole sequence."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder
from keras_seqx.layers.transformer_decoder_cell import TransformerDecoderCell
from keras_seqx.testing import check_serialization, execution
from tests.cases import MODES, normal, randomize, to_numpy
from tests.reference import attention as oracle

UNITS, HEADS, LENGTH, B, T, S, M = 8, 2, 9, 3, 5, 4, 6
MASK = np.arange(S) < np.array([[4], [2], [1]])
ACTIVATIONS = {
    "gelu": np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": oracle.sigmoid,
}
CASES = [
    {"cross_attention": False},
    {"cross_attention": True, "normalize_first": False, "activation": "relu", "intermediate_dim": 5},
    {"cross_attention": True, "activation": "sigmoid", "layer_norm_epsilon": 0.1},
]
IDS = ["plain", "post-norm", "pre-norm"]


def make(weights=0, **options):
    cell = TransformerDecoderCell(UNITS, HEADS, max_length=LENGTH, **options)
    cell.build((None, UNITS), memory_shape=(None, None, M) if cell.cross_attention else None)
    randomize(cell, np.random.default_rng(weights))
    return cell


def data(cell, steps=T, mask=MASK):
    """Inputs and the arguments that tell the memory."""
    memory = {"memory": normal(1, B, S, M), "memory_mask": mask} if cell.cross_attention else {}
    return normal(0, B, steps, UNITS), memory


def expected(cell, inputs, memory=None, memory_mask=None, weights=None):
    """The oracle's outputs (B, T, D) and alignments (B, T, S), of inputs from the first position on."""
    weights = [w.numpy().astype("float64") for w in cell.trainable_weights] if weights is None else weights
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    rows = [
        oracle.block(
            pairs,
            inputs[b],
            HEADS,
            ACTIVATIONS[cell.activation.__name__],
            None if memory is None else memory[b],
            None if memory_mask is None else memory_mask[b],
            cell.normalize_first,
            cell.layer_norm_epsilon,
        )
        for b in range(len(inputs))
    ]
    return np.array([y for y, _ in rows]), None if memory is None else np.array([a for _, a in rows])


def compiled(function, *args):
    """Runs a function of tensors, on JAX compiled: one operation at a time takes far longer there."""
    args = keras.tree.map_structure(lambda x: None if x is None else ops.convert_to_tensor(x), args)
    return execution.compiled(function, execution.choose_mode("compiled", None))(*args)


def stepwise(cell, inputs, states, **memory):
    def run(inputs, states, memory):
        outputs = []
        for t in range(inputs.shape[1]):
            output, states = cell(inputs[:, t], states, **memory)
            outputs.append(output)
        return ops.stack(outputs, axis=1), states

    return compiled(run, inputs, states, memory)


def at_once(cell, inputs, states, fresh=False, return_alignments=False, **memory):
    def run(inputs, states, memory):
        kwargs = {"return_alignments": True} if return_alignments else {}
        return cell.call_sequence(inputs, states, is_initial_state=fresh, **kwargs, **memory)

    return compiled(run, inputs, states, memory)


def at_different_positions(cell, memory):
    """States of rows that have read 0, 1 and 3 steps, and what they read."""
    past = normal(5, B, 3, UNITS)
    rows = []
    for row, count in enumerate((0, 1, 3)):
        own = {k: v[row : row + 1] for k, v in memory.items()}
        _, states = (
            stepwise(cell, past[row : row + 1, :count], cell.get_initial_state(1), **own)
            if count
            else (
                None,
                cell.get_initial_state(1),
            )
        )
        rows.append(states)
    return [ops.concatenate(parts, axis=0) for parts in zip(*rows, strict=True)], [past[0, :0], past[1, :1], past[2]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", CASES, ids=IDS)
def test_equals_the_published_block(options, mode):
    """Step by step within a decoder, and the whole sequence at once."""
    cell = make(**options)
    inputs, memory = data(cell)
    wanted, _ = expected(cell, inputs, **memory)
    decoder = AutoregressiveDecoder(cell)
    decoder(inputs, **memory)
    np.testing.assert_allclose(to_numpy(MODES[mode](decoder, inputs, **memory)), wanted, atol=1e-5)
    # A mask that is not true throughout makes the decoder go step by step; the steps read are forced all the same.
    mask = np.ones((B, T + 1), bool)
    mask[:, T] = False
    padded = np.concatenate([inputs, inputs[:, :1]], axis=1)
    steps = to_numpy(MODES[mode](decoder, padded, mask=mask, **memory))[:, :T]
    np.testing.assert_allclose(steps, wanted, atol=1e-5)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("options", CASES, ids=IDS)
def test_a_sequence_at_once_equals_its_steps(options, fresh):
    cell = make(**options)
    inputs, memory = data(cell)
    states = cell.get_initial_state(B) if fresh else at_different_positions(cell, memory)[0]
    wanted, wanted_states = stepwise(cell, inputs, states, **memory)
    outputs, last = at_once(cell, inputs, states, fresh, **memory)
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(wanted), atol=1e-5)
    for received, state in zip(last, wanted_states, strict=True):
        assert keras.backend.standardize_dtype(received.dtype) == keras.backend.standardize_dtype(state.dtype)
        np.testing.assert_allclose(to_numpy(received), to_numpy(state), atol=1e-5)


@pytest.mark.parametrize("read", [stepwise, at_once], ids=["steps", "at once"])
def test_rows_go_on_from_their_own_positions(read):
    cell = make(cross_attention=True)
    inputs, memory = data(cell)
    states, past = at_different_positions(cell, memory)
    outputs, last = read(cell, inputs, states, **memory)
    for row in range(B):
        own = {k: v[row : row + 1] for k, v in memory.items()}
        whole = np.concatenate([past[row], inputs[row]])[None]
        np.testing.assert_allclose(to_numpy(outputs)[row], expected(cell, whole, **own)[0][0, -T:], atol=1e-5)
    assert to_numpy(last[-1]).tolist() == [[T], [T + 1], [T + 3]]


def slopes(cell, function, values):
    """Gradients of the scalar `function(*values)` by the cell's weights and the values."""
    variables = cell.trainable_variables

    def pure(arrays):
        with keras.StatelessScope(list(zip(variables, arrays[: len(variables)], strict=True))):
            return function(*arrays[len(variables) :]), None

    values = [v.value for v in variables] + [ops.convert_to_tensor(v) for v in values]
    return to_numpy(execution.compiled(execution.gradients(pure), execution.choose_mode("gradients", None))(values)[0])


def test_gradients_are_exact_in_float64_step_by_step_and_at_once():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    cell = make(cross_attention=True, activation="sigmoid")
    inputs, memory = data(cell, steps=3)
    weigh = normal(2, B, 3, UNITS)

    def loss(read):
        def function(x, m):
            outputs, _ = read(x, cell.get_initial_state(B), memory=m, memory_mask=MASK)
            return ops.sum(outputs * ops.convert_to_tensor(weigh))

        return function

    values = (inputs, memory["memory"])
    by_steps = slopes(cell, loss(lambda x, states, **memory: stepwise(cell, x, states, **memory)), values)
    fresh = slopes(cell, loss(lambda *args, **memory: at_once(cell, *args, fresh=True, **memory)), values)
    cached = slopes(cell, loss(lambda *args, **memory: at_once(cell, *args, **memory)), values)
    arrays = [w.numpy() for w in cell.trainable_weights] + list(values)

    def of_oracle(i, moved):
        moved = [*arrays[:i], moved, *arrays[i + 1 :]]
        *weights, x, m = moved
        return np.sum(expected(cell, x, m, MASK, weights)[0] * weigh)

    rng = np.random.default_rng(0)
    for i, array in enumerate(arrays):
        np.testing.assert_allclose(fresh[i], by_steps[i], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(cached[i], by_steps[i], rtol=1e-9, atol=1e-11)
        for index in {tuple(rng.integers(array.shape)) for _ in range(4)}:
            slope = oracle.derivative(lambda a, i=i: of_oracle(i, a), array, index)
            np.testing.assert_allclose(fresh[i][index], slope, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_comes_close(policy):
    keras.config.set_dtype_policy(policy)
    cell = make(cross_attention=True)
    inputs, memory = data(cell)
    wanted, _ = expected(cell, inputs, **memory)
    decoded = AutoregressiveDecoder(cell)(inputs, **memory)
    (output, *_), states = stepwise(cell, inputs[:, :1], cell.get_initial_state(B), **memory)
    assert keras.backend.standardize_dtype(states[0].dtype) == cell.compute_dtype
    close = 0.2 if "b" in policy else 0.03
    for received, exact in ((decoded, wanted), (output, wanted[0, :1])):
        assert keras.backend.standardize_dtype(received.dtype) == cell.compute_dtype
        np.testing.assert_allclose(to_numpy(ops.cast(received, "float32")), exact, atol=close)


@pytest.mark.parametrize("mode", MODES)
def test_a_stack_that_runs_free_equals_reading_all_again_at_each_step(mode):
    cells = [make(seed, cross_attention=bool(seed)) for seed in (0, 1)]
    decoder = AutoregressiveDecoder(cells, keras.layers.Dense(UNITS, activation="tanh"))
    start, memory = normal(0, B, 1, UNITS), {"memory": normal(1, B, S, M), "memory_mask": MASK}
    decoder(start, **memory)
    written = to_numpy(MODES[mode](decoder, start, steps=LENGTH, **memory))
    kernel, bias = decoder.output_layer.get_weights()
    read = start
    for _ in range(LENGTH):
        hidden, _ = expected(cells[0], read)
        hidden, _ = expected(cells[1], hidden, **memory)
        read = np.concatenate([read, np.tanh(hidden[:, -1:] @ kernel + bias)], axis=1)
    np.testing.assert_allclose(written, read[:, 1:], atol=1e-4)


def test_masked_memory_equals_truncated_memory():
    cell = make(cross_attention=True)
    inputs, memory = data(cell, steps=1)
    garbage = np.where(MASK[:, :, None], memory["memory"], np.array([np.nan, np.inf, np.nan])[:, None, None])
    together, _ = stepwise(cell, inputs, cell.get_initial_state(B), memory=garbage.astype("float32"), memory_mask=MASK)
    for row, length in enumerate(MASK.sum(axis=1)):
        one = slice(row, row + 1)
        alone, _ = stepwise(cell, inputs[one], cell.get_initial_state(1), memory=memory["memory"][one, :length])
        np.testing.assert_allclose(to_numpy(together)[one], to_numpy(alone), rtol=1e-6, atol=1e-6)


def test_no_gradient_comes_from_behind_a_mask():
    cell = make(cross_attention=True)
    mask = MASK & (np.arange(B) < 2)[:, None]  # the last row is nothing but mask
    memory = np.where(mask[:, :, None], normal(1, B, S, M), np.float32(np.nan))

    def function(x, m):
        outputs, _ = at_once(cell, x, cell.get_initial_state(B), fresh=True, memory=m, memory_mask=mask)
        return ops.sum(outputs**2)

    received = slopes(cell, function, [normal(0, B, T, UNITS), memory])
    assert all(np.isfinite(gradient).all() for gradient in received)
    assert (received[-1][~mask] == 0).all()
    assert (received[-1][mask] != 0).all()


def test_a_row_of_nothing_but_mask_gets_the_output_bias_alone():
    cell = make(cross_attention=True)
    inputs, memory = data(cell, mask=np.zeros((B, S), bool))
    outputs, _ = stepwise(cell, inputs, cell.get_initial_state(B), **memory)
    np.testing.assert_allclose(to_numpy(outputs), expected(cell, inputs, **memory)[0], atol=1e-5)


def test_alignments_are_the_mean_over_the_heads():
    cell = make(cross_attention=True)
    inputs, memory = data(cell)
    _, wanted = expected(cell, inputs, **memory)
    states = cell.get_initial_state(B)
    (_, alignments), _ = at_once(cell, inputs, states, fresh=True, return_alignments=True, **memory)
    np.testing.assert_allclose(to_numpy(alignments), wanted, atol=1e-5)
    prepared = compiled(cell.prepare_memory, memory["memory"], memory["memory_mask"])
    for t in range(T):
        (_, alignments), states = cell(inputs[:, t], states, memory=prepared, return_alignments=True)
        np.testing.assert_allclose(to_numpy(alignments), wanted[:, t], atol=1e-5)


@pytest.mark.parametrize(
    ("read", "fresh"), [(stepwise, False), (at_once, True), (at_once, False)], ids=["steps", "fresh", "cached"]
)
def test_steps_beyond_the_cache_are_no_numbers(read, fresh):
    cell = make()
    inputs = normal(0, B, LENGTH + 3, UNITS)
    kwargs = {} if read is stepwise else {"fresh": fresh}
    outputs, states = read(cell, inputs, cell.get_initial_state(B), **kwargs)
    outputs = to_numpy(outputs)
    np.testing.assert_allclose(outputs[:, :LENGTH], expected(cell, inputs[:, :LENGTH])[0], atol=1e-5)
    assert np.isnan(outputs[:, LENGTH:]).all()
    assert to_numpy(states[-1]).tolist() == [[LENGTH + 3]] * B
    # A row that is still within is not touched by one that is not.
    output, _ = cell(inputs[:, 0], [*states[:-1], ops.convert_to_tensor([[LENGTH], [1], [LENGTH - 1]])])
    assert np.isnan(to_numpy(output)).all(axis=1).tolist() == [True, False, False]
    assert cell.max_length == LENGTH


def test_dropout_draws_anew_at_every_step_in_training_alone():
    def run(seed, training):
        """The same step twice."""
        cell = make(dropout=0.5, seed=seed)
        x, states = normal(0, B, UNITS), cell.get_initial_state(B)
        return [to_numpy(cell(x, states, training=training)[0]) for _ in range(2)]

    first, second = run(1, True)
    assert np.abs(first - second).max() > 1e-2
    np.testing.assert_array_equal(run(1, True), [first, second])
    np.testing.assert_allclose(run(1, False)[1], run(2, False)[0], atol=1e-6)


def test_kernels_of_one_shape_start_from_other_numbers():
    cell = TransformerDecoderCell(UNITS, HEADS, max_length=LENGTH, cross_attention=True)
    cell.build((None, UNITS), memory_shape=(None, None, UNITS))
    square = [w.numpy() for w in cell.weights if tuple(w.shape) == (UNITS, UNITS)]
    assert len(square) == 3
    assert len({array.tobytes() for array in square}) == 3
    assert len(cell.weights) == len(cell.trainable_weights) == 20


def test_fit_learns_to_copy_the_memory():
    """Every backend's compiled training step, with dropout drawn within; half of the inputs fed back."""
    cell = TransformerDecoderCell(16, 2, max_length=6, cross_attention=True, dropout=0.05, seed=0)
    x, memory = keras.Input((None, 16)), keras.Input((None, 16))
    decoder = AutoregressiveDecoder(cell, keras.layers.Dense(16), teacher_forcing=0.5, seed=0)
    model = keras.Model([x, memory], decoder(x, memory=memory))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    target = normal(1, 32, 4, 16)
    inputs = np.concatenate([target[:, :1] * 0, target[:, :-1]], axis=1)
    losses = model.fit([inputs, target], target, epochs=10, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.85 * losses[0]


def test_files_and_clones():
    x, memory = keras.Input((None, UNITS)), keras.Input((None, M))
    cells = [TransformerDecoderCell(UNITS, HEADS, max_length=LENGTH, cross_attention=cross) for cross in (False, True)]
    outputs = AutoregressiveDecoder(cells, keras.layers.Dense(UNITS), steps=7)(x, memory=memory)
    model = keras.Model([x, memory], outputs)
    randomize(model, np.random.default_rng(0))
    check_serialization(model, [normal(0, B, 2, UNITS), normal(1, B, S, M)])


def test_runs_in_keras_rnn():
    """Without a memory it is a cell like any other."""
    x = keras.Input((T, UNITS))
    rnn = keras.layers.RNN(TransformerDecoderCell(UNITS, HEADS, max_length=T), return_sequences=True)
    model = keras.Model(x, rnn(x))
    randomize(model, np.random.default_rng(0))
    inputs = normal(0, B, T, UNITS)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), expected(rnn.cell, inputs)[0], atol=1e-5)
    check_serialization(model, inputs)


def test_config_round_trip():
    options = {
        "units": 12,
        "num_heads": 3,
        "max_length": 7,
        "intermediate_dim": 5,
        "cross_attention": True,
        "dropout": 0.25,
        "activation": "relu",
        "layer_norm_epsilon": 0.5,
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=3),
        "bias_initializer": "ones",
        "normalize_first": False,
        "seed": 4,
        "name": "block",
    }
    config = TransformerDecoderCell(**options).get_config()
    again = TransformerDecoderCell.from_config(config)
    assert again.get_config() == config
    for name in ("units", "num_heads", "max_length", "intermediate_dim", "cross_attention", "dropout", "seed", "name"):
        assert getattr(again, name) == options[name]
    assert (again.layer_norm_epsilon, again.normalize_first, again.activation) == (0.5, False, keras.activations.relu)


def cell(**options):
    return TransformerDecoderCell(**{"units": UNITS, "num_heads": HEADS, "max_length": LENGTH, **options})


ERRORS = {
    "units zero": (lambda: cell(units=0), ValueError, "`units` must be an integer of at least 1"),
    "units a float": (lambda: cell(units=8.0), TypeError, "Received: `units`=8.0"),
    "heads do not divide": (lambda: cell(num_heads=3), ValueError, "divides `units`=8 into even parts"),
    "heads of odd width": (lambda: cell(units=6), ValueError, "divides `units`=6 into even parts"),
    "heads a bool": (lambda: cell(num_heads=True), TypeError, "Received: `num_heads`=True"),
    "no length": (lambda: cell(max_length=0), ValueError, "`max_length` must be"),
    "no hidden units": (lambda: cell(intermediate_dim=0), ValueError, "`intermediate_dim` must be"),
    "dropout above one": (lambda: cell(dropout=1.5), ValueError, "`dropout` must be a number within [0, 1]"),
    "epsilon zero": (lambda: cell(layer_norm_epsilon=0), ValueError, "`layer_norm_epsilon` must be"),
    "epsilon a string": (lambda: cell(layer_norm_epsilon="a"), TypeError, "`layer_norm_epsilon` must be"),
    "inputs of another width": (lambda: cell().build((None, 5)), ValueError, "`inputs` must be of shape (B, D)"),
    "no memory": (lambda: cell(cross_attention=True).build((None, UNITS)), ValueError, "`memory` must be of shape"),
    "memory of rank 2": (
        lambda: cell(cross_attention=True).build((None, UNITS), memory_shape=(None, M)),
        ValueError,
        "`memory` must be of shape (B, S, M)",
    ),
    "memory of another width": (
        lambda: make(cross_attention=True)(normal(0, B, UNITS), cell().get_initial_state(B), memory=normal(1, B, S, 2)),
        ValueError,
        "Received: `memory`=(3, 4, 2)",
    ),
    "mask of another length": (
        lambda: make(cross_attention=True).prepare_memory(ops.ones((B, S, M)), ops.ones((B, S + 1))),
        ValueError,
        "`memory_mask` must be of shape (B, S)",
    ),
    "memory left out": (
        lambda: make(cross_attention=True)(normal(0, B, UNITS), cell().get_initial_state(B)),
        ValueError,
        "`memory` must be of shape (B, S, M)",
    ),
    "memory for no cross-attention": (
        lambda: make()(normal(0, B, UNITS), cell().get_initial_state(B), memory=normal(1, B, S, M)),
        ValueError,
        "`memory` must be None without `cross_attention`",
    ),
    "alignments of no cross-attention": (
        lambda: make()(normal(0, B, UNITS), cell().get_initial_state(B), return_alignments=True),
        ValueError,
        "`return_alignments` must be False",
    ),
}


@pytest.mark.parametrize(("run", "error", "words"), ERRORS.values(), ids=ERRORS)
def test_errors(run, error, words):
    with pytest.raises(error) as caught:
        run()
    text = str(caught.value)
    assert "TransformerDecoderCell: `" in text
    assert words in text
    assert "Received: " in text
