"""Files of weights are read as they are, or refused in words; whatever they hold, nothing happens to the process."""

import collections
import gc
import importlib
import os
import pathlib
import random
import re
import signal
import threading
import time
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest

from keras_seqx.transfer.file_reader import process
from keras_seqx.transfer.file_reader import reader as reading
from keras_seqx.transfer.file_reader.reader import ArrayInfo, Reader
from tests.cases import numpy_alone
from tests.transfer import hostile
from tests.transfer.hostile import CONFIG, DATA, archive, hdf5

pytestmark = numpy_alone
MIB = 1 << 20
CONTRACT = r"transfer_weights: `source` must be .+\. Received: `source`='.*' \(.+\)\. .+[^.]\."
LEGACY = sorted(path for path in DATA.glob("*.h5"))
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="measures by /proc")


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Takes the place of the fixture of this name: nothing here meets Keras, whose cleaning up takes 0.3 s."""


@pytest.fixture(scope="module")
def reader():
    with Reader() as reader:
        yield reader


def cannot_resize(call, *args):
    """The text of the error in due form that a call must raise."""
    with pytest.raises(ValueError, match="transfer_weights") as caught:
        call(*args)
    assert type(caught.value) is ValueError
    assert re.fullmatch(CONTRACT, str(caught.value), re.DOTALL), str(caught.value)
    return str(caught.value)


def contents(path):
    """What h5py reads from a file that it is known to survive."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: arrays.update({name: node[()]} if isinstance(node, h5py.Dataset) else {}))
    return arrays


def status(pid, field):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024


# What is read is what was written.


@pytest.mark.parametrize("path", LEGACY, ids=lambda path: path.name)
def test_files_of_older_kerases(reader, path):
    listing = reader.open(path)
    expected = contents(path)
    assert list(listing.arrays) == list(expected)
    for name, info in listing.arrays.items():
        value = reader.read(name)
        assert info == ArrayInfo(expected[name].shape, expected[name].dtype.name)
        np.testing.assert_array_equal(value, expected[name], strict=True)
    with h5py.File(path) as file:
        if "model_config" in file.attrs:
            assert listing.attributes[""]["model_config"] == file.attrs["model_config"]
            names = list(file["model_weights"].attrs["layer_names"])
            assert listing.attributes["model_weights"]["layer_names"] == names
    assert listing.config is None


DTYPES = ["bool", *(f"{k}int{b}" for k in ("", "u") for b in (8, 16, 32, 64)), "float16", "float32", "float64"]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_dtype_and_shape(reader, tmp_path, shape, order):
    values = {
        dtype: np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 99, shape).astype(dtype)
        for dtype in DTYPES
    }

    def fill(file):
        for dtype, value in values.items():
            file[dtype] = np.asarray(value, np.dtype(dtype).newbyteorder(order))
        file.create_dataset("bfloat16", data=values["float32"].astype(ml_dtypes.bfloat16)).attrs["dtype"] = "bfloat16"

    listing = reader.open(hdf5(tmp_path, fill))
    for dtype, value in values.items():
        assert listing.arrays[dtype] == ArrayInfo(shape, dtype)
        np.testing.assert_array_equal(reader.read(dtype), value, strict=True)
    assert listing.arrays["bfloat16"] == ArrayInfo(shape, "bfloat16")
    value = reader.read("bfloat16")
    assert value.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(value, values["float32"].astype(ml_dtypes.bfloat16), strict=True)


