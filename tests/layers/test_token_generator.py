"""TokenGenerator: what a decoder would say, found by every search, however it is run."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_seqx import AttentionCell, BeamSearch, Sampling, TokenGenerator, generation
from tests.cases import BACKEND, MODES, normal, to_numpy
from tests.layers.tokens import VOCABULARY, CountingCell, build, logits_of, program, reweigh
from tests.reference import processors as plain
from tests.reference import search as reference

TOLERANCE = 1e-5
END, PAD, STEPS = 2, 0, 6
SEARCHES = {
    "greedy": "greedy",
    "sampling": Sampling(temperature=0.8, top_k=4, num_samples=2),
    "beams": BeamSearch(3, length_penalty=0.5),
    "groups": BeamSearch(4, num_groups=2, diversity_penalty=0.4),
}
LENGTHS = np.array([3, 1, 2])
# JAX runs a model that is not compiled far too slowly, and torch compiles none.
JIT = {
    "tensorflow": {True: True, False: False},
    "jax": {True: True, False: True},
    "torch": {True: False, False: False},
}[BACKEND]
MASK = np.arange(3) < LENGTHS[:, None]


def generator(decoder, search="greedy", **kwargs):
    return TokenGenerator(decoder, **{"end_token": END, "max_steps": STEPS, "search": search, "seed": 5, **kwargs})


def prompts(seed=0):
    return np.random.default_rng(seed).integers(1, VOCABULARY, (3, 3)).astype("int32")


def found_in(answer, row):
    """A row's tokens with their scores; padding checked."""
    tokens, lengths, scores = (answer[key][row] for key in ("tokens", "lengths", "scores"))
    if tokens.ndim == 1:
        tokens, lengths, scores = tokens[None], lengths[None], scores[None]
    assert (tokens[np.arange(STEPS) >= lengths[:, None]] == PAD).all()
    return [(t[:n].tolist(), float(s)) for t, n, s in zip(tokens, lengths, scores, strict=True)]


def assert_same(received, expected):
    assert [tokens for tokens, _ in received] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([s for _, s in received], [s for _, s in expected], atol=1e-4, rtol=TOLERANCE)


def model_of(logits):
    return lambda tokens: reference.log_softmax(logits(tokens))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_finds_what_the_textbook_finds(name, mode):
    """Prompts of different lengths, initial states, covariates; states of rank 3 go with their beams."""
    stack = ["window", "lstm"]
    decoder = build(stack, covariates=2)
    beams = name == "beams"
    layer = generator(decoder, SEARCHES[name], num_return_sequences=3 if beams else None)
    layer.build((None, None), None, (None, None, 2))
    run = program(layer, mode)

    @given(seed=st.integers(0, 2**16))
    def check(seed):
        reweigh(decoder, seed)
        ids, covariates = prompts(seed), normal(seed, 3, 3 + STEPS - 1, 2)
        state, h = normal(seed + 1, 3, 3, 4), normal(seed + 2, 3, 5)
        answer = run(ids, initial_state=[state, h], covariates=covariates, mask=MASK)
        for row, length in enumerate(LENGTHS):
            own = slice(row, row + 1)
            states = [[state[own]], [h[own], np.zeros((1, 5))]]
            model = model_of(logits_of(stack, decoder, row, states, covariates))
            prompt = ids[row, :length].tolist()
            if beams:
                expected = reference.beam_search(model, prompt, 3, END, STEPS, 0.5)
            else:
                expected = [reference.greedy(model, prompt, END, STEPS)]
            assert_same(found_in(answer, row), expected)

    # JAX compiles a loop anew whenever it is not part of a program.
    (settings(settings.get_profile("few"))(check) if mode == "eager" else check)()


def attentive(seed=0, **kwargs):
    return build([AttentionCell(keras.layers.LSTMCell(5)), CountingCell(4)], seed, **kwargs)


MEMORY = {"memory": normal(7, 3, 4, 3), "memory_mask": np.arange(4) < np.array([[4], [2], [1]])}
PROCESSORS = [generation.MinLength(2, END), generation.RepetitionPenalty(1.3), generation.NoRepeatNGram(2)]


def processed(history, step, logits):
    logits = plain.min_length(logits, history, step, 2, END)
    logits = plain.repetition_penalty(logits, history, step, 1.3)
    return plain.no_repeat_ngram(logits, history, step, 2)


