"""Assigning many variables, all or none."""

import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx.transfer.assigning import PIECE, assign
from keras_seqx.transfer.sources.live_model import to_numpy

MEMORY = 16 * 2**20  # bytes of old values kept in memory; more go to a temporary file


class Transaction:
    """A context in which variables are assigned, and out of which an error puts every one of them back.

    The old value of each is put aside before it is touched, so that a full disk is an error like any other.
    """

    def __enter__(self) -> "Transaction":
        self._old: list[tuple[Any, np.ndarray | int]] = []
        self._in_memory = 0
        self._file: Any = None
        return self

    def assign(self, variable: Any, read: Callable[[], np.ndarray]) -> None:
        """Assigns what `read` returns, cast to the variable's dtype.

        It is called once the old value has been put aside, so that of a large variable one copy is in memory at a time.
        """
        self._old.append((variable, self._put_aside(variable)))
        value = read()
        if keras.backend.standardize_dtype(value.dtype) != keras.backend.standardize_dtype(variable.dtype):
            value = value.astype(_numpy_dtype(variable))
        assign(variable, value)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            if error is not None:
                for variable, old in reversed(self._old):
                    variable.assign(self._read_back(variable, old) if isinstance(old, int) else old)
        finally:
            if self._file is not None:
                self._file.close()

    def _put_aside(self, variable: Any) -> np.ndarray | int:
        """Returns a copy of a variable's value, or where in the file it is."""
        size = math.prod(variable.shape) * _numpy_dtype(variable).itemsize
        if self._in_memory + size <= MEMORY:
            self._in_memory += size
            return np.array(to_numpy(variable.value))
        if self._file is None:  # unbuffered: what has been written is written, what has not raises here
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, it is closed on exit
        position = self._file.seek(0, 2)
        for piece in _pieces(variable, size):
            rest = np.ascontiguousarray(piece).reshape(-1).view("uint8").data
            while rest:
                rest = rest[self._file.write(rest) :]
        return position

    def _read_back(self, variable: Any, position: int) -> np.ndarray:
        old = np.empty(tuple(variable.shape), _numpy_dtype(variable))
        self._file.seek(position)
        rest = old.reshape(-1).view("uint8").data
        while rest:
            rest = rest[self._file.readinto(rest) :]
        return old


def _pieces(variable: Any, size: int) -> Iterator[np.ndarray]:
    """Yields the values of a variable in pieces of a few rows, as a backend may copy what it shows."""
    if len(variable.shape) == 0 or size <= PIECE:
        yield to_numpy(variable.value)
        return
    rows = max(1, variable.shape[0] * PIECE // size)
    for start in range(0, variable.shape[0], rows):
        yield to_numpy(variable.value[start : start + rows])


def _numpy_dtype(variable: Any) -> np.dtype:
    return to_numpy(ops.zeros((), dtype=variable.dtype)).dtype
