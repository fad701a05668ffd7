"""Every loss of Keras after MaskedTimeDistributed is that of the valid steps alone, in value and gradient."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, losses, ops

from keras_seqx import MaskedTimeDistributed, SequenceMask
from tests.cases import BACKEND, gradients, normal, to_numpy

CLASSES = 3
LENGTHS = np.array([4, 1, 2], "int32")


def one_hot(ids):
    return np.eye(CLASSES, dtype="float32")[ids]


# The activation of the output, and what targets are made of random ids.
PROBABILITIES = ("softmax", one_hot)
HEADS = {
    losses.CategoricalCrossentropy: PROBABILITIES,
    losses.CategoricalFocalCrossentropy: PROBABILITIES,
    losses.CategoricalHinge: PROBABILITIES,
    losses.KLDivergence: PROBABILITIES,
    losses.CosineSimilarity: PROBABILITIES,
    losses.SparseCategoricalCrossentropy: ("softmax", lambda ids: ids),
    losses.CategoricalGeneralizedCrossEntropy: ("softmax", lambda ids: ids),
    losses.BinaryCrossentropy: ("sigmoid", one_hot),
    losses.BinaryFocalCrossentropy: ("sigmoid", one_hot),
    losses.Hinge: ("sigmoid", one_hot),
    losses.SquaredHinge: ("sigmoid", one_hot),
}
if hasattr(losses, "SparseCategoricalFocalCrossentropy"):  # from Keras 3.16 on
    HEADS[losses.SparseCategoricalFocalCrossentropy] = HEADS[losses.SparseCategoricalCrossentropy]
POSITIVE = ("softplus", lambda ids: one_hot(ids) + 0.5)
# They reduce over time themselves, or compare the rows of a batch, and take no mask.
WITHOUT_MASK = {losses.CTC, losses.Circle, losses.Dice, losses.Tversky}
LOSSES = [
    loss
    for name, loss in inspect.getmembers(losses, inspect.isclass)
    if issubclass(loss, losses.Loss) and loss is not losses.Loss and loss not in WITHOUT_MASK
]


class SoftplusLogLikelihood(losses.Loss):
    """The negative log-likelihood of a Gaussian whose scale is positive, as a softplus makes it."""

    def call(self, y_true, y_pred):
        scale = y_pred[..., 1]
        return ops.log(scale) + ops.square((y_true[..., 0] - y_pred[..., 0]) / scale) / 2


def padded(x, steps, value):
    """`x` (B, T, ...) with `value` after each row's length, and to `steps` steps in all."""
    valid = (np.arange(x.shape[1]) < LENGTHS[:, None]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    x = np.where(valid, x, np.asarray(value, x.dtype))
    return np.pad(x, [(0, 0), (0, steps - x.shape[1])] + [(0, 0)] * (x.ndim - 2), constant_values=value)


def padded_and_alone(activation, targets, **kwargs):
    """Two functions from a loss to its value: of a padded batch, and of the valid steps alone; and their layer."""
    x, ids = normal(0, 3, 4, 5), np.random.default_rng(0).integers(0, CLASSES, (3, 4))
    valid = np.arange(4) < LENGTHS[:, None]
    layer = MaskedTimeDistributed(layers.Dense(CLASSES, activation), **kwargs)
    layer.build((3, 4, 5))
    noise, zeros = ops.convert_to_tensor(padded(x, 6, np.nan)), padded(targets(ids), 6, 0)
    rows, row_targets = x[valid], targets(ids)[valid]

    def of_padded(loss):
        return loss(zeros, layer(SequenceMask()([noise, ops.convert_to_tensor(LENGTHS)])))

    return of_padded, lambda loss: loss(row_targets, layer.layer(ops.convert_to_tensor(rows))), layer


def check(losses_, activation, targets, **kwargs):
    of_padded, alone, layer = padded_and_alone(activation, targets, **kwargs)
    for loss in losses_:
        np.testing.assert_allclose(to_numpy(of_padded(loss)), to_numpy(alone(loss)), rtol=1e-4, err_msg=repr(loss))
    # One gradient for all of them, as each would be compiled.
    scale = [1 / (1 + abs(float(to_numpy(alone(loss))))) for loss in losses_]
    received, expected = (
        gradients(lambda run=run: sum(c * run(loss) for c, loss in zip(scale, losses_, strict=True)), layer)
        for run in (of_padded, alone)
    )
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


SKIPPING = [False, True] if BACKEND != "jax" else [False]


@pytest.mark.parametrize("skip_masked", SKIPPING)
@pytest.mark.parametrize(
    "head",
    [PROBABILITIES, HEADS[losses.SparseCategoricalCrossentropy], ("sigmoid", one_hot), POSITIVE],
    ids=["softmax", "sparse", "sigmoid", "softplus"],
)
def test_every_loss_is_that_of_the_valid_steps(head, skip_masked):
    some = [loss() for loss in LOSSES if HEADS.get(loss, POSITIVE)[0] == head[0]]
    some = [loss for loss in some if (HEADS.get(type(loss), POSITIVE)[1] is one_hot) == (head[1] is one_hot)]
    assert len(some) >= 2
    check(some, *head, skip_masked=skip_masked)


def test_a_softplus_scale_in_a_log_likelihood():
    check([SoftplusLogLikelihood()], *POSITIVE)


def test_losses_that_sum_over_time_themselves_want_zeros():
    check([losses.Dice(), losses.Tversky()], "sigmoid", one_hot, masked_value=0.0)
    check([losses.Dice(axis=-1), losses.Tversky(axis=-1)], "sigmoid", one_hot)


CROSSENTROPIES = {
    "categorical_crossentropy": (one_hot, lambda p: -np.log(p)),
    "categorical_focal_crossentropy": (one_hot, lambda p: -0.25 * (1 - p) ** 2 * np.log(p)),
    "sparse_categorical_crossentropy": (lambda ids: ids, lambda p: -np.log(p)),
}


@pytest.mark.parametrize("loss", CROSSENTROPIES)
def test_fit(loss):
    """The first batch's loss is NumPy's of the valid steps, and training stays finite."""
    targets, of_probability = CROSSENTROPIES[loss]
    x, lengths = keras.Input((None, 5)), keras.Input((), dtype="int32")
    outputs = MaskedTimeDistributed(layers.Dense(CLASSES, "softmax"))(SequenceMask()([x, lengths]))
    model = keras.Model([x, lengths], outputs)
    model.compile("sgd", loss)
    data, ids = normal(0, 3, 4, 5), np.random.default_rng(0).integers(0, CLASSES, (3, 4))
    valid = np.arange(4) < LENGTHS[:, None]
    kernel, bias = model.get_weights()
    logits = (data @ kernel + bias)[valid]
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = of_probability(probabilities[np.arange(valid.sum()), ids[valid]]).mean()
    batch = [padded(data, 6, 0), LENGTHS], padded(targets(ids), 6, 0)
    history = model.fit(*batch, epochs=3, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()]).history["loss"]
    np.testing.assert_allclose(history[0], expected, rtol=1e-4)
    assert len(history) == 3
    assert history[2] < history[0]
