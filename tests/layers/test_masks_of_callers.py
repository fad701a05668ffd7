"""No layer changes the masks of the tensors that it is given: two masks for one input, and models built by `fit`."""

import keras
import numpy as np
import pytest
from keras import layers, ops, tree

import keras_seqx
from keras_seqx import KeepMask, MaskedTimeDistributed, RepeatToLength, SequenceMask
from keras_seqx._core import mask_metadata
from tests.cases import BACKEND, MODES, normal, to_numpy

STEPS = 4


def decoder(**kwargs):
    return keras_seqx.AutoregressiveDecoder(layers.GRUCell(3), layers.Dense(3), **kwargs)


def generator():
    speaker = keras_seqx.AutoregressiveDecoder(
        layers.GRUCell(3), layers.Dense(5), embedding=layers.Embedding(5, 3), return_state=True
    )
    return keras_seqx.TokenGenerator(speaker, end_token=1, max_steps=3)


def attention():
    return keras_seqx.AttentionCell(layers.GRUCell(3), units=3)


def frames(steps=STEPS):
    return normal(0, 2, steps, 3)


# A layer and how it is called on tensors, which come from the arrays.
CALLS = {
    "sequence_mask": (SequenceMask, [frames(), np.array([3, 1], "int32")], lambda f, x: f(x)),
    "repeat_to_length": (RepeatToLength, [normal(0, 2, 3), frames()], lambda f, x: f(x)),
    "repeat_to_length_1": (RepeatToLength, [normal(0, 2, 1), frames(1)], lambda f, x: f(x)),
    "identity": (lambda: MaskedTimeDistributed(layers.Identity()), [frames()], lambda f, x: f(x[0])),
    "identity_1": (lambda: MaskedTimeDistributed(layers.Identity()), [frames(1)], lambda f, x: f(x[0])),
    "identities": (lambda: MaskedTimeDistributed(layers.Identity()), [frames(), frames()], lambda f, x: f(x)),
    "keep_mask": (lambda: KeepMask(layers.Identity()), [frames()], lambda f, x: f(x[0])),
    "keep_mask_states": (
        lambda: KeepMask(layers.GRU(3, return_sequences=True, return_state=True)),
        [frames(), normal(1, 2, 3)],
        lambda f, x: f(x[0], initial_state=x[1]),
    ),
    "decoder": (decoder, [frames()], lambda f, x: f(x[0])),
    "decoder_1": (decoder, [frames(1)], lambda f, x: f(x[0])),
    "decoder_states": (
        lambda: decoder(return_state=True),
        [frames(1), normal(1, 2, 3)],
        lambda f, x: f(x[0], initial_state=x[1]),
    ),
    "token_generator": (generator, [np.array([[2, 3], [4, 2]], "int32")], lambda f, x: f(x[0])),
    "attention_cell": (
        attention,
        [normal(0, 2, 3), normal(1, 2, 3), normal(2, 2, 3), frames()],
        lambda f, x: f(x[0], [*x[1:3], *f.get_initial_state(batch_size=2)[2:]], memory=x[3]),
    ),
}


@pytest.mark.parametrize("masked", [False, True], ids=["bare", "masked"])
@pytest.mark.parametrize("case", CALLS)
def test_tensors_of_the_caller_keep_their_masks(case, masked):
    make, arrays, call = CALLS[case]
    tensors = [ops.convert_to_tensor(x) for x in arrays]
    if masked:
        for i, x in enumerate(tensors):
            if len(x.shape) == 3 or case == "token_generator":
                # Every step is valid: a decoder's masks are another test's.
                tensors[i] = mask_metadata.write(x, ops.ones(x.shape[:2], "bool"))
    before = [mask_metadata.read(x) for x in tensors]
    outputs = call(make(), tensors)
    for x, mask in zip(tensors, before, strict=True):
        assert mask_metadata.read(x) is mask
        assert all(y is not x for y in tree.flatten(outputs))


def average(x, lengths):
    return np.stack([row[:n].mean(0) if n else np.zeros(row.shape[-1]) for row, n in zip(x, lengths, strict=True)])


