"""Dropout, teacher forcing, random layers and mixed precision, inside the loop and under `fit`."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder
from tests.cases import BACKEND, FEATURES, MODES, normal, to_numpy

JIT = {"tensorflow": [False, True], "jax": [True, False], "torch": ["auto"]}[BACKEND]


def echo(units=4, **kwargs):
    """A cell that returns what it reads, so that outputs show the inputs, and the dropout masks on them."""
    return keras.layers.SimpleRNNCell(
        units,
        activation=None,
        kernel_initializer="identity",
        recurrent_initializer=kwargs.pop("recurrent_initializer", "zeros"),
        **kwargs,
    )


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Wrapped(keras.layers.Layer):
    """A user's cell around one of Keras', which `keras.layers.RNN` would not find."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.state_size, self.output_size = inner.state_size, inner.output_size

    def get_initial_state(self, batch_size=None):
        return self.inner.get_initial_state(batch_size)

    def call(self, inputs, states, training=False):
        return self.inner(inputs, states, training=training)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrap", [lambda c: c, Wrapped, lambda c: [c, echo()]], ids=["plain", "wrapped", "stacked"])
def test_a_dropout_mask_is_held_through_the_steps(mode, wrap):
    decoder = AutoregressiveDecoder(wrap(echo(dropout=0.5, seed=1)))
    run = MODES[mode]
    ones = np.ones((6, 5, 4), "float32")
    forced = to_numpy(run(decoder, ones, training=True))
    assert set(np.unique(forced)) == {0.0, 2.0}
    np.testing.assert_array_equal(forced, np.repeat(forced[:, :1], 5, axis=1))
    assert len({row.tobytes() for row in forced[:, 0]}) > 1

    free = to_numpy(run(decoder, ones[:, :1], steps=4, training=True))
    np.testing.assert_array_equal(free, free[:, :1] ** np.arange(1, 5)[:, None])
    assert (to_numpy(run(decoder, ones, training=False)) == 1).all()


