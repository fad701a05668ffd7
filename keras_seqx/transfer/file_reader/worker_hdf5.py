"""The inside of a file of weights, by way of h5py. Only the process that runs `worker.py` may import it."""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from keras_seqx.transfer.file_reader.limits import (
    CACHE,
    DTYPES,
    EXPANSION,
    FILTERS,
    MAX_CHUNK,
    MAX_DEPTH,
    MAX_OBJECTS,
    MEMORY,
    PIECE,
    SLACK,
    Refusal,
    limit,
    text,
)
from keras_seqx.transfer.file_reader.worker_archive import WEIGHTS, Window, is_hdf5, unrecognized, unzip


class Source:
    """A file that is open: what it holds, and its arrays piece by piece."""

    def __init__(self, path: bytes):
        self._closing = contextlib.ExitStack()
        self._arrays: dict[str, tuple[list[int], str, Any, tuple[int, ...]]] = {}
        self._attributes: dict[str, dict[str, Any]] = {}
        self._addresses: dict[int, str] = {}
        self._stored = 0
        try:
            self.listing = self._open(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(Exception):  # h5py may fail at closing what it opened half
            self._closing.close()

    def _open(self, path: bytes) -> dict[str, Any]:
        limit({"RLIMIT_AS": MEMORY})
        raw = self._closing.enter_context(open(path, "rb"))  # noqa: SIM115
        config, window = None, Window(raw, 0, raw.seek(0, io.SEEK_END))
        raw.seek(0)
        if raw.read(4) in (b"PK\3\4", b"PK\5\6"):
            config, window = unzip(raw, window.size)
        if not is_hdf5(window):
            raise Refusal(unrecognized(window) + (f" as {WEIGHTS}" if config is not None else ""))
        self._size = window.size
        self._file = self._closing.enter_context(h5py.File(window, "r"))
        self._walk(h5py.h5o.open(self._file.id, b"/"), "", 0)
        arrays = [[path, shape, dtype] for path, (shape, dtype, *_) in self._arrays.items()]
        return {"config": config, "arrays": arrays, "attributes": self._attributes}

    def _walk(self, node: Any, path: str, depth: int) -> None:
        """Notes what an object is and holds, through hard links alone and each object once."""
        first = self._addresses.setdefault(h5py.h5o.get_info(node).addr, path)
        if first != path:
            raise Refusal(f"{path!r} is the same object as {first or '/'!r}")
        if depth > MAX_DEPTH or len(self._addresses) > MAX_OBJECTS:
            raise Refusal(f"objects nested deeper than {MAX_DEPTH}, or more than {MAX_OBJECTS:,} of them")
        if path and isinstance(node, h5py.h5d.DatasetID):
            return self._note_array(node, path)
        if not isinstance(node, h5py.h5g.GroupID):
            raise Refusal(f"{path!r} is neither a group nor a data set")
        attributes = h5py.Group(node).attrs
        self._attributes[path] = {name: self._attribute(attributes, name, path) for name in attributes}
        if node.get_num_objs() > MAX_OBJECTS:
            raise Refusal(f"more than {MAX_OBJECTS:,} objects")
        for encoded in list(node):
            name = text(encoded, f"a name in {path or '/'!r}")
            below = f"{path}/{name}" if path else name
            if "/" in name or name in ("", "."):
                raise Refusal(f"an object whose name is {name!r}")
            kind = node.links.get_info(encoded).type
            if kind == h5py.h5l.TYPE_EXTERNAL:
                target = b" in ".join(node.links.get_val(encoded)[::-1])
                raise Refusal(f"{below!r} is a link to another file: {target.decode(errors='replace')}")
            if kind != h5py.h5l.TYPE_HARD:
                raise Refusal(f"{below!r} is a {'soft' if kind == h5py.h5l.TYPE_SOFT else 'user-defined'} link")
            self._walk(h5py.h5o.open(node, encoded), below, depth + 1)
        return None

    def _attribute(self, attributes: Any, name: str, path: str) -> Any:
        where = f"attribute {name!r} of {path or '/'!r}"
        text(name, "the name of " + where)
        handle = attributes.get_id(name)
        kind, shape = handle.get_type(), handle.shape or ()
        declared = math.prod(shape) * kind.get_size()
        if declared > self._size:
            raise Refusal(f"{where} declares {declared:,} bytes in a file of {self._size:,}")
        classes = (h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
        if kind.get_class() not in classes or len(shape) > 1:
            raise Refusal(f"{where} is neither text nor a number, nor a list of them")
        value = attributes[name]
        if isinstance(value, h5py.Empty):
            return "" if kind.get_class() == h5py.h5t.STRING else []
        return plain(value, where)

    def _note_array(self, dataset: Any, path: str) -> None:
        """Notes shape and dtype of a data set; a text of its own is no array, and what could be none is refused."""
        kind, extent, creation = (
            dataset.get_type(),
            dataset.get_space().get_simple_extent_type(),
            dataset.get_create_plist(),
        )
        if creation.get_external_count():
            raise Refusal(f"{path!r} keeps its data in another file: {os.fsdecode(creation.get_external(0)[0])}")
        if creation.get_layout() == h5py.h5d.VIRTUAL:
            raise Refusal(f"{path!r} is a virtual data set, made of other files")
        if others := {creation.get_filter(index)[0] for index in range(creation.get_nfilters())} - FILTERS:
            raise Refusal(f"{path!r} is stored by HDF5 filter {min(others)}", "Save it without, or by gzip")
        if kind.get_class() == h5py.h5t.STRING and extent == h5py.h5s.SCALAR:
            return
        dtype, shape = dataset.dtype, dataset.shape
        name, attributes = dtype.name, h5py.Dataset(dataset).attrs
        if name == "void16" and "dtype" in attributes:
            name = str(self._attribute(attributes, "dtype", path))
        classes = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM if name == "bool" else h5py.h5t.OPAQUE)
        if kind.get_class() not in classes or name not in DTYPES or extent == h5py.h5s.NULL:
            raise Refusal(f"{path!r} is no array of numbers, its dtype is {str(dtype)[:80]}")
        chunk = creation.get_chunk() if creation.get_layout() == h5py.h5d.CHUNKED else ()
        stored, itemsize = dataset.get_storage_size(), kind.get_size()
        declared, part = math.prod(shape) * itemsize, math.prod(chunk) * itemsize
        if declared > (stored if stored and not chunk else SLACK + EXPANSION * stored):
            raise Refusal(f"{path!r} declares {declared:,} bytes and stores {stored:,}")
        self._stored += stored
        if self._stored > self._size or math.prod(length or 1 for length in shape) >= 1 << 59:
            raise Refusal(f"the arrays as far as {path!r} declare more than the file's {self._size:,} bytes")
        if chunk and part > min(MAX_CHUNK, declared + SLACK):
            raise Refusal(f"{path!r} of {declared:,} bytes has chunks of {part:,}", "Save it without chunks")
        if chunk and math.prod(map(chunks, shape, chunk)) > 100_000 + declared // 1024:
            raise Refusal(f"{path!r} of shape {shape} has chunks of shape {chunk}", "Save it without chunks")
        self._arrays[path] = list(shape), name, dtype.newbyteorder("<"), chunk

    def read(self, path: str, start: int, stop: int) -> Iterator[memoryview]:
        """Yields rows of an array, or a scalar, in pieces of at most `PIECE` bytes, each valid until the next."""
        shape, _, dtype, chunk = self._arrays[path]
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        if chunk:  # a row of chunks is decompressed once, not for each piece of it
            part = math.prod(chunk) * dtype.itemsize
            row = part * math.prod(map(chunks, shape[1:], chunk[1:]))
            limit({"RLIMIT_AS": MEMORY + self._size + 4 * part})  # compressed, twice while it grows, in the cache
            access.set_chunk_cache(10_007, max(part, min(row, CACHE)), 1.0)
        dataset = h5py.h5d.open(self._file.id, path.encode(), access)
        if [*dataset.shape] != shape or dataset.dtype.newbyteorder("<") != dtype:
            raise Refusal(f"{path!r} changed while it was read")
        stored, memory = dataset.get_space(), h5py.h5t.py_create(dtype)
        buffer = np.empty(PIECE, "uint8")
        axes = [(start, stop - start), *((0, length) for length in shape[1:])] if shape else []
        for first, count in blocks(axes, dtype.itemsize):
            piece = buffer[: math.prod(count) * dtype.itemsize]
            if shape:
                stored.select_hyperslab(first, count)
            space = h5py.h5s.create_simple(count) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
            dataset.read(space, stored, piece.view(dtype).reshape(count), memory)
            yield piece.data


def chunks(length: int, step: int) -> int:
    """Returns how many chunks lie along an axis."""
    return -(-length // step)


def blocks(axes: list[tuple[int, int]], itemsize: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yields (starts, counts) of blocks of at most `PIECE` bytes that follow one another in C order."""
    if not axes:
        yield (), ()
    elif all(count for _, count in axes):
        (start, count), rest = axes[0], axes[1:]
        rows = PIECE // (math.prod(length for _, length in rest) * itemsize)
        for first in range(start, start + count, rows or 1):
            if rows:
                yield (first, *(s for s, _ in rest)), (min(rows, start + count - first), *(n for _, n in rest))
            else:
                yield from (((first, *starts), (1, *counts)) for starts, counts in blocks(rest, itemsize))


def plain(value: Any, where: str) -> Any:
    """Returns an attribute's value as str, int, float, or a list of them."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [plain(item, where) for item in value]
    if isinstance(value, str | bytes):
        return text(value, where)
    if not isinstance(value, int | float):
        raise Refusal(f"{where} is neither text nor a number")
    return int(value) if isinstance(value, bool) else value
