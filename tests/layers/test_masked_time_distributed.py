"""MaskedTimeDistributed equals its layer in a loop over the valid steps, whatever padding holds."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops, tree

from keras_seqx import KeepMask, MaskedTimeDistributed, SequenceMask
from tests.cases import BACKEND, MODES, gradients, normal, randomize, to_numpy

BATCH, STEPS = 3, 4


def two_in_two_out():
    image, ids = keras.Input((3, 2), name="image"), keras.Input((), dtype="int32", name="id")
    flat = layers.Flatten()(image)
    both = layers.Concatenate()([flat, layers.Embedding(5, 2)(ids)])
    return keras.Model({"image": image, "id": ids}, {"vector": layers.Dense(3)(both), "scalar": ops.sum(both, axis=-1)})


def convolutions():
    x = [layers.Conv1D(3, 2), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(2)]
    return keras.Sequential([keras.Input((5, 2)), *x])


def sentences():
    x = [layers.Embedding(5, 3, mask_zero=True), layers.LSTM(2)]
    return keras.Sequential([keras.Input((4,), dtype="int32"), *x])


# A layer, and the shapes of one step's inputs; "int" stands for an id.
CASES = {
    "dense": (lambda: layers.Dense(3), (4,)),
    "conv2d": (lambda: layers.Conv2D(2, 3, padding="same"), (4, 4, 2)),
    "batch_normalization": (layers.BatchNormalization, (4,)),
    "layer_normalization": (layers.LayerNormalization, (3, 4)),
    "unit_normalization": (layers.UnitNormalization, (4,)),
    "lstm": (lambda: layers.LSTM(3), (5, 2)),
    "lstm_sequences_and_states": (lambda: layers.LSTM(3, return_sequences=True, return_state=True), (5, 2)),
    "embedding": (lambda: layers.Embedding(5, 3), "int"),
    "embedding_mask_zero": (lambda: layers.Embedding(5, 3, mask_zero=True), ("int", 4)),
    "model": (convolutions, (5, 2)),
    "sentences": (sentences, ("int", 4)),
    "two_in_two_out": (two_in_two_out, {"image": (3, 2), "id": "int"}),
    "nested": (lambda: MaskedTimeDistributed(layers.Dense(2)), (3, 4)),
}


def draw(shapes, seed, batch=BATCH, steps=STEPS):
    """Inputs (batch, steps, ...) for the step shapes of a case."""
    if isinstance(shapes, dict):
        return {key: draw(shape, seed, batch, steps) for key, shape in shapes.items()}
    if shapes == "int" or shapes[:1] == ("int",):
        size = () if shapes == "int" else shapes[1:]
        return np.random.default_rng(seed).integers(1, 5, (batch, steps, *size)).astype("int32")
    return normal(seed, batch, steps, *shapes)


def masked(inputs, lengths):
    """Tensors that carry the masks of their first `lengths` steps."""
    lengths = ops.convert_to_tensor(np.asarray(lengths, "int32"))
    return tree.map_structure(lambda x: SequenceMask()([ops.convert_to_tensor(x), lengths]), inputs)


def built(make, inputs, seed=0, **kwargs):
    layer = MaskedTimeDistributed(make(), **kwargs)
    layer(inputs)
    randomize(layer, np.random.default_rng(seed))
    return layer


class Masked(keras.layers.Layer):
    """The layer on inputs that carry masks, and what mask comes out."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs, lengths, training=False):
        carrying = tree.map_structure(lambda x: SequenceMask()([x, lengths]), inputs)
        outputs = self.layer(carrying, training=training)
        seen = tree.map_structure(lambda y: _Mask()(y), outputs)
        return outputs, seen


class _Mask(keras.layers.Layer):
    supports_masking = True

    def call(self, inputs, mask=None):
        return mask

    def compute_mask(self, inputs, previous_mask):
        return None


