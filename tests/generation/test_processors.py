"""Processors: what transformers' do, on padded rows of any lengths, compiled."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_seqx.generation import constraints, processors
from keras_seqx.testing import execution
from keras_seqx.testing.execution import to_numpy
from tests.cases import BACKEND
from tests.reference import processors as reference

ROWS, BEAMS, LENGTH, VOCABULARY, END = 6, 2, 7, 5, 0
WORDS = [[1], [1, 2], [1, 2, 3], [2, 1], [4, 4, 4, 4], [2, 1]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A processor, its oracle with arguments, and how to make transformers' one for a prompt of a given length."""

    processor: processors.LogitsProcessor
    oracle: Callable
    arguments: tuple
    peer: Callable[[Any, int], Any]


def _forced_peer(module, prompt):
    # Steps 0 and 2 force tokens 3 and 0.
    first, third = module.ForcedBOSTokenLogitsProcessor(3), module.ForcedEOSTokenLogitsProcessor(prompt + 3, END)
    return lambda ids, x: third(ids, first(ids[:, prompt - 1 :], x))


def _prefix_peer(module, prompt):
    import torch

    def allowed(_, ids):
        x = reference.prefix_constrained(np.zeros(VOCABULARY), ids.tolist(), len(ids) - prompt, WORDS, END)
        return np.flatnonzero(np.isfinite(x)).tolist()

    peer = module.PrefixConstrainedLogitsProcessor(allowed, 1)
    # Where it leaves nothing, transformers lifts what other processors left out; ours never does.
    return lambda ids, x: torch.where(torch.isneginf(x), x, peer(ids, x))


CASES = {
    "temperature": Case(
        processors.Temperature(0.7), reference.temperature, (0.7,), lambda m, _: m.TemperatureLogitsWarper(0.7)
    ),
    **{
        f"top {k}": Case(processors.TopK(k), reference.top_k, (k,), lambda m, _, k=k: m.TopKLogitsWarper(k))
        for k in (1, 3, 9)
    },
    **{
        f"top p {p}": Case(processors.TopP(p), reference.top_p, (p,), lambda m, _, p=p: m.TopPLogitsWarper(p))
        for p in (0.13, 0.77)
    },
    **{
        f"min p {p}": Case(processors.MinP(p), reference.min_p, (p,), lambda m, _, p=p: m.MinPLogitsWarper(p))
        for p in (0.0, 0.29, 1.0)
    },
    **{
        f"penalty {x}": Case(
            processors.RepetitionPenalty(x),
            reference.repetition_penalty,
            (x,),
            lambda m, _, x=x: m.RepetitionPenaltyLogitsProcessor(x),
        )
        for x in (1.25, 0.5)
    },
    **{
        f"{n}-grams": Case(
            constraints.NoRepeatNGram(n),
            reference.no_repeat_ngram,
            (n,),
            lambda m, _, n=n: m.NoRepeatNGramLogitsProcessor(n),
        )
        for n in (1, 2, 3, 8)
    },
    "min length": Case(
        constraints.MinLength(2, END),
        reference.min_length,
        (2, END),
        lambda m, prompt: m.MinNewTokensLengthLogitsProcessor(prompt, 2, END),
    ),
    "suppressed": Case(
        constraints.SuppressTokens([1, 4]),
        reference.suppress_tokens,
        ([1, 4],),
        lambda m, _: m.SuppressTokensLogitsProcessor([1, 4]),
    ),
    "forced": Case(constraints.ForcedTokens({0: 3, 2: END}), reference.forced_tokens, ({0: 3, 2: END},), _forced_peer),
    "words": Case(constraints.PrefixConstrained(WORDS, END), reference.prefix_constrained, (WORDS, END), _prefix_peer),
}

# Quarters tie often; minus infinity is what a processor before has left out, of the last token never.
LOGITS = npst.arrays("float32", (ROWS, VOCABULARY), elements=st.integers(-8, 8).map(lambda x: x / 4))
BARRED = npst.arrays("bool", (ROWS, VOCABULARY - 1), elements=st.sampled_from([False] * 5 + [True]))
TOKENS = npst.arrays("int32", (ROWS, LENGTH), elements=st.integers(0, VOCABULARY - 1))
LENGTHS = npst.arrays("int32", ROWS, elements=st.integers(1, LENGTH))


