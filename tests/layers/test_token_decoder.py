"""AutoregressiveDecoder with an embedding: ids in, logits out, and the sampled ids fed back."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_seqx import AutoregressiveDecoder, Categorical, Gaussian
from keras_seqx.testing import check_serialization
from tests.cases import BACKEND, MODES, flatten_cells, gradients, normal, to_numpy
from tests.layers.tokens import VOCABULARY, WIDTH, build, logits_of, program, reweigh
from tests.reference.search import log_softmax, speak

TOLERANCE = 1e-5
STACKS = ["lstm", ["window", ["lstm", ["gru"]], "leaky"]]
FORMS = {"free": (1, 6), "forced": (4, 4), "prompt": (4, 7)}
seeds = st.integers(0, 2**16)


def ids_for(seed, batch, length):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length)).astype("int32")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_numpy_loop(form, stack, mode):
    """Greedy: a step without an input reads the most likely token of the step before."""
    forced, steps = FORMS[form]
    decoder = build(stack)
    run = program(decoder, mode, steps=steps)

    @given(seed=seeds, mask=st.lists(st.lists(st.booleans(), min_size=forced, max_size=forced), min_size=3, max_size=3))
    def check(seed, mask):
        reweigh(decoder, seed)
        ids, use = ids_for(seed, 3, forced), np.array(mask) | (forced == 1)
        logits = logits_of(stack, decoder)
        expected = [speak(logits, *row) for row in zip(ids, [steps] * 3, use, strict=True)]
        np.testing.assert_allclose(run(ids, mask=use), expected, atol=TOLERANCE, rtol=TOLERANCE)

    # JAX compiles a loop anew whenever it is not part of a program.
    (settings(settings.get_profile("few"))(check) if mode == "eager" else check)()


@pytest.mark.parametrize("stack", [["gru", "lstm"], ["layer:lstm", "simple_rnn"]], ids=str)
def test_teacher_forcing_equals_keras_layers(stack):
    decoder = build(stack)
    layers = [keras.layers.RNN(cell, return_sequences=True) for cell in flatten_cells(decoder.cell)]
    model = keras.Sequential([decoder.embedding, *layers, decoder.output_layer])
    ids = ids_for(0, 3, 6)
    np.testing.assert_allclose(program(decoder)(ids), to_numpy(model(ids)), atol=TOLERANCE)


def test_a_decoder_that_trains_without_forcing_reads_its_most_likely_tokens():
    decoder = build("gru", teacher_forcing=0.0)
    ids = ids_for(0, 3, 5)
    logits = logits_of("gru", decoder)
    expected = [speak(logits, row[:1], 5) for row in ids]
    received = program(decoder, training=True)(ids)
    np.testing.assert_allclose(received, expected, atol=TOLERANCE)
    assert abs(received - to_numpy(decoder(ids))).max() > 0.01  # in inference every input is read


def transitions(probabilities, **kwargs):
    """A decoder whose logits are those of the next token after the last one it read, whatever came before."""
    size = len(probabilities)
    cell = keras.layers.SimpleRNNCell(
        size, activation=None, kernel_initializer="identity", recurrent_initializer="zeros"
    )
    embedding = keras.layers.Embedding(size, size, embeddings_initializer="identity")
    decoder = AutoregressiveDecoder(cell, keras.layers.Dense(size), embedding=embedding, **kwargs)
    decoder(np.zeros((1, 1), "int32"), steps=1)
    decoder.output_layer.set_weights([np.log(probabilities), np.zeros(size)])
    embedding.set_weights([np.eye(size)])
    return decoder


def tokens_read(logits, probabilities):
    """Which token stands behind each step's logits."""
    distance = abs(logits[..., None, :] - np.log(probabilities)).max(-1)
    assert (distance.min(-1) < 1e-4).all()
    return distance.argmin(-1)


@pytest.mark.parametrize("training", [False, True], ids=["free", "scheduled"])
def test_sampled_tokens_come_as_often_as_they_are_likely(training):
    probabilities = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.05, 0.05, 0.9]])
    decoder = transitions(probabilities, sampler=Categorical(), teacher_forcing=0.0, seed=3)
    start = np.zeros((3000, 4 if training else 1), "int32")
    run = program(decoder, steps=4, training=training)
    logits = run(start)
    read = tokens_read(logits, probabilities)
    for t in range(3):
        for token in range(3):
            here = read[:, t] == token
            expected = here.sum() * probabilities[token]
            observed = np.bincount(read[here, t + 1], minlength=3)
            assert here.sum() == 0 or ((observed - expected) ** 2 / expected).sum() < 20
    again = transitions(probabilities, sampler=Categorical(), teacher_forcing=0.0, seed=3)
    np.testing.assert_array_equal(program(again, steps=4, training=training)(start), logits)


def test_successive_calls_draw_anew():
    decoder = build("gru", sampler=Categorical(), seed=1)
    ids = ids_for(0, 5, 1)
    first, second = (to_numpy(decoder(ids, steps=6)) for _ in range(2))
    assert (first != second).any()