def run(layer, inputs, lengths, mode="eager", **kwargs):
    lengths = np.asarray(lengths, "int32")
    wrapper = Masked(layer)
    wrapper.built = True
    tensors = tree.map_structure(ops.convert_to_tensor, (inputs, lengths))
    return to_numpy(MODES[mode](wrapper, *tensors, **kwargs))


def looped(layer, inputs, lengths):
    """The layer called on every valid step by itself, {(row, step): outputs}."""
    steps = {}
    for b, length in enumerate(lengths):
        for t in range(length):
            step = tree.map_structure(lambda x, b=b, t=t: ops.convert_to_tensor(x[b : b + 1, t]), inputs)
            steps[b, t] = [to_numpy(y)[0] for y in tree.flatten(layer(step))]
    return steps


# On JAX, skipping is the same program as not skipping.
SKIPPING = [False, True] if BACKEND != "jax" else [False]


@pytest.mark.parametrize("skip_masked", SKIPPING)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_over_the_valid_steps(case, mode, skip_masked):
    make, shapes = CASES[case]
    inputs, lengths = draw(shapes, 1), [STEPS, 1, 2]
    layer = built(make, inputs, masked_value=-7.0, skip_masked=skip_masked)
    outputs, masks = run(layer, inputs, lengths, mode)
    expected = looped(layer.layer, inputs, lengths)
    valid = np.arange(STEPS) < np.array(lengths)[:, None]
    for i, (y, mask) in enumerate(zip(tree.flatten(outputs), tree.flatten(masks), strict=True)):
        for (b, t), step in expected.items():
            np.testing.assert_allclose(y[b, t], step[i], atol=1e-5, rtol=1e-5)
        assert (y[~valid] == -7).all()
        np.testing.assert_array_equal(mask if mask.ndim == 2 else mask.any(tuple(range(2, mask.ndim))), valid)


@given(
    case=st.sampled_from(["dense", "lstm", "embedding_mask_zero", "two_in_two_out", "nested"]),
    lengths=st.lists(st.integers(0, STEPS), min_size=BATCH, max_size=BATCH),
    seed=st.integers(0, 1000),
    skip_masked=st.sampled_from(SKIPPING),
)
def test_equals_a_loop_whatever_the_lengths(case, lengths, seed, skip_masked):
    make, shapes = CASES[case]
    inputs = draw(shapes, seed)
    layer = built(make, inputs, seed, skip_masked=skip_masked)
    outputs, _ = run(layer, inputs, lengths)
    flat = tree.flatten(outputs)
    for (b, t), step in looped(layer.layer, inputs, lengths).items():
        for y, z in zip(flat, step, strict=True):
            np.testing.assert_allclose(y[b, t], z, atol=1e-5, rtol=1e-5)
    # A masked step holds what its row's first step gives, in a row of padding any other row's.
    first = [to_numpy(layer.layer(tree.map_structure(lambda x: ops.convert_to_tensor(x[:, 0]), inputs)))]
    if not any(lengths):
        zeros = tree.map_structure(lambda x: ops.zeros_like(ops.convert_to_tensor(x[:, 0])), inputs)
        first = [to_numpy(layer.layer(zeros))]
    for y, z in zip(flat, tree.flatten(first), strict=True):
        for b, length in enumerate(lengths):
            rows = [b] if length or not any(lengths) else [other for other in range(BATCH) if lengths[other]]
            for step in y[b, length:]:
                assert any(np.allclose(step, z[row], atol=1e-5) for row in rows)


