"""The audit names those at fault, all of them, and nobody else."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx import AutoregressiveDecoder, KeepMask, MaskedTimeDistributed, RepeatToLength
from keras_seqx.audit import audit_masking
from tests.audit.models import (
    DATA,
    IDS,
    LENGTHS,
    Centred,
    PlainNormalization,
    Subclassed,
    WrongMask,
    X,
    mean,
    model,
)

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not support masking")


def named(cls, *args, **kwargs):
    return cls(*args, name="offender", **kwargs)


# The stack of a model, the class of who is at fault, and the verdict.
OFFENDERS = {
    "x * 2": ([lambda h: h * 2, mean()], "Multiply", "mask lost"),
    "x + x": ([lambda h: h + h, mean()], "Add", "mask lost"),
    "ops.concatenate": ([lambda h: ops.concatenate([h, h], axis=-1), mean()], "Concatenate", "mask lost"),
    "Reshape": ([layers.Reshape((-1, 2)), mean()], "Reshape", "mask lost"),
    "Permute": ([named(layers.Permute, (2, 1)), layers.Permute((2, 1)), mean()], "Permute", "mask lost"),
    "Lambda": ([layers.Lambda(lambda h: h + 1), mean()], "Lambda", "mask lost"),
    "Conv1D causal": ([layers.Conv1D(2, 2, padding="causal"), mean()], "Conv1D", "mask lost"),
    "Conv1D valid": ([layers.Conv1D(2, 2), mean()], "Conv1D", "mask lost"),
    "Conv1D same": ([layers.Conv1D(2, 3, padding="same"), mean()], "Conv1D", "leak"),
    "MaxPooling1D": ([layers.MaxPooling1D(2), mean()], "MaxPooling1D", "mask lost"),
    "GlobalMaxPooling1D": ([layers.GlobalMaxPooling1D()], "GlobalMaxPooling1D", "leak"),
    "UnitNormalization": ([layers.UnitNormalization(axis=1)], "UnitNormalization", "leak"),
    "GroupNormalization": ([layers.GroupNormalization(2)], "GroupNormalization", "leak"),
    "ops.mean": ([lambda h: ops.mean(h, axis=1)], "Mean", "leak"),
    "mean over time": ([named(Centred, 1)], "Centred", "leak"),
    "mean over the batch": ([named(Centred, 0), mean()], "Centred", "mixes rows"),
    "mask of all steps": ([WrongMask(ops.ones_like), layers.Dense(2), mean()], "WrongMask", "wrong mask"),
    "mask of wrong rank": ([WrongMask(lambda mask: ops.stack([mask] * 9, axis=-1))], "WrongMask", "wrong mask"),
    "statistics": ([PlainNormalization(), mean()], "PlainNormalization", "statistics leak"),
    "statistics without a mask": ([lambda h: h * 2, layers.BatchNormalization(), mean()], "Multiply", "mask lost"),
    "mask stripped": (
        [lambda h: layers.Add()([h, layers.MultiHeadAttention(1, 2)(h, h)])],
        "MultiHeadAttention",
        "mask lost",
    ),
    "sequence without a mask": ([lambda h: h * 2], "Multiply", "mask lost"),
}


@pytest.mark.parametrize(("stack", "kind", "verdict"), OFFENDERS.values(), ids=OFFENDERS)
def test_offender_is_named(stack, kind, verdict):
    audit = audit_masking(model(*stack), DATA)
    (row,) = [row for row in audit.rows if row.remedy]
    assert (row.kind, row.verdict) == (kind, verdict), str(audit)
    assert audit.leaks == [audit.first_leak] == [row.layer]
    assert (row.change > 1e-3) == (verdict in ("leak", "mixes rows"))
    with pytest.raises(AssertionError, match=row.layer):
        audit.raise_on_leak()


def attention_block(h):
    h = layers.Attention()([h, h])
    return layers.MultiHeadAttention(1, 2)(h, h)


INNOCENTS = {
    "step by step": [
        layers.Dense(4),
        layers.BatchNormalization(),
        layers.LayerNormalization(),
        layers.Dropout(0.5),
        lambda h: layers.Add()([h, layers.Activation("relu")(h)]),
        lambda h: layers.Concatenate()([h, h]),
        layers.GaussianNoise(0.1),
        mean(),
    ],
    "attention": [attention_block],
    "recurrent": [
        KeepMask(layers.Bidirectional(layers.LSTM(2, return_sequences=True))),
        layers.GRU(2),
        layers.Dense(2),
    ],
    "decoder": [lambda h: AutoregressiveDecoder(layers.SimpleRNNCell(4))(h, steps=2)],
    "every step": [
        lambda h: RepeatToLength()([layers.LSTM(4)(h), h]),
        MaskedTimeDistributed(keras.Sequential([layers.Dense(3), layers.BatchNormalization(), layers.ReLU()])),
        mean(),
    ],
    "causal convolution that needs no mask": [layers.Conv1D(2, 2, padding="causal"), lambda h: h[:, 0]],
}


@pytest.mark.parametrize("stack", INNOCENTS.values(), ids=INNOCENTS)
def test_innocents_are_not_blamed(stack):
    audit = audit_masking(model(*stack), DATA)
    assert audit.leaks == [], str(audit)
    assert audit.first_leak is None
    assert audit.raise_on_leak() is audit
    assert all(row.change < 2e-5 for row in audit.rows)


@pytest.mark.parametrize("values", [X * (IDS > 0)[..., None], np.where((IDS > 0)[..., None], X, -7).astype("float32")])
def test_masking_layer_tells_padding_by_its_value(values):
    masking = layers.Masking(mask_value=values[1, -1, 0])
    audit = audit_masking(keras.Sequential([masking, layers.Dense(2), mean()]), values)
    assert [row.mask_out for row in audit.rows] == [True, True, False]
    assert audit.leaks == []


def test_padding_below_all_values_is_seen_by_a_maximum():
    positive = np.abs(X) * (IDS > 0)[..., None] + 1.0 * (IDS > 0)[..., None]
    net = keras.Sequential([layers.Masking(), layers.GlobalMaxPooling1D(name="pool")])
    assert audit_masking(net, positive).leaks == ["pool"]
    assert audit_masking(net, positive[:1, :3]).leaks == ["pool"]


def test_embedding_tells_padding_by_zero():
    embedding = layers.Embedding(9, 4, mask_zero=True)
    assert audit_masking(keras.Sequential([embedding, mean()]), IDS).leaks == []


def test_without_any_mask_the_first_layer_that_needs_one_is_named():
    net = keras.Sequential([layers.Embedding(9, 4), layers.Dense(4), layers.LSTM(2, name="needy"), layers.Dense(2)])
    audit = audit_masking(net, IDS, lengths=LENGTHS)
    assert audit.leaks == ["needy"]
    assert audit.rows[2].verdict == "no mask"
    assert "at the entrance" in audit.rows[2].remedy
    assert "no layer of the model makes a mask" in str(audit)


def test_three_leaks_are_found_at_once():
    # Each would be hidden by another one: behind the second no mask is left, behind the third all steps are changed.
    net = model(
        named(layers.UnitNormalization, axis=1),
        layers.Reshape((-1, 2), name="reshaped"),
        layers.Dense(4),
        lambda h: h * 2,
        layers.Conv1D(4, 3, padding="same", name="window"),
        mean(),
    )
    audit = audit_masking(net, DATA)
    kinds = [row.kind for row in audit.rows if row.remedy]
    assert kinds == ["UnitNormalization", "Reshape", "Multiply", "Conv1D"], str(audit)
    assert audit.rows[-1].verdict == "misled"


OPERATIONS = {
    "leak": lambda h: h - ops.max(h, axis=1, keepdims=True),
    "mask lost": lambda h: h * 2,
}


@pytest.mark.parametrize("verdict", OPERATIONS)
def test_operations_of_a_subclassed_model(verdict):
    audit = audit_masking(Subclassed(OPERATIONS[verdict]), X * (IDS > 0)[..., None])
    assert audit.first_leak == "subclassed.call", str(audit)
    assert [row.verdict for row in audit.rows if row.layer == "subclassed.call"] == [verdict]
    assert audit_masking(Subclassed(layers.Activation("relu")), X * (IDS > 0)[..., None]).leaks == []


def test_nested_and_shared_layers_are_opened():
    inner_x = keras.Input((None, 4))
    inner = keras.Model(inner_x, layers.Dense(4, name="dense")(inner_x) * 2, name="inner")
    outer = model(inner, inner, keras.Sequential([mean()], name="top"))
    audit = audit_masking(outer, DATA)
    assert [row.layer for row in audit.rows if row.layer.endswith("dense")] == ["inner/dense"] * 2
    assert len(audit.leaks) == 1
    assert audit.first_leak.startswith("inner/multiply")
    assert audit.rows[-1].layer == "top/mean"


# Layers that keep the steps of their input, and end its mask from Keras 3.16 on.
KEEPING = {
    "LSTM": lambda: layers.LSTM(2, return_sequences=True),
    "GRU": lambda: layers.GRU(2, return_sequences=True),
    "SimpleRNN": lambda: layers.SimpleRNN(2, return_sequences=True),
    "RNN": lambda: layers.RNN(layers.SimpleRNNCell(2), return_sequences=True),
    "Bidirectional": lambda: layers.Bidirectional(layers.SimpleRNN(2, return_sequences=True)),
}


@pytest.mark.parametrize("kind", KEEPING)
def test_the_mask_that_a_recurrent_layer_ends_is_kept_by_keep_mask(kind):
    kept = audit_masking(model(KeepMask(KEEPING[kind]()), mean()), DATA)
    assert kept.leaks == [], str(kept)
    for marked in (None, False):
        layer = KEEPING[kind]()
        if marked is not None:
            layer.supports_masking = marked  # as Keras 3.16 has it
        audit = audit_masking(model(layer, mean()), DATA)
        if layer.supports_masking:
            assert audit.leaks == [], str(audit)
        else:
            assert audit.leaks == [layer.name], str(audit)
            assert audit.rows[1].verdict == "mask lost"
            assert "KeepMask" in audit.rows[1].remedy


def test_what_keep_mask_cannot_mend_has_another_remedy():
    def remedy_of(layer):
        (row,) = [row for row in audit_masking(model(layer, mean()), DATA).rows if row.remedy]
        return row.remedy

    backwards = layers.SimpleRNN(2, return_sequences=True, go_backwards=True)
    assert "Bidirectional" in remedy_of(backwards)
    every_step = layers.TimeDistributed(layers.Dense(2))
    every_step.supports_masking = False
    assert "MaskedTimeDistributed" in remedy_of(every_step)
    assert "wrap it in keras_seqx.KeepMask" in remedy_of(layers.Conv1D(2, 2, padding="causal"))
    # The wrapper keeps the mask, and the window still takes padding in.
    assert 'padding="causal"' in remedy_of(KeepMask(layers.Conv1D(2, 3, padding="same")))
