"""The one law: padding changes no valid output, loss, gradient or metric."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_seqx import AutoregressiveDecoder, SequenceMask
from keras_seqx.testing import check_batch_independence, check_padding_invariance
from tests.cases import FEATURES, MODES, STACKS, build, normal, to_numpy


def right_padded(lengths, width):
    return np.arange(width) < np.array(lengths)[:, None]


@pytest.mark.parametrize("mode", MODES)
@given(
    stack=st.sampled_from(STACKS),
    lengths=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    garbage=st.sampled_from([0.0, 1e6, np.nan, np.inf]),
    seed=st.integers(0, 2**16),
)
def test_a_padded_row_equals_the_row_alone(mode, stack, lengths, garbage, seed):
    decoder, _ = build(stack, seed)
    mask = right_padded(lengths, 5)
    inputs = normal(seed, 3, 5, FEATURES)
    padded = np.where(mask[:, :, None], inputs, np.float32(garbage))
    together = to_numpy(MODES[mode](decoder, padded, steps=9, mask=mask))
    for row, length in enumerate(lengths):
        alone = to_numpy(decoder(inputs[row : row + 1, :length], steps=9))
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)


@pytest.mark.parametrize("garbage", [1e6, np.nan])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [None, 3])
def test_padded_covariates_reach_no_output(mode, garbage, steps):
    """Not even a masked one, which a loss multiplies by 0; but those of a gap count, as samples are read there."""
    decoder, _ = build("lstm", 0, covariates=2)
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0]], "bool")
    inputs, covariates = normal(0, 3, 4, FEATURES), normal(1, 3, steps or 4, 2)
    last = np.array([4, 3, 1])
    tail = np.arange(steps or 4) >= last[:, None]
    padded = np.where(tail[..., None], np.float32(garbage), covariates)
    kwargs = {} if steps is None else {"steps": steps}
    received = to_numpy(MODES[mode](decoder, inputs, covariates=padded, mask=mask, **kwargs))
    zeros = to_numpy(decoder(inputs, covariates=np.where(tail[..., None], 0, covariates), mask=mask, **kwargs))
    np.testing.assert_allclose(received, zeros, atol=1e-5)
    for row, length in enumerate(np.minimum(last, steps or 4)):
        one = slice(row, row + 1)
        alone = decoder(inputs[one, :length], covariates=covariates[one, :length], mask=mask[one, :length])
        np.testing.assert_allclose(received[one, :length], to_numpy(alone), atol=1e-5)


def teacher_forced_model(padding):
    """A model over inputs with their lengths, and the same batch with more padding."""
    x, lengths = keras.Input((None, FEATURES)), keras.Input((), dtype="int32")
    masked = SequenceMask()([x, lengths])
    decoder = AutoregressiveDecoder([keras.layers.LSTMCell(4), keras.layers.GRUCell(4)], keras.layers.Dense(FEATURES))
    model = keras.Model([x, lengths], decoder(masked))
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    sizes = np.array([5, 2, 3, 1], "int32")
    inputs, targets = normal(0, 4, 8, FEATURES), normal(1, 4, 8, FEATURES)
    return model, [inputs[:, : 5 + padding], sizes], targets[:, : 5 + padding]


def test_padding_changes_no_loss_metric_or_update():
    results, weights = [], []
    for padding in (0, 3):
        keras.utils.set_random_seed(0)
        model, x, y = teacher_forced_model(padding)
        results.append(model.evaluate(x, y, verbose=0))
        model.fit(x, y, epochs=2, verbose=0)
        weights.append(model.get_weights())
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_no_gradient(training):
    decoder, _ = build(["gru", "leaky"], 0)
    check_padding_invariance(decoder, normal(0, 2, 4, FEATURES), lengths=[4, 2], training=training)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (None, [[1, 1, 1, 1], [1, 1, 0, 0]]),
        (4, [[1, 1, 1, 1], [1, 1, 0, 0]]),
        (3, [[1, 1, 1], [1, 1, 0]]),
        (6, None),
    ],
)
@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("open_time", [False, True])
def test_output_mask(steps, expected, return_state, open_time):
    """Read where a user would feel it: as the mask that the next layer receives."""

    class Spy(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True

        def call(self, inputs, mask=None):
            ones = keras.ops.ones_like(inputs[:, :, 0])
            return ones if mask is None else ones * keras.ops.cast(mask, ones.dtype)

    x, lengths = keras.Input((None if open_time else 4, FEATURES)), keras.Input((), dtype="int32")
    decoder = AutoregressiveDecoder(
        keras.layers.GRUCell(4), keras.layers.Dense(FEATURES), steps=steps, return_state=return_state
    )
    outputs = decoder(SequenceMask()([x, lengths]))
    model = keras.Model([x, lengths], Spy()(outputs[0] if return_state else outputs))
    data = [normal(0, 2, 4, FEATURES), np.array([4, 2], "int32")]
    wanted = np.ones((2, steps)) if expected is None else expected
    np.testing.assert_array_equal(to_numpy(model(data)), wanted)
    np.testing.assert_array_equal(model.predict(data, verbose=0), wanted)


def test_rows_do_not_influence_each_other():
    decoder, _ = build(["lstm", "window"], 0, steps=7)
    check_batch_independence(decoder, normal(0, 3, 4, FEATURES), lengths=[4, 2, 1])
