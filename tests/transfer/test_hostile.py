"""Hostile files end to end: nothing in them is run, and whatever is wrong with them, the target stays as it was."""

import collections
import contextlib
import copy
import json
import os
import random
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import transfer_weights
from keras_seqx.transfer.file_reader import reader
from keras_seqx.transfer.sources import source
from tests.transfer import hostile, test_legacy
from tests.transfer.models import assert_same, randomize, values
from tests.transfer.test_reading import _mutated

# What a file says is the same on every backend; few are enough to see that the others take it.
FUZZ = int(os.environ.get("KERAS_SEQX_FUZZ", 600 if keras.backend.backend() == "tensorflow" else 200))


@pytest.mark.parametrize("name", hostile.ARMED)
def test_nothing_stored_is_run(name, tmp_path):
    """The weights of such a file are data like any other's."""
    marker = tmp_path / "marker"
    path = hostile.ARMED[name](tmp_path, f"touch {marker}")
    target = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    before = sorted(tmp_path.iterdir())
    with contextlib.suppress(ValueError):  # those that do not fit
        transfer_weights(path, target)
    assert sorted(tmp_path.iterdir()) == before
    assert not marker.exists()


@pytest.mark.parametrize("name", hostile.REFUSED)
def test_refused_files_leave_the_target_alone(name, tmp_path):
    path = hostile.REFUSED[name][0](tmp_path)
    target = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    before = values(target)
    with pytest.raises((ValueError, OSError), match="transfer_weights: `source` must be"):
        transfer_weights(path, target)
    assert_same(before, values(target))


def small():
    x = keras.Input((6, 5))
    hidden = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
    inner = keras.Sequential([keras.Input((6, 6)), layers.Dense(4), layers.Dense(4)], name="inner")
    return keras.Model(x, layers.RNN([layers.LSTMCell(4), layers.LSTMCell(4)])(inner(hidden)))


def damaged_config(config, chance):
    """Changes some values of a configuration: to other types, other names, others' values, or nothing."""
    config = copy.deepcopy(config)
    places = []

    def walk(value):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(config)
    for _ in range(chance.choice([1, 1, 2, 5])):
        holder, key = chance.choice(places)
        other_holder, other = chance.choice(places)
        try:
            value = chance.choice(
                [
                    None,
                    -1,
                    2**70,
                    "",
                    "lstm",
                    True,
                    [],
                    {},
                    ["x", 0, 0],
                    [[]],
                    {"class_name": 3},
                    1.5,
                    other_holder[other],
                ]
            )
            if chance.random() < 0.2 and isinstance(holder, dict):
                del holder[key]
            else:
                holder[key] = value
        except (KeyError, IndexError):  # the place is gone by an earlier change
            continue
    try:
        return json.dumps(config)
    except (ValueError, RecursionError):  # it contains itself now
        return "{}"


def test_damaged_files(monkeypatch, tmp_path):
    """Of hundreds, each is transferred, or refused in due form, with the target as it was."""
    monkeypatch.setattr(reader, "PATIENCE", 1.0)
    shared = reader.Reader()

    class Shared:
        def __enter__(self):
            return shared

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(source, "Reader", Shared)
    model = randomize(small())
    model.compile("adam", "mse")
    model.train_on_batch(np.zeros((2, 6, 5)), np.zeros((2, 4)))
    model.save(tmp_path / "small.keras")
    model.save_weights(tmp_path / "small.weights.h5")
    with zipfile.ZipFile(tmp_path / "small.keras") as file:
        config, weights = json.loads(file.read("config.json")), file.read("model.weights.h5")
    targets = {
        "many_to_many.h5": test_legacy.many_to_many(),
        "bidirectional_repeat_vector.h5": test_legacy.bidirectional_repeat_vector(),
        "unrolled_decoder.h5": test_legacy.unrolled_decoder(),
        "many_to_many.weights.h5": test_legacy.many_to_many(),
        "small.weights.h5": small(),
        "small.keras": small(),
    }
    for target in targets.values():
        target.compile("adam", "mse")
        target.optimizer.build(target.trainable_variables)
    contents = {
        name: ((tmp_path if name.startswith("small") else test_legacy.DATA) / name).read_bytes() for name in targets
    }
    chance, outcomes = random.Random(5), collections.Counter()
    path = tmp_path / "mutated"
    for i in range(FUZZ):
        name = list(targets)[i % len(targets)]
        target = targets[name]
        if name == "small.keras":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("config.json", damaged_config(config, chance))
                file.writestr("model.weights.h5", weights if chance.random() < 0.7 else _mutated(weights, chance))
        else:
            path.write_bytes(_mutated(contents[name], chance))
        before = values(target) + [v.numpy() for v in target.optimizer.variables]
        cannot_resize = None
        try:
            transfer_weights(path, target, include_optimizer=chance.random() < 0.3)
        except ValueError as error:
            cannot_resize = str(error)
        outcomes[name, cannot_resize is None] += 1
        if cannot_resize is not None:
            assert cannot_resize.startswith("transfer_weights: `"), cannot_resize
            assert_same(before, values(target) + [v.numpy() for v in target.optimizer.variables])
    shared.close()
    print(dict(outcomes))
    assert {done for _, done in outcomes} == {True, False}
