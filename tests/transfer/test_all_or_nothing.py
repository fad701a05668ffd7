"""After any error the target is what it was, to the last bit."""

import errno
import functools
import tempfile

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import transfer_weights
from keras_seqx.transfer import assigning, assignment
from keras_seqx.transfer.file_reader.reader import Reader
from tests.transfer.models import assert_same, randomize, values


def network(dtype="float32"):
    return keras.Sequential([keras.Input((4,)), *(layers.Dense(4, dtype=dtype) for _ in range(3))])


@pytest.fixture
def models(tmp_path):
    source, target = randomize(network()), randomize(network(), seed=1)
    source.save_weights(tmp_path / "model.weights.h5")
    return source, target, tmp_path / "model.weights.h5"


def broken_after(count, error, function):
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) > count:
            raise error
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("memory", [2**20, 100, 0])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "the disk broke"), KeyboardInterrupt(), MemoryError()])
def test_reading_fails_midway(models, monkeypatch, memory, error):
    """Whether the old values are in memory, in part, or all in a file."""
    _, target, path = models
    before = values(target)
    monkeypatch.setattr(assignment, "MEMORY", memory)
    monkeypatch.setattr(Reader, "read", broken_after(4, error, Reader.read))
    with pytest.raises(type(error)):
        transfer_weights(path, target)
    assert_same(before, values(target))
    monkeypatch.undo()
    transfer_weights(path, target)
    with pytest.raises(AssertionError):
        assert_same(before, values(target))


def test_assigning_fails_midway(models, monkeypatch):
    source, target, _ = models
    before = values(target)
    variable = target.variables[3]
    monkeypatch.setattr(variable, "assign", broken_after(0, RuntimeError("no"), variable.assign))
    monkeypatch.setattr(assignment.Transaction, "__exit__", _forgiving(variable, monkeypatch))
    with pytest.raises(RuntimeError, match="no"):
        transfer_weights(source, target)
    assert_same(before, values(target))


def _forgiving(variable, monkeypatch):
    """The variable fails to take the new value, and takes the old one."""
    leave = assignment.Transaction.__exit__

    def exit_(self, *error):
        monkeypatch.delattr(variable, "assign")
        return leave(self, *error)

    return exit_


@pytest.mark.parametrize("room", [0, 30, 100, 170])
def test_a_full_disk(models, monkeypatch, room):
    """The old values do not fit: not one is overwritten, or those that were come back."""
    source, target, _ = models
    before = values(target)
    monkeypatch.setattr(assignment, "MEMORY", 0)

    class Disk:
        def __init__(self, **kwargs):
            self.file, self.left = make(**kwargs), room

        def write(self, data):
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(data[: self.left])
            self.left -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", Disk)
    with pytest.raises(OSError, match="No space left"):
        transfer_weights(source, target)
    assert_same(before, values(target))


def test_truncated_files(models, tmp_path):
    _, target, path = models
    before = values(target)
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 12).astype(int):
        (tmp_path / "cut.weights.h5").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="transfer_weights: `source` must be"):
            transfer_weights(tmp_path / "cut.weights.h5", target)
        assert_same(before, values(target))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_come_back(monkeypatch, dtype):
    source, target = randomize(network()), randomize(network(dtype), seed=1)
    before = values(target)
    monkeypatch.setattr(assignment, "MEMORY", 0)
    pending = assignment.Transaction().__enter__()
    for ours, theirs in zip(source.variables, target.variables, strict=True):
        pending.assign(theirs, functools.partial(keras.ops.convert_to_numpy, ours.value))
    pending.__exit__(ValueError, ValueError(), None)
    assert_same(*([v.astype("float64") for v in side] for side in (before, values(target))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_variables_go_in_pieces(models, monkeypatch, dtype):
    """By each backend's own way; and they train on."""
    for module in (assigning, assignment):
        monkeypatch.setattr(module, "PIECE", 20)
    monkeypatch.setattr(assignment, "MEMORY", 0)
    source, _, path = models
    target = network(dtype)
    transfer_weights(path, target)
    expected = [w if dtype == "float32" else w.astype(target.get_weights()[0].dtype) for w in source.get_weights()]
    assert_same(*([np.asarray(w, "float32") for w in side] for side in (expected, target.get_weights())))
    target.compile("adam", "mse")
    assert np.isfinite(target.train_on_batch(np.eye(4), np.eye(4)))
    before = values(target)
    monkeypatch.setattr(Reader, "read", broken_after(4, MemoryError(), Reader.read))
    with pytest.raises(MemoryError):
        transfer_weights(path, target)
    assert_same(*([np.asarray(v, "float64") for v in side] for side in (before, values(target))))
