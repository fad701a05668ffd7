"""Searches over tables of logits: what enumeration and textbook loops find."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_seqx import BeamSearch, Sampling
from keras_seqx import generation as samplers
from keras_seqx._core import validation as options
from keras_seqx.generation.search import GreedySearch
from keras_seqx.generation.search_state import SearchProblem
from keras_seqx.testing import execution
from keras_seqx.testing.execution import to_numpy
from tests.cases import BACKEND
from tests.reference import processors as plain
from tests.reference import search as reference

MODE = {"tensorflow": "graph", "jax": "jit", "torch": "eager"}[BACKEND]
ROWS, STATES, PROMPT = 3, 5, 3
PAD = 9


def compiled(search, end=0, max_steps=4, processors=(), returned=None, vocabulary=3, mode=MODE, force_end=False):
    """A search as a function of tables (B, T, STATES, V), prompts (B, T0), their lengths, and noise.

    The decoder behind it has two states, which beams must take along: its row, and a mix of all tokens so far.
    """

    def run(tables, prompts, lengths, noise):
        beams = search.beams
        flat = ops.reshape(tables, (-1, vocabulary))
        times = tables.shape[1]

        def step(tokens, states, t):
            row, state = states
            state = (3 * state + tokens + 1) % STATES
            return ops.take(flat, (row * times + t) * STATES + state, axis=0), [row, state], None

        row = ops.repeat(ops.arange(ops.shape(prompts)[0], dtype="int32"), beams)
        generation = SearchProblem(
            step=step,
            prompt=ops.repeat(prompts, beams, axis=0),
            prompt_lengths=ops.repeat(lengths, beams, axis=0),
            states=[row, ops.zeros_like(row)],
            processors=processors,
            end_tokens=options.as_list(list(end) if isinstance(end, tuple) else end),
            pad_token=PAD,
            max_steps=max_steps,
            score_dtype="float32",
            returned=returned,
            force_end=force_end,
        )
        return search.run(generation, noise)

    function = execution.compiled(run, mode)

    def call(tables, prompts, lengths, noise=None):
        tensors = [x if x is None else ops.convert_to_tensor(x) for x in (tables, prompts, lengths, noise)]
        return to_numpy(function(*tensors))

    return call


def problem(seed, max_steps=4, vocabulary=3, rows=ROWS, sharpness=1.5):
    """Random tables, and prompts of all lengths with garbage behind them."""
    rng = np.random.default_rng(seed)
    tables = sharpness * rng.normal(size=(rows, PROMPT + max_steps, STATES, vocabulary)).astype("float32")
    prompts = rng.integers(0, vocabulary, (rows, PROMPT)).astype("int32")
    return tables, prompts, rng.integers(1, PROMPT + 1, rows).astype("int32")


def models(tables, prompts, lengths, processors=()):
    """Each row's model and prompt, as the oracles take them."""
    for table, prompt, length in zip(tables, prompts, lengths, strict=True):
        yield reference.table_model(table, int(length), processors), prompt[:length].tolist()


def sequences(found, row):
    """A row's sequences with their scores, as the oracles give them; padding checked."""
    tokens, lengths, scores = (found[key][row] for key in ("tokens", "lengths", "scores"))
    if tokens.ndim == 1:
        tokens, lengths, scores = tokens[None], lengths[None], scores[None]
    assert (tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] == PAD).all()
    return [(t[:n].tolist(), s) for t, n, s in zip(tokens, lengths, scores, strict=True)]


def assert_same(received, expected, count):
    """The same sequences with the same scores; what there are too few of has length 0 and score -inf."""
    expected = [*expected, *[([], -np.inf)] * count][:count]
    assert [tokens for tokens, _ in received] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([s for _, s in received], [s for _, s in expected], atol=1e-5, rtol=1e-5)


# Compiled once, called with many values; what is cached by a search wants the same search each time.
cached, beam_search = functools.cache(compiled), functools.cache(BeamSearch)
seeds = st.integers(0, 2**16)
SETTINGS = [(0.0, 0), (0.5, 2), (1.0, 1), (2.0, 0), (-0.5, 2)]