def teacher_forced(decoder, run, ids, answer, memory, with_processors):
    """The scores (B, N) of generated sequences, when prompts and tokens are read anew: sums of log-probabilities."""
    tokens, lengths = answer["tokens"].reshape(3, -1, STEPS), answer["lengths"].reshape(3, -1)
    scores = np.zeros(lengths.shape)
    for n in range(lengths.shape[1]):
        read = np.zeros((3, 3 + STEPS), "int32")
        for row, length in enumerate(LENGTHS):
            read[row, : length + STEPS] = [*ids[row, :length], *tokens[row, n]]
        logits = run(read, **memory)
        for row, length in enumerate(LENGTHS):
            for step in range(lengths[row, n]):
                here = logits[row, length + step - 1]
                if with_processors:
                    here = processed(read[row, : length + step].tolist(), step, here)
                scores[row, n] += reference.log_softmax(here)[tokens[row, n, step]]
    return scores


@pytest.mark.parametrize("name", SEARCHES)
def test_scores_are_those_of_the_sequences_scored_again(name):
    """Attention over ragged memories, states of integers, processors; and every row equals itself alone."""
    decoder, search = attentive(), SEARCHES[name]
    ids = prompts()
    count = None if name == "greedy" else 2
    layer = generator(decoder, search, processors=PROCESSORS, num_return_sequences=count)
    layer.build((None, None), (None, None, 3))
    answer = program(layer)(ids, mask=MASK, **MEMORY)
    scores = teacher_forced(decoder, program(decoder), ids, answer, MEMORY, with_processors=True)
    lengths = answer["lengths"].reshape(scores.shape)
    penalty = getattr(search, "length_penalty", 0.0)
    np.testing.assert_allclose(answer["scores"].reshape(scores.shape), scores / lengths**penalty, atol=1e-4)
    if name in ("sampling", "groups"):  # the one draws for its rows together, the other is searched as beams are
        return
    for row, length in enumerate(LENGTHS):
        own = slice(row, row + 1)
        places = MEMORY["memory_mask"][row].sum()
        alone = to_numpy(layer(ids[own, :length], memory=MEMORY["memory"][own, :places]))
        for key, value in alone.items():
            np.testing.assert_allclose(value[0], answer[key][row], atol=1e-5)


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_every_way_of_running_gives_the_same(name):
    decoder, ids, answers = attentive(), prompts(), []
    layer = generator(decoder, SEARCHES[name])
    layer.build((None, None), (None, None, 3))
    for mode in MODES:
        answers.append(program(layer, mode)(ids, mask=MASK, **MEMORY))
    for answer in answers[1:]:
        for key, value in answers[0].items():
            np.testing.assert_allclose(answer[key], value, atol=TOLERANCE)


def test_greedy_is_the_decoder_that_runs_free():
    decoder = build(["gru", "lstm"])
    start = np.array([[1], [3], [4]], "int32")
    logits = program(decoder, steps=STEPS)(start)
    answer = program(generator(decoder, end_token=None))(start)
    np.testing.assert_array_equal(answer["tokens"], logits.argmax(-1))
    best = np.apply_along_axis(reference.log_softmax, -1, logits).max(-1)
    np.testing.assert_allclose(answer["scores"], best.sum(1), atol=1e-4)
    assert (answer["lengths"] == STEPS).all()


@pytest.mark.parametrize("search", ["greedy", SEARCHES["beams"]], ids=["greedy", "beams"])
def test_the_embedding_masks_prompts_as_an_explicit_mask_does(search):
    decoder = build("gru", mask_zero=True)
    ids = np.where(MASK, prompts(), 0)
    layer = generator(decoder, search)
    implied = program(layer)(ids)
    given = program(layer)(np.where(MASK, ids, 5), mask=MASK)
    wide = program(layer)(np.pad(ids, ((0, 0), (0, 2))))
    for key, value in implied.items():
        np.testing.assert_allclose(given[key], value, atol=1e-6)
        np.testing.assert_allclose(wide[key], value, atol=1e-6)


def test_a_seed_repeats_what_is_drawn_and_calls_differ():
    decoder, ids = build("gru"), prompts()
    search = Sampling(num_samples=4)
    first = to_numpy(generator(decoder, search)(ids, mask=MASK))
    layer = generator(decoder, search)
    again, other = to_numpy(layer(ids, mask=MASK)), to_numpy(layer(ids, mask=MASK))
    assert first["tokens"].shape == (3, 4, STEPS)
    np.testing.assert_array_equal(again["tokens"], first["tokens"])
    assert (other["tokens"] != first["tokens"]).any()
    wide = to_numpy(generator(decoder, search)(np.pad(ids, ((0, 0), (0, 2))), mask=np.pad(MASK, ((0, 0), (0, 2)))))
    np.testing.assert_array_equal(wide["tokens"], first["tokens"])


