"""EditDistance and SequenceAccuracy: the textbook's numbers, on padded batches, compiled."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from keras import ops

from keras_seqx.metrics import EditDistance, SequenceAccuracy
from keras_seqx.testing import execution
from keras_seqx.testing.execution import to_numpy
from tests.cases import BACKEND
from tests.reference.edit_distance import accuracy, error_rate, sequence

ROWS, REFERENCES, TRUE_STEPS, STEPS, VOCABULARY = 4, 2, 5, 7, 4
COMPILED = execution.modes()[1:] or execution.modes()
TOKENS = {"none": {}, "end": {"end_token": 0}, "pad": {"pad_token": 1}, "both": {"end_token": 0, "pad_token": 1}}

KINDS = {
    "rate": (EditDistance, {}, error_rate),
    "distance": (EditDistance, {"normalize": False}, lambda *x: error_rate(*x, normalize=False)),
    "accuracy": (SequenceAccuracy, {}, accuracy),
}


def ids(*shape):
    return npst.arrays("int32", shape, elements=st.integers(0, VOCABULARY - 1))


def updated(metric, mode, hand=lambda *batch: batch):
    """A function from a batch to the result after it, compiled, and starting anew."""

    def run(*batch):
        zeros = [ops.zeros((), v.dtype) for v in metric.variables]
        return metric.stateless_result(metric.stateless_update_state(zeros, *hand(*batch)))

    compiled = execution.compiled(run, mode)
    return lambda *batch: float(to_numpy(compiled(*map(ops.convert_to_tensor, batch))))


def tokens_of(options):
    return options.get("end_token"), options.get("pad_token")


@pytest.mark.parametrize("mode", COMPILED)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_textbook(kind, tokens, mode):
    make, options, oracle = KINDS[kind]
    run = updated(make(**options, **TOKENS[tokens]), mode)
    end_and_pad = tokens_of(TOKENS[tokens])

    @given(
        y_true=ids(ROWS, REFERENCES, TRUE_STEPS),
        y_pred=ids(ROWS, STEPS),
        weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=ROWS, max_size=ROWS),
        same=st.lists(st.booleans(), min_size=ROWS, max_size=ROWS),
        gaps=st.booleans(),
    )
    def check(y_true, y_pred, weights, same, gaps):
        # Right by chance is rare; and what is left out may be anywhere.
        y_pred[same, :TRUE_STEPS] = y_true[same, 0]
        y_pred[same, TRUE_STEPS:] = 1 if tokens == "pad" else 0
        if gaps:
            y_true[:, :, 1] = y_pred[:, 3] = 1
        items = [
            ([sequence(r, *end_and_pad) for r in references], sequence(p, *end_and_pad))
            for references, p in zip(y_true, y_pred, strict=True)
        ]
        weights = np.array(weights, "float32")
        received = run(y_true, y_pred, weights)
        np.testing.assert_allclose(received, oracle(items, weights), rtol=1e-6)

    check()


def masked(x, mask):
    return keras.layers.Lambda(lambda x: x, mask=mask)(x)


# What `update_state` is handed of a batch, and which steps of target and prediction should count then. Scores stand
# at the target's steps, ids stand for themselves.
HANDED = {
    "scores and weights": (lambda t, p, s, w, m: (t, s, w), lambda w, m: (w, w)),
    "ids and weights": (lambda t, p, s, w, m: (t, p, w), lambda w, m: (w, m | True)),
    "scores and mask": (lambda t, p, s, w, m: (t, masked(s, m)), lambda w, m: (m, m)),
    "ids and mask": (lambda t, p, s, w, m: (t, masked(p, m)), lambda w, m: (m | True, m)),
    "masked target": (lambda t, p, s, w, m: (masked(t, m), s), lambda w, m: (m, m)),
    "mask and weights": (lambda t, p, s, w, m: (t, masked(s, m), w), lambda w, m: (w & m, w & m)),
    "references": (lambda t, p, s, w, m: (t[:, None], masked(s, m)), lambda w, m: (m | True, m)),
    "fewer scores": (lambda t, p, s, w, m: (t, s[:, :-1], w), lambda w, m: (w, np.ones_like(w)[:, :-1])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_weights_of_steps(kind):
    make, options, oracle = KINDS[kind]
    runs = {name: updated(make(**options), COMPILED[0], hand) for name, (hand, _) in HANDED.items()}

    @given(
        y_true=ids(ROWS, TRUE_STEPS),
        y_pred=ids(ROWS, TRUE_STEPS),
        used=npst.arrays("bool", (ROWS, TRUE_STEPS)),
        mask=npst.arrays("bool", (ROWS, TRUE_STEPS)),
    )
    def check(y_true, y_pred, used, mask):
        scores = np.eye(VOCABULARY, dtype="float32")[y_pred]
        weights = used * np.linspace(1, 2, TRUE_STEPS, dtype="float32")
        of_items = weights.sum(axis=1) / np.maximum(used.sum(axis=1), 1)
        for name, (_, steps) in HANDED.items():
            rows = zip(y_true, y_pred, *steps(used, mask), strict=True)
            items = [([sequence(t, steps=a)], sequence(p[: len(b)], steps=b)) for t, p, a, b in rows]
            expected = oracle(items, of_items if "weights" in name or "fewer" in name else None)
            received = runs[name](y_true, y_pred, scores, weights, mask)
            np.testing.assert_allclose(received, expected, rtol=1e-6, err_msg=name)

    check()


@pytest.mark.parametrize("mode", COMPILED)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, mode):
    make, options, _ = KINDS[kind]
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 4, (3, 2, 4)).astype("int32"), rng.integers(0, 4, (3, 5)).astype("int32")
    y_pred[0, :4], y_pred[0, 4] = y_true[0, 1], 0
    run = updated(make(**options, pad_token=0), mode)
    more = run(np.pad(y_true, [(0, 0), (0, 2), (0, 3)]), np.pad(y_pred, [(0, 0), (1, 2)]))
    assert more == run(y_true, y_pred)
    assert more > 0


def test_several_references():
    metric = EditDistance(pad_token=0)
    # As near as the first, the second is longer; the third is empty, and would be nearest to the last prediction.
    y_true = np.array([[[1, 2, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]], [[1, 2, 3, 4], [0] * 4, [0] * 4]])
    metric.update_state(y_true, np.array([[1, 2, 3], [0, 0, 0]]))
    assert float(metric.result()) == pytest.approx((1 + 4) / (4 + 4))


def test_an_empty_target():
    metric = EditDistance(pad_token=0)
    assert float(metric.result()) == 0
    metric.update_state(np.zeros((1, 3), int), np.array([[0, 0]]))
    assert float(metric.result()) == 0
    metric.update_state(np.zeros((1, 3), int), np.array([[1, 1]]))
    assert float(metric.result()) == np.inf
    metric.update_state(np.array([[1, 2, 3, 4]]), np.array([[1, 2]]))
    assert float(metric.result()) == 1


def test_accumulates_and_resets():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 3, (6, 4)), rng.integers(0, 3, (6, 5))
    y_pred[2, :4], y_pred[2, 4], y_true[2, 3] = y_true[2], 0, 0
    weights = rng.uniform(size=6)
    whole, parts = EditDistance(end_token=0), EditDistance(end_token=0)
    whole.update_state(y_true, y_pred, weights)
    # Batches may differ in every length.
    parts.update_state(y_true[:2], np.pad(y_pred[:2], [(0, 0), (0, 2)]), weights[:2])
    parts.update_state(y_true[2:, None], y_pred[2:], weights[2:, None])
    assert float(parts.result()) == pytest.approx(float(whole.result()))
    assert float(whole.result()) > 0
    parts.reset_state()
    assert float(parts.result()) == 0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="shapes are open in TensorFlow's graphs alone")
@pytest.mark.parametrize("kind", KINDS)
def test_open_shapes(kind):
    import tensorflow as tf

    make, options, oracle = KINDS[kind]
    metric = make(**options, end_token=0)
    whole = tf.TensorSpec([None, None], "int32")
    scores = tf.TensorSpec([None, None, 4], "float32")
    update = tf.function(metric.update_state, input_signature=[whole, scores, tf.TensorSpec([None, None], "float32")])
    rng = np.random.default_rng(0)
    for true_steps, steps in ((3, 3), (4, 2), (2, 6)):
        y_true, y_pred = rng.integers(0, 4, (5, true_steps)), rng.integers(0, 4, (5, steps))
        y_pred[1:4, :2] = y_true[1:4, :2]
        used = rng.uniform(size=(5, true_steps)) < 0.8
        used[1:4], used[1:4, 2:] = True, False
        metric.reset_state()
        update(y_true.astype("int32"), np.eye(4, dtype="float32")[y_pred], used.astype("float32"))
        along = used if true_steps == steps else np.ones_like(y_pred, "bool")
        rows = zip(y_true, y_pred, used, along, strict=True)
        items = [([sequence(t, 0, None, a)], sequence(p, 0, None, b)) for t, p, a, b in rows]
        np.testing.assert_allclose(float(metric.result()), oracle(items, used.any(axis=1)), rtol=1e-6)


def echo(mask_zero):
    """A model whose scores say what it read, and whose mask leaves out zeros."""
    embedding = keras.layers.Embedding(5, 5, mask_zero=mask_zero, embeddings_initializer="identity")
    return keras.Sequential([keras.Input((6,), dtype="int32"), embedding])


def metrics():
    return [EditDistance(name="rate"), SequenceAccuracy(name="right")]


def data():
    rng = np.random.default_rng(0)
    y, x = rng.integers(1, 5, (7, 6)), rng.integers(1, 5, (7, 6))
    x[::2] = y[::2]
    lengths = rng.integers(1, 7, 7)
    valid = np.arange(6) < lengths[:, None]
    return (x * valid).astype("int32"), (y * valid).astype("int32"), valid


def expected_of(x, y, valid):
    items = [([sequence(t, steps=v)], sequence(p, steps=v)) for t, p, v in zip(y, x, valid, strict=True)]
    rate, right = error_rate(items), accuracy(items)
    assert 0 < rate < 1
    assert 0 < right < 1
    return {"rate": pytest.approx(rate, rel=1e-6), "right": pytest.approx(right, rel=1e-6)}


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("by", ["mask", "weights"])
def test_in_fit_and_evaluate(by, tmp_path):
    x, y, valid = data()
    expected = expected_of(x, y, valid)
    weights = {} if by == "mask" else {"sample_weight": valid.astype("float32")}
    model = echo(mask_zero=by == "mask")
    model.compile(keras.optimizers.SGD(0.0), LOSS, **{"metrics" if by == "mask" else "weighted_metrics": metrics()})
    logs = model.fit(x, y, **weights, batch_size=3, validation_data=(x, y, *weights.values()), verbose=0).history
    for name, value in expected.items():
        assert logs["val_" + name] == [value]
        if by == "weights" or BACKEND != "jax":  # from JAX' training steps Keras does not carry the mask
            assert logs[name] == [value]

    model.save(tmp_path / "echo.keras")
    model = keras.models.load_model(tmp_path / "echo.keras")
    received = model.evaluate(x, y, **weights, batch_size=3, verbose=0, return_dict=True)
    assert {name: received[name] for name in expected} == expected


def test_tells_callbacks_which_results_are_better():
    x, y, _ = data()
    model = echo(mask_zero=False)
    model.compile(keras.optimizers.SGD(0.0), LOSS, metrics=metrics())
    callbacks = [keras.callbacks.EarlyStopping("rate"), keras.callbacks.EarlyStopping("right")]
    model.fit(x, y, epochs=1, verbose=0, callbacks=callbacks)
    assert [c.monitor_op(1, 2) for c in callbacks] == [True, False]


def test_comes_back_from_its_config():
    for make, options, _ in KINDS.values():
        metric = make(end_token=3, pad_token=-1, name="other", dtype="float64", **options)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
        assert type(again) is make
        assert again.get_config() == metric.get_config()
        assert (again.end_token, again.pad_token, again.name, again.dtype) == (3, -1, "other", "float64")


BAD = {
    "float targets": (np.ones((2, 3)), np.ones((2, 3), int), None, TypeError, "`y_true` must be integer token ids"),
    "one-hot": (np.ones((2, 3, 4)), np.ones((2, 3, 4)), None, TypeError, "`y_true` must be integer token ids"),
    "flat targets": (np.ones(2, int), np.ones((2, 3), int), None, ValueError, "`y_true` must be of shape (B, T), or"),
    "float ids": (np.ones((2, 3), int), np.ones((2, 3)), None, TypeError, "`y_pred` must be integer token ids (B, T)"),
    "deep ids": (np.ones((2, 3), int), np.ones((2, 3, 4), int), None, ValueError, "`y_pred` must be integer token ids"),
    "flat scores": (np.ones((2, 3), int), np.ones(2), None, ValueError, "`y_pred` must be integer token ids"),
    "batches": (np.ones((2, 3), int), np.ones((3, 3), int), None, ValueError, "batch size as `y_true`, 2"),
    "weights": (np.ones((2, 3), int), np.ones((2, 3), int), np.ones((2, 4)), ValueError, "`sample_weight` must be"),
    "deep weights": (
        np.ones((2, 3), int),
        np.ones((2, 3), int),
        np.ones((2, 3, 1)),
        ValueError,
        "`sample_weight` must",
    ),
    "fewer weights": (np.ones((2, 3), int), np.ones((2, 3), int), np.ones(3), ValueError, "`sample_weight` must be of"),
    "references": (np.ones((2, 2, 3), int), np.ones((2, 3), int), np.ones((2, 3)), ValueError, "`sample_weight` must"),
}


def test_bad_input():
    for make, _, _ in KINDS.values():
        for name, (y_true, y_pred, weight, error, words) in BAD.items():
            with pytest.raises(error, match=f"^{make.__name__}: ") as caught:
                make().update_state(y_true, y_pred, weight)
            assert words in str(caught.value), name
            assert "Received: " in str(caught.value), name
        for bad in (1.0, True, "0"):
            with pytest.raises(TypeError, match=f"{make.__name__}: `pad_token` must be an integer or None"):
                make(pad_token=bad)
