"""TeacherForcingSchedule."""

import keras
import numpy as np
import pytest

from keras_seqx import AutoregressiveDecoder, TeacherForcingSchedule
from tests.cases import BACKEND, numpy_alone

JIT = {"tensorflow": [False, True], "jax": [True], "torch": [False]}[BACKEND]


def make_decoder(**kwargs):
    return AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(2), seed=7, **kwargs)


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Follower(keras.layers.Layer):
    """All that the schedule asks of a decoder, and quick to compile."""

    def build(self, input_shape):
        self.teacher_forcing = self.add_weight(shape=(), initializer="ones", trainable=False, name="teacher_forcing")

    def call(self, inputs):
        return inputs * self.teacher_forcing


def make_model(*decoders, jit=False, nested=False):
    inputs = keras.Input((6, 2))
    x = inputs
    for decoder in decoders or [make_decoder()]:
        x = decoder(x)
    model = keras.Model(inputs, x)
    if nested:
        outer = keras.Input((6, 2))
        model = keras.Model(outer, keras.Sequential([model])(outer))
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(rng.normal(0, 0.7, v.shape))
    # Trained at no rate, a loss tells what was read.
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit)
    return model


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(16, 6, 2)).astype("float32"), rng.normal(size=(16, 6, 2)).astype("float32")


def fit(model, *callbacks, epochs=3, **kwargs):
    history = model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **kwargs)
    return history.history


def loss_at(teacher_forcing):
    """The loss of an epoch at a constant probability."""
    return fit(make_model(make_decoder(teacher_forcing=teacher_forcing)), epochs=1)["loss"][0]


@numpy_alone
@pytest.mark.parametrize(("start", "end", "epochs"), [(1.0, 0.5, 5), (0.2, 0.9, 2), (0.75, 0.75, 4), (0.9, 0.1, 21)])
def test_curves(start, end, epochs):
    progress = np.minimum(np.arange(epochs + 3) / (epochs - 1), 1)
    sigmoid = 1 / (1 + np.exp(12 * progress - 6))
    sigmoid = (sigmoid - sigmoid[epochs - 1]) / (sigmoid[0] - sigmoid[epochs - 1])
    curves = {
        "linear": np.interp(progress, [0, 1], [start, end]),
        "exponential": np.exp((1 - progress) * np.log(start) + progress * np.log(end)),
        "inverse_sigmoid": end + (start - end) * sigmoid,
    }
    for schedule, curve in curves.items():
        callback = TeacherForcingSchedule(schedule, start=start, end=end, epochs=epochs)
        got = [callback.probability(epoch) for epoch in range(epochs + 3)]
        np.testing.assert_allclose(got, curve, rtol=1e-12)
        assert got[0] == start
        np.testing.assert_allclose(got[epochs - 1 :], end, rtol=1e-12)
        assert all(0 <= value <= 1 for value in got)


@numpy_alone
@pytest.mark.parametrize("schedule", ["linear", "exponential", "inverse_sigmoid"])
def test_a_schedule_of_one_epoch_ends_behind_it(schedule):
    callback = TeacherForcingSchedule(schedule, start=0.8, end=0.4, epochs=1)
    np.testing.assert_allclose([callback.probability(epoch) for epoch in range(3)], [0.8, 0.4, 0.4])


@numpy_alone
def test_an_inverse_sigmoid_falls_slowly_then_fast_then_slowly():
    callback = TeacherForcingSchedule("inverse_sigmoid", start=1, end=0, epochs=11)
    steps = -np.diff([callback.probability(epoch) for epoch in range(11)])
    assert steps.argmax() in (4, 5)
    np.testing.assert_allclose(steps, steps[::-1])
    assert steps[0] < 0.02 < 0.2 < steps[5]


@pytest.mark.parametrize("jit", JIT, ids=lambda jit: f"jit_{jit}")
def test_what_is_logged_is_what_each_epoch_read(jit):
    model = make_model(jit=jit)
    history = fit(model, TeacherForcingSchedule(start=1, end=0, epochs=2), epochs=3)
    assert history["teacher_forcing"] == [1.0, 0.0, 0.0]
    forced, free = loss_at(1.0), loss_at(0.0)
    assert abs(forced - free) > 0.01
    np.testing.assert_allclose(history["loss"], [forced, free, free], rtol=1e-5)


