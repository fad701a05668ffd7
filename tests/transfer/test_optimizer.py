"""Training goes on as if nothing had happened."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import AutoregressiveDecoder, transfer_weights
from tests.transfer.models import assert_same, randomize, values

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 5, 4)).astype("float32")
Y = RNG.normal(size=(8, 5, 4)).astype("float32")

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "averaged": lambda: keras.optimizers.AdamW(0.01, use_ema=True),
    "accumulated": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "scheduled": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5), momentum=0.9),
}


def network(optimizer="adam", cells=False):
    """Two layers of equal shapes, and a frozen one."""
    if cells:
        hidden = [AutoregressiveDecoder([layers.GRUCell(4), layers.GRUCell(4)])]
    else:
        hidden = [layers.GRU(4, return_sequences=True) for _ in range(2)]
    dense = layers.Dense(4)
    frozen = layers.Dense(4, trainable=False)
    model = keras.Sequential([keras.Input((5, 4)), *hidden, frozen, dense])
    model.compile(OPTIMIZERS[optimizer](), "mse")
    return model


def train(model, steps):
    losses = []
    for _ in range(steps):
        model.reset_metrics()  # Keras 3.12 goes on averaging
        losses.append(float(model.train_on_batch(X, Y)))
    return losses


@pytest.mark.parametrize("kind", ["model", "model.keras", "model.weights.h5"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_continues(optimizer, kind, tmp_path):
    source, target = randomize(network(optimizer)), network(optimizer)
    train(source, 3)
    origin = source
    if kind != "model":
        origin = tmp_path / kind
        (source.save if kind.endswith(".keras") else source.save_weights)(origin)
    report = transfer_weights(origin, target, include_optimizer=True)
    assert set(report.counts) == {"copied"}
    assert int(target.optimizer._iterations) == 3
    np.testing.assert_allclose(train(target, 3), train(source, 3), rtol=1e-6)
    assert_same(source.get_weights(), target.get_weights(), 1e-6)


def test_dropout_continues():
    def network():
        model = keras.Sequential(
            [keras.Input((5, 4)), layers.LSTM(4, dropout=0.3), layers.Dropout(0.5), layers.Dense(4)]
        )
        model.compile("adam", "mse")
        return model

    source, target = randomize(network()), network()
    for _ in range(2):
        source.train_on_batch(X, Y[:, 0])
    transfer_weights(source, target, include_optimizer=True)
    losses = []
    for model in (source, target):
        keras.utils.set_random_seed(2)  # torch draws some of its masks from a generator of its own
        model.reset_metrics()
        losses.append([float(model.train_on_batch(X, Y[:, 0])) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_optimizer_that_has_not_been_built(dry_run):
    source, target = randomize(network()), network()
    train(source, 2)
    assert not target.optimizer.built
    planned = transfer_weights(source, target, include_optimizer=True, dry_run=dry_run)
    assert target.optimizer.built is not dry_run
    assert planned.rows == transfer_weights(source, target, include_optimizer=True).rows
    np.testing.assert_allclose(train(target, 2), train(source, 2), rtol=1e-6)


def test_training_continues_in_another_layer():
    source, target = randomize(network()), network(cells=True)
    train(source, 3)
    transfer_weights(source, target, include_optimizer=True)
    np.testing.assert_allclose(train(target, 3), train(source, 3), rtol=1e-5)


def test_the_order_of_a_file_has_to_be_the_targets(tmp_path):
    source, target = randomize(network()), network(cells=True)
    train(source, 1)
    source.save(path := tmp_path / "model.keras")
    before = values(target)
    with pytest.raises(ValueError, match=r"include_optimizer.*in the order of its own model's weights"):
        transfer_weights(path, target, include_optimizer=True)
    assert_same(before, values(target))


def test_what_is_skipped_starts_anew():
    def classifier(classes):
        model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(4), layers.Dense(classes, name="head")])
        model.compile("adam", "mse")
        return model

    source, target = randomize(classifier(4)), classifier(3)
    train_on = X, Y[:, 0]
    source.train_on_batch(*train_on)
    report = transfer_weights(source, target, on_mismatch="skip", include_optimizer=True)
    kept = [row.target for row in report.rows if row.action == "kept"]
    assert len(kept) == 2 + 4
    assert all("head" in name for name in kept)


def test_optimizers_that_do_not_agree(tmp_path):
    source, target = randomize(network()), network("momentum")
    with pytest.raises(ValueError, match="no optimizer that has been trained with"):
        transfer_weights(source, target, include_optimizer=True)
    train(source, 1)
    before = values(target)
    source.save(tmp_path / "model.keras")
    source.save_weights(tmp_path / "model.weights.h5")
    for origin, message in (
        (source, "the source has Adam, the target SGD"),
        (tmp_path / "model.keras", "the source has Adam, the target SGD"),
        (tmp_path / "model.weights.h5", r"the source's optimizer has .* variables, the target's"),
    ):
        with pytest.raises(ValueError, match=message):
            transfer_weights(origin, target, include_optimizer=True)
        assert_same(before, values(target))
    bare = keras.Sequential.from_config(source.get_config())
    with pytest.raises(ValueError, match="the target is not compiled"):
        transfer_weights(source, bare, include_optimizer=True)
    bare.save_weights(tmp_path / "bare.weights.h5")
    with pytest.raises(ValueError, match="there is none in the file"):
        transfer_weights(tmp_path / "bare.weights.h5", source, include_optimizer=True)
