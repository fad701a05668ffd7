"""Training goes on where it was: optimizer, seeds, frozen layers, losses and metrics."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_seqx.transfer.timesteps.change_timesteps import change_timesteps

T, D = 6, 3
X = np.random.default_rng(0).normal(size=(8, T, D)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, T, 2)).astype("float32")


def squares(y, prediction):
    return ops.mean(ops.square(ops.convert_to_tensor(y) - prediction))


class Far(keras.metrics.Mean):
    def update_state(self, y, prediction, sample_weight=None):
        return super().update_state(ops.abs(ops.convert_to_tensor(y) - prediction) > 1)


class Slower(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start / (1 + ops.cast(step, "float32"))

    def get_config(self):
        return {"start": self.start}


def without_biases():
    optimizer = keras.optimizers.AdamW(0.05, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


OPTIMIZERS = {
    "SGD, momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.05),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01),
    "AdamW without biases": without_biases,
    "a schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)),
    "own schedule": lambda: keras.optimizers.Adam(Slower(0.05)),
    "EMA": lambda: keras.optimizers.Adam(0.05, use_ema=True, ema_overwrite_frequency=4),
    "accumulation": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
}


def small(rnn=layers.SimpleRNN):
    """Trains quickly, and draws from a seed."""
    return keras.Sequential(
        [
            keras.Input((T, D)),
            rnn(4, return_sequences=True, name="rnn"),
            layers.Dropout(0.3, seed=3, name="drop"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="head"),
        ]
    )


def step(model, x=X, y=Y):
    """The loss of one more step, of this batch alone."""
    model.reset_metrics()
    return float(model.train_on_batch(x, y, return_dict=True)["loss"])


def values(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_continues_exactly(optimizer):
    model = small()
    model.compile(optimizer(), loss=squares, metrics=["mae", Far(name="far")])
    for _ in range(3):
        step(model)
    before = values(model.variables + model.optimizer.variables)
    new = change_timesteps(model, T)
    assert int(new.optimizer.iterations) == int(model.optimizer.iterations)
    moved = [step(new) for _ in range(2)]
    # Training the one has not touched the other, whose buffers JAX gives away.
    np.testing.assert_equal(values(model.variables + model.optimizer.variables), before)
    uninterrupted = [step(model) for _ in range(2)]
    np.testing.assert_allclose(moved, uninterrupted, atol=1e-6)
    for mine, theirs in zip(values(new.variables), values(model.variables), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    for mine, theirs in zip(values(new.optimizer.variables), values(model.optimizer.variables), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_goes_on_at_another_length():
    model = small()
    model.compile("adam", "mse")
    step(model)
    new = change_timesteps(model, 2 * T)
    losses = [step(new, np.repeat(X, 2, axis=1), np.repeat(Y, 2, axis=1)) for _ in range(2)]
    assert np.isfinite(losses).all()
    assert int(new.optimizer.iterations) == 3


def test_skipped_layers_start_their_slots_anew():
    model = keras.Sequential([keras.Input((T, D)), layers.Dense(2), layers.Flatten(), layers.Dense(2, name="head")])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    step(model, X, Y[:, 0])
    new = change_timesteps(model, 2 * T, on_mismatch={"head": "skip"})
    assert np.isfinite(step(new, np.repeat(X, 2, axis=1), Y[:, 0]))
    assert int(new.optimizer.iterations) == 2


def test_compiled_state():
    """What was compiled with, a structure of everything; functions are the same objects, metrics are others."""
    x = keras.Input((T, D))
    model = keras.Model(x, {"a": layers.Dense(2, name="a")(x), "b": layers.Dense(1, name="b")(x)})
    far = Far(name="far")
    model.compile(
        keras.optimizers.SGD(0.25),
        loss={"a": squares, "b": keras.losses.Huber(0.5)},
        loss_weights={"a": 2.0, "b": 0.5},
        metrics={"a": [far], "b": ["mae"]},
        weighted_metrics={"b": ["mse"]},
        run_eagerly=True,
        steps_per_execution=1,
    )
    targets = {"a": Y, "b": Y[..., :1]}
    expected = model.evaluate(X, targets, verbose=0, return_dict=True)
    new = change_timesteps(model, T)
    assert new.run_eagerly
    assert float(new.optimizer.learning_rate) == 0.25
    assert new.loss["a"] is squares
    counted = float(far.count)
    assert counted > 0
    got = new.evaluate(X, targets, verbose=0, return_dict=True)
    assert got.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(got[key], expected[key], atol=1e-6)
    new.evaluate(X[:2], {name: y[:2] for name, y in targets.items()}, verbose=0)
    assert float(far.count) == counted  # the metric is the model's own


def test_not_compiled_stays_so():
    assert not change_timesteps(small(), 12).compiled


def test_a_learning_rate_that_was_moved_stays():
    model = small()
    model.compile(keras.optimizers.SGD(0.25), "mse")
    model.optimizer.learning_rate = 0.125
    assert float(change_timesteps(model, 12).optimizer.learning_rate) == 0.125


def test_frozen_stays_frozen():
    inner = keras.Sequential([keras.Input((T, D)), layers.Dense(D, name="one"), layers.Dense(D, name="two")], name="in")
    x = keras.Input((T, D))
    model = keras.Model(x, layers.GRU(2, name="other")(x) + layers.LSTM(2, name="rnn")(inner(x)))
    model.get_layer("other").cell.trainable = False
    inner.layers[0].trainable = False
    model.get_layer("rnn").cell.bias.trainable = False
    model.compile("sgd", "mse")
    new = change_timesteps(model, 12)
    assert [v.path for v in new.trainable_variables] == [v.path for v in model.trainable_variables]
    assert len(new.trainable_variables) == 4
    assert not new.get_layer("other").cell.trainable
    assert not new.get_layer("in").layers[0].trainable
    assert new.get_layer("in").layers[1].trainable
    model.trainable = False
    assert change_timesteps(model, 12).trainable_variables == []


def test_dropout_goes_on():
    model = small()
    for _ in range(3):
        model(X, training=True)
    new = change_timesteps(model, T)
    np.testing.assert_allclose(*(ops.convert_to_numpy(m(X, training=True)) for m in (new, model)), atol=1e-6)


def test_scaled_losses():
    keras.config.set_dtype_policy("mixed_float16")
    model = small(layers.GRU)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    keras.config.set_dtype_policy("float32")
    step(model)
    new = change_timesteps(model, T)
    assert type(new.optimizer) is type(model.optimizer)
    assert isinstance(new.optimizer, keras.optimizers.LossScaleOptimizer)
    np.testing.assert_allclose(step(new), step(model), rtol=1e-3)
    model.compile("sgd", "mse", auto_scale_loss=False)
    assert not isinstance(change_timesteps(model, T).optimizer, keras.optimizers.LossScaleOptimizer)


class Own(keras.Model):
    """Tells how it is compiled."""

    def compile(self, factor=1.0, **kwargs):
        self.factor = factor
        super().compile(optimizer=keras.optimizers.SGD(0.1 * factor), loss="mse", **kwargs)

    def get_compile_config(self):
        return {"factor": self.factor}

    def compile_from_config(self, config):
        self.compile(**config)


def test_own_compile():
    x = keras.Input((T, D))
    model = Own(x, layers.Dense(2)(x))
    model.compile(2.0)
    step(model)
    new = change_timesteps(model, T)
    assert new.factor == 2.0
    np.testing.assert_allclose(step(new), step(model), atol=1e-6)