@st.composite
def batches(draw):
    """tokens, lengths, step (R,), logits; each row's prompt is one token long at least."""
    logits, lengths, tokens = draw(LOGITS), draw(LENGTHS), draw(TOKENS)
    logits[:, :-1][draw(BARRED)] = -np.inf
    step = np.array([draw(st.integers(0, int(n) - 1)) for n in lengths], "int32")
    for row in range(ROWS):  # words are rare among random tokens
        word = draw(st.sampled_from([None, *WORDS]))
        if word is not None and step[row] <= len(word):
            tokens[row, lengths[row] - step[row] : lengths[row]] = word[: step[row]]
    return tokens, lengths, step, logits


def histories(tokens, lengths):
    return [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]


def expect(case, tokens, lengths, step, logits):
    rows = zip(logits, histories(tokens, lengths), step.tolist(), strict=True)
    return np.stack([case.oracle(*row, *case.arguments) for row in rows])


@pytest.mark.parametrize("mode", execution.modes()[1:] or execution.modes())
@pytest.mark.parametrize("name", CASES)
def test_equals_the_numpy_loop(name, mode):
    case = CASES[name]
    run = execution.compiled(case.processor, mode)

    @given(batches())
    def check(batch):
        received = to_numpy(run(*map(keras.ops.convert_to_tensor, batch)))
        np.testing.assert_allclose(received, expect(case, *batch), rtol=1e-6)

    check()


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name):
    module = pytest.importorskip("transformers.generation.logits_process")
    torch = pytest.importorskip("torch")
    case = CASES[name]

    @given(batches())
    def check(batch):
        received = to_numpy(case.processor(*map(keras.ops.convert_to_tensor, batch)))
        tokens, lengths, step, logits = batch
        for row, history in enumerate(histories(tokens, lengths)):
            peer = case.peer(module, len(history) - int(step[row]))
            expected = peer(torch.tensor([history]), torch.tensor(logits[row : row + 1]))[0].numpy()
            np.testing.assert_allclose(received[row], expected, rtol=1e-6)

    check()


@pytest.mark.parametrize("name", CASES)
@given(batch=batches(), other=batches(), row=st.integers(0, ROWS - 1))
def test_rows_are_independent_and_padding_changes_nothing(name, batch, other, row):
    processor = CASES[name].processor
    alone = to_numpy(processor(*map(keras.ops.convert_to_tensor, batch)))[row]
    length = batch[1][row]
    crowd = tuple(x.copy() for x in other)
    for mine, theirs in zip(batch, crowd, strict=True):
        theirs[row] = mine[row]
    crowd[0][row, length:] = other[0][row, length:]
    padding = np.full((ROWS, 3), VOCABULARY - 1, "int32")
    tokens = np.concatenate([crowd[0], padding], axis=1)
    received = to_numpy(processor(*map(keras.ops.convert_to_tensor, (tokens, *crowd[1:]))))[row]
    np.testing.assert_array_equal(received, alone)


PER_ROW = {
    "temperature": (processors.Temperature, [0.5, 1.0, 2.0], reference.temperature, ()),
    "top k": (processors.TopK, [1, 3, 9], reference.top_k, ()),
    "top p": (processors.TopP, [0.13, 0.77, 1.0], reference.top_p, ()),
    "min p": (processors.MinP, [0.0, 0.29, 1.0], reference.min_p, ()),
    "penalty": (processors.RepetitionPenalty, [0.5, 1.0, 1.25], reference.repetition_penalty, ()),
    "min length": (constraints.MinLength, [0, 2, 4], reference.min_length, (END,)),
}


@pytest.mark.parametrize("name", PER_ROW)
def test_arguments_by_row_hold_for_all_beams_of_the_row(name):
    kind, values, oracle, rest = PER_ROW[name]
    processor = kind(np.array(values), *rest)
    run = execution.compiled(processor, execution.modes()[-1])

    @given(batches())
    def check(batch):
        tokens, lengths, step, logits = batch
        received = to_numpy(run(*map(keras.ops.convert_to_tensor, batch)))
        rows = zip(logits, histories(tokens, lengths), step.tolist(), np.repeat(values, BEAMS), strict=True)
        expected = [oracle(x, history, n, value.item(), *rest) for x, history, n, value in rows]
        np.testing.assert_allclose(received, np.stack(expected), rtol=1e-6)

    check()


def test_arguments_by_row_must_divide_the_rows():
    tensors = (np.zeros((5, 3), "int32"), np.ones(5, "int32"), np.int32(0), np.zeros((5, VOCABULARY), "float32"))
    for kind, values, _, rest in PER_ROW.values():
        with pytest.raises(ValueError, match=f"{kind.__name__}: .* whose 5 rows"):
            kind(values, *rest)(*map(keras.ops.convert_to_tensor, tensors))