STORAGE = {
    "contiguous": {},
    "chunked": {"chunks": (7, 300)},
    "gzip": {"chunks": (50, 11), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "one_chunk": {"chunks": (3000, 1100), "compression": "gzip", "compression_opts": 1},
}


@pytest.mark.parametrize("options", STORAGE.values(), ids=STORAGE)
def test_every_storage_in_several_pieces(reader, tmp_path, options):
    value = np.random.default_rng(0).normal(size=(3000, 1100)).astype("float32")  # 12.6 MiB
    reader.open(hdf5(tmp_path, lambda file: file.create_dataset("x", data=value, **options)))
    np.testing.assert_array_equal(reader.read("x"), value, strict=True)
    for rows in (slice(0, 0), slice(5, 9), slice(-3, None), slice(2990, 9999), slice(9, 3), slice(None)):
        read = reader.read("x", rows)
        np.testing.assert_array_equal(read, value[rows], strict=True)
        assert read.flags.writeable
        assert not np.shares_memory(read, reader.read("x", rows))


def test_rows_longer_than_a_piece(reader, tmp_path):
    value = np.arange(3 * 2 * 2_500_000, dtype="int32").reshape(3, 2, -1)  # a row of 19 MiB, half of one 9.5
    reader.open(hdf5(tmp_path, lambda file: file.create_dataset("x", data=value)))
    np.testing.assert_array_equal(reader.read("x"), value, strict=True)
    np.testing.assert_array_equal(reader.read("x", slice(1, 2)), value[1:2], strict=True)


def test_rows_that_cannot_be(reader, tmp_path):
    reader.open(hdf5(tmp_path, lambda file: file.create_dataset("x", data=1.0)))
    assert reader.read("x") == 1.0
    assert "has no rows" in cannot_resize(reader.read, "x", slice(0, 1))
    assert "has no rows" in cannot_resize(reader.read, "layers/dense/vars/0", slice(0, 3, 2))
    assert "holds no array 'y'" in cannot_resize(reader.read, "y")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_archives(reader, tmp_path, compression):
    listing = reader.open(archive(tmp_path, [("assets/a.txt", "x"), ("metadata.json", "{}")], compression=compression))
    assert listing.config == CONFIG
    assert listing.arrays == {f"layers/dense/vars/{i}": ArrayInfo(s, "float32") for i, s in enumerate([(3, 4), (4,)])}
    np.testing.assert_array_equal(reader.read("layers/dense/vars/0"), np.arange(12.0).reshape(3, 4))


def test_attributes_links_and_texts(reader, tmp_path):
    def fill(file):
        group = file["layers/dense"]
        values = {"text": "größer", "bytes": np.bytes_(b"a"), "whole": 3, "real": 0.5, "flag": True, "nothing": ""}
        for name, value in values.items():
            group.attrs[name] = value
        group.attrs["texts"] = ["a", "ß"]
        group.attrs["fixed"] = np.array([b"a", b"b"])
        group.attrs["reals"] = np.array([1.5, 2.5])
        group.attrs["none"] = np.array([])
        file["note"] = "a text of its own is no array"

    listing = reader.open(hdf5(tmp_path, fill, track_order=True))
    assert listing.attributes["layers/dense"] == {
        "text": "größer",
        "bytes": "a",
        "whole": 3,
        "real": 0.5,
        "flag": 1,
        "nothing": "",
        "texts": ["a", "ß"],
        "fixed": ["a", "b"],
        "reals": [1.5, 2.5],
        "none": [],
    }
    assert "note" not in listing.arrays
    assert set(listing.attributes) == {"", "layers", "layers/dense", "layers/dense/vars"}


def test_the_order_of_the_file(reader, tmp_path):
    path = tmp_path / "ordered.h5"
    with h5py.File(path, "w", track_order=True) as file:
        for name in "zebra", "ape", "mole":
            file[name] = 1.0
    assert list(reader.open(path).arrays) == ["zebra", "ape", "mole"]


def test_a_user_block_and_an_unwritten_array(reader, tmp_path):
    path = hdf5(tmp_path, lambda file: file.create_dataset("x", (9,), "float32", fillvalue=2.0), userblock_size=1024)
    reader.open(path)
    np.testing.assert_array_equal(reader.read("x"), np.full(9, 2.0, "float32"), strict=True)


def test_paths_of_any_kind(reader, tmp_path, monkeypatch):
    path = hdf5(tmp_path, name="größe 100% \udcff.h5")
    assert reader.open(os.fsencode(path)).arrays
    assert reader.open(path).path == str(path)
    monkeypatch.chdir(tmp_path)
    assert reader.open(path.name).arrays
    with pytest.raises(FileNotFoundError, match="no such file"):
        reader.open("absent.h5")
    with pytest.raises(FileNotFoundError, match="no such file"):
        reader.open(path / "below.h5")
    with pytest.raises(IsADirectoryError, match="a folder"):
        reader.open(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(IsADirectoryError, match="SavedModel folder"):
        reader.open(tmp_path)
    with pytest.raises(TypeError, match="the path of a file"):
        reader.open(3)
    assert "null" in cannot_resize(reader.open, "a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert "device or pipe" in cannot_resize(reader.open, tmp_path / "pipe")
    assert "device or pipe" in cannot_resize(reader.open, "/dev/zero")


# What is hostile is refused, without an effect.


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", hostile.REFUSED)
def test_hostile_files(reader, tmp_path, name):
    build, mention = hostile.REFUSED[name]
    path = build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert re.search(mention, cannot_resize(reader.open, path))
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="no file is open"):
        reader.read("x")


@pytest.mark.parametrize("name", hostile.ARMED)
def test_configurations_are_text(reader, tmp_path, name):
    marker = tmp_path / "executed"
    path = hostile.ARMED[name](tmp_path, f"touch {marker}")
    listing = reader.open(path)
    assert str(marker) in (listing.config or listing.attributes[""]["model_config"]) or "lambda" in name
    for array in listing.arrays:
        reader.read(array)
    assert not marker.exists()


@pytest.mark.parametrize("deflated", [False, True])
def test_truncated_files(reader, tmp_path, deflated):
    whole = archive(tmp_path, compression=zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED).read_bytes()
    for source in (whole, (DATA / "many_to_many.h5").read_bytes()):
        path = tmp_path / "cut.h5"
        for size in {*range(0, len(source), len(source) // 40), len(source) - 1}:
            path.write_bytes(source[:size])
            cannot_resize(reader.open, path)


@needs_proc
@pytest.mark.parametrize("name", ["contiguous_bomb", "compressed_bomb", "huge_chunk", "weights_bomb", "config_bomb"])
def test_refused_bombs_take_no_memory(tmp_path, name):
    with Reader() as reader:
        cannot_resize(reader.open, hostile.REFUSED[name][0](tmp_path))
        assert status(reader._child._process.pid, "VmHWM") < 64 * MIB


@needs_proc
def test_compressed_data_takes_bounded_memory(tmp_path):
    with Reader() as reader:
        path = hostile.honest_expansion(tmp_path)
        assert path.stat().st_size < MIB
        (name,) = [name for name in reader.open(path).arrays if name == "x"]
        before = status("self", "VmRSS")
        value = reader.read(name)
        grown = status("self", "VmRSS") - before
        assert value.shape == (100, MIB)
        assert not value.any()
        assert grown < value.nbytes + 32 * MIB
        assert status(reader._child._process.pid, "VmHWM") < 96 * MIB


@needs_proc
def test_a_chunk_that_goes_on_inflating(tmp_path):
    with Reader() as reader:
        reader.open(hostile.inflating_chunk(tmp_path))
        cannot_resize(reader.read, "x")
        assert status(reader._child._process.pid, "VmHWM") < 1700 * MIB


# The process.


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_nothing_outlives_close():
    reader = Reader()
    threads = set(threading.enumerate())
    assert reader._child is None
    reader.open(LEGACY[0])
    pid = reader._child._process.pid
    assert alive(pid)
    assert set(threading.enumerate()) == threads
    reader.close()
    assert not alive(pid)
    reader.close()
    assert reader.open(LEGACY[0]).arrays  # a closed reader may be used again
    pid = reader._child._process.pid
    del reader
    gc.collect()
    assert not alive(pid)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_dies(number):
    with Reader() as reader:
        name = next(iter(reader.open(LEGACY[0]).arrays))
        first = reader._child._process.pid
        os.kill(first, number)
        assert signal.Signals(number).name in cannot_resize(reader.read, name)
        assert not alive(first)
        with pytest.raises(ValueError, match="no file is open"):
            reader.read(name)
        reader.open(LEGACY[0])
        os.kill(reader._child._process.pid, number)
        assert signal.Signals(number).name in cannot_resize(reader.open, LEGACY[0])
        assert reader.open(LEGACY[0]).arrays


def test_a_process_that_hangs(monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.3)
    with Reader() as reader:
        name = next(iter(reader.open(LEGACY[0]).arrays))
        for call in (lambda: reader.read(name), lambda: reader.open(LEGACY[0])):
            reader.open(LEGACY[0])
            pid = reader._child._process.pid
            os.kill(pid, signal.SIGSTOP)
            start = time.monotonic()
            assert "took too long" in cannot_resize(call)
            assert time.monotonic() - start < 3
            assert not alive(pid)


def test_an_interrupt_leaves_no_process():
    reader = Reader()
    name = next(iter(reader.open(LEGACY[0]).arrays))
    pid = reader._child._process.pid
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in parallel ignore it
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            reader.read(name)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - start < 5
    assert not alive(pid)
    assert not [thread for thread in threading.enumerate() if thread.name == "keras_seqx.Reader"]


def test_the_process_is_confined():
    pytest.importorskip("resource")
    with Reader() as reader:
        reader.open(LEGACY[0])
        limits = pathlib.Path(f"/proc/{reader._child._process.pid}/limits").read_text()
        environment = pathlib.Path(f"/proc/{reader._child._process.pid}/environ").read_bytes()
    for name, value in (("file size", 0), ("core file size", 0), ("open files", 16), ("address space", 1536 * MIB)):
        assert re.search(rf"Max {name}\s+{value} ", limits), limits
    assert b"HDF5_PLUGIN_PRELOAD=::" in environment


def test_the_process_imports_no_keras():
    with Reader() as reader:
        reader.open(LEGACY[0])
        maps = pathlib.Path(f"/proc/{reader._child._process.pid}/maps").read_text()
    assert "h5py" in maps
    assert "tensorflow" not in maps
    handler = signal.getsignal(signal.SIGINT)
    importlib.import_module("keras_seqx.transfer.file_reader.worker")  # which does nothing as a module
    assert signal.getsignal(signal.SIGINT) is handler


NONSENSE = {
    "no_json": b"hello\n",
    "a_list": b"[]\n",
    "nested": b"[" * 100_000 + b"\n",
    "nothing": b"{}\n",
    "no_arrays": b'{"config": null, "arrays": {}, "attributes": {}}\n',
    "numbers_as_text": b'{"config": null, "arrays": [["x", ["3"], "float32"]], "attributes": {}}\n',
    "negative": b'{"config": null, "arrays": [["x", [-3], "float32"]], "attributes": {}}\n',
    "true": b'{"config": null, "arrays": [["x", [true], "float32"]], "attributes": {}}\n',
    "too_large": b'{"config": null, "arrays": [["x", [99999999999], "float32"]], "attributes": {}}\n',
    "unknown_dtype": b'{"config": null, "arrays": [["x", [3], "object"]], "attributes": {}}\n',
    "twice": b'{"config": null, "arrays": [["x", [], "int8"], ["x", [], "int8"]], "attributes": {}}\n',
    "attributes": b'{"config": null, "arrays": [], "attributes": {"": {"x": {"y": 1}}}}\n',
    "config": b'{"config": 3, "arrays": [], "attributes": {}}\n',
    "cut": b'{"config": null',
    "silence": b"",
}


def _impostor(monkeypatch, tmp_path, *replies):
    script = tmp_path / "impostor.py"
    lines = [f"sys.stdin.buffer.readline(); out.write({reply!r}); out.flush()" for reply in (b"{}\n", *replies)]
    script.write_text("\n".join(["import sys; out = sys.stdout.buffer", *lines, ""]))
    monkeypatch.setattr(process, "SCRIPT", script)


@pytest.mark.parametrize("name", NONSENSE)
def test_the_process_is_not_trusted(monkeypatch, tmp_path, name):
    _impostor(monkeypatch, tmp_path, NONSENSE[name])
    with Reader() as reader:
        assert "damaged" in cannot_resize(reader.open, LEGACY[0])


@pytest.mark.parametrize(
    "reply", [b'{"bytes": 13}\n' + bytes(13), b'{"bytes": 0}\n', b'{"bytes": true}\n', b'{"bytes": 12}\nabc']
)
def test_the_process_is_not_trusted_with_data(monkeypatch, tmp_path, reply):
    listing = b'{"config": null, "arrays": [["x", [3], "float32"]], "attributes": {}}\n'
    _impostor(monkeypatch, tmp_path, listing, reply)
    with Reader() as reader:
        reader.open(LEGACY[0])
        assert "damaged" in cannot_resize(reader.read, "x")


def test_a_process_that_does_not_start(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(process, "SCRIPT", tmp_path / "broken.py")
    with Reader() as reader, pytest.raises(RuntimeError, match="did not start"):
        reader.open(LEGACY[0])


# Damage of every kind.


def _mutated(content, chance):
    """A copy of some bytes with one kind of damage."""
    data = bytearray(content)
    size = len(data)
    start, other = chance.randrange(size), chance.randrange(size)
    length = chance.randint(1, 64)
    kind = chance.choice(["flips", "flips", "flips", "cut", "swap", "zero", "insert", "numbers"])
    if kind == "flips":
        for _ in range(length):
            data[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[start:]
    elif kind == "swap":
        data[start : start + length], data[other : other + length] = (
            data[other : other + length],
            data[start : start + length],
        )
    elif kind == "zero":
        data[start : start + length] = bytes(len(data[start : start + length]))
    elif kind == "insert":
        data[start:start] = chance.randbytes(length)
    else:
        data[start : start + 8] = chance.choice(
            [b"\xff" * 8, b"\x7f" + b"\xff" * 7, bytes(8), b"\0\0\0\x80" + bytes(4)]
        )
    return bytes(data)


def _sources(folder):
    small = DATA / "many_to_many.weights.h5"
    yield "model", (DATA / "many_to_many.h5").read_bytes(), None
    yield "weights", small.read_bytes(), None
    yield "legacy", (DATA / "stateful_reset_before.h5").read_bytes(), None

    def fill(file):
        value = np.arange(3000, dtype="float32").reshape(50, 60)
        file.create_dataset("gzip", data=value, chunks=(9, 60), compression="gzip", shuffle=True, fletcher32=True)
        file.attrs["texts"] = ["a", "b"]

    yield "chunked", hdf5(folder, fill).read_bytes(), None
    yield "latest", hdf5(folder, fill, libver="latest").read_bytes(), None
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        name = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}[compression]
        yield name, archive(folder, compression=compression).read_bytes(), None
        yield f"inside_{name}", small.read_bytes(), compression


def _outcome(reader, path):
    """What comes of reading a whole file."""
    outcome, text = "refused", ""
    try:
        listing = reader.open(path)
        outcome = "refused in part"
        for array, info in listing.arrays.items():
            value = reader.read(array)
            if (value.shape, value.dtype.name) != (info.shape, info.dtype):
                return "wrong"
        return "read"
    except ValueError as error:
        text = str(error) if type(error) is ValueError else "of another type"
    if not re.fullmatch(CONTRACT, text, re.DOTALL):
        return f"wrong: {text}"
    death = re.search(r"SIG[A-Z]+|status \d+|too long|upsets|fell silent", text)
    return death[0] if death else outcome


FUZZ = int(os.environ.get("KERAS_SEQX_FUZZ", 2000))


def test_damaged_files(monkeypatch, tmp_path, record_property):
    """Every mutated file is read in full, or refused in due form, within the time that it may take."""
    monkeypatch.setattr(reading, "PATIENCE", 1.0)
    chance = random.Random(20)
    sources = list(_sources(tmp_path))
    outcomes = collections.Counter()
    folder = tmp_path / "mutated"
    folder.mkdir()
    with Reader() as reader:
        for number in range(FUZZ):
            name, content, compression = sources[number % len(sources)]
            path = folder / f"{number}.h5"
            content = _mutated(content, chance)
            if compression is None:
                path.write_bytes(content)
            else:  # damage behind a valid checksum
                with zipfile.ZipFile(path, "w", compression) as file:
                    file.writestr("config.json", CONFIG)
                    file.writestr("model.weights.h5", content)
            start = time.monotonic()
            outcome = _outcome(reader, path)
            outcomes[outcome] += 1
            outcomes[f"{name}: {outcome}"] += 1
            assert time.monotonic() - start < 20, path
            assert [entry.name for entry in folder.iterdir()] == [path.name]
            path.unlink()
    record_property("outcomes", dict(outcomes))
    print(dict(outcomes))
    assert outcomes["read"] > FUZZ // 20
    assert outcomes["refused"] > FUZZ // 20
    assert not [outcome for outcome in outcomes if re.search("wrong|upsets|fell silent|status", outcome)]
