"""Bad input to a decoder of tokens and to a generator: one error that names class and argument, and a way out."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import (
    AttentionCell,
    AutoregressiveDecoder,
    BeamSearch,
    Categorical,
    Gaussian,
    Sampling,
    TokenGenerator,
    generation,
)
from tests.layers.tokens import VOCABULARY, build

IDS = np.ones((2, 3), "int32")


def cell():
    return keras.layers.GRUCell(4)


def dense(units=VOCABULARY):
    return keras.layers.Dense(units)


def embedding(size=VOCABULARY):
    return keras.layers.Embedding(size, 3)


def decoder(**kwargs):
    return AutoregressiveDecoder(cell(), dense(), embedding=embedding(), **kwargs)


def generator(of=None, **kwargs):
    return TokenGenerator(of or decoder(), **{"end_token": 2, "max_steps": 4, **kwargs})


class Endless(keras.layers.Layer):
    """A cell that says how many steps it remembers."""

    state_size = output_size = 3
    max_length = 5

    def call(self, inputs, states):
        return inputs, states


def bounded():
    return AutoregressiveDecoder(Endless(), dense(), embedding=embedding())


def attentive():
    return AutoregressiveDecoder(AttentionCell(cell()), dense(), embedding=embedding())


MAKE = {
    "embedding no layer": (
        lambda: AutoregressiveDecoder(cell(), dense(), embedding=7),
        TypeError,
        "AutoregressiveDecoder: `embedding` must be a Keras layer or None. Received: `embedding`=7",
    ),
    "sampler of another name": (
        lambda: decoder(sampler="best"),
        ValueError,
        'AutoregressiveDecoder: `sampler` must be "identity", "greedy" or a Sampler. Received: `sampler`=\'best\'',
    ),
    "sampler no sampler": (lambda: decoder(sampler=3), TypeError, "AutoregressiveDecoder: `sampler` must be"),
    "continuous sampler of tokens": (
        lambda: decoder(sampler=Gaussian()),
        ValueError,
        "AutoregressiveDecoder: `sampler` must be one of tokens",
    ),
    "token sampler of frames": (
        lambda: AutoregressiveDecoder(cell(), dense(), sampler="greedy"),
        ValueError,
        "AutoregressiveDecoder: `sampler` must be one of continuous values",
    ),
    "temperature zero": (
        lambda: Categorical(0),
        ValueError,
        "Categorical: `temperature` must be a finite number above 0",
    ),
    "temperature zero says greedy": (lambda: Sampling(temperature=0.0), ValueError, '("greedy")'),
    "temperature negative": (lambda: Sampling(-1.0), ValueError, "Sampling: `temperature` must be"),
    "top p zero": (lambda: Sampling(top_p=0.0), ValueError, "Sampling: `top_p` must be a number above 0 and at most 1"),
    "top p above one": (lambda: Sampling(top_p=1.1), ValueError, "Received: `top_p`=1.1"),
    "top k zero": (lambda: Sampling(top_k=0), ValueError, "Sampling: `top_k` must be an integer of at least 1"),
    "no samples": (lambda: Sampling(num_samples=0), ValueError, "Sampling: `num_samples` must be"),
    "no beams": (lambda: BeamSearch(0), ValueError, "BeamSearch: `num_beams` must be an integer of at least 1"),
    "half a beam": (lambda: BeamSearch(1.5), TypeError, "Received: `num_beams`=1.5"),
    "penalty NaN": (
        lambda: BeamSearch(2, length_penalty=float("nan")),
        ValueError,
        "BeamSearch: `length_penalty` must",
    ),
    "penalty no number": (lambda: BeamSearch(2, length_penalty="long"), TypeError, "Received: `length_penalty`='long'"),
    "early stopping a word": (
        lambda: BeamSearch(2, early_stopping="never"),
        TypeError,
        "BeamSearch: `early_stopping` must be True or False. Received: `early_stopping`='never'",
    ),
    "groups of unequal size": (
        lambda: BeamSearch(4, num_groups=3),
        ValueError,
        "BeamSearch: `num_groups` must be a divisor of `num_beams`, 4. Received: `num_groups`=3",
    ),
    "diversity of one group": (
        lambda: BeamSearch(4, diversity_penalty=0.5),
        ValueError,
        "BeamSearch: `diversity_penalty` must be 0 with a single group",
    ),
    "diversity negative": (
        lambda: BeamSearch(4, num_groups=2, diversity_penalty=-0.5),
        ValueError,
        "BeamSearch: `diversity_penalty` must be a finite number of at least 0",
    ),
    "decoder no decoder": (
        lambda: generator(dense()),
        TypeError,
        "TokenGenerator: `decoder` must be an AutoregressiveDecoder with an `embedding`",
    ),
    "decoder of frames": (
        lambda: generator(AutoregressiveDecoder(cell(), dense())),
        TypeError,
        "TokenGenerator: `decoder` must be an AutoregressiveDecoder with an `embedding`",
    ),
    "no steps": (
        lambda: generator(max_steps=0),
        ValueError,
        "TokenGenerator: `max_steps` must be an integer of at least",
    ),
    "end a float": (lambda: generator(end_token=2.0), TypeError, "TokenGenerator: `end_token` must be a token id"),
    "end negative": (lambda: generator(end_token=-1), ValueError, "TokenGenerator: `end_token` must be a token id"),
    "ends that are no list": (
        lambda: generator(end_token=[[2]]),
        TypeError,
        "`end_token` must be a token id or a list",
    ),
    "ends of no number": (lambda: generator(end_token=[]), ValueError, "`end_token` must be a token id or a list"),
    "ends that are equal": (
        lambda: generator(end_token=[2, 2]),
        ValueError,
        "`end_token` must be a token id or a list",
    ),
    "an end negative": (lambda: generator(end_token=[2, -1]), ValueError, "Received: `end_token`=[2, -1]"),
    "an end forced and none": (
        lambda: generator(end_token=None, force_end=True),
        ValueError,
        "TokenGenerator: `end_token` must be the id of the end where `force_end` is true",
    ),
    "normalization of another name": (
        lambda: BeamSearch(2, length_normalization="google"),
        ValueError,
        'BeamSearch: `length_normalization` must be "length" or "gnmt"',
    ),
    "pad negative": (
        lambda: generator(pad_token=-1),
        ValueError,
        "TokenGenerator: `pad_token` must be a token id, an integer of at least 0. Received: `pad_token`=-1",
    ),
    "search of another name": (
        lambda: generator(search="beam"),
        ValueError,
        "TokenGenerator: `search` must be \"greedy\", `Sampling(...)` or `BeamSearch(...)`. Received: `search`='beam'",
    ),
    "search no search": (lambda: generator(search=4), TypeError, "TokenGenerator: `search` must be"),
    "processors none": (lambda: generator(processors=None), TypeError, "TokenGenerator: `processors` must be a list"),
    "processors alone": (
        lambda: generator(processors=generation.TopK(2)),
        TypeError,
        "TokenGenerator: `processors` must be a list of processors",
    ),
    "a function among processors": (
        lambda: generator(processors=[np.exp]),
        TypeError,
        "TokenGenerator: `processors` must be a list of processors",
    ),
    "more returns than beams": (
        lambda: generator(search=BeamSearch(2), num_return_sequences=3),
        ValueError,
        "TokenGenerator: `num_return_sequences` must be at most 2, the `num_beams` of the search",
    ),
    "more returns than samples": (
        lambda: generator(search=Sampling(num_samples=2), num_return_sequences=3),
        ValueError,
        "at most 2, the `num_samples` of the search",
    ),
    "two greedy sequences": (lambda: generator(num_return_sequences=2), ValueError, "as the search is greedy"),
    "no returns": (
        lambda: generator(num_return_sequences=0),
        ValueError,
        "TokenGenerator: `num_return_sequences` must be an integer of at least 1",
    ),
}

BUILD = {
    "logits wider than the embedding": (
        lambda: AutoregressiveDecoder(cell(), dense(9), embedding=embedding(8))(IDS),
        "AutoregressiveDecoder: `output_layer` must be of output width 8 at most",
    ),
    "embedding of rank 2": (
        lambda: AutoregressiveDecoder(cell(), dense(), embedding=keras.layers.Flatten())(IDS),
        "AutoregressiveDecoder: `embedding` must be a layer from ids (B, n) to (B, n, E)",
    ),
    "end beyond the vocabulary": (
        lambda: generator(end_token=VOCABULARY)(IDS),
        "TokenGenerator: `end_token` must be one of the decoder's 7 tokens, within [0, 7). Received: `end_token`=7",
    ),
    "an end beyond the vocabulary": (
        lambda: generator(end_token=[2, VOCABULARY + 1])(IDS),
        "TokenGenerator: `end_token` must be one of the decoder's 7 tokens",
    ),
    "a forced end suppressed": (
        lambda: generator(end_token=[2, 3], force_end=True, processors=[generation.SuppressTokens([2, 3])])(IDS),
        "TokenGenerator: `processors` must be such that an end is left at the last step, as `force_end` is true",
    ),
    "a forced end too early for one row": (
        lambda: generator(force_end=True, processors=[generation.MinLength([0, 4], 2)])(IDS),
        "TokenGenerator: `processors` must be such that an end is left at the last step, as `force_end` is true",
    ),
    "alignments of no attention": (
        lambda: generator(return_alignments=True)(IDS),
        "TokenGenerator: `return_alignments` must be False",
    ),
    "processor beyond the vocabulary": (
        lambda: generator(processors=[generation.SuppressTokens([1, VOCABULARY])])(IDS),
        "TokenGenerator: `processors` must be of token ids below the vocabulary size 7",
    ),
    "every token suppressed": (
        lambda: generator(processors=[generation.SuppressTokens(list(range(VOCABULARY)))])(IDS),
        "TokenGenerator: `processors` must be such that some token is left",
    ),
    "every token suppressed by two": (
        lambda: generator(
            processors=[generation.SuppressTokens([0, 1, 2, 3]), generation.SuppressTokens(list(range(4, VOCABULARY)))]
        )(IDS),
        "TokenGenerator: `processors` must be such that a token is left at every step",
    ),
    "a forced token suppressed": (
        lambda: generator(processors=[generation.ForcedTokens({2: 3}), generation.SuppressTokens([3])])(IDS),
        "none is left for token 2 of a sequence",
    ),
    "a forced end too early": (
        lambda: generator(processors=[generation.ForcedTokens({1: 2}), generation.MinLength(3, 2)])(IDS),
        "none is left for token 1 of a sequence",
    ),
    "a forced end too early for a row": (
        lambda: generator(processors=[generation.ForcedTokens({1: 2}), generation.MinLength([0, 3, 1], 2)])(IDS),
        "none is left for token 1 of a sequence",
    ),
}

# Of a built generator, whose decoder takes no memory; the decoder says the same in its own name.
CALL = {
    "no ids": (np.ones((2, 0), "int32"), {}, ValueError, "`inputs` must be at least one step long"),
    "ids of rank 1": (np.ones(2, "int32"), {}, ValueError, "`inputs` must be of shape (B, T0)"),
    "ids of rank 3": (np.ones((2, 3, 1), "int32"), {}, ValueError, "Received: `inputs`=(2, 3, 1)"),
    "float ids": (np.ones((2, 3), "float32"), {}, TypeError, "`inputs` must be ids of an integer dtype"),
    "memory for no cell": (
        IDS,
        {"memory": np.ones((2, 4, 3), "float32")},
        ValueError,
        "`memory` must be None, as no cell takes it",
    ),
    "mask of other steps": (IDS, {"mask": np.ones((2, 2), bool)}, ValueError, "`mask` must be of shape (B, T0)"),
    "states too many": (
        IDS,
        {"initial_state": [np.ones((2, 4), "float32")] * 2},
        ValueError,
        "`initial_state` must be at most 1 tensors",
    ),
    "covariates unasked": (
        IDS,
        {"covariates": np.ones((2, 6, 2), "float32")},
        ValueError,
        "`covariates` must be of shape (B, steps, C)",
    ),
}

VALUES = {
    "an id beyond the vocabulary": (
        np.array([[1, VOCABULARY]]),
        None,
        "`inputs` must be ids within [0, 7), the embedding's vocabulary. Received: `inputs`=7",
    ),
    "a negative id": (np.array([[1, -1]]), None, "Received: `inputs`=-1"),
    "a negative id under a mask of integers": (np.array([[-1, -2]]), np.array([[1, 0]]), "Received: `inputs`=-1"),
}


def check(caught, words):
    text = str(caught.value)
    assert words in text
    assert ": `" in text
    assert "Received: " in text


@pytest.mark.parametrize(("make", "error", "words"), MAKE.values(), ids=MAKE)
def test_construction(make, error, words):
    with pytest.raises(error) as caught:
        make()
    check(caught, words)


@pytest.mark.parametrize(("make", "words"), BUILD.values(), ids=BUILD)
def test_build(make, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        make()
    check(caught, words)


@pytest.mark.parametrize("kind", ["decoder", "generator"])
@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@pytest.mark.parametrize(("ids", "kwargs", "error", "words"), CALL.values(), ids=CALL)
def test_call(ids, kwargs, error, words, symbolic, kind):
    layer = build("gru", steps=6)
    layer = layer if kind == "decoder" else generator(layer)
    if symbolic:
        ids, kwargs = keras.tree.map_structure(
            lambda a: keras.Input(batch_shape=a.shape, dtype=str(a.dtype)), (ids, kwargs)
        )
    with pytest.raises(error) as caught:
        layer(ids, **kwargs)
    check(caught, f"{type(layer).__name__}: " + words[: words.find("` must")] if "` must" in words else words)
    check(caught, words)


@pytest.mark.parametrize("kind", ["decoder", "generator"])
@pytest.mark.parametrize(("ids", "mask", "words"), VALUES.values(), ids=VALUES)
def test_ids_that_are_known(ids, mask, words, kind):
    layer = build("gru")
    layer = layer if kind == "decoder" else generator(layer)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        layer(ids.astype("int32"), mask=None if mask is None else ops.convert_to_tensor(mask))
    check(caught, words)


@pytest.mark.parametrize("mask", [[[False, True]], [[True, False, True]]], ids=["left", "gap"])
def test_prompts_are_padded_on_the_right(mask):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        generator(build("gru"))(np.ones(np.shape(mask), "int32"), mask=np.array(mask))
    check(caught, "TokenGenerator: `mask` must be true at the first tokens of a row")


@pytest.mark.parametrize("make", [lambda d: d, generator], ids=["decoder", "generator"])
def test_a_cell_that_attends_needs_a_memory(make):
    layer = make(attentive())
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        layer(IDS)
    check(caught, "`memory` must be of shape (B, S, M), as there is a cell that attends to it")


def test_cells_remember_so_many_steps():
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        bounded()(IDS, steps=6)
    check(caught, "AutoregressiveDecoder: `steps` must be at most 5")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        generator(bounded())(IDS)
    check(caught, "TokenGenerator: `max_steps` must be at most 3")
    assert tuple(generator(bounded(), max_steps=3)(IDS)["tokens"].shape) == (2, 3)


@pytest.mark.parametrize("search", [BeamSearch(2), Sampling(num_samples=2)], ids=["beams", "samples"])
def test_only_a_search_that_knows_its_tokens_streams(search):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - `check` reads the words
        generator(build("gru"), search=search).stream(IDS)
    check(caught, "TokenGenerator: `search` must be one that knows a token as it comes")


def test_processors_of_each_row_that_agree_are_taken():
    """More rows than steps, and a number of steps that they do not divide."""
    layer = generator(build("gru"), processors=[generation.MinLength([0, 1, 2], 2)])
    assert tuple(layer(np.ones((3, 1), "int32"))["tokens"].shape) == (3, 4)