@pytest.mark.parametrize("search", ["greedy", Sampling(top_k=3)], ids=["greedy", "sampling"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_stream_yields_what_a_call_returns(search, seed):
    decoder = attentive(seed)
    ids = prompts(seed)
    answer = to_numpy(generator(decoder, search)(ids, mask=MASK, **MEMORY))
    layer = generator(decoder, search)
    columns = list(layer.stream(ids, mask=MASK, **MEMORY))
    assert len(columns) == answer["lengths"].max()
    assert all(column.dtype == "int32" for column in columns)
    np.testing.assert_array_equal(np.stack(columns, 1), answer["tokens"][:, : len(columns)])
    again = np.stack(list(layer.stream(ids, mask=MASK, **MEMORY)), 1)  # compiled, and with other draws
    assert search != "greedy" or (again == np.stack(columns, 1)).all()


@pytest.mark.parametrize("name", ["greedy", "sampling", "beams"])
def test_several_ends_pads_that_equal_one_and_a_forced_end(name):
    """Prompts that are padded with the end, which also stands within one of them; the mask tells them apart."""
    ends, steps = (END, 5), 4
    decoder, ids = build("gru"), prompts()
    ids[0, 1] = END
    options = {"end_token": [*ends], "pad_token": END, "force_end": True, "max_steps": steps}
    layer = generator(decoder, SEARCHES[name], num_return_sequences=2 if name == "beams" else None, **options)
    answer = program(layer)(np.where(MASK, ids, END), mask=MASK)
    tokens, lengths = answer["tokens"].reshape(3, -1, steps), answer["lengths"].reshape(3, -1)
    assert (tokens[np.arange(steps) >= lengths[..., None]] == END).all()
    assert (lengths == 1 + np.isin(tokens, ends).argmax(-1)).all()  # the first end counts, and there is one
    model = model_of(logits_of("gru", decoder))
    for row, length in enumerate(LENGTHS):
        prompt = ids[row, :length].tolist()
        found = [t[:n].tolist() for t, n in zip(tokens[row], lengths[row], strict=True)]
        scores = [reference.score(model, prompt, t) / len(t) ** (0.5 if name == "beams" else 0.0) for t in found]
        np.testing.assert_allclose(np.ravel(answer["scores"][row]), scores, atol=1e-4)
        if name == "greedy":
            assert found == [reference.greedy(model, prompt, ends, steps, force_end=True)[0]]
        if name == "beams":
            expected = reference.beam_search(model, prompt, 3, ends, steps, 0.5, force_end=True)
            assert found == [t for t, _ in expected[:2]]
    if name == "greedy":
        columns = np.stack(list(layer.stream(np.where(MASK, ids, END), mask=MASK)), 1)
        np.testing.assert_array_equal(columns, answer["tokens"][:, : columns.shape[1]])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_a_stream_computes_in_the_dtype_of_its_layer(policy):
    keras.config.set_dtype_policy(policy)
    decoder, ids = attentive(), prompts()
    layer = generator(decoder)
    answer = to_numpy(layer(ids, mask=MASK, **MEMORY))
    columns = list(layer.stream(ids.tolist(), mask=MASK, **MEMORY))
    np.testing.assert_array_equal(np.stack(columns, 1), answer["tokens"][:, : len(columns)])


def test_a_stream_reads_the_masks_that_its_inputs_carry():
    decoder = build([AttentionCell(keras.layers.LSTMCell(5))], mask_zero=True)
    ids, encoder = np.where(MASK, prompts(), 0), keras.layers.Embedding(VOCABULARY, 3, mask_zero=True)
    encoder.build(None)
    encoder.set_weights([np.concatenate([np.full((1, 3), 20.0), normal(0, VOCABULARY - 1, 3)])])  # zero is hard to miss
    memory = encoder(np.array([[1, 2, 3], [4, 0, 0], [5, 6, 0]], "int32"))
    layer = generator(decoder)
    if not hasattr(memory, "_keras_mask"):
        pytest.skip("arrays of this backend carry no masks")
    answer = to_numpy(layer(ids, memory=memory))
    columns = list(layer.stream(ids, memory=memory))
    np.testing.assert_array_equal(np.stack(columns, 1), answer["tokens"][:, : len(columns)])


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_alignments_tell_where_each_token_was_looked_for(name):
    decoder, ids = attentive(), prompts()
    layer = generator(decoder, SEARCHES[name], return_alignments=True, num_return_sequences=1)
    layer.build((None, None), (None, None, 3))
    answer = program(layer)(ids, mask=MASK, **MEMORY)
    tokens, lengths, alignments = (answer[key][:, 0] for key in ("tokens", "lengths", "alignments"))
    valid = np.arange(STEPS) < lengths[:, None]
    assert alignments.shape == (3, STEPS, 4)
    np.testing.assert_allclose(alignments.sum(-1), valid, atol=TOLERANCE)
    assert (alignments[~np.broadcast_to(MEMORY["memory_mask"][:, None], alignments.shape)] == 0).all()
    cell = decoder.cell[0]
    for row, length in enumerate(LENGTHS):
        read = [*ids[row, :length], *tokens[row, : lengths[row] - 1]]
        states = cell.get_initial_state(batch_size=1)
        memory = cell.prepare_memory(MEMORY["memory"][row : row + 1], MEMORY["memory_mask"][row : row + 1])
        for t, token in enumerate(read):
            x = decoder.embedding(np.array([token]))
            (_, weights), states = cell(x, states, memory=memory, return_alignments=True)
            if t + 1 >= length:
                np.testing.assert_allclose(alignments[row, t + 1 - length], to_numpy(weights)[0], atol=TOLERANCE)


@pytest.mark.skipif(BACKEND == "torch", reason="torch compiles nothing here")
@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_one_program_serves_any_content(name):
    """Prompts, lengths, memories and weights: of one shape, they are traced once."""
    decoder = attentive()
    traces = []

    class Counting(generation.LogitsProcessor):
        def __call__(self, tokens, lengths, step, logits):
            traces.append(step)
            return logits

    layer = generator(decoder, SEARCHES[name], processors=[Counting()])
    layer.build((None, None), (None, None, 3))
    run = program(layer)
    run(prompts(0), mask=MASK, **MEMORY)
    traced = len(traces)
    reweigh(decoder, 9)
    run(prompts(1), mask=~MASK[:, ::-1], memory=normal(1, 3, 4, 3), memory_mask=np.ones((3, 4), bool))
    assert len(traces) == traced > 0


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_other_precisions(policy, name):
    """Scores are summed in float32 at least, and those of the tokens found."""
    if policy == "float64":
        keras.config.set_floatx("float64")
    keras.config.set_dtype_policy(policy)
    decoder = build(["lstm", "gru"])
    keras.config.set_dtype_policy("float32")  # the generator computes as its decoder does
    ids, layer = prompts(), generator(decoder, SEARCHES[name])
    assert layer.dtype_policy == decoder.dtype_policy
    answer = program(layer)(ids, mask=MASK)
    assert answer["scores"].dtype == ("float64" if policy == "float64" else "float32")
    model = model_of(logits_of(["lstm", "gru"], decoder))
    for row, length in enumerate(LENGTHS):
        ((tokens, score),) = found_in(answer, row)
        exact = reference.score(model, ids[row, :length].tolist(), tokens)
        penalty = 0.5 if name == "beams" else 0.0
        np.testing.assert_allclose(score, exact / len(tokens) ** penalty, atol=0.3 if policy != "float64" else 1e-5)


@pytest.mark.parametrize(("name", "jit", "batch"), [("greedy", False, 2), ("beams", True, 3)])
def test_predicts_within_a_model(name, jit, batch):
    """Whatever the batch, with a last one that is smaller; and compiled by XLA where the backend has it."""
    decoder = build("gru", mask_zero=True)
    x = keras.Input((None,), dtype="int32")
    model = keras.Model(x, generator(decoder, SEARCHES[name], num_return_sequences=1)(x))
    model.compile(jit_compile=JIT[jit])
    ids = np.where(MASK, prompts(), 0)
    answer = model.predict(ids, batch_size=batch, verbose=0)
    expected = program(generator(decoder, SEARCHES[name], num_return_sequences=1))(ids)
    for key, value in expected.items():
        assert value.shape == (3, *model.output[key].shape[1:])
        np.testing.assert_allclose(answer[key], value, atol=TOLERANCE)


def test_generates_what_the_decoder_has_learned():
    """Its weights are the decoder's: training one changes the other."""
    decoder = build("gru", mask_zero=True)
    x = keras.Input((None,), dtype="int32")
    training, generating = keras.Model(x, decoder(x)), keras.Model(x, generator(decoder)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    training.compile(keras.optimizers.Adam(0.05), loss, jit_compile=JIT[False])
    start, sentence = np.ones((8, 1), "int32"), [3, 5, 4, END]
    before = generating.predict(start, verbose=0)["tokens"][0].tolist()
    training.fit(np.tile([1, 3, 5, 4], (640, 1)), np.tile(sentence, (640, 1)), batch_size=8, verbose=0)
    after = generating.predict(start, verbose=0)
    assert before != [*sentence, 0, 0]
    assert after["tokens"][0].tolist() == [*sentence, 0, 0]
    assert after["lengths"][0] == 4
    assert np.exp(after["scores"][0]) > 0.5


def test_torch_keeps_no_graph_of_a_search():
    decoder = build("gru")
    scores = generator(decoder)(prompts())["scores"]
    assert not getattr(scores, "requires_grad", False)