@pytest.mark.parametrize(("penalty", "end"), SETTINGS)
@given(seed=seeds)
def test_a_wide_beam_finds_the_best_sequences_of_all(penalty, end, seed):
    search_inputs = problem(seed)
    found = cached(beam_search(24, length_penalty=penalty), end, returned=6)(*search_inputs)
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        assert_same(sequences(found, row), reference.enumerate_all(model, prompt, end, 4, penalty), 6)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(("penalty", "end"), SETTINGS)
@given(seed=seeds)
def test_a_narrow_beam_is_the_textbooks(penalty, end, early_stopping, seed):
    search_inputs = problem(seed, 6, 4)
    search = beam_search(3, length_penalty=penalty, early_stopping=early_stopping)
    found = cached(search, end, 6, returned=3, vocabulary=4)(*search_inputs)
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        expected = reference.beam_search(model, prompt, 3, end, 6, penalty, early_stopping)
        assert_same(sequences(found, row), expected, 3)


@given(seed=seeds)
def test_the_best_alone_may_be_known_earlier(seed):
    search_inputs = problem(seed, 6, 4)
    for penalty in (0.0, 2.0, -0.5):
        found = cached(beam_search(3, length_penalty=penalty), 0, 6, vocabulary=4)(*search_inputs)
        for row, (model, prompt) in enumerate(models(*search_inputs)):
            assert_same(sequences(found, row), reference.beam_search(model, prompt, 3, 0, 6, penalty), 1)


