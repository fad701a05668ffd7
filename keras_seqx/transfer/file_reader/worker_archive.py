"""The outside of a file of weights: a `.keras` archive, an HDF5 file, or what else it may be instead."""

import codecs
import contextlib
import io
import re
import stat
import zipfile
from typing import Any, BinaryIO

from keras_seqx.transfer.file_reader.limits import (
    MAX_CONFIG,
    MAX_INFLATED,
    MEMORY,
    MIB,
    ZIP_EXPANSION,
    ZIP_FLOOR,
    Refusal,
    limit,
    text,
)

CONFIG, WEIGHTS, NPZ = "config.json", "model.weights.h5", "model.weights.npz"


class Window(io.RawIOBase):
    """A range of a file as a file. HDF5 takes for data what a short read leaves, so here that is an error."""

    def __init__(self, file: Any, offset: int, size: int):
        self._file, self._offset, self.size, self._position = file, offset, size, 0

    def seek(self, position: int, whence: int = 0) -> int:
        self._position = position + (0, self._position, self.size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if not 0 <= self._position <= self.size - len(view):
            raise EOFError("data beyond the end of the file")
        self._file.seek(self._offset + self._position)
        done = 0
        while done < len(view):
            if not (count := self._file.readinto(view[done:])):
                raise EOFError("the file became shorter")
            done += count
        self._position += done
        return done


def unzip(file: BinaryIO, size: int) -> tuple[str, Window]:
    """Returns config.json and the weights of a `.keras` archive; nothing is extracted, nothing else is read."""
    archive = zipfile.ZipFile(file)
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename
        if name in members:
            raise Refusal(f"an archive with two members {name!r}")
        if re.match(r"/|[A-Za-z]:", name) or re.search(r"[\\\0]", name) or ".." in name.split("/"):
            raise Refusal(f"an archive whose member {name!r} leads out of it")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise Refusal(f"an archive whose member {name!r} is a symbolic link")
        if info.flag_bits & 0x41:
            raise Refusal(f"an archive whose member {name!r} is encrypted")
        members[name] = info
    if NPZ in members and WEIGHTS not in members:
        fix = "Load it where it was saved, and save it where h5py is installed"
        raise Refusal(f"an archive with {NPZ}, which can hold code, and no {WEIGHTS}", fix)
    for name in (CONFIG, WEIGHTS):
        if name not in members:
            raise Refusal(f"a zip archive without {name}")
        info, stored = members[name], members[name].compress_type == zipfile.ZIP_STORED
        if not stored and info.compress_type != zipfile.ZIP_DEFLATED:
            raise Refusal(f"{name} compressed by method {info.compress_type} of zip", "Zip it by method 8, or 0")
        most = info.compress_size if stored else max(ZIP_FLOOR, ZIP_EXPANSION * info.compress_size)
        if info.file_size > most or info.compress_size > size:
            raise Refusal(f"{name} declares {info.file_size:,} bytes and stores {info.compress_size:,}")
        largest = size if stored and name == WEIGHTS else MAX_INFLATED if name == WEIGHTS else MAX_CONFIG
        if info.file_size > largest:
            fix = "Zip it again without compression" if name == WEIGHTS else ""
            raise Refusal(f"{name} of {info.file_size:,} bytes, more than {largest:,}", fix)
    config = text(archive.read(CONFIG), CONFIG)
    info, copy = members[WEIGHTS], io.BytesIO()
    if not stored:
        limit({"RLIMIT_AS": MEMORY + 2 * info.file_size})
    with archive.open(info) as member:  # which compares the two headers and, to the end, the checksum
        while piece := member.read(MIB):
            if not stored:
                copy.write(piece)
    if not stored:
        return config, Window(copy, 0, copy.tell())
    file.seek(info.header_offset + 26)
    lengths = file.read(4)
    start = info.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    return config, Window(file, start, info.file_size)


def is_hdf5(window: Window) -> bool:
    """Tells whether HDF5's signature is at one of the offsets where HDF5 itself looks for it."""
    for offset in (0, *(512 << power for power in range(48))):
        if offset > window.size - 8:
            return False
        window.seek(offset)
        if window.read(8) == b"\x89HDF\r\n\x1a\n":
            return True
    return False


def unrecognized(window: Window) -> str:
    """Returns what a file is that is neither HDF5 nor a zip archive."""
    window.seek(0)
    head = window.read(min(window.size, 4096)) or b""
    if not head:
        return "an empty file"
    kinds = {b"\x80": "a pickle", b"\x93NUMPY": "an array of NumPy's", b"\x1f\x8b": "a file compressed by gzip"}
    for magic, kind in kinds.items():
        if head.startswith(magic):
            return kind
    with contextlib.suppress(UnicodeDecodeError):
        if not re.search(r"[\0-\x08\x0e-\x1f]", codecs.getincrementaldecoder("utf-8")().decode(head)):
            return "a text file"
    return "neither HDF5 nor a zip archive"