def test_the_epochs_of_fit_are_those_of_the_schedule_and_training_may_start_late():
    history = fit(make_model(Follower()), TeacherForcingSchedule(end=0.2), epochs=5)["teacher_forcing"]
    np.testing.assert_allclose(history, [1, 0.8, 0.6, 0.4, 0.2])
    late = fit(make_model(Follower()), TeacherForcingSchedule(end=0.2), epochs=5, initial_epoch=3)["teacher_forcing"]
    assert late == history[3:]


def test_every_decoder_follows_wherever_it_is():
    decoders = [Follower(), make_decoder(teacher_forcing=0.3)]
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append([float(d.teacher_forcing.numpy()) for d in decoders])
    )
    fit(make_model(*decoders, nested=True), TeacherForcingSchedule(start=0.9, end=0.5), watch, epochs=2)
    np.testing.assert_allclose(seen, [[0.9, 0.9], [0.5, 0.5]], rtol=1e-6)
    # What training ended with is what a saved model holds.
    np.testing.assert_allclose([d.teacher_forcing.numpy() for d in decoders], 0.5)


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def test_interrupted_training_goes_on_where_it_was(tmp_path):
    whole = fit(make_model(Follower()), TeacherForcingSchedule(), epochs=5)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        fit(make_model(Follower()), TeacherForcingSchedule(), backup(), Stop(), epochs=5)
    resumed = fit(make_model(Follower()), TeacherForcingSchedule(), backup(), epochs=5)
    assert resumed == {name: values[3:] for name, values in whole.items()}
    assert len(set(whole["loss"])) == 5


@numpy_alone
def test_options_round_trip():
    for callback in (
        TeacherForcingSchedule(),
        TeacherForcingSchedule("exponential", start=0.9, end=0.1, epochs=np.int64(7)),
    ):
        saved = keras.saving.serialize_keras_object(callback)
        assert saved["registered_name"] == "keras_seqx>TeacherForcingSchedule"
        again = keras.saving.deserialize_keras_object(saved)
        assert again.get_config() == callback.get_config()
        assert again.probability(3) == callback.probability(3)


@numpy_alone
@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"schedule": "cosine"}, ValueError, "`schedule` must be 'linear' or 'exponential' or 'inverse_sigmoid'"),
        ({"start": 1.5}, ValueError, r"`start` must be a number within \[0, 1\]"),
        ({"end": -0.1}, ValueError, "`end` must be"),
        ({"end": float("nan")}, ValueError, "`end` must be"),
        ({"start": "1"}, TypeError, "`start` must be"),
        ({"end": None}, TypeError, "`end` must be"),
        ({"epochs": 0}, ValueError, "`epochs` must be an integer of at least 1"),
        ({"epochs": 2.0}, TypeError, "`epochs` must be an integer"),
        ({"schedule": "exponential", "end": 0}, ValueError, "`end` must be above 0"),
        ({"schedule": "exponential", "start": 0.0}, ValueError, "`start` must be above 0"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else getattr(value, "__name__", ""),
)
def test_bad_options(options, kind, text):
    with pytest.raises(kind, match=f"TeacherForcingSchedule: {text}"):
        TeacherForcingSchedule(**options)


def test_a_model_without_a_decoder_is_refused():
    model = keras.Sequential([keras.Input((6, 2)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="TeacherForcingSchedule: `model` must be one with a decoder"):
        fit(model, TeacherForcingSchedule())


def test_a_decoder_that_cannot_read_its_outputs_is_refused():
    decoder = AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(3))
    model = keras.Sequential([keras.Input((6, 2)), decoder])
    model.compile("sgd", "mse")
    x = np.zeros((4, 6, 2), "float32")
    with pytest.raises(ValueError, match="a schedule moves `teacher_forcing` below 1"):
        model.fit(x, np.zeros((4, 6, 3)), verbose=0, callbacks=[TeacherForcingSchedule()])
    model.fit(x, np.zeros((4, 6, 3)), verbose=0, callbacks=[TeacherForcingSchedule(start=1, end=1)])
