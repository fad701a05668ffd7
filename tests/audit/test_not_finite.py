"""The audit passes nothing that it cannot see, and an exception of the user's model keeps its cause."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx.audit import audit_masking
from tests.audit.models import DATA, LENGTHS, X, mean, model

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not support masking")

FIRST_IS_NAN = X.copy()
FIRST_IS_NAN[:, 0] = np.nan


class Fill(layers.Layer):
    """Sets its outputs to a value, at all of them or where its inputs are negative."""

    def __init__(self, value, everywhere, **kwargs):
        super().__init__(**kwargs)
        self.value, self.everywhere, self.supports_masking = value, everywhere, True

    def call(self, inputs):
        where = ops.ones_like(inputs, "bool") if self.everywhere else inputs < 0
        return ops.where(where, ops.cast(self.value, inputs.dtype), inputs)


def audited(*stack, x=X, lengths=LENGTHS):
    return audit_masking(model(*stack), {"x": x, "lengths": lengths})


def test_a_nan_in_every_row_does_not_hide_a_leak():
    audit = audited(layers.GlobalMaxPooling1D(name="pool"), layers.Dense(2, name="head"), x=FIRST_IS_NAN)
    assert [row.verdict for row in audit.rows] == ["ok", "not finite", "not compared"], str(audit)
    assert audit.leaks == ["pool"]
    assert audit.not_compared == ["pool", "head"]
    assert "16 of 80 values of `x` are not finite" in str(audit)
    with pytest.raises(AssertionError, match="nothing finite could be compared"):
        audit.raise_on_leak()


def test_inputs_without_a_finite_value_do_not_pass():
    audit = audited(layers.Dense(2), mean(), x=np.full_like(X, np.nan))
    assert audit.leaks == []
    with pytest.raises(AssertionError, match="nothing finite could be compared"):
        audit.raise_on_leak()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_layer_that_leaves_nothing_finite_is_named(value):
    audit = audited(layers.Dense(3), Fill(value, True, name="broken"), mean())
    assert audit.leaks == ["broken"], str(audit)
    with pytest.raises(AssertionError, match="nothing finite"):
        audit.raise_on_leak()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_finite_are_compared_beside_those_that_are_not(value):
    partly = Fill(value, False, name="partly")
    good = audited(partly, layers.Dense(2, kernel_initializer="zeros"))
    assert "partly gives" in str(good)
    clean = audited(partly, layers.Activation("relu"))
    assert clean.raise_on_leak() is clean
    leaky = audited(partly, layers.UnitNormalization(axis=1, name="leaky"))
    assert "leaky" in leaky.leaks, str(leaky)


def test_padding_that_makes_nan_of_finite_values_is_a_leak():
    def call(h):
        return h / ops.cast(ops.shape(h)[1] <= 5, h.dtype)  # 0 where there is padding

    audit = audited(layers.Lambda(call, output_shape=lambda shape: shape, name="offender"), mean())
    assert audit.first_leak == "offender", str(audit)
    assert audit.rows[1].verdict == "leak"


def test_large_constants_set_no_scale():
    h = keras.Input((None, 4))
    masked = ops.where(h < 0, -1e9, h - ops.max(h, axis=1, keepdims=True))
    audit = audit_masking(keras.Model(h, masked), X, lengths=LENGTHS)
    assert len(audit.leaks) == 1, str(audit)


def test_integers_are_compared_exactly():
    ids = keras.Input((None,), dtype="int32")
    count = ops.sum(ops.ones_like(ids), axis=1, keepdims=True)
    audit = audit_masking(keras.Model(ids, ids + count), np.full((2, 4), 10**7), lengths=[4, 2])
    assert audit.leaks, str(audit)


def test_statistics_that_are_not_finite_do_not_pass():
    audit = audited(layers.BatchNormalization(name="norm"), x=FIRST_IS_NAN)
    assert audit.leaks == ["norm"], str(audit)


@pytest.mark.parametrize("per_step", [True, False])
def test_a_loss_that_is_not_finite_does_not_pass(per_step):
    net = model(layers.Dense(2), *([] if per_step else [mean()]))
    net.compile(loss=lambda y_true, y_pred: y_pred[..., 0] * np.nan)
    audit = audit_masking(net, DATA)
    assert audit.leaks == ["loss"], str(audit)
    assert audit.rows[-1].verdict == "not finite"


def test_a_loss_of_outputs_that_are_not_finite_is_not_at_fault():
    net = model(Fill(np.nan, True, name="broken"))
    net.compile(loss="mse")
    audit = audit_masking(net, DATA)
    assert audit.leaks == ["broken"], str(audit)
    assert audit.rows[-1].verdict == "not compared"


def test_a_logarithm_is_judged_where_it_is_defined():
    positive = np.abs(X) + 1
    positive *= (np.arange(5) < LENGTHS[:, None])[..., None]
    log = layers.Lambda(lambda h: ops.log(ops.where(h == 0, 1.0, h)), mask=lambda inputs, mask: mask)
    net = keras.Sequential([layers.Masking(), log, mean()])
    assert audit_masking(net, positive).leaks == []


# Layers used at several places.


def shared_models():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((None, 4))
    inner = keras.Model(inputs, layers.LayerNormalization(name="norm")(shared(inputs)), name="inner")
    outer = keras.Model(inputs, inner(inputs), name="outer")
    return {
        "model and nested": ([shared, inner], ["shared", "inner/shared", "inner/norm"]),
        "nested and model": ([inner, shared], ["inner/shared", "inner/norm", "shared"]),
        "nested twice": ([inner, inner], ["inner/shared", "inner/norm"] * 2),
        "two branches": ([lambda h: layers.Add(name="sum")([inner(h), inner(h)])], ["inner/shared", "inner/norm"] * 2),
        "two depths": ([inner, outer], ["inner/shared", "inner/norm", "outer/inner/shared", "outer/inner/norm"]),
    }


@pytest.mark.parametrize("case", shared_models())
def test_shared_layers_are_named_by_who_called_them(case):
    stack, names = shared_models()[case]
    net = model(*stack, mean())
    parts = [net, *net.layers, *net.get_layer("inner").layers]
    attributes = [set(vars(part)) for part in parts]
    audit = audit_masking(net, DATA)
    assert [row.layer for row in audit.rows if "/" in row.layer or row.layer == "shared"] == names
    assert audit.leaks == [], str(audit)
    assert [set(vars(part)) for part in parts] == attributes
    first_column = [line.split("  ")[0] for line in str(audit).splitlines()[2 : 2 + len(audit.rows)]]
    assert len(set(first_column)) == len(audit.rows)


def test_only_the_call_that_leaks_is_at_fault():
    inputs = keras.Input((None, 4))
    pool = layers.GlobalMaxPooling1D(name="pool")
    inner = keras.Model(inputs, pool(inputs), name="inner")

    def both(h):
        whole = ops.expand_dims(ops.max(layers.Masking()(h) * 0.0, axis=(1, 2)), 1)
        return layers.Concatenate()([inner(h), pool(whole[:, None])])

    audit = audited(both)
    assert "inner/pool" in audit.leaks, str(audit)
    assert "pool" not in audit.leaks


# Exceptions of the user's model.


class Failing(layers.Layer):
    """Raises once it sees numbers, at once or where there are more than `steps`."""

    def __init__(self, steps, **kwargs):
        super().__init__(**kwargs)
        self.steps, self.supports_masking = steps, True

    def call(self, inputs):
        if inputs.shape[1] > self.steps:
            raise ValueError("the user's own words") from KeyError("deeper")
        return inputs + 0.0

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def chain(error):
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize(
    ("steps", "text"), [(0, "able to run on `x`.*failing raised"), (5, ".*other numbers of steps.*failing refused")]
)
@pytest.mark.parametrize("nested", [False, True])
def test_an_exception_of_a_layer_keeps_its_words_and_cause(steps, text, nested):
    failing = Failing(steps, name="failing")
    inputs = keras.Input((None, 4))
    part = keras.Model(inputs, failing(inputs), name="inner") if nested else failing
    with pytest.raises(
        ValueError, match=f"audit_masking: `model` must be {text}.*ValueError: the user.s own words"
    ) as e:
        audited(part, mean())
    causes = list(chain(e.value))
    assert isinstance(causes[-1], KeyError)
    assert any("the user's own words" in str(cause) for cause in causes[1:])
    assert "call" not in vars(failing)


class Broken(keras.Model):
    def call(self, inputs):
        raise ZeroDivisionError("in the model itself")


def test_an_exception_of_a_subclassed_model_keeps_its_words_and_cause():
    with pytest.raises(ValueError, match="in the model itself") as e:
        audit_masking(Broken(), X)
    assert any(isinstance(cause, ZeroDivisionError) for cause in chain(e.value))


def test_an_exception_of_the_loss_is_told():
    def loss(y_true, y_pred):
        raise KeyError("in the loss")

    net = model(layers.Dense(2))
    net.compile(loss=loss)
    assert "in the loss" in str(audit_masking(net, DATA))
    with pytest.raises(ValueError, match=r"`y` must be.*in the loss"):
        audit_masking(net, DATA, np.zeros((4, 5, 2)))