EVERY = [case.processor for case in CASES.values()] + [
    kind(values, *rest) for kind, values, _, rest in PER_ROW.values()
]
TENSORS = (np.ones((6, 4), "int32"), np.full(6, 3, "int32"), np.int32(1), np.eye(6, 5, dtype="float32") - 0.5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="shapes are open in TensorFlow's graphs alone")
def test_an_open_number_of_rows():
    import tensorflow as tf

    signature = [tf.TensorSpec([None, 4], "int32"), tf.TensorSpec([None], "int32"), tf.TensorSpec([], "int32")]
    for processor in EVERY:
        run = tf.function(processor.__call__, input_signature=[*signature, tf.TensorSpec([None, 5], "float32")])
        received = run(*TENSORS)
        expected = processor(*map(keras.ops.convert_to_tensor, TENSORS))
        np.testing.assert_array_equal(to_numpy(received), to_numpy(expected), err_msg=repr(processor))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_keeps_the_dtype_of_the_logits(dtype):
    *others, logits = map(keras.ops.convert_to_tensor, TENSORS)
    for processor in EVERY:
        received = processor(*others, keras.ops.cast(logits, dtype))
        assert keras.backend.standardize_dtype(received.dtype) == dtype, processor
        received, expected = to_numpy([keras.ops.cast(received, "float32"), processor(*others, logits)])
        np.testing.assert_allclose(received, expected, rtol=1e-2, err_msg=repr(processor))


def test_comes_back_from_its_config():
    text = json.dumps(keras.saving.serialize_keras_object(EVERY))
    for again, processor in zip(keras.saving.deserialize_keras_object(json.loads(text)), EVERY, strict=True):
        assert type(again) is type(processor)
        assert again.get_config() == processor.get_config()
        assert repr(again) == repr(processor)
        tensors = list(map(keras.ops.convert_to_tensor, TENSORS))
        received, expected = to_numpy([again(*tensors), processor(*tensors)])
        np.testing.assert_array_equal(received, expected)


def test_many_sequences_are_told_apart():
    rng = np.random.default_rng(0)
    words = [rng.integers(1, 40, rng.integers(1, 9)).tolist() for _ in range(3000)]
    longer = {(*w, END) for w in words}
    followers: dict[tuple, set] = {}
    for word in longer:
        for depth in range(len(word)):
            followers.setdefault(word[:depth], set()).add(word[depth])
    # Every beginning there is, and as many that are none.
    prefixes = sorted(followers)
    wrong = [(*p[:-1], p[-1] % 39 + 1) for p in prefixes if p] + [(*p, END) for p in longer if len(p) < 8]
    prefixes += [p for p in wrong if p not in followers]
    tokens = np.full((len(prefixes), 10), 7, "int32")
    for row, prefix in zip(tokens, prefixes, strict=True):
        row[1 : len(prefix) + 1] = prefix
    step = np.array(list(map(len, prefixes)), "int32")
    logits = np.zeros((len(prefixes), 40), "float32")
    processor = constraints.PrefixConstrained(words, END)
    received = to_numpy(processor(*map(keras.ops.convert_to_tensor, (tokens, step + 1, step, logits))))
    for row, prefix in zip(received, prefixes, strict=True):
        assert set(np.flatnonzero(np.isfinite(row))) == followers.get(prefix, {END})


def test_ids_outside_the_vocabulary_are_ignored():
    tokens, lengths = np.array([[9, 1, 9, 0]], "int32"), np.array([3], "int32")
    logits = np.ones((1, 3), "float32")
    for processor, expected in (
        (processors.RepetitionPenalty(2.0), [1.0, 0.5, 1.0]),
        (constraints.NoRepeatNGram(1), [1.0, -np.inf, 1.0]),
    ):
        received = processor(*map(keras.ops.convert_to_tensor, (tokens, lengths, 0, logits)))
        assert to_numpy(received).tolist() == [expected]


