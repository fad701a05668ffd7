"""LengthCurriculum and PaddingMonitor."""

import keras
import numpy as np

from keras_seqx import LengthBucketing, LengthCurriculum, PaddingMonitor
from tests.data.cases import recording_model, sequences


def make(**options):
    x, _ = sequences()
    return LengthBucketing(x, np.zeros(len(x)), **({"batch_size": 4, "buckets": 4, "seed": 3} | options))


def correlation(values):
    return np.corrcoef(np.arange(len(values)), values)[0, 1]


def test_short_sequences_come_first_and_ever_less():
    data = make(batch_size=1)
    plain = [sorted(int(x[0, 0, 0]) for x, _ in data)]
    model, seen = recording_model()
    history = model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[LengthCurriculum(data, 2)])
    assert history.history["curriculum"] == [1.0, 0.5, 0.0]
    lengths = {int(row[0, 0]): len(row) for row in sequences()[0]}
    epochs = [[row for batch in seen[i * 60 : (i + 1) * 60] for row in batch] for i in range(3)]
    assert [sorted(epoch) for epoch in epochs] == plain * 3
    trend = [correlation([lengths[row] for row in epoch]) for epoch in epochs]
    assert trend[0] > 0.9 > trend[1] > 0.3 > abs(trend[2])
    # Afterwards the data are as they were.
    assert data.curriculum is None


def test_the_order_is_that_of_the_seed_the_epoch_and_the_schedule():
    orders = []
    for workers in (1, 3):
        data = make(workers=workers)
        data.curriculum = LengthCurriculum(data, lambda epoch: 0.5).by_length
        data.epoch = 1
        orders.append([int(x[0, 0, 0]) for x, _ in data])
    assert orders[0] == orders[1]


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
def half(epoch):
    return 0.5


def test_options_round_trip():
    data = make()
    for schedule in (3, half):
        config = LengthCurriculum(data, schedule).get_config()
        assert LengthCurriculum.from_config(config, data).get_config() == config
        assert LengthCurriculum.from_config(config, data).by_length(1) == LengthCurriculum(data, schedule).by_length(1)
    assert PaddingMonitor.from_config(PaddingMonitor(data).get_config(), data).data is data


def test_what_is_logged_is_what_was_trained_on(capsys):
    data, validation = make(remainder="fill").split(0.25)
    model, _ = recording_model()
    history = model.fit(
        data, validation_data=validation, epochs=2, shuffle=False, verbose=2, callbacks=[PaddingMonitor(data)]
    ).history
    report = data.report()
    np.testing.assert_allclose(history["efficiency"], report.efficiency)
    assert history["shapes"] == [len(report.shapes)] * 2
    assert min(history["valid_steps_per_second"]) > 0
    assert "efficiency: " in capsys.readouterr().out


def test_part_of_an_epoch_is_logged_as_such():
    data = make()
    model, _ = recording_model()
    monitor = PaddingMonitor(data)
    history = model.fit(data, epochs=2, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=[monitor]).history
    plan = data._finite_source.plan(0)
    for epoch, efficiency in enumerate(history["efficiency"]):
        part = slice(3 * epoch, 3 * epoch + 3)
        assert efficiency == np.float64(plan.valid_steps[part].sum() / plan.total_steps[part].sum())
    assert data.state_dict()["batch"] == 6
