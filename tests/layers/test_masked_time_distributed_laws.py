"""The laws of `keras_seqx.testing` on MaskedTimeDistributed and RepeatToLength."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from keras_seqx import MaskedTimeDistributed, RepeatToLength
from keras_seqx.testing import check_backends_agree, check_layer, check_padding_invariance, modes, strategies
from keras_seqx.testing.serialization import other_backends
from tests.cases import randomize
from tests.layers.test_masked_time_distributed import CASES, SKIPPING, STEPS, draw

LAWS = ["padding_invariance", "padding_invariance_in_training", "batch_independence", "serialization"]
# The longest row has all steps, so that the batches of one mode have few shapes.
LENGTHS = strategies.lengths(batch_size=3, max_length=STEPS).map(lambda lengths: [STEPS, *lengths[1:]])


def randomized(case, inputs, **kwargs):
    layer = MaskedTimeDistributed(CASES[case][0](), **kwargs)
    layer(inputs)
    randomize(layer, np.random.default_rng(0))
    return layer


@pytest.mark.parametrize("skip_masked", SKIPPING)
@pytest.mark.parametrize("case", CASES)
def test_all_laws(case, skip_masked):
    inputs = draw(CASES[case][1], 0)
    check_layer(randomized(case, inputs, skip_masked=skip_masked), inputs, lengths=[4, 1, 2], laws=LAWS)


@pytest.mark.parametrize("mode", modes())
@given(
    case=st.sampled_from(["batch_normalization", "conv2d", "dense", "lstm", "nested", "two_in_two_out"]),
    lengths=LENGTHS,
    seed=st.integers(0, 1000),
    training=st.booleans(),
    skip_masked=st.sampled_from(SKIPPING),
)
def test_padding_changes_nothing(mode, case, lengths, seed, training, skip_masked):
    inputs = draw(CASES[case][1], seed)
    layer = randomized(case, inputs, skip_masked=skip_masked)
    check_padding_invariance(layer, inputs, lengths=lengths, training=training, mode=mode)


def test_words_that_make_their_own_masks():
    """Sentences of no words are padding, and so are words of id 0."""
    ids = np.array([[[3, 4, 0, 0], [1, 0, 0, 0], [2, 2, 2, 2]], [[2, 1, 0, 0], [4, 4, 4, 0], [0, 0, 0, 0]]], "int32")
    words = keras.Input((None, None), dtype="int32")
    sentences = MaskedTimeDistributed(layers.LSTM(3))(
        MaskedTimeDistributed(layers.Embedding(5, 3, mask_zero=True))(words)
    )
    model = keras.Model(words, layers.LSTM(2)(sentences))
    randomize(model, np.random.default_rng(0))
    check_padding_invariance(model, ids, lengths=[3, 2], padding_value=0, attach_masks=False)
    wider = np.pad(ids, [(0, 0), (0, 0), (0, 3)])
    np.testing.assert_allclose(model.predict(wider, verbose=0), model.predict(ids, verbose=0), atol=1e-6)


@pytest.mark.skipif(not other_backends(), reason="there is no other backend to agree with")
def test_backends_agree():
    inputs = draw(CASES["model"][1], 0)
    check_backends_agree(randomized("model", inputs), inputs, lengths=[4, 1, 2])


def test_the_laws_can_fail():
    """Keras' own layer, which computes masked steps from the padding."""
    inputs = draw((4,), 0)
    layer = layers.TimeDistributed(layers.BatchNormalization())
    with pytest.raises(AssertionError, match="padding_invariance"):
        check_padding_invariance(layer, inputs, lengths=[4, 1, 2], training=True)


def test_repeat_to_length():
    inputs = {"x": draw((), 0)[:, 0], "sequence": draw((2,), 0)}

    class Pair(keras.layers.Layer):
        """The two inputs by name."""

        supports_masking = True

        def __init__(self):
            super().__init__()
            self.repeat = RepeatToLength()

        def call(self, inputs):
            return self.repeat([inputs["x"], inputs["sequence"]])

    laws = ["padding_invariance", "padding_invariance_in_training", "batch_independence"]
    check_layer(Pair, inputs, lengths={"x": None, "sequence": [4, 1, 2]}, laws=laws)
