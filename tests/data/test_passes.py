"""Epochs, resuming, and what Keras' hooks do to them."""

import json
import types

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_seqx import LengthBucketing, PaddingMonitor
from keras_seqx.data.feeding.position import PositionTracker
from tests.data.cases import recording_model, rows_of, sequences
from tests.data.test_batches import assert_same


def make(seed=3, **options):
    x, _ = sequences()
    return LengthBucketing(x, np.zeros(len(x)), batch_size=4, seed=seed, **options)


def flat(batches):
    return [keras.tree.flatten(batch) for batch in batches]


@given(st.integers(1, 9), st.integers(0, 8), st.data())
def test_progress_follows_what_keras_does(batches, start, data):
    """Looks, a batch to build a model, whole passes and passes in parts: index 0 stays where the pass began."""
    progress = PositionTracker(batches)
    progress.move(start)
    for index in range(min(2, batches)):
        assert progress.ask(index) == start + index
    progress.end()
    built = data.draw(st.integers(0, batches - 1))
    progress.begin()
    for index in range(built):
        progress.ask(index)
    progress.end()
    assert progress.start == start
    for _ in range(3):
        size = data.draw(st.integers(1, batches))
        asked = []
        for index in range(batches):
            if index % size == 0:
                progress.end()
                progress.begin()
            asked.append(progress.ask(index))
        assert asked == list(range(start, start + batches))
        progress.end()
        start += batches
        assert progress.start == start
        assert progress.in_order


def test_a_look_at_all_batches_does_not_move_training():
    data = make()
    list(data)
    model, seen = recording_model()
    model.fit(data, shuffle=False, verbose=0)
    assert seen == rows_of(data, 0)


def test_on_epoch_end_after_all_batches_changes_the_order():
    data = make()
    first = flat([data[i] for i in range(len(data))])
    data.on_epoch_end()
    second = flat([data[i] for i in range(len(data))])
    assert data.epoch == 1
    assert any(a[0].shape != b[0].shape or (a[0] != b[0]).any() for a, b in zip(first, second, strict=True))
    data.epoch = 0
    assert_same(flat([data[i] for i in range(len(data))]), first)


@pytest.mark.parametrize("stop", [1, 5, 14])
def test_training_resumes_at_the_first_batch_not_trained_on(stop):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == stop:
                self.model.stop_training = True

    data = make()
    model, seen = recording_model()
    model.fit(data, shuffle=False, verbose=0, callbacks=[PaddingMonitor(data), Stop()])
    assert len(seen) == stop
    state = json.loads(json.dumps(data.state_dict()))
    assert (state["epoch"], state["batch"]) == divmod(stop, len(data))

    again = make(workers=3)
    again.load_state_dict(state)
    model, seen = recording_model()
    model.fit(again, epochs=2, shuffle=False, verbose=0, callbacks=[PaddingMonitor(again)])
    planned = [row for epoch in range(3) for row in rows_of(again, epoch)]
    assert seen == planned[stop : stop + 2 * len(data)]
    assert again.state_dict()["batch"] == stop % len(data)


def test_a_callback_behind_the_monitor_can_save_the_state():
    data, states = make(), []
    save = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: states.append(data.state_dict()),
        on_epoch_end=lambda epoch, logs: states.append(data.state_dict()),
    )
    model, _ = recording_model()
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[PaddingMonitor(data), save])
    count = len(data)
    positions = [state["epoch"] * count + state["batch"] for state in states]
    assert positions == [*range(1, count + 1), count, *range(count + 1, 2 * count + 1), 2 * count]


def test_a_loop_by_hand_can_be_resumed():
    data = make()
    for number, _ in enumerate(data):
        if number == 4:
            break
    assert data.state_dict()["batch"] == 5
    list(data)
    assert (data.state_dict()["epoch"], data.state_dict()["batch"]) == (1, 0)
    data.on_epoch_end()
    assert (data.state_dict()["epoch"], data.state_dict()["batch"]) == (1, 0)
    data = make()
    for number in range(3):
        data[number]
    assert data.state_dict()["batch"] == 3


def test_without_a_monitor_the_middle_of_an_epoch_is_not_known():
    data, errors = make(), []

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(RuntimeError, match=r"with `PaddingMonitor\(data\)` among them"):
                data.state_dict()
            errors.append(batch)

        def on_epoch_end(self, epoch, logs=None):
            assert data.state_dict()["epoch"] == epoch + 1

    model, _ = recording_model()
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[Save()])
    assert len(errors) == 2 * len(data)


def test_a_count_of_an_earlier_fit_is_not_taken_for_that_of_a_later_one():
    data = make()
    model, _ = recording_model()
    model.fit(data, shuffle=False, verbose=0, callbacks=[PaddingMonitor(data)])
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert data.state_dict()["epoch"] == 3


def test_a_state_of_other_data_options_or_seed_is_refused():
    state = make().state_dict()
    x, _ = sequences()
    negated = LengthBucketing([-row for row in x], np.zeros(len(x)), batch_size=4, seed=3)
    for other in (make(buckets=2), make(remainder="fill"), LengthBucketing([np.ones(3)], seed=3), negated):
        with pytest.raises(ValueError, match="`state` must be of the same data and options"):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="`state` must be of the same seed"):
        make(seed=4).load_state_dict(state)
    with pytest.raises(ValueError, match="`state` must be what `state_dict` returned"):
        make().load_state_dict({"epoch": 1})
    with pytest.raises(ValueError, match="`seed` must be an integer where training is to be resumed"):
        make(seed=None).state_dict()
    make(seed=None, shuffle=False).load_state_dict(make(seed=None, shuffle=False).state_dict())


@pytest.mark.parametrize("shares", [True, False])
def test_batches_are_not_shared_out_twice(shares, monkeypatch):
    """From Keras 3.16 on, a distribution of two processes gives each every other batch."""
    distribution = types.SimpleNamespace(auto_shard_dataset=shares, num_data_shards=2)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: distribution)
    data = make()
    if not shares:
        assert data.workers == 1
        return
    with pytest.raises(ValueError, match="LengthBucketing: `auto_shard_dataset` must be False") as raised:
        _ = data.workers
    assert "`num_shards=2`" in str(raised.value)
