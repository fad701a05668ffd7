"""Reads files of weights, whatever is in them: a process of its own opens them, and nothing that it says is trusted."""

import contextlib
import dataclasses
import math
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from keras_seqx._core import errors
from keras_seqx.transfer.file_reader.limits import DTYPES, EXPANSION, MAX_LISTING, SLACK, ZIP_EXPANSION, ZIP_FLOOR
from keras_seqx.transfer.file_reader.process import BrokenError, Child, NonsenseError, RefusedError, Watchdog

PATIENCE = 20.0  # seconds that a file may take to be opened, and longer by its size; or to yield more of an array
BYTES_PER_SECOND = 20e6
CONSTRAINT = "a `.keras`, `.weights.h5` or `.h5` file as Keras writes it"
FIX = "Save it again by `model.save` or `model.save_weights`, and copy it whole"


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
    """Shape and dtype of an array in a file, the dtype by its name in Keras."""

    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a file holds.

    Attributes:
        path: the file.
        config: the text of a `.keras` archive's `config.json`, None for an HDF5 file.
        arrays: by path in the file without the leading slash, in the file's order.
        attributes: of each group by its path, "" for the root: str, int, float, or lists of them.
    """

    path: str
    config: str | None
    arrays: dict[str, ArrayInfo]
    attributes: dict[str, dict[str, Any]]


class Reader:
    """Reads one file after the other. Its process starts at the first, and ends by `close` or at the end of `with`.

    A file that ends the process, or keeps it busy for too long, is an error like any other; the next is read by a
    new process.
    """

    def __init__(self) -> None:
        self._child: Child | None = None
        self._listing: Listing | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: Any) -> Listing:
        """Returns what a file holds.

        Raises:
            FileNotFoundError, IsADirectoryError: if the path leads to no file.
            ValueError: if the file is damaged, none of Keras', or made to do harm.
        """
        self._listing = None
        path, size = _checked(path)
        with self._talking(path, PATIENCE + size / BYTES_PER_SECOND) as (child, _):
            child.send({"open": os.fsencode(os.path.abspath(path)).decode("latin-1")})
            listing = _listing(path, size, child.receive(MAX_LISTING))
        self._listing = listing
        return listing

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Returns an array of the file opened last, or a range of its rows, as a new array that the caller owns.

        Raises:
            ValueError: if the data is damaged, or there are no such rows.
        """
        if self._listing is None:
            raise ValueError("Reader: no file is open; open one before anything is read from it.")
        path, info = self._listing.path, self._listing.arrays.get(name)
        if info is None:
            raise _error(path, f"it holds no array {name!r}")
        shape, start = info.shape, 0
        if rows is not None:
            if not shape or rows.step not in (None, 1):
                raise _error(path, f"{name!r} of shape {shape} has no rows {rows}", "Ask for rows one after the other")
            start, stop, _ = rows.indices(shape[0])
            shape = (max(0, stop - start), *shape[1:])
        dtype = {"bool": "uint8", "bfloat16": ml_dtypes.bfloat16}.get(info.dtype, info.dtype)
        try:
            array = _aligned(shape, dtype)
        except MemoryError:
            raise _error(path, f"{name!r} of shape {shape} does not fit into memory") from None
        if array.nbytes:
            with self._talking(path, PATIENCE) as (child, watchdog):
                child.send({"read": name, "start": start, "stop": start + shape[0] if shape else 1})
                child.fill(array.reshape(-1).view("uint8").data, watchdog)
        if sys.byteorder == "big":
            array.byteswap(inplace=True)
        return np.not_equal(array, 0, out=array.view("bool")) if info.dtype == "bool" else array

    def close(self) -> None:
        """Ends the process."""
        child, self._child, self._listing = self._child, None, None
        if child is not None:
            child.end()

    @contextlib.contextmanager
    def _talking(self, path: str, seconds: float) -> Iterator[tuple[Child, Watchdog]]:
        """Yields a process to speak with, and turns what goes wrong with it into the user's error."""
        try:
            self._child = self._child or Child()
            with self._child.talking(seconds) as watchdog:
                yield self._child, watchdog
        except RefusedError as error:
            raise _error(path, error.found, error.fix) from None
        except BrokenError as error:
            self.close()
            raise _error(path, str(error)) from None
        except BaseException:
            self.close()
            raise


def _error(path: str, found: str, fix: str = "") -> ValueError:
    return ValueError(errors.message("transfer_weights", "source", CONSTRAINT, path, fix or FIX, found))


def _checked(path: Any) -> tuple[str, int]:
    """Returns a path as text, and the size of the regular file there."""
    try:
        path = os.fsdecode(path)
    except TypeError:
        fix = "Give the path of a file as a str or a `pathlib.Path`"
        raise TypeError(errors.message("transfer_weights", "source", "the path of a file", path, fix)) from None
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        text = errors.message("transfer_weights", "source", CONSTRAINT, path, "Check the path", "no such file")
        raise FileNotFoundError(text) from None
    except ValueError as error:
        raise _error(path, str(error), "Check the path") from None
    if stat.S_ISDIR(status.st_mode):
        found, fix = "a folder", "Give the path of one file"
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            found, fix = "a SavedModel folder", "Load it by the TensorFlow that saved it, and save it as a `.h5` file"
        raise IsADirectoryError(errors.message("transfer_weights", "source", CONSTRAINT, path, fix, found))
    if not stat.S_ISREG(status.st_mode):
        raise _error(path, "a device or pipe", "Give the path of a regular file")
    with open(path, "rb"):  # raises the system's own error where the user may not read it
        return path, status.st_size


def _listing(path: str, size: int, reply: dict[str, Any]) -> Listing:
    """Returns the listing that a reply gives, if it gives one that this file can have."""
    config, rows, attributes = (reply.get(key) for key in ("config", "arrays", "attributes"))
    within = size if config is None else max(ZIP_FLOOR, ZIP_EXPANSION * size)
    arrays: dict[str, ArrayInfo] = {}
    if not isinstance(config, str | None) or not isinstance(rows, list) or not _are_attributes(attributes):
        raise NonsenseError
    for row in rows:
        if not isinstance(row, list) or [type(item) for item in row] != [str, list, str]:
            raise NonsenseError
        name, shape, dtype = row
        if name in arrays or dtype not in DTYPES or any(type(n) is not int or n < 0 for n in shape) or len(shape) > 32:
            raise NonsenseError
        itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        if math.prod(shape) * itemsize > SLACK + EXPANSION * within or math.prod(n or 1 for n in shape) >= 1 << 59:
            raise NonsenseError
        arrays[name] = ArrayInfo(tuple(shape), dtype)
    return Listing(path, config, arrays, attributes)


def _are_attributes(value: Any) -> TypeGuard[dict[str, dict[str, Any]]]:
    """Tells whether a value is attributes by group and name."""
    if not isinstance(value, dict) or not all(isinstance(group, dict) for group in value.values()):
        return False
    values = [item for group in value.values() for item in group.values()]
    return all(type(item) in (str, int, float) for v in values for item in (v if isinstance(v, list) else [v]))


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an empty array that starts where TensorFlow and JAX can take it over without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, "uint8")
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
