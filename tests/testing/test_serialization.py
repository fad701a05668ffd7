"""The laws of files hold where they should, and catch each planted fault at its step."""

import keras
import pytest
from keras import layers

from keras_seqx.testing import check_backends_agree, check_serialization
from keras_seqx.testing.serialization import other_backends
from tests.testing.faults import (
    IDS,
    LENGTHS,
    BackendFactor,
    ConsumingFactor,
    Factor,
    ForeignLayer,
    ForgettingFactor,
    NamedSum,
    Passing,
    RoundingFactor,
    UnregisteredFactor,
    UnsavedWeight,
    UnwritableFactor,
    X,
    attention,
)


def compiled():
    model = keras.Sequential([keras.Input(X.shape[1:]), layers.Dense(3)])
    model.compile("sgd", "mse")
    return model


HOLDING = {
    "dense": (lambda: layers.Dense(3, activation="tanh"), X, None, {}),
    "backwards": (lambda: layers.Bidirectional(layers.GRU(2, return_state=True)), X, LENGTHS, {}),
    "batch normalization": (layers.BatchNormalization, X, LENGTHS, {}),
    "embedding": (lambda: layers.Embedding(9, 3, mask_zero=True), IDS, None, {}),
    "attention": (attention, [X, X[:, :4, [0, 1, 1]]], [LENGTHS, [1, 4, 1, 4]], {}),
    "inherited from Keras": (lambda: layers.TimeDistributed(layers.Dense(2)), X, LENGTHS, {}),
    "compiled": (compiled, X, None, {}),
    "own": (lambda: Factor(2.5), X, LENGTHS, {"new_process": True}),
}


@pytest.mark.parametrize("name", HOLDING)
def test_serialization_holds(name):
    make, inputs, lengths, options = HOLDING[name]
    check_serialization(make(), inputs, lengths=lengths, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ForgettingFactor(2.5), ", after `from_config(get_config())`. The tolerance is"),
        (
            lambda: RoundingFactor(2.5),
            "comes back from `from_config` with another configuration: config.factor was 2.5",
        ),
        (lambda: ConsumingFactor(2.5), "changes the configuration that `from_config` is handed. Copy it first."),
        (UnwritableFactor, "fails at writing its configuration: "),
        (Passing, "fails at saving and loading a `.keras` file: "),
        (UnregisteredFactor, "fails at saving and loading a `.keras` file: "),
        (UnsavedWeight, ", in a `.keras` file."),
        (lambda: keras.layers.Lambda(lambda x: x), "fails at `from_config(get_config())`: "),
    ],
    ids=["forgets", "rounds", "consumes", "unwritable", "unregistered", "unregistered weight", "unsaved", "lambda"],
)
def test_serialization_catches(make, words):
    with pytest.raises(AssertionError) as caught:
        check_serialization(make(), X)
    assert str(caught.value).startswith("serialization: ")
    assert words in str(caught.value)


def test_the_layer_stays_as_it_is():
    layer = layers.Dense(2)
    layer(X)
    before = layer.get_weights()
    check_serialization(layer, X, lengths=LENGTHS)
    assert all((a == b).all() for a, b in zip(before, layer.get_weights(), strict=True))


@pytest.mark.skipif(not other_backends(), reason="one backend alone is installed")
def test_backends_agree():
    """One model of several layers, as each process costs seconds."""
    x = {"frames": keras.Input((5, 2)), "speaker": keras.Input((2,))}
    named = NamedSum()(x)
    model = keras.Model(x, {"all": layers.Bidirectional(layers.GRU(3, return_sequences=True))(named["sum"]), **named})
    inputs, lengths = {"frames": X, "speaker": X[:, 0]}, {"frames": LENGTHS, "speaker": None}
    check_backends_agree(model, inputs, lengths=lengths)


@pytest.mark.skipif(not other_backends(), reason="one backend alone is installed")
@pytest.mark.parametrize(
    ("layer", "words"), [(BackendFactor, "changes output 0 at"), (ForeignLayer, "Exception encountered: made on")]
)
def test_backends_agree_catches(layer, words):
    # The two whose names have another number of letters than the running one's.
    other = next(b for b in other_backends() if len(b) != len(keras.backend.backend()))
    with pytest.raises(AssertionError) as caught:
        check_backends_agree(layer(), X, backends=[other])
    assert str(caught.value).startswith(f"backends_agree: {layer.__name__} ")
    assert words in str(caught.value)


def test_bad_backends():
    for backends in ([], ["theano"], [keras.backend.backend()]):
        with pytest.raises(ValueError, match="check_backends_agree: `backends` must be one or more of"):
            check_backends_agree(layers.Dense(2), X, backends=backends)