def test_gradients_are_those_of_the_sequence_that_was_read():
    """Nothing flows through a sampled id, everything through the rest."""
    decoder = build(["gru", "lstm"])
    prompt, weigh = ids_for(0, 3, 2), normal(1, 3, 6, VOCABULARY)
    free = program(decoder, steps=6)(prompt)
    read = np.concatenate([prompt, free[:, 1:5].argmax(-1)], axis=1)

    def loss(ids):
        return ops.sum(decoder(ids, steps=6) * ops.convert_to_tensor(weigh))

    received = gradients(lambda: loss(prompt), decoder)
    expected = gradients(lambda: loss(read.astype("int32")), decoder)
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)
    assert all(abs(g).max() > 1e-3 for g in received)


@pytest.mark.parametrize("sampler", ["greedy", Categorical(top_k=3)], ids=["greedy", "categorical"])
def test_gradients_with_scheduled_sampling_are_finite(sampler):
    decoder = build(["gru", "lstm"], sampler=sampler, teacher_forcing=0.5)
    ids = ids_for(0, 3, 6)
    for gradient in gradients(lambda: ops.sum(ops.square(decoder(ids, training=True))), decoder):
        assert np.isfinite(gradient).all()
        assert abs(gradient).max() > 0


@pytest.mark.parametrize("steps", [4, 7])
def test_what_pads_a_prompt_changes_nothing(steps):
    decoder = build(["gru", "lstm"])
    ids, lengths = ids_for(0, 3, 4), [4, 1, 2]
    mask = np.arange(4) < np.array(lengths)[:, None]
    run = program(decoder, steps=steps)
    together = run(ids, mask=mask)
    for garbage in (-1, 0, 99):
        np.testing.assert_array_equal(run(np.where(mask, ids, garbage).astype("int32"), mask=mask), together)
    for row, length in enumerate(lengths):
        alone = to_numpy(decoder(ids[row : row + 1, :length], steps=steps))
        np.testing.assert_allclose(together[row], alone[0], atol=TOLERANCE)


def test_an_embedding_that_masks_zero_masks_loss_and_metrics():
    """A padded batch of targets has the loss of its tokens, however wide it is."""
    decoder = build("lstm", mask_zero=True)
    x = keras.Input((None,), dtype="int32")
    model = keras.Model(x, decoder(x))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), weighted_metrics=["accuracy"])
    rng = np.random.default_rng(0)
    lengths = np.array([5, 2, 3, 1])
    ids = np.where(np.arange(7) < lengths[:, None], rng.integers(1, VOCABULARY, (4, 7)), 0)
    targets = rng.integers(0, VOCABULARY, (4, 7))
    logits = logits_of("lstm", decoder)
    losses, right = [], []
    for row, length in enumerate(lengths):
        found = speak(logits, ids[row, :length], length)
        losses += [-log_softmax(y)[t] for y, t in zip(found, targets[row], strict=False)]
        right += [y.argmax() == t for y, t in zip(found, targets[row], strict=False)]
    for width in (5, 7):
        received = model.evaluate(ids[:, :width], targets[:, :width], batch_size=4, verbose=0)
        np.testing.assert_allclose(received, [np.mean(losses), np.mean(right)], atol=TOLERANCE)


def test_padding_that_the_embedding_masks_changes_nothing():
    decoder = build(["gru", "lstm"], mask_zero=True)
    valid = np.arange(5) < np.array([5, 2, 3])[:, None]
    ids = np.where(valid, 1 + ids_for(0, 3, 5) % (VOCABULARY - 1), 0)
    run = program(decoder)
    wide = run(np.pad(ids, ((0, 0), (0, 3))))
    np.testing.assert_allclose(wide[:, :5][valid], run(ids)[valid], atol=TOLERANCE)


def test_n_steps_and_then_m_equal_n_plus_m():
    decoder = build(["window", "lstm"], return_state=True)
    ids = ids_for(0, 3, 2)
    first, *states = program(decoder, steps=4)(ids)
    sampled = first[:, -1:].argmax(-1).astype("int32")
    second, *last = program(decoder, steps=3)(sampled, initial_state=states)
    at_once, *last_at_once = program(decoder, steps=7)(ids)
    np.testing.assert_allclose(np.concatenate([first, second], 1), at_once, atol=TOLERANCE)
    for received, expected in zip(last, last_at_once, strict=True):
        np.testing.assert_allclose(received, expected, atol=TOLERANCE)


def echo(width, log_std, **kwargs):
    """A continuous decoder whose means are what it reads."""
    cell = keras.layers.SimpleRNNCell(
        width, activation=None, kernel_initializer="identity", recurrent_initializer="zeros"
    )
    decoder = AutoregressiveDecoder(cell, keras.layers.Dense(2 * width), **kwargs)
    decoder(np.zeros((1, 1, width), "float32"), steps=1)
    kernel = np.concatenate([np.eye(width), np.zeros((width, width))], axis=1)
    decoder.output_layer.set_weights([kernel, np.concatenate([np.zeros(width), log_std])])
    return decoder