BAD = {
    "temperature zero": (
        lambda: processors.Temperature(0),
        ValueError,
        "`temperature` must be a finite number above 0",
    ),
    "temperature text": (lambda: processors.Temperature("hot"), TypeError, "`temperature` must be a finite number"),
    "temperature nan": (lambda: processors.Temperature([1.0, float("nan")]), ValueError, "nan"),
    "temperature infinite": (lambda: processors.Temperature(float("inf")), ValueError, "finite"),
    "temperature of beams": (lambda: processors.Temperature([[1.0]]), TypeError, "1D array"),
    "temperature of none": (lambda: processors.Temperature([]), ValueError, "`temperature` must be"),
    "k zero": (lambda: processors.TopK(0), ValueError, "`k` must be an integer of at least 1"),
    "k float": (lambda: processors.TopK(2.0), TypeError, "`k` must be an integer of at least 1"),
    "k bool": (lambda: processors.TopK(True), TypeError, "`k` must be an integer of at least 1"),
    "p zero": (lambda: processors.TopP(0.0), ValueError, "`p` must be a number above 0 and at most 1"),
    "p two": (lambda: processors.TopP([0.5, 2.0]), ValueError, "`p` must be a number above 0 and at most 1"),
    "min p": (lambda: processors.MinP(-0.1), ValueError, "`p` must be a number within [0, 1]"),
    "penalty": (lambda: processors.RepetitionPenalty(0.0), ValueError, "`penalty` must be a finite number above 0"),
    "no n-gram": (lambda: constraints.NoRepeatNGram(0), ValueError, "`ngram_size` must be an integer of at least 1"),
    "half n-gram": (lambda: constraints.NoRepeatNGram(1.5), TypeError, "`ngram_size` must be"),
    "length": (lambda: constraints.MinLength(-1, 0), ValueError, "`min_length` must be an integer of at least 0"),
    "end": (lambda: constraints.MinLength(1, -1), ValueError, "`end_token` must be a token id"),
    "end float": (lambda: constraints.MinLength(1, 0.0), TypeError, "`end_token` must be a token id"),
    "no tokens": (lambda: constraints.SuppressTokens([]), ValueError, "`tokens` must be a list of token ids"),
    "float tokens": (lambda: constraints.SuppressTokens([1.0]), TypeError, "`tokens` must be a list of token ids"),
    "negative token": (lambda: constraints.SuppressTokens([2, -1]), ValueError, "`tokens` must be a list of token ids"),
    "one token": (lambda: constraints.SuppressTokens(3), TypeError, "`tokens` must be a list of token ids"),
    "no pairs": (lambda: constraints.ForcedTokens({}), ValueError, "`tokens` must be a dictionary {step: token}"),
    "no dictionary": (lambda: constraints.ForcedTokens([1, 2]), TypeError, "`tokens` must be a dictionary"),
    "text steps": (lambda: constraints.ForcedTokens({"a": 1}), TypeError, "`tokens` must be a dictionary"),
    "negative step": (lambda: constraints.ForcedTokens({-1: 1}), ValueError, "`tokens` must be a dictionary"),
    "step twice": (lambda: constraints.ForcedTokens([(1, 1), (1, 2)]), ValueError, "pairs of different steps"),
    "no words": (lambda: constraints.PrefixConstrained([], 0), ValueError, "`sequences` must be a non-empty list"),
    "empty word": (lambda: constraints.PrefixConstrained([[1], []], 0), ValueError, "`sequences` must be a non-empty"),
    "flat words": (lambda: constraints.PrefixConstrained([1, 2], 0), TypeError, "`sequences` must be a non-empty"),
    "text words": (lambda: constraints.PrefixConstrained("word", 0), TypeError, "`sequences` must be a non-empty"),
    "end within": (lambda: constraints.PrefixConstrained([[1, 0, 2]], 0), ValueError, "without the end token 0"),
}


def test_bad_arguments():
    for name, (make, error, words) in BAD.items():
        with pytest.raises(error) as caught:
            make()
        assert words in str(caught.value), name
        assert "Received: " in str(caught.value), name


def test_ids_are_checked_against_a_vocabulary():
    for processor, words in (
        (constraints.MinLength(1, 5), "below the vocabulary size 5. Received: `processors`=MinLength(min_length=1,"),
        (constraints.SuppressTokens([0, 5]), "below the vocabulary size 5"),
        (constraints.SuppressTokens([0, 1, 2, 3, 4, 4]), "such that some token is left"),
        (constraints.ForcedTokens({9: 5}), "below the vocabulary size 5"),
        (constraints.PrefixConstrained([[1], [2, 5]], 0), "below the vocabulary size 5"),
        (constraints.PrefixConstrained([[1]], 5), "below the vocabulary size 5"),
    ):
        if "left" not in words:
            processor.check("TokenGenerator", 6)
        with pytest.raises(ValueError, match="TokenGenerator: `processors` must be") as caught:
            processor.check("TokenGenerator", 5)
        assert words in str(caught.value)
    for case in CASES.values():
        case.processor.check("TokenGenerator", VOCABULARY)