def test_the_same_tensor_with_one_length_after_another():
    x, pool = ops.convert_to_tensor(np.arange(4, dtype="float32").reshape(1, 4, 1)), layers.GlobalAveragePooling1D()
    received = [float(to_numpy(pool(SequenceMask()([x, np.array([n])])))[0, 0]) for n in (4, 2, 1)]
    assert received == [1.5, 0.5, 0.0]
    assert float(to_numpy(pool(x))[0, 0]) == 1.5


class TwoBranches(keras.Model):
    """The averages of one sequence to one length, to another, and of all its steps; `build` is left to Keras."""

    def __init__(self):
        super().__init__()
        self.mask, self.pool = SequenceMask(), layers.GlobalAveragePooling1D()
        self.out = layers.Dense(1, kernel_initializer="ones", use_bias=False)

    def call(self, inputs):
        x, first, second = inputs
        pooled = [self.pool(y) for y in (self.mask([x, first]), self.mask([x, second]), x)]
        return self.out(ops.stack(pooled, axis=1))[..., 0]


def functional():
    x, first, second = keras.Input((None, 2)), keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    mask, pool = SequenceMask(), layers.GlobalAveragePooling1D()
    pooled = ops.stack([pool(y) for y in (mask([x, first]), mask([x, second]), x)], axis=1)
    return keras.Model([x, first, second], layers.Dense(1, kernel_initializer="ones", use_bias=False)(pooled)[..., 0])


SETTINGS = {
    "tensorflow": [{"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}],
    "jax": [{}, {"run_eagerly": True}],
    "torch": [{}],
}[BACKEND]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("make", [TwoBranches, functional])
@pytest.mark.parametrize("first_call", ["fit", "evaluate", "predict"])
def test_two_masks_of_one_input_and_none(make, settings, first_call):
    x, first, second = normal(0, 4, STEPS, 2), np.array([4, 2, 1, 3], "int32"), np.array([1, 1, 3, 2], "int32")
    everything = np.full(4, STEPS)
    expected = np.stack([average(x, n) for n in (first, second, everything)], axis=1).sum(-1)
    model = make()
    model.compile("sgd", "mse", **settings)
    if first_call == "predict":
        np.testing.assert_allclose(model.predict([x, first, second], verbose=0), expected, atol=1e-5)
        return
    run = model.fit if first_call == "fit" else model.evaluate
    received = run([x, first, second], np.zeros((4, 3)), batch_size=4, verbose=0)
    received = received.history["loss"][0] if first_call == "fit" else received
    np.testing.assert_allclose(received, (expected**2).mean(), rtol=1e-5)


class Steps(keras.Model):
    """A masked RNN around a layer of ours for every step; `build` is left to Keras."""

    def __init__(self):
        super().__init__()
        self.mask, self.steps = SequenceMask(), MaskedTimeDistributed(layers.Dense(3))
        self.rnn = layers.SimpleRNN(2)

    def call(self, inputs):
        x, lengths = inputs
        return self.rnn(self.steps(self.mask([x, lengths])))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_model_that_fit_builds(settings):
    """Its numbers are those of the valid steps alone, from the first batch on."""
    x, lengths, y = normal(0, 4, STEPS, 2), np.array([4, 2, 1, 3], "int32"), normal(1, 4, 2)
    losses = []
    for padding in (0.0, np.nan):
        keras.utils.set_random_seed(0)
        model = Steps()
        model.compile("sgd", "mse", **settings)
        padded = np.where(np.arange(STEPS)[:, None] < lengths[:, None, None], x, np.float32(padding))
        losses.append(model.fit([padded, lengths], y, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("mode", MODES)
def test_one_layer_on_two_lengths_within_a_program(mode):
    class Both(keras.layers.Layer):
        def call(self, inputs):
            x, first, second = inputs
            mask, pool = SequenceMask(), layers.GlobalAveragePooling1D()
            return pool(mask([x, first])), pool(mask([x, second])), pool(x)

    x, first, second = normal(0, 2, STEPS, 2), np.array([4, 2], "int32"), np.array([1, 3], "int32")
    layer = Both()
    layer.built = True
    received = to_numpy(MODES[mode](layer, [ops.convert_to_tensor(v) for v in (x, first, second)]))
    for y, lengths in zip(received, (first, second, [STEPS, STEPS]), strict=True):
        np.testing.assert_allclose(y, average(x, lengths), atol=1e-6)