def flat_tables(probabilities, rows=1, times=PROMPT + 4):
    """Tables of the same distribution everywhere, or of one for each time."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probabilities, "float32"))
    if logits.ndim == 1:
        logits = np.broadcast_to(logits, (times, len(logits)))
    return np.broadcast_to(logits[None, :, None], (rows, len(logits), STATES, logits.shape[1]))


START = np.ones((1, 1), "int32"), np.ones(1, "int32")


def test_a_finished_sequence_stays_the_best():
    """P([end]) = .6 and P([a, end]) = .36: what has ended is neither extended nor forgotten."""
    tables = flat_tables([0.6, 0.4 * 0.9, 0.4 * 0.1], times=4)
    found = compiled(BeamSearch(2), returned=2, max_steps=3)(tables, *START)
    assert [tokens for tokens, _ in sequences(found, 0)] == [[0], [1, 0]]
    np.testing.assert_allclose(np.exp(found["scores"]), [[0.6, 0.36 * 0.6]], rtol=1e-5)


@given(seed=seeds)
def test_one_beam_without_penalty_is_greedy(seed):
    search_inputs = problem(seed)
    beam, greedy = cached(beam_search(1))(*search_inputs), cached(GREEDY)(*search_inputs)
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        expected = [reference.greedy(model, prompt, 0, 4)]
        assert_same(sequences(greedy, row), expected, 1)
        assert_same(sequences(beam, row), expected, 1)


GREEDY, SAMPLING = GreedySearch(), Sampling(num_samples=2)
SEARCHES = {"greedy": GREEDY, "sampling": SAMPLING, "beams": beam_search(3, length_penalty=0.5)}


def noise_for(search, rows, max_steps=4, seed=0):
    drawn = search.noise(rows * search.beams, max_steps, 3, keras.random.SeedGenerator(seed))
    return None if drawn is None else to_numpy(drawn)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_rows_and_padding_change_nothing(search):
    tables, prompts, _ = problem(3)
    lengths = np.array([2, 1, 3], "int32")
    noise = noise_for(search, ROWS)
    run = compiled(search)
    together = run(tables, prompts, lengths, noise)
    order = np.array([2, 0, 1])
    by_row = None if noise is None else noise.reshape(ROWS, search.beams, -1)
    permuted = run(
        tables[order], prompts[order], lengths[order], noise if noise is None else np.concatenate(by_row[order])
    )
    for row in range(ROWS):
        own = slice(row, row + 1)
        alone = run(
            tables[own],
            prompts[own, : lengths[row]],
            lengths[own],
            noise if noise is None else np.concatenate(by_row[own]),
        )
        place = order.tolist().index(row)
        for key, expected in together.items():
            np.testing.assert_allclose(alone[key][0], expected[row], atol=1e-6)
            np.testing.assert_allclose(permuted[key][place], expected[row], atol=1e-6)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_every_way_of_running_gives_the_same(search):
    search_inputs = problem(5)
    expected = compiled(search)(*search_inputs, noise_for(search, ROWS))
    for mode in execution.modes():
        found = compiled(search, mode=mode)(*search_inputs, noise_for(search, ROWS))
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=1e-6)


@given(seed=seeds)
def test_groups_are_the_textbooks(seed):
    search_inputs = problem(seed, 5, 4)
    found = cached(beam_search(4, num_groups=2, diversity_penalty=0.8), 0, 5, returned=4, vocabulary=4)(*search_inputs)
    early = beam_search(6, num_groups=3, diversity_penalty=0.3, length_penalty=1.0, early_stopping=True)
    found_early = cached(early, 0, 5, returned=6, vocabulary=4)(*search_inputs)
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        assert_same(sequences(found, row), reference.beam_search(model, prompt, 4, 0, 5, groups=2, diversity=0.8), 4)
        expected = reference.beam_search(model, prompt, 6, 0, 5, 1.0, True, groups=3, diversity=0.3)
        assert_same(sequences(found_early, row), expected, 6)


def test_groups_without_penalty_are_greedy_and_with_a_large_one_differ():
    search_inputs = problem(1, vocabulary=4)
    search_inputs[0][..., 0] -= 9  # the end comes last
    same = compiled(BeamSearch(3, num_groups=3), returned=3, vocabulary=4)(*search_inputs)
    other = compiled(BeamSearch(3, num_groups=3, diversity_penalty=50.0), returned=3, vocabulary=4)(*search_inputs)
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        assert_same(sequences(same, row), [reference.greedy(model, prompt, 0, 4)] * 3, 3)
        assert sorted(tokens[0] for tokens, _ in sequences(other, row)) == [1, 2, 3]
        for tokens, score in sequences(other, row):
            np.testing.assert_allclose(score, reference.score(model, prompt, tokens), atol=1e-5)


def test_groups_wider_than_the_vocabulary_take_nothing_from_one_another():
    """A beam that has no continuation yet chose no token."""
    search_inputs = problem(2, vocabulary=2)
    found = compiled(BeamSearch(6, num_groups=2, diversity_penalty=0.7), returned=6, vocabulary=2)(*search_inputs)
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        expected = reference.beam_search(model, prompt, 6, 0, 4, groups=2, diversity=0.7)
        assert_same(sequences(found, row), expected, 6)


FILTERS = {
    "plain": ({}, []),
    "filtered": ({"temperature": 0.7, "top_k": 2}, [(plain.temperature, (0.7,)), (plain.top_k, (2,))]),
}


@pytest.mark.parametrize(("options", "filters"), FILTERS.values(), ids=FILTERS)
def test_sequences_are_drawn_as_often_as_they_are_likely(options, filters):
    count, steps = 4000, 3
    tables, prompts, lengths = problem(4, steps, rows=1, sharpness=0.7)
    search = Sampling(**options, num_samples=count)
    found = compiled(search, max_steps=steps)(tables, prompts, lengths, noise_for(search, 1, steps))
    drawn = sequences(found, 0)
    own = [functools.partial(apply, oracle, arguments) for oracle, arguments in filters]
    ((drawn_from, prompt),) = models(tables, prompts, lengths, own)
    ((model, _),) = models(tables, prompts, lengths)
    expected = {tuple(t): np.exp(s) * count for t, s in reference.enumerate_all(drawn_from, prompt, 0, steps)}
    observed = dict.fromkeys(expected, 0)
    for tokens, score in drawn:
        observed[tuple(tokens)] += 1  # a sequence of probability zero raises
        assert abs(score - reference.score(model, prompt, tokens)) < 1e-5
    chi_square = sum((observed[k] - e) ** 2 / e for k, e in expected.items())
    degrees = len(expected) - 1
    assert len(expected) > 5
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


def apply(oracle, arguments, logits, history, step):
    return oracle(logits, history, step, *arguments)


def test_the_best_samples_come_first():
    search_inputs = problem(0)
    search = Sampling(num_samples=6)
    noise = noise_for(search, ROWS)
    every, best = compiled(search)(*search_inputs, noise), compiled(search, returned=2)(*search_inputs, noise)
    for row in range(ROWS):
        expected = sorted(sequences(every, row), key=lambda s: -s[1])[:2]
        np.testing.assert_allclose(best["scores"][row], [score for _, score in expected], atol=1e-6)
        assert [tokens for tokens, _ in sequences(best, row)] == [tokens for tokens, _ in expected]


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_stops_when_every_row_has_ended(search, monkeypatch):
    """Ten steps of two hundred."""
    search = type(search).from_config(search.get_config())
    monkeypatch.setattr(search, "finish", lambda generation, carry: carry["t"])
    probabilities = np.full((202, 3), [0.0, 0.6, 0.4])
    probabilities[9:] = [1, 0, 0]
    prompts, lengths = np.ones((2, 3), "int32"), np.array([3, 1], "int32")
    run = compiled(search, max_steps=200)
    assert run(flat_tables(probabilities, 2), prompts, lengths, noise_for(search, 2, 200)) == 10


def test_a_bound_on_what_can_come_stops_the_search(monkeypatch):
    search = BeamSearch(2)
    monkeypatch.setattr(search, "finish", lambda generation, carry: carry["t"])
    # [end] has .6; after two more steps nothing else has as much.
    assert compiled(search, max_steps=200)(flat_tables([0.6, 0.39, 0.01], times=201), *START) == 1


ENDS = {"one": 2, "two": (0, 2), "all": (0, 1, 2, 3)}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("force_end", [False, True], ids=["cut off", "forced"])
@given(seed=seeds)
def test_several_ends_and_a_forced_one_are_the_textbooks(force_end, end, seed):
    """Beams under Google's penalty, greedy, and samples whose last token is an end and costs what it is worth."""
    search_inputs, steps = problem(seed, 4, 4), 4
    beams = beam_search(3, length_penalty=0.8, length_normalization="gnmt")
    run = functools.partial(cached, end=end, max_steps=steps, vocabulary=4, force_end=force_end)
    found, best, greedy = (
        run(beams, returned=3)(*search_inputs),
        run(beams)(*search_inputs),
        run(GREEDY)(*search_inputs),
    )
    drawn = run(SAMPLING)(*search_inputs, noise_for(SAMPLING, ROWS, steps, seed))
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        expected = reference.beam_search(model, prompt, 3, end, steps, 0.8, gnmt=True, force_end=force_end)
        assert_same(sequences(found, row), expected, 3)
        assert_same(sequences(best, row), expected, 1)
        assert_same(sequences(greedy, row), [reference.greedy(model, prompt, end, steps, force_end)], 1)
        for tokens, score in sequences(drawn, row):
            ended = [reference.is_end(token, end) for token in tokens]
            assert not any(ended[:-1])
            assert ended[-1] or (len(tokens) == steps and not force_end)
            np.testing.assert_allclose(score, reference.score(model, prompt, tokens), atol=1e-5)