def test_a_continuous_decoder_reads_normal_samples_of_its_outputs():
    log_std = np.array([-1.0, 0.5])
    decoder = echo(2, log_std, sampler=Gaussian(), seed=4)
    start = np.full((3000, 1, 2), 3.0, "float32")
    outputs = program(decoder, steps=4)(start)
    assert outputs.shape == (3000, 4, 4)
    means = outputs[..., :2]
    draws = np.diff(means, axis=1) / np.exp(log_std)
    np.testing.assert_allclose(means[:, 0], start[:, 0], atol=TOLERANCE)
    np.testing.assert_allclose(draws.mean((0, 1)), 0, atol=0.05)
    np.testing.assert_allclose(draws.std((0, 1)), 1, atol=0.05)
    correlation = np.corrcoef(draws.reshape(3000, -1).T) - np.eye(6)  # steps and features draw for themselves
    assert abs(correlation).max() < 0.08
    calm = program(echo(2, log_std, sampler=Gaussian(temperature=0.0)), steps=4)(start)
    np.testing.assert_allclose(calm[..., :2], 3.0, atol=TOLERANCE)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    if policy == "float64":
        keras.config.set_floatx("float64")
    keras.config.set_dtype_policy(policy)
    decoder = build(["lstm", "gru"])
    ids = ids_for(0, 3, 3)
    received = program(decoder, steps=6)(ids)
    logits = logits_of(["lstm", "gru"], decoder)
    expected = [speak(logits, row, 6) for row in ids]
    if policy == "float64":
        assert received.dtype == "float64"
        np.testing.assert_allclose(received, expected, atol=1e-10 if BACKEND == "tensorflow" else TOLERANCE)
    else:
        assert keras.backend.standardize_dtype(received.dtype) == "bfloat16"
        first = np.asarray(expected)[:, :3]  # behind the prompt other tokens may be the most likely
        np.testing.assert_allclose(received[:, :3].astype("float32"), first, atol=0.15)


def test_fit_learns_with_scheduled_sampling():
    """A cyclic alphabet, learned from padded rows, and spoken freely."""
    keras.utils.set_random_seed(1)
    embedding = keras.layers.Embedding(VOCABULARY, WIDTH, mask_zero=True)
    decoder = AutoregressiveDecoder(
        keras.layers.GRUCell(16), keras.layers.Dense(VOCABULARY), embedding=embedding, teacher_forcing=0.8
    )
    x = keras.Input((None,), dtype="int32")
    model = keras.Model(x, decoder(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, jit_compile=BACKEND == "jax")
    starts = np.arange(24)[:, None] % (VOCABULARY - 1)
    tokens = 1 + (starts + np.arange(7)) % (VOCABULARY - 1)
    tokens[::3, 4:] = 0
    history = model.fit(tokens[:, :-1], tokens[:, 1:], epochs=25, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.3 * history[0]
    spoken = program(decoder, steps=6)(np.array([[3]], "int32")).argmax(-1)
    assert spoken.tolist() == [[4, 5, 6, 1, 2, 3]]


def test_config_files_and_clones():
    check_serialization(build("gru", mask_zero=True, steps=5), ids_for(0, 3, 5))
    decoder = build("gru", sampler=Categorical(0.7, top_k=3), seed=2)
    again = AutoregressiveDecoder.from_config(decoder.get_config())
    assert again.sampler.get_config() == decoder.sampler.get_config()
    assert again.embedding.get_config() == decoder.embedding.get_config()


def test_a_file_keeps_embedding_and_sampler(tmp_path):
    decoder = build(["gru", "lstm"], mask_zero=True)
    x = keras.Input((None,), dtype="int32")
    model = keras.Model(x, decoder(x, steps=6))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    ids = ids_for(0, 3, 3)
    np.testing.assert_allclose(loaded.predict(ids, verbose=0), model.predict(ids, verbose=0), atol=1e-6)


def test_a_configuration_from_before_there_were_tokens_still_loads():
    decoder = AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(3), steps=4)
    config = {k: v for k, v in decoder.get_config().items() if k not in ("embedding", "sampler")}
    again = AutoregressiveDecoder.from_config(config)
    assert again.embedding is None
    assert type(again.sampler).__name__ == "Identity"
    assert tuple(again(normal(0, 2, 1, 3)).shape) == (2, 4, 3)


def test_ids_of_any_integer_dtype():
    decoder = build("gru")
    expected = to_numpy(decoder(ids_for(0, 2, 3)))
    for dtype in ("uint8", "int16", "int64"):
        np.testing.assert_allclose(to_numpy(decoder(ids_for(0, 2, 3).astype(dtype))), expected, atol=1e-6)
