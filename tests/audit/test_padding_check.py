"""A warning, once, where padded data go to a model that counts padding, and none where they do not."""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import KeepMask, LengthBucketing, PaddingMonitor, SequenceMask, audit_masking

rng = np.random.default_rng(0)
COUNTS = rng.integers(3, 12, 24)
IDS = [rng.integers(1, 9, count) for count in COUNTS]
LABELS = [row % 3 for row in IDS]
FRAMES = [rng.normal(size=(count, 2)).astype("float32") for count in COUNTS]


def data_of(x=IDS, y=LABELS, **options):
    return LengthBucketing(x, y, **({"batch_size": 8, "buckets": 2, "seed": 0} | options))


def warned(action):
    """The package's warnings while `action` runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    owners = ("PaddingMonitor:", "LengthBucketing.predict:")
    return [str(warning.message) for warning in caught if str(warning.message).startswith(owners)]


def fit(model, data, epochs=1):
    monitor = PaddingMonitor(data)
    model.fit(data, epochs=epochs, steps_per_epoch=1, shuffle=False, verbose=0, callbacks=[monitor])


def tagger(*stack, loss="sparse_categorical_crossentropy", **options):
    model = keras.Sequential([*stack, layers.Dense(3, activation="softmax", name="out")])
    model.compile("sgd", loss, run_eagerly=True, **options)
    return model


def embedding(mask_zero):
    return layers.Embedding(9, 3, mask_zero=mask_zero, name="words")


# The stack, the targets, options of the data and of `compile`, and what the warning says.
CASES = {
    "masked": ([embedding(True)], LABELS, {}, {"metrics": ["accuracy"]}, None),
    "masked, one label": ([embedding(True), layers.GlobalAveragePooling1D()], COUNTS % 3, {}, {}, None),
    "no mask, one label": (
        [embedding(False), layers.GlobalAveragePooling1D(name="pool")],
        COUNTS % 3,
        {},
        {},
        "valid outputs .*pool: No mask reaches it",
    ),
    "no mask, labels": ([embedding(False)], LABELS, {}, {}, "loss .*No mask reaches it"),
    "mask lost": (
        [embedding(True), layers.Conv1D(3, 2, padding="causal", name="conv")],
        LABELS,
        {},
        {},
        "loss .*conv: It loses the mask.*KeepMask",
    ),
    "mask kept": ([embedding(True), KeepMask(layers.Conv1D(3, 2, padding="causal"))], LABELS, {}, {}, None),
    "constant bias": (
        # Before training the bias is 0, so the window finds zeros after the sequence with and without padding.
        [
            layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=1)),
            layers.Conv1D(
                3,
                3,
                padding="same",
                kernel_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=2),
                name="conv",
            ),
        ],
        LABELS,
        {"x": FRAMES},
        {},
        "valid outputs",
    ),
    "no padding": ([embedding(False)], [row[:3] % 3 for row in IDS], {"x": [row[:3] for row in IDS]}, {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_training_warns_once_where_padding_counts(case):
    stack, y, options, compiled, expected = CASES[case]
    data = data_of(**({"y": y} | options))
    model = tagger(*[type(part).from_config(part.get_config()) for part in stack], **compiled)
    found = warned(lambda: fit(model, data))
    assert len(found) == (expected is not None), found
    if expected:
        assert re.search("PaddingMonitor: padding changes the " + expected, found[0]), found
    assert warned(lambda: fit(model, data)) == []


def test_weights_count_where_the_loss_goes_by_them():
    weights = [np.ones(count, "float32") for count in COUNTS]
    for reduction, count in (("sum_over_batch_size", 1), ("mean_with_sample_weight", 0)):
        loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
        model = tagger(embedding(False), loss=loss)
        assert len(warned(lambda model=model: fit(model, data_of(sample_weight=weights)))) == count


@pytest.mark.parametrize("mask_zero", [True, False])
def test_prediction_warns_once(mask_zero):
    model = keras.Sequential([embedding(mask_zero), layers.GlobalAveragePooling1D(name="pool")])
    data = data_of(y=None)
    found = warned(lambda: [data.predict(model, verbose=0) for _ in range(2)])
    assert len(found) == (not mask_zero), found
    assert all(
        "LengthBucketing.predict: padding changes the valid outputs" in text and "pool" in text for text in found
    )


def test_the_layer_is_named_where_some_sequences_have_one_step():
    model = keras.Sequential([embedding(False), layers.GlobalAveragePooling1D(name="pool")])
    data = data_of(
        [np.ones(count, "int32") * count for count in (1, 1, 2, 2, 3, 5)], None, batch_size=2, buckets=[1, 5]
    )
    (text,) = warned(lambda: data.predict(model, verbose=0))
    assert "pool: No mask reaches it" in text


class Sentence(keras.Model):
    """A subclassed model that `fit` builds; it keeps what it counts in a weight."""

    def __init__(self, mask_zero):
        super().__init__()
        self.embedding, self.pool, self.head = embedding(mask_zero), layers.GlobalAveragePooling1D(), layers.Dense(1)
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5, seed=1)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, ids, training=False):
        self.calls.assign_add(1.0)
        return self.head(self.drop(self.norm(self.pool(self.embedding(ids))), training=training))


def test_a_model_that_fit_builds_is_checked_and_left_as_it_was():
    def train(callbacks):
        keras.utils.set_random_seed(1)
        model = Sentence(False)
        model.compile("sgd", "mse", metrics=["mae"], run_eagerly=True)
        data = data_of(y=COUNTS.astype("float32"))
        history = model.fit(data, epochs=1, shuffle=False, verbose=0, callbacks=callbacks(data)).history
        return [ops.convert_to_numpy(v) for v in model.variables], history["loss"], history["mae"]

    without = train(lambda data: [])
    with_check = []
    assert len(warned(lambda: with_check.extend(train(lambda data: [PaddingMonitor(data)])))) == 1
    for a, b in zip(without[0], with_check[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert without[1:] == tuple(with_check[1:])


class Late(layers.Layer):
    """Raises once it is called on rows alone, as no batch of the data is."""

    def call(self, inputs):
        if inputs.shape[0] == 1:
            raise KeyError("one row")
        return inputs

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_a_check_that_fails_does_not_end_training():
    (text,) = warned(lambda: fit(tagger(embedding(True), Late()), data_of()))
    assert "could not be checked: " in text
    assert "one row" in text


def test_a_model_that_needs_more_steps_is_tried_at_those_of_the_data():
    x = [np.concatenate([row, rng.normal(size=(9, 2)).astype("float32")]) for row in FRAMES]
    for mask, count in ((True, 0), (False, 1)):
        frames, lengths = keras.Input((None, 2), name="inputs"), keras.Input((), dtype="int32", name="lengths")
        h = layers.Conv1D(2, 9, name="long")(frames)  # 8 steps go
        h = SequenceMask()([h, lengths - 8]) if mask else h
        inputs = {"inputs": frames, "lengths": lengths} if mask else frames
        model = keras.Model(inputs, layers.GlobalAveragePooling1D()(h))
        data = data_of(x, None, lengths_as_input="lengths" if mask else None)
        found = warned(lambda model=model, data=data: data.predict(model, verbose=0))
        assert len(found) == count, found
        assert all("could not" not in text for text in found)


def test_a_model_of_one_length_is_tried_at_another():
    model = tagger(keras.Input((12,), dtype="int32"), embedding(False), layers.GlobalAveragePooling1D(name="pool"))
    found = warned(lambda: fit(model, data_of(y=COUNTS % 3, buckets=[12])))
    assert len(found) == 1
    assert "pool: No mask reaches it" in found[0]
    assert model.input_shape == (None, 12)


# A data set handed to the audit.


def test_audit_takes_a_data_set():
    model = tagger(embedding(True), layers.Conv1D(3, 2, padding="causal", name="lost"), metrics=["accuracy"])
    audit = audit_masking(model, data_of())
    assert audit.leaks == ["lost"], str(audit)
    assert audit.rows[-2].verdict == "misled"
    assert audit_masking(tagger(embedding(True)), data_of()).raise_on_leak()


def test_audit_takes_data_with_two_lengths_and_inputs_without_time():
    source, target = keras.Input((None,), name="source"), keras.Input((None, 2), name="target")
    vector, n = keras.Input((3,), name="vector"), keras.Input((), dtype="int32", name="n")
    pooled = layers.GlobalAveragePooling1D()(embedding(True)(source))
    frames = SequenceMask()([target, n])
    both = layers.Concatenate()([pooled, layers.GlobalMaxPooling1D(name="loud")(frames), vector])
    model = keras.Model({"source": source, "target": target, "vector": vector, "n": n}, layers.Dense(1)(both))
    model.compile("sgd", "mse")
    x = {"source": IDS, "target": FRAMES[::-1], "vector": np.ones((24, 3), "float32")}
    audit = audit_masking(model, data_of(x, COUNTS.astype("float32"), lengths_as_input={"target": "n"}))
    assert audit.leaks == ["loud"], str(audit)


def test_audit_takes_weights_from_the_data():
    weights = [np.ones(count, "float32") for count in COUNTS]
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    model = tagger(embedding(False), loss=loss)
    assert audit_masking(model, data_of(sample_weight=weights)).leaks == []
    assert audit_masking(model, data_of()).leaks == ["loss"]


def test_audit_and_monitor_take_a_stream():
    samples = list(zip(IDS, LABELS, strict=True))
    for mask_zero, count in ((True, 0), (False, 1)):
        data = LengthBucketing(iter(samples), batch_size=8, buckets=2, seed=0, window=12)
        model = tagger(embedding(mask_zero))
        assert (audit_masking(model, data).leaks == []) == mask_zero
        assert len(warned(lambda model=model, data=data: fit(model, data))) == count

    data = LengthBucketing(iter(samples), batch_size=8, buckets=2, seed=0, window=12)
    audit_masking(tagger(embedding(True)), data)
    assert sum(len(batch[0]) for batch in data) == len(samples)  # none is lost to the audit


@pytest.mark.parametrize("name", ["y", "lengths"])
def test_audit_refuses_what_a_data_set_has(name):
    with pytest.raises(ValueError, match=f"audit_masking: `{name}` must be None"):
        audit_masking(tagger(embedding(True)), data_of(), **{name: COUNTS})