@pytest.mark.parametrize("force_end", [False, True], ids=["cut off", "forced"])
@pytest.mark.parametrize("penalty", [0.6, 2.0, -0.5])
@given(seed=seeds)
def test_a_wide_beam_finds_the_best_under_googles_penalty(penalty, force_end, seed):
    """Its bound on what can still come is sound: the best alone, and the best six, are those of enumeration."""
    search_inputs = problem(seed)
    search = beam_search(24, length_penalty=penalty, length_normalization="gnmt")
    for count, returned in ((6, 6), (1, None)):
        found = cached(search, 0, returned=returned, force_end=force_end)(*search_inputs)
        for row, (model, prompt) in enumerate(models(*search_inputs)):
            expected = reference.enumerate_all(model, prompt, 0, 4, penalty, gnmt=True, force_end=force_end)
            assert_same(sequences(found, row), expected, count)


def test_a_forced_end_of_probability_zero_is_impossible():
    probabilities = np.full((5, 3), [0.0, 0.6, 0.4])
    for search in SEARCHES.values():
        noise = noise_for(search, 1)
        found = compiled(search, force_end=True)(flat_tables(probabilities), *START, noise)
        assert (found["scores"] == -np.inf).all()
        assert (found["lengths"] == (0 if isinstance(search, BeamSearch) else 3)).all()


PROCESSORS = {
    "min length": (samplers.MinLength(2, 0), plain.min_length, (2, 0)),
    "min length of two ends": (samplers.MinLength(2, [0, 3]), plain.min_length, (2, [0, 3])),
    "suppressed": (samplers.SuppressTokens([1, 3]), plain.suppress_tokens, ([1, 3],)),
    "forced": (samplers.ForcedTokens({0: 2, 2: 1}), plain.forced_tokens, ({0: 2, 2: 1},)),
    "n-grams": (samplers.NoRepeatNGram(2), plain.no_repeat_ngram, (2,)),
    "repetition": (samplers.RepetitionPenalty(1.5), plain.repetition_penalty, (1.5,)),
    "prefixes": (
        samplers.PrefixConstrained([[1], [1, 2], [2, 3, 1]], 0),
        plain.prefix_constrained,
        ([[1], [1, 2], [2, 3, 1]], 0),
    ),
    "prefixes of two ends": (
        samplers.PrefixConstrained([[1], [1, 2], [2, 2, 1]], [0, 3]),
        plain.prefix_constrained,
        ([[1], [1, 2], [2, 2, 1]], [0, 3]),
    ),
}