@pytest.mark.parametrize("skip_masked", SKIPPING)
@pytest.mark.parametrize("case", ["batch_normalization", "model"])
def test_statistics_count_valid_steps_alone(case, skip_masked):
    make, shapes = CASES[case]
    inputs, lengths = draw(shapes, 2), [STEPS, 1, 2]
    valid = np.arange(STEPS) < np.array(lengths)[:, None]
    inputs[~valid] = 1e4
    layer = built(make, inputs, skip_masked=skip_masked)
    run(layer, inputs, lengths, training=True)
    # Sixteen bits less than the padding, if that were counted.
    rows = keras.ops.convert_to_tensor(inputs[valid])
    parts = layer.layer.layers if case == "model" else [layer.layer]
    for part in parts:
        if isinstance(part, layers.BatchNormalization):
            break
        rows = part(rows)
    rows = to_numpy(rows).reshape(-1, rows.shape[-1]).astype("float64")
    np.testing.assert_allclose(to_numpy(part.moving_mean), 0.01 * rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(to_numpy(part.moving_variance), 0.99 + 0.01 * rows.var(0), rtol=1e-4, atol=1e-6)
    assert "call" not in vars(part), "the layer is as it was"


def test_statistics_of_words_in_sentences_in_paragraphs():
    """The innermost steps are counted where both masks hold them valid."""
    normalization = layers.BatchNormalization(momentum=0.0)
    layer = MaskedTimeDistributed(MaskedTimeDistributed(normalization))
    x = normal(3, 2, 3, 4, 5)
    words = np.random.default_rng(0).random((2, 3, 4)) < 0.6
    words[:, :, 0] = True
    sentences = np.array([[True, True, False], [True, False, False]])
    words &= sentences[:, :, None]
    layer(x, mask=words, training=True)
    np.testing.assert_allclose(to_numpy(normalization.moving_mean), x[words].mean(0), atol=1e-5)
    np.testing.assert_allclose(to_numpy(normalization.moving_variance), x[words].var(0), atol=1e-5)
    layer(x, mask=sentences, training=True)  # all words of a valid sentence are valid
    np.testing.assert_allclose(to_numpy(normalization.moving_mean), x[sentences].mean((0, 1)), atol=1e-5)


@pytest.mark.parametrize("skip_masked", SKIPPING)
@pytest.mark.parametrize("padding", [0.0, 1e30, np.inf, np.nan])
def test_padding_reaches_no_output_and_no_gradient(padding, skip_masked):
    x, lengths = normal(0, BATCH, STEPS, 4), [STEPS, 1, 2]
    # The gradient of this norm is 0 / 0 at zero, and everything is NaN at infinity.
    layer = built(lambda: keras.Sequential([layers.Dense(3, use_bias=False), layers.UnitNormalization()]), x)
    layer.skip_masked = skip_masked

    def received(x):
        y = layer(masked(x, lengths))
        weights = ops.convert_to_tensor(normal(1, *y.shape))
        grads = gradients(lambda: ops.sum(layer(masked(x, lengths)) * weights), layer)
        return [to_numpy(y), *grads]

    expected = received(x)
    x = np.where(np.arange(STEPS)[:, None] < np.array(lengths)[:, None, None], x, np.float32(padding))
    for a, b in zip(received(x), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def seen_masks(outputs):
    return tree.map_structure(lambda y: to_numpy(_Mask()(y)), outputs)


def test_the_layer_sees_the_mask_of_its_own_steps():
    ids = np.array([[[3, 4, 0], [1, 0, 0], [0, 0, 0]], [[2, 0, 0], [0, 0, 0], [0, 0, 0]]], "int32")
    embedded = MaskedTimeDistributed(layers.Embedding(5, 2, mask_zero=True))(ids)
    np.testing.assert_array_equal(seen_masks(embedded), ids != 0)
    lstm = KeepMask(layers.LSTM(2, return_sequences=True))
    hidden = MaskedTimeDistributed(lstm)(embedded)
    np.testing.assert_array_equal(seen_masks(hidden), ids != 0)
    pooled = MaskedTimeDistributed(layers.GlobalAveragePooling1D())(hidden)
    np.testing.assert_array_equal(
        seen_masks(pooled), (ids != 0).any(2), "the axis of words is gone, and so is its mask"
    )
    alone = lstm(to_numpy(embedded)[0, 0, :2][None])
    np.testing.assert_allclose(to_numpy(pooled)[0, 0], to_numpy(alone)[0].mean(0), atol=1e-6)
    first = to_numpy(pooled)[:, 0]
    np.testing.assert_allclose(to_numpy(pooled)[[0, 1, 1], [2, 1, 2]], first[[0, 1, 1]], atol=1e-6)


def test_masks_of_several_inputs_hold_together():
    add = MaskedTimeDistributed(layers.Add(), masked_value=0.0)
    x = normal(0, 2, 3, 4)
    first, second = np.array([[1, 1, 0], [1, 0, 0]], "bool"), np.array([[1, 0, 1], [1, 1, 0]], "bool")
    np.testing.assert_array_equal(to_numpy(add([x, x], mask=[first, second]))[..., 0] != 0, first & second)
    np.testing.assert_array_equal(to_numpy(add([x, x], mask=[None, second]))[..., 0] != 0, second)
    np.testing.assert_array_equal(to_numpy(add([x, x], mask=first))[..., 0] != 0, first)
    np.testing.assert_allclose(to_numpy(add([x, x])), 2 * x)


def test_compute_mask_is_what_calls_attach():
    layer = MaskedTimeDistributed(KeepMask(layers.LSTM(2, return_sequences=True)))
    x, mask = normal(0, 2, 3, 4, 5), np.random.default_rng(0).random((2, 3, 4)) < 0.7
    received = layer.compute_mask(ops.convert_to_tensor(x), ops.convert_to_tensor(mask))
    np.testing.assert_array_equal(to_numpy(received), mask)
    assert layer.compute_mask(ops.convert_to_tensor(x), None) is None


def test_masks_inside_functional_models():
    """What a model inside makes of masks is known when it runs, also to what is behind it in another model."""
    ids = keras.Input((None, 4), dtype="int32")
    lstm = KeepMask(layers.LSTM(2, return_sequences=True))
    inner = keras.Sequential([layers.Embedding(5, 3, mask_zero=True), lstm])
    words = MaskedTimeDistributed(inner)(ids)
    paragraph = layers.LSTM(2)(MaskedTimeDistributed(layers.LSTM(2))(words))
    model = keras.Model(ids, paragraph)
    x = np.array([[[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]]], "int32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(model.predict(x[:, :2], verbose=0), expected, atol=1e-6)
    short = np.array([[[1, 2], [3, 0]]], "int32")
    assert inner.input_shape is not None
    np.testing.assert_allclose(to_numpy(inner(short[0]))[1, 0], to_numpy(inner(short[0, 1:, :1]))[0, 0], atol=1e-6)


@pytest.mark.parametrize("time", [None, 4])
def test_shapes_of_symbolic_calls(time):
    image, ids = keras.Input((time, 3, 2), name="image"), keras.Input((time,), dtype="int32", name="id")
    outputs = MaskedTimeDistributed(two_in_two_out())({"image": image, "id": ids})
    assert outputs["vector"].shape == (None, time, 3)
    assert outputs["scalar"].shape == (None, time)
    assert MaskedTimeDistributed(layers.Embedding(5, 3))(ids).shape == (None, time, 3)
    layer = MaskedTimeDistributed(layers.Conv1D(4, 2))
    assert layer(image).shape == layer.compute_output_shape((None, time, 3, 2)) == (None, time, 2, 4)
    assert MaskedTimeDistributed(layers.Flatten())(keras.Input((time, None, 2))).shape == (None, time, None)


def test_one_model_at_any_length():
    x, lengths = keras.Input((None, 3)), keras.Input((), dtype="int32")
    y = MaskedTimeDistributed(layers.Dense(2))(SequenceMask()([x, lengths]))
    model = keras.Model([x, lengths], layers.GlobalAveragePooling1D()(y))
    model.compile("sgd", "mse")
    for steps in (2, 5, 3):
        model.fit([normal(0, 4, steps, 3), np.array([1, 2, 2, 1])], np.zeros((4, 2)), verbose=0)
    data = normal(0, 2, 4, 3)
    longer = np.concatenate([data, normal(1, 2, 3, 3)], axis=1)
    expected = model.predict([data, np.array([4, 2])], verbose=0)
    np.testing.assert_allclose(model.predict([longer, np.array([4, 2])], verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_many_steps_of_a_convolution(mode):
    """Where its rows are computed in several calls, the numbers and the gradients are those of one."""
    x, lengths = normal(0, 5, 31, 6, 2), [31, 1, 7, 20, 30]
    layer = built(lambda: layers.Conv1D(3, 2), x)
    outputs, _ = run(layer, x, lengths, mode)
    valid = np.arange(31) < np.array(lengths)[:, None]
    np.testing.assert_allclose(outputs[valid], to_numpy(layer.layer(x[valid])), atol=1e-5)
    weights = ops.convert_to_tensor(normal(1, *outputs.shape) * valid[..., None, None])
    tensor = masked(x, lengths)
    received = gradients(lambda: ops.sum(layer(tensor) * weights), layer)
    rows, row_weights = x[valid], ops.convert_to_tensor(normal(1, *outputs.shape)[valid])
    expected = gradients(lambda: ops.sum(layer.layer(rows) * row_weights), layer)
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


class Recorder(keras.layers.Layer):
    """Records how it is called."""

    def __init__(self):
        super().__init__()
        self.calls: list = []

    def call(self, inputs, training=False):
        object.__getattribute__(self, "calls").append((inputs.shape[0], training))
        return inputs


@pytest.mark.parametrize("training", [False, True])
def test_one_call_whatever_the_number_of_steps(training):
    layer = MaskedTimeDistributed(Recorder())
    layer(normal(0, 2, 50, 3), training=training)
    assert list(layer.layer.calls) == [(100, training)]
    skipping = MaskedTimeDistributed(Recorder(), skip_masked=True)
    skipping(masked(normal(0, 2, 50, 3), [5, 2]), training=training)
    assert list(skipping.layer.calls) == [(100 if BACKEND == "jax" else 7, training)]


def test_training_reaches_the_layer_in_stateless_calls():
    layer = MaskedTimeDistributed(layers.Dropout(0.5, seed=0))
    x = np.ones((2, 6, 8), "float32")
    layer(x)
    states = [[v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables)]
    dropped, _ = layer.stateless_call(*states, ops.convert_to_tensor(x), training=True)
    assert (to_numpy(dropped) == 0).any()
    kept, _ = layer.stateless_call(*states, ops.convert_to_tensor(x), training=False)
    assert (to_numpy(kept) == 1).all()


def test_dropout_differs_from_step_to_step():
    y = to_numpy(MaskedTimeDistributed(layers.Dropout(0.5, seed=0))(np.ones((2, 6, 32), "float32"), training=True))
    assert len({tuple(step) for row in y for step in row}) == 12


@pytest.mark.parametrize("masked_value", [None, 0.0, 3.0])
def test_activity_is_regularized_at_valid_steps_alone(masked_value):
    l2 = keras.regularizers.L2(1.0)
    layer = MaskedTimeDistributed(layers.Dense(2), masked_value=masked_value, activity_regularizer=l2)
    x, losses = normal(0, 2, 3, 4), []
    for more in (0, 5):
        padded = np.concatenate([x, normal(1, 2, more, 4)], axis=1)
        y = to_numpy(layer(masked(padded, [3, 1])))
        losses.append(float(to_numpy(sum(layer.losses))))
    # Keras divides by the size of the batch since 3.13.
    of_keras = layers.Activation("linear", activity_regularizer=l2)
    of_keras(np.ones((2, 1), "float32"))
    share = float(to_numpy(of_keras.losses[0])) / 2
    expected = (np.concatenate([y[0, :3], y[1, :1]]) ** 2).sum() * share
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    again = MaskedTimeDistributed.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again(masked(padded, [3, 1]))
    again.set_weights(layer.get_weights())
    again(masked(padded, [3, 1]))
    np.testing.assert_allclose(float(to_numpy(sum(again.losses))), expected, rtol=1e-5)
    layer(x)
    whole = float(to_numpy(sum(layer.losses)))
    np.testing.assert_allclose(whole, (to_numpy(layer.layer(x.reshape(6, 4))) ** 2).sum() * share, rtol=1e-5)


@pytest.mark.parametrize("skip_masked", SKIPPING)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("valid", [[[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], [[0] * 4] * 3], ids=["some", "none"])
def test_masked_steps_hold_what_the_layer_gives_for_a_valid_one(valid, mode, skip_masked):
    """Padding is of NaN; where no step is valid, the layer is called on zeros."""
    valid, x = np.array(valid, "bool"), normal(0, 3, 4, 2)
    layer = built(lambda: layers.Dense(3), x, skip_masked=skip_masked)
    y = to_numpy(layer.layer(np.where(valid.any(), x.reshape(12, 2), 0))).reshape(3, 4, 3)
    expected = np.where(valid[..., None], y, y[[0, 1, 1], [1, 0, 0]][:, None])
    padded = np.where(valid[..., None], x, np.float32(np.nan))
    received = MODES[mode](layer, ops.convert_to_tensor(padded), mask=ops.convert_to_tensor(valid))
    np.testing.assert_allclose(to_numpy(received), expected, atol=1e-6)


@pytest.mark.parametrize("skip_masked", SKIPPING)
@pytest.mark.parametrize("masked_value", [None, 2.0])
def test_masked_steps_have_no_gradient(masked_value, skip_masked):
    """Not even where what follows counts them."""
    x, valid = normal(0, 2, 3, 4), np.array([[1, 1, 0], [1, 0, 0]], "bool")
    layer = built(lambda: layers.Dense(2), x, masked_value=masked_value, skip_masked=skip_masked)
    kernel, bias = gradients(lambda: ops.sum(layer(x, mask=valid)), layer)
    np.testing.assert_allclose(kernel, np.repeat(x[valid].sum(0)[:, None], 2, axis=1), atol=1e-5)
    np.testing.assert_allclose(bias, [3, 3])


@pytest.mark.parametrize("skip_masked", SKIPPING)
def test_steps_of_a_layer_whose_mask_is_not_that_of_steps(skip_masked):
    """Softmax takes a mask of entries, and a layer for every word one of words."""
    x, valid = normal(0, 3, 3, 3), np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], "bool")
    received = to_numpy(MaskedTimeDistributed(layers.Softmax(), skip_masked=skip_masked)(x, mask=valid))
    expected = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(received[valid], expected[valid], atol=1e-6)
    words = np.random.default_rng(0).integers(1, 5, (3, 3, 2))
    layer = MaskedTimeDistributed(MaskedTimeDistributed(layers.Embedding(5, 2)), skip_masked=skip_masked)
    received = to_numpy(layer(words, mask=valid))
    table = to_numpy(layer.layer.layer.embeddings)
    np.testing.assert_allclose(received[valid], table[words][valid])
    np.testing.assert_allclose(received[1, 2], table[words][1, 0])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_precision_policies(policy):
    keras.config.set_dtype_policy(policy)  # that of SequenceMask too: Keras 3.12 casts, and loses the mask
    layer = MaskedTimeDistributed(layers.Dense(2), masked_value=3.0)
    y = layer(masked(normal(0, 2, 3, 4), [3, 1]))
    assert keras.backend.standardize_dtype(y.dtype) == ("float16" if policy == "float16" else "bfloat16")
    assert to_numpy(ops.cast(y, "float32"))[1, 1:].tolist() == [[3, 3], [3, 3]]


def test_integer_outputs_read_the_masked_value():
    class Argmax(keras.layers.Layer):
        def call(self, inputs):
            return ops.argmax(inputs, axis=-1)

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape[:-1], "int32")

    y = MaskedTimeDistributed(Argmax(), masked_value=-1)(masked(normal(0, 2, 3, 4), [3, 1]))
    assert to_numpy(y)[1, 1:].tolist() == [-1, -1]


BAD = {
    "no layer": (lambda: MaskedTimeDistributed(ops.sum), ValueError, "`layer` must be a keras.layers.Layer"),
    "no number": (
        lambda: MaskedTimeDistributed(layers.Dense(1), masked_value="0"),
        TypeError,
        "`masked_value` must be a number or None",
    ),
    "not a number": (
        lambda: MaskedTimeDistributed(layers.Dense(1), masked_value=float("nan")),
        TypeError,
        "`masked_value` must be a number or None",
    ),
    "no bool": (
        lambda: MaskedTimeDistributed(layers.Dense(1), skip_masked=1),
        TypeError,
        "`skip_masked` must be True or False",
    ),
    "rank 1": (
        lambda: MaskedTimeDistributed(layers.Dense(1))(np.ones((3,))),
        ValueError,
        "`inputs` must be of shape (B, T, ...). Received: `inputs`=(3,)",
    ),
    "T disagree": (
        lambda: MaskedTimeDistributed(layers.Add())([np.ones((2, 3, 1)), np.ones((2, 4, 1))]),
        ValueError,
        "`inputs` must be tensors of the same B and T. Received: `inputs`=[(2, 3, 1), (2, 4, 1)]",
    ),
    "symbolic T disagree": (
        lambda: MaskedTimeDistributed(layers.Add())([keras.Input((3, 1)), keras.Input((4, 1))]),
        ValueError,
        "`inputs` must be tensors of the same B and T",
    ),
    "mask of other T": (
        lambda: MaskedTimeDistributed(layers.Dense(1))(np.ones((2, 3, 1)), mask=np.ones((2, 4), "bool")),
        ValueError,
        "`mask` must be of shape (B, T) or deeper, where the input has the shape (2, 3, 1). Received: `mask`=(2, 4)",
    ),
    "mask of rank 1": (
        lambda: MaskedTimeDistributed(layers.Dense(1))(np.ones((2, 3, 1)), mask=np.ones((2,), "bool")),
        ValueError,
        "Received: `mask`=(2,)",
    ),
    "mask of other words": (
        lambda: MaskedTimeDistributed(layers.LSTM(1))(np.ones((2, 3, 4, 1)), mask=np.ones((2, 3, 5), "bool")),
        ValueError,
        "Received: `mask`=(2, 3, 5)",
    ),
    "number of masks": (
        lambda: MaskedTimeDistributed(layers.Add())([np.ones((2, 3, 1))] * 3, mask=[np.ones((2, 3), "bool")] * 2),
        ValueError,
        "`mask` must be one mask for all inputs, or one for each of the 3. Received: `mask`=2",
    ),
    "stateful": (
        lambda: MaskedTimeDistributed(keras.Sequential([layers.LSTM(1, stateful=True)])),
        ValueError,
        "`layer` must be without a stateful RNN",
    ),
    "no tensor": (
        lambda: MaskedTimeDistributed(layers.Lambda(lambda x: None))(np.ones((2, 3, 1))),
        ValueError,
        "`layer` must be one that returns tensors with a row for each step",
    ),
    "no rows": (
        lambda: MaskedTimeDistributed(layers.Lambda(lambda x: x[:2]))(np.ones((2, 3, 1))),
        ValueError,
        "it returned the shape (2, 1) for inputs of shape (6, 1)",
    ),
    "activity": (
        lambda: MaskedTimeDistributed(layers.Dense(1, activity_regularizer="l2"))(masked(normal(0, 2, 3, 1), [1, 2])),
        ValueError,
        "`layer` must be without `activity_regularizer`",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    function, error, words = BAD[case]
    with pytest.raises(error) as caught:
        function()
    assert "MaskedTimeDistributed: " in str(caught.value)
    assert words in str(caught.value)
    assert "Received: " in str(caught.value)
