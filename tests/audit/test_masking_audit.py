"""The audit's inputs, the loss, the table, and that the model is left as it was."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import SequenceMask
from keras_seqx.audit import MaskingAudit, audit_masking
from tests.audit.models import DATA, IDS, LENGTHS, Centred, PlainNormalization, X, mean, model

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not support masking")


def two_inputs():
    """A sequence that is told by its values, one that is told by lengths, and a vector."""
    ids, x, vector = keras.Input((None,), name="ids"), keras.Input((None, 4), name="x"), keras.Input((5,), name="v")
    lengths = keras.Input((), dtype="int32", name="n")
    words = layers.Embedding(9, 4, mask_zero=True)(ids)
    frames = SequenceMask()([x, lengths])
    attended = layers.Attention()([words, frames])
    h = layers.Concatenate()([mean()(attended), layers.GlobalMaxPooling1D(name="loud")(frames), vector])
    return keras.Model({"ids": ids, "x": x, "v": vector, "n": lengths}, h)


def test_inputs_have_their_own_lengths():
    x = np.random.default_rng(1).normal(size=(4, 7, 4)).astype("float32")
    data = {"ids": IDS, "x": x, "v": X[:, :, 0], "n": np.array([7, 4, 4, 7])}
    audit = audit_masking(two_inputs(), data)
    assert audit.leaks == ["loud"], str(audit)


@pytest.mark.parametrize(
    "lengths", [None, LENGTHS, [5, 3, 5, 3], (LENGTHS, None)], ids=["own", "array", "list", "each"]
)
def test_inputs_in_a_tuple(lengths):
    x, n = keras.Input((None, 4)), keras.Input((), dtype="int32")
    net = keras.Model([x, n], mean()(SequenceMask()([x, n])))
    assert audit_masking(net, (X, LENGTHS), lengths=lengths).leaks == []


def test_shared_layer_is_judged_at_every_call():
    shared = layers.Dense(4, name="shared")
    audit = audit_masking(model(shared, shared, mean()), DATA)
    assert [row.layer for row in audit.rows] == ["sequence_mask", "shared", "shared", "mean"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_fixed_length_is_opened(nested):
    net = model(layers.Dense(4), layers.UnitNormalization(axis=1, name="offender"), mean(), steps=5)
    if nested:
        inputs = {"x": keras.Input((5, 4)), "lengths": keras.Input((), dtype="int32")}
        net = keras.Model(inputs, net(inputs))
    before = net.input_spec
    audit = audit_masking(net, DATA)
    assert audit.first_leak.endswith("offender"), str(audit)
    assert str(net.input_spec) == str(before)
    with pytest.raises(ValueError, match="shape"):
        net({"x": X[:, :4], "lengths": LENGTHS})


def test_a_layer_that_cannot_follow_is_named():
    net = model(layers.Flatten(), layers.Dense(2, name="stiff"), steps=5)
    with pytest.raises(ValueError, match=r"audit_masking: `model` must be able to run .*stiff refused .*3, 4"):
        audit_masking(net, DATA)


@pytest.mark.parametrize("loss", ["mse", "sparse_categorical_crossentropy"])
def test_loss_and_metrics(loss):
    for last, clean in ((layers.Activation("softmax"), True), (ops.softmax, False)):
        net = model(layers.Dense(2, bias_initializer="ones"), last)
        net.compile(loss=loss, metrics=["accuracy"], weighted_metrics=["mae"] if loss == "mse" else None)
        audit = audit_masking(net, DATA)
        assert (audit.loss_change < 1e-5) == clean, str(audit)
        assert (max(audit.metrics_change.values()) < 1e-5) == clean or loss == "mse"
        assert len(audit.metrics_change) == (2 if loss == "mse" else 1)
        assert (audit.leaks == []) == clean
        assert clean or audit.rows[-2].verdict == "misled"


def test_loss_that_counts_padding_is_at_fault():
    class Counting(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return ops.mean((y_true - y_pred) ** 2)

    net = model(layers.Dense(2))
    net.compile(loss=Counting())
    audit = audit_masking(net, DATA, np.zeros((4, 5, 2)))
    assert audit.leaks == ["loss"], str(audit)


def test_targets_without_time():
    net = model(layers.Dense(2), mean())
    net.compile(loss="mse")
    assert audit_masking(net, DATA, np.ones((4, 2))).loss_change < 1e-5


def test_one_row_says_what_it_cannot_show():
    audit = audit_masking(model(Centred(0), mean()), {"x": X[1:2], "lengths": LENGTHS[1:2]})
    assert audit.leaks == []
    assert "one row" in audit.notes[-1]


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_one_length_show_it(groups):
    lengths = LENGTHS if groups == 2 else np.full(4, 5)
    audit = audit_masking(model(Centred(0), mean()), {"x": X, "lengths": lengths})
    assert [row.verdict for row in audit.rows] == ["ok", "mixes rows", "ok"]


def test_the_model_is_left_as_it_was():
    net = model(PlainNormalization(), layers.Dropout(0.5), layers.BatchNormalization(), layers.Dense(2))
    net.compile(optimizer="adam", loss="mse", metrics=["mae"])
    y = np.ones((4, 5, 2))
    net.train_on_batch(DATA, y)
    net.evaluate(DATA, y, verbose=0)

    def state():
        variables = [*net.variables, *net.metrics_variables, *net.optimizer.variables]
        return [np.array(ops.convert_to_numpy(v)) for v in variables]

    attributes = [set(vars(layer)) for layer in (net, *net.layers)]
    before, result = state(), net.get_metrics_result()
    assert audit_masking(net, DATA, y).leaks
    for a, b in zip(before, state(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {k: float(v) for k, v in net.get_metrics_result().items()} == {k: float(v) for k, v in result.items()}
    assert [set(vars(layer)) for layer in (net, *net.layers)] == attributes
    assert DATA["x"] is X


def test_table():
    audit = audit_masking(model(lambda h: h * 2, mean()), DATA)
    assert isinstance(audit, MaskingAudit)
    lines = str(audit).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert set(lines[1]) == {"-"}
    assert "leaks: multiply" in str(audit)
    assert "Rescaling" in str(audit)
    with pytest.raises(AttributeError):
        audit.rows[0].layer = "other"


GOOD = {"x": X, "lengths": LENGTHS}
ERRORS = {
    "no model": (TypeError, "`model` must be a Keras model", lambda: audit_masking(layers.Dense(2), X)),
    "padding": (ValueError, "`extra_padding` must be", lambda: audit_masking(model(mean()), GOOD, extra_padding=0)),
    "rows": (ValueError, "`x` must be arrays", lambda: audit_masking(model(mean()), GOOD | {"x": X[:2]})),
    "text": (ValueError, "`x` must be an array", lambda: audit_masking(model(mean()), np.array(["a"]))),
    "vectors": (ValueError, "`x` must be sequences", lambda: audit_masking(keras.Sequential([mean()]), X[:, 0, 0])),
    "features": (ValueError, "`x` must be inputs", lambda: audit_masking(model(mean()), GOOD | {"x": X[:, :, :2]})),
    "too long": (ValueError, "`lengths` must be from 1", lambda: audit_masking(model(mean()), GOOD, lengths=[6] * 4)),
    "empty": (ValueError, "`lengths` must be from 1", lambda: audit_masking(model(mean()), GOOD, lengths=[0] * 4)),
    "shape": (ValueError, "`lengths` must be integers", lambda: audit_masking(model(mean()), GOOD, lengths=[3])),
    "floats": (ValueError, "`lengths` must be integers", lambda: audit_masking(model(mean()), GOOD, lengths=[3.0] * 4)),
    "structure": (ValueError, "`lengths` must be", lambda: audit_masking(model(mean()), GOOD, lengths={"z": [3] * 4})),
}


@pytest.mark.parametrize(("kind", "text", "call"), ERRORS.values(), ids=ERRORS)
def test_bad_input_is_explained(kind, text, call):
    with pytest.raises(kind, match=f"audit_masking: {text}"):
        call()


def test_bad_targets_are_explained():
    net = model(layers.Dense(2))
    net.compile(loss="mse")
    with pytest.raises(ValueError, match="audit_masking: `y` must be"):
        audit_masking(net, DATA, np.zeros((3, 5, 2)))