@pytest.mark.parametrize("kind", ["greedy", "beams"])
@pytest.mark.parametrize("name", PROCESSORS)
@given(seed=seeds)
def test_processors_see_each_beams_own_tokens(name, kind, seed):
    processor, oracle, arguments = PROCESSORS[name]
    search = beam_search(3) if kind == "beams" else GREEDY
    search_inputs = problem(seed, 5, 4)
    end = (0, 3) if "two ends" in name else 0
    # The same object each time, so that one compilation serves all examples.
    found = cached(search, end, 5, (processor,), 3 if kind == "beams" else None, 4)(*search_inputs)
    own = [functools.partial(apply, oracle, arguments)]
    for row, (model, prompt) in enumerate(models(*search_inputs, own)):
        if kind == "beams":
            assert_same(sequences(found, row), reference.beam_search(model, prompt, 3, end, 5), 3)
        else:
            assert_same(sequences(found, row), [reference.greedy(model, prompt, end, 5)], 1)


def test_constrained_sequences_are_among_those_given():
    given = [[1], [1, 2], [2, 3, 1], [3, 3, 3, 3]]
    processor = samplers.PrefixConstrained(given, 0)
    search_inputs = problem(7, 5, 4)
    found = compiled(BeamSearch(6), 0, 5, (processor,), 6, 4)(*search_inputs)
    for row in range(ROWS):
        tokens = [tokens for tokens, score in sequences(found, row) if score > -np.inf]
        assert sorted(tokens) == [[*t, 0] for t in given]


class Nothing(samplers.LogitsProcessor):
    """Leaves no token after two of them."""

    def __call__(self, tokens, lengths, step, logits):
        return ops.where(ops.reshape(step, (-1, 1)) == 2, -float("inf"), logits)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_where_no_token_is_left_a_sequence_is_impossible(search):
    tables, prompts, lengths = problem(0)
    tables[..., 0] = -np.inf  # no end before
    tables[0, ..., 0] = 99
    found = compiled(search, processors=[Nothing()])(tables, prompts, lengths, noise_for(search, ROWS))
    assert not np.isnan(found["scores"]).any()
    np.testing.assert_allclose(found["scores"][0], 0, atol=1e-5)  # another row's end is its own
    for row in (1, 2):
        for tokens, score in sequences(found, row):
            assert score == -np.inf
            assert len(tokens) == (0 if isinstance(search, BeamSearch) else 2)


@pytest.mark.parametrize(
    ("end", "max_steps", "vocabulary"), [(None, 3, 3), (0, 1, 3), (None, 1, 2), (0, 3, 1), (None, 2, 1), (1, 4, 2)]
)
def test_extremes(end, max_steps, vocabulary):
    """No end, one step, one token, and more beams than there are sequences."""
    search_inputs = problem(6, max_steps, vocabulary)
    greedy = compiled(GREEDY, end, max_steps, vocabulary=vocabulary)(*search_inputs)
    beams = compiled(BeamSearch(30), end, max_steps, returned=30, vocabulary=vocabulary)(*search_inputs)
    drawn = compiled(SAMPLING, end, max_steps, vocabulary=vocabulary)(
        *search_inputs, noise_for(SAMPLING, ROWS, max_steps)
    )
    for row, (model, prompt) in enumerate(models(*search_inputs)):
        assert_same(sequences(greedy, row), [reference.greedy(model, prompt, end, max_steps)], 1)
        everything = reference.enumerate_all(model, prompt, end, max_steps)
        assert_same(sequences(beams, row), everything, 30)
        for tokens, score in sequences(drawn, row):
            expected = [s for t, s in everything if t == tokens]
            np.testing.assert_allclose([score], expected, atol=1e-5)


def test_logits_that_are_no_numbers_do_not_keep_a_search_from_ending():
    tables, prompts, lengths = problem(0)
    for search in SEARCHES.values():
        found = compiled(search)(tables * np.nan, prompts, lengths, noise_for(search, ROWS))
        assert (found["lengths"] <= 4).all()
        assert not np.isfinite(found["scores"]).any()