def test_each_call_draws_its_own_dropout_mask():
    decoder = AutoregressiveDecoder(echo(dropout=0.5))
    ones = np.ones((6, 5, 4), "float32")
    first, second = (to_numpy(decoder(ones, training=True)) for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize("mode", MODES)
def test_a_recurrent_dropout_mask_is_held_through_the_steps(mode):
    cell = echo(recurrent_initializer="identity", recurrent_dropout=0.5, seed=3)
    decoder = AutoregressiveDecoder(cell)
    impulse = np.zeros((6, 5, 4), "float32")
    impulse[:, 0] = 1
    outputs = to_numpy(MODES[mode](decoder, impulse, training=True))
    np.testing.assert_array_equal(outputs, outputs[:, 1:2] ** np.arange(5)[:, None])
    assert set(np.unique(outputs[:, 1])) == {0.0, 2.0}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_teacher_forcing_draws_for_each_row_and_step(mode, probability):
    decoder = AutoregressiveDecoder(echo(1), teacher_forcing=probability, seed=7)
    rows, steps = 200, 21
    inputs = np.tile(np.arange(1.0, steps + 1, dtype="float32")[None, :, None], (rows, 1, 1))
    run = MODES[mode]
    np.testing.assert_allclose(to_numpy(run(decoder, inputs)), inputs)

    kept = to_numpy(run(decoder, inputs, training=True))[:, :, 0] == inputs[:, :, 0]
    assert kept[:, 0].all()
    n = rows * (steps - 1)
    assert abs(kept[:, 1:].mean() - probability) <= 4 * np.sqrt(probability * (1 - probability) / n)
    if 0 < probability < 1:
        assert len(np.unique(kept, axis=0)) > rows / 2
    if 0 < probability < 1 and mode != "jit":  # a pure function leaves the seed where it was
        again = to_numpy(run(decoder, inputs, training=True))[:, :, 0] == inputs[:, :, 0]
        assert (kept != again).any()


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_whole_and_stepwise_branches_agree(probability):
    """Where TensorFlow has cuDNN and no XLA, a branch decides at run time; here both ways are made to run."""
    results = []
    for supports_jit in (True, False):
        keras.utils.set_random_seed(0)
        cells = [keras.layers.LSTMCell(4, dropout=0.2, seed=1), keras.layers.GRUCell(4, seed=2)]
        decoder = AutoregressiveDecoder(cells, keras.layers.Dense(FEATURES), teacher_forcing=probability, seed=3)
        decoder.supports_jit = supports_jit
        model = keras.Sequential([keras.Input((5, FEATURES)), decoder])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        x, y = normal(0, 8, 5, FEATURES), normal(1, 8, 5, FEATURES)
        losses = model.fit(x, y, epochs=3, batch_size=4, verbose=0, shuffle=False).history["loss"]
        results.append([*losses, *model.get_weights()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_seed_repeats_the_draws():
    inputs = normal(0, 8, 9, 1)
    runs = []
    for _ in range(2):
        decoder = AutoregressiveDecoder(echo(1), teacher_forcing=0.5, seed=11)
        runs.append(to_numpy(decoder(inputs, training=True)))
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("jit_compile", JIT)
def test_teacher_forcing_moves_between_the_epochs_of_a_traced_fit(jit_compile):
    """Targets equal the inputs that an echo returns: the loss tells what was forced."""
    decoder = AutoregressiveDecoder(echo(1, trainable=False), keras.layers.Dense(1, kernel_initializer="ones"))
    model = keras.Sequential([keras.Input((4, 1)), decoder])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    x = np.tile(np.arange(4.0, dtype="float32")[None, :, None], (8, 1, 1))

    class Move(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            decoder.teacher_forcing.assign([1.0, 0.0, 1.0][epoch])

    losses = model.fit(x, x, epochs=3, batch_size=4, callbacks=[Move()], verbose=0).history["loss"]
    np.testing.assert_allclose(losses, [0, np.mean(np.arange(4) ** 2), 0], atol=1e-6)


@pytest.mark.parametrize("forced", [1, 4, 6])
def test_fit_learns_with_dropout_draws_and_random_layers(forced):
    jit_compile = JIT[forced == 4] if BACKEND == "tensorflow" else JIT[0]  # JAX unjitted compiles every batch
    head = keras.Sequential([keras.layers.GaussianNoise(0.01), keras.layers.Dense(FEATURES)])
    cells = [keras.layers.LSTMCell(8, dropout=0.1, recurrent_dropout=0.1), keras.layers.GRUCell(8, dropout=0.1)]
    decoder = AutoregressiveDecoder(cells, head, steps=6, teacher_forcing=0.7)
    model = keras.Sequential([keras.Input((forced, FEATURES)), decoder])
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=jit_compile)
    x, y = normal(0, 16, forced, FEATURES), np.tile(normal(1, 1, 6, FEATURES), (16, 1, 1))
    history = model.fit(x, y, epochs=25, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]
    np.testing.assert_array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("mode", MODES)
def test_random_layers_draw_anew_at_every_step(mode):
    noise = keras.layers.GaussianNoise(1.0, seed=5)
    decoder = AutoregressiveDecoder(echo(2), noise)
    run = MODES[mode]
    outputs = to_numpy(run(decoder, np.zeros((3, 1, 2), "float32"), steps=6, training=True))
    increments = np.diff(outputs, axis=1)
    assert len(np.unique(increments)) == increments.size
    assert (to_numpy(run(decoder, np.zeros((3, 1, 2), "float32"), steps=6)) == 0).all()


@pytest.mark.parametrize("jit_compile", JIT)
def test_moving_statistics_survive_the_loop(jit_compile):
    norm = keras.layers.BatchNormalization(momentum=0.5)
    head = keras.Sequential([keras.layers.Dense(FEATURES, bias_initializer="ones"), norm])
    model = keras.Sequential(
        [keras.Input((1, FEATURES)), AutoregressiveDecoder(keras.layers.GRUCell(4), head, steps=5)]
    )
    model.compile("sgd", "mse", jit_compile=jit_compile)
    model.fit(normal(0, 8, 1, FEATURES), normal(1, 8, 5, FEATURES), verbose=0)
    assert (np.abs(to_numpy(norm.moving_mean.value)) > 0.1).all()


def test_a_seed_advances_once_for_each_use_and_stays_an_array():
    dropout = keras.layers.Dropout(0.5, seed=1)
    decoder = AutoregressiveDecoder(echo(2), dropout)
    decoder(np.ones((2, 1, 2), "float32"), steps=5, training=True)
    assert int(to_numpy(dropout.seed_generator.state.value)[1]) == 5


@pytest.mark.parametrize("forced", [1, 5])
def test_mixed_bfloat16_trains(forced):
    keras.config.set_dtype_policy("mixed_bfloat16")
    cells = [keras.layers.LSTMCell(8, dropout=0.1), keras.layers.GRUCell(8)]
    decoder = AutoregressiveDecoder(cells, keras.layers.Dense(FEATURES), steps=5)
    model = keras.Sequential([keras.Input((forced, FEATURES)), decoder])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x, y = normal(0, 16, forced, FEATURES), np.tile(normal(1, 1, 5, FEATURES), (16, 1, 1))
    history = model.fit(x, y, epochs=25, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]
    outputs = decoder(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert {keras.backend.standardize_dtype(v.dtype) for v in decoder.trainable_variables} == {"float32"}


def test_a_float32_head_on_a_mixed_decoder_gives_float32():
    head = keras.layers.Dense(FEATURES, dtype="float32")
    decoder = AutoregressiveDecoder(keras.layers.LSTMCell(4, dtype="mixed_bfloat16"), head, dtype="mixed_bfloat16")
    for steps in (None, 6):
        assert keras.backend.standardize_dtype(decoder(normal(0, 2, 3, FEATURES), steps=steps).dtype) == "float32"


@pytest.mark.parametrize("mode", MODES)
def test_a_float32_head_on_a_mixed_decoder_keeps_its_precision_in_the_loop(mode):
    fine = 1 + 2.0**-12  # not a bfloat16
    head = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(fine), dtype="float32")
    decoder = AutoregressiveDecoder(echo(1, dtype="mixed_bfloat16"), head, dtype="mixed_bfloat16")
    outputs = to_numpy(MODES[mode](decoder, np.ones((1, 1, 1), "float32"), steps=3))
    np.testing.assert_array_equal(outputs.ravel(), np.float32([fine] * 3))


def test_frozen_layers_stay_as_they_are():
    decoder = AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(FEATURES), steps=4)
    model = keras.Sequential([keras.Input((1, FEATURES)), decoder])
    decoder.cell.trainable = False
    before = [w.copy() for w in decoder.cell.get_weights()]
    model.compile("sgd", "mse")
    model.fit(normal(0, 8, 1, FEATURES), normal(1, 8, 4, FEATURES), verbose=0)
    for a, b in zip(before, decoder.cell.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Attending(keras.layers.Layer):
    """A cell that reads the mean of its valid memory, prepared once before the loop."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.read, self.write = keras.layers.Dense(units), keras.layers.Dense(units)
        self.prepared = 0

    def prepare_memory(self, memory, memory_mask=None):
        self.prepared += 1
        weights = ops.ones_like(memory[:, :, :1])
        if memory_mask is not None:
            weights = weights * ops.cast(memory_mask, weights.dtype)[:, :, None]
        return ops.sum(memory * weights, axis=1) / ops.sum(weights, axis=1)

    def call(self, inputs, states, memory, memory_mask=None):
        # Built symbolically on (B, S, M), called in the loop on what `prepare_memory` returned.
        memory = ops.mean(memory, axis=1) if len(memory.shape) == 3 else memory
        state = ops.tanh(self.read(ops.concatenate([inputs, memory], axis=-1)) + self.write(states[0]))
        return state, [state]


@pytest.mark.parametrize("forced", [1, 3])
def test_memory_reaches_the_cells_that_take_it(forced):
    from keras_seqx import SequenceMask

    cell = Attending(4)
    decoder = AutoregressiveDecoder([keras.layers.GRUCell(3), cell], keras.layers.Dense(FEATURES), steps=5)
    memory, inputs = normal(0, 2, 6, 7), normal(1, 2, forced, FEATURES)
    source, lengths, x = keras.Input((None, 7)), keras.Input((), dtype="int32"), keras.Input((forced, FEATURES))
    model = keras.Model([x, source, lengths], decoder(x, memory=SequenceMask()([source, lengths])))
    outputs = to_numpy(model([inputs, memory, np.array([6, 4], "int32")]))
    assert cell.prepared == 1
    alone = to_numpy(decoder(inputs[1:], memory=memory[1:, :4]))
    np.testing.assert_allclose(outputs[1:], alone, atol=1e-5)
