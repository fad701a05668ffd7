"""Files of weights that are made to do harm, or damaged: builders that take a folder and return a path in it."""

import base64
import io
import json
import marshal
import os
import pathlib
import pickle
import random
import shutil
import stat
import struct
import zipfile
import zlib

import h5py
import numpy as np

DATA = pathlib.Path(__file__).parent / "data"
CONFIG = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}})
# By name: a builder, and a pattern of what its error must mention.
REFUSED = {}
# Builders (folder, command) of files whose weights are sound and whose configuration would run the command.
ARMED = {}


def refused(mention):
    return lambda build: REFUSED.setdefault(build.__name__, (build, mention)) and build


def armed(build):
    return ARMED.setdefault(build.__name__, build)


def hdf5(folder, fill=None, name="hostile.weights.h5", **options):
    """Two honest weights, and what `fill` adds to the file."""
    path = folder / name
    with h5py.File(path, "w", **options) as file:
        file["layers/dense/vars/0"] = np.arange(12, dtype="float32").reshape(3, 4)
        file["layers/dense/vars/1"] = np.zeros(4, "float32")
        if fill is not None:
            fill(file)
    return path


def archive(folder, members=(), config=CONFIG, weights=True, compression=zipfile.ZIP_STORED):
    """A `.keras` archive, with members (name or ZipInfo, content) besides."""
    path = folder / "hostile.keras"
    with zipfile.ZipFile(path, "w", compression) as file:
        if config is not None:
            file.writestr("config.json", config)
        if weights:
            file.writestr("model.weights.h5", hdf5(folder).read_bytes())
        for name, content in members:
            file.writestr(name, content)
    return path


def patch(path, old, new):
    content = path.read_bytes()
    assert content.count(old) >= 1, "the file is not laid out as the builder expects"
    path.write_bytes(content.replace(old, new))
    return path


# Links, and data that lies elsewhere.


@refused("link to another file: /x in other.h5")
def external_link(folder):
    return hdf5(folder, lambda file: file.__setitem__("out", h5py.ExternalLink("other.h5", "/x")))


@refused("'soft' is a soft link")
def soft_link(folder):
    return hdf5(folder, lambda file: file.__setitem__("soft", h5py.SoftLink("/layers")))


@refused("'soft' is a soft link")
def dangling_link(folder):
    return hdf5(folder, lambda file: file.__setitem__("soft", h5py.SoftLink("/nowhere")))


@refused("'out' is a user-defined link")
def user_defined_link(folder):
    return patch(external_link(folder), b"\x01\x08\x40\x03out", b"\x01\x08\x41\x03out")


@refused("another file: /etc/passwd")
def external_storage(folder):
    return hdf5(folder, lambda file: file.create_dataset("x", (8,), "uint8", external=[("/etc/passwd", 0, 8)]))


@refused("virtual")
def virtual_data(folder):
    layout = h5py.VirtualLayout((8,), "float32")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (8,))
    return hdf5(folder, lambda file: file.create_virtual_dataset("x", layout))


# The shape of the tree.


@refused("same object as 'layers'")
def cycle(folder):
    return hdf5(folder, lambda file: file.__setitem__("layers/dense/again", file["layers"]))


@refused("same object as '/'")
def cycle_to_the_root(folder):
    return hdf5(folder, lambda file: file.__setitem__("layers/root", file["/"]))


@refused("same object")
def one_array_twice(folder):
    return hdf5(folder, lambda file: file.__setitem__("x", file["layers/dense/vars/0"]))


@refused("deeper than 64")
def deep_nesting(folder):
    return hdf5(folder, lambda file: file.create_group("/".join("g" * 2000)))


@refused("neither a group nor a data set")
def named_type(folder):
    return hdf5(folder, lambda file: file.__setitem__("x", np.dtype("float32")))


@refused("UTF-8")
def name_of_bytes(folder):
    return hdf5(folder, lambda file: h5py.h5g.create(file.id, b"\xff\xfe"))


@refused("name is 'x/y'")
def name_with_a_slash(folder):
    return patch(hdf5(folder, lambda file: file.__setitem__("x_y", 1.0)), b"x_y", b"x/y")


# Sizes.


@refused("declares 100,000,000,000 bytes and stores 0")
def contiguous_bomb(folder):
    return hdf5(folder, lambda file: file.create_dataset("x", (25_000_000_000,), "float32"))


@refused("declares 100,000,000,000 bytes and stores")
def compressed_bomb(folder):
    def fill(file):
        x = file.create_dataset("x", (25_000_000_000,), "float32", chunks=(1_000_000,), compression="gzip")
        x[:2_000_000] = 0

    return hdf5(folder, fill)


@refused("has chunks of 1,073,741,824")
def huge_chunk(folder):
    def fill(file):
        file.create_dataset("x", (10,), "float32", chunks=(1 << 28,), maxshape=(None,), compression="gzip")

    return hdf5(folder, fill)


@refused("chunks of shape")
def tiny_chunks(folder):
    def fill(file):
        file.create_dataset("x", (1_000_000,), "uint8", chunks=(1,))

    return hdf5(folder, fill)


@refused("declare|Unable|damaged")
def huge_attribute(folder):
    path = hdf5(folder, lambda file: file.attrs.create("x", np.full(3001, 7, "float32")))
    return patch(path, struct.pack("<Q", 3001), struct.pack("<Q", 3001 << 30))


@refused("the arrays as far as")
def shape_beyond_64_bits(folder):
    def fill(file):
        file.create_dataset("x", (0, 1 << 40, 1 << 40), "float32", chunks=(1, 1, 1), maxshape=(None,) * 3)

    return hdf5(folder, fill)


@refused("declares more|declare|damaged")
def claimed_storage(folder):
    """A contiguous array whose layout claims a storage of 1 GB in a file of some KB."""
    path = hdf5(folder, lambda file: file.__setitem__("x", np.full(3001, 7, "float32")))
    patch(path, struct.pack("<Q", 4 * 3001), struct.pack("<Q", 1 << 30))
    return patch(path, struct.pack("<Q", 3001), struct.pack("<Q", 1 << 28))


@refused("the arrays as far as 'x0'")
def one_storage_for_many_arrays(folder):
    """Arrays that all lie at the address of the first."""

    def fill(file):
        file["x"] = np.zeros(30_011, "float32")
        for number in range(9):
            file.create_dataset(f"x{number}", (30_011,), "float32")

    path = hdf5(folder, fill)
    with h5py.File(path) as file:
        file_path = file["x"].id.get_offset()
    size = struct.pack("<Q", 4 * 30_011)
    return patch(path, b"\xff" * 8 + size, struct.pack("<Q", file_path) + size)


# Filters and types.


@refused("HDF5 filter 32015")
def unknown_filter(folder):
    def fill(file):
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((4,))
        creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((8,)), creation)

    return hdf5(folder, fill)


@refused("HDF5 filter 6")
def weak_filter(folder):
    return hdf5(folder, lambda file: file.create_dataset("x", data=np.arange(99), chunks=(9,), scaleoffset=4))


def _of_type(name, value, dtype=None):
    def build(folder):
        return hdf5(folder, lambda file: file.create_dataset("x", data=value, dtype=dtype))

    build.__name__ = f"type_{name}"
    refused("'x' is no array of numbers")(build)


_of_type("text", ["a", "b"], h5py.string_dtype())
_of_type("fixed_text", np.array([b"a", b"b"]))
_of_type("ragged", np.array([np.zeros(2), np.zeros(3)], object), h5py.vlen_dtype("float32"))
_of_type("compound", np.zeros(2, [("a", "f4"), ("b", "i8")]))
_of_type("complex", np.zeros(2, "complex64"))
_of_type("opaque", np.zeros(2, "V7"))
_of_type("bfloat16_unnamed", np.zeros(2, "V2"))
_of_type("longdouble", np.zeros(2, "longdouble"))
_of_type("enumeration", np.zeros(2, "int8"), h5py.enum_dtype({"A": 0, "B": 1}, "int8"))
_of_type("nothing", h5py.Empty("float32"))


@refused("'x' is no array of numbers")
def type_reference(folder):
    return hdf5(folder, lambda file: file.create_dataset("x", data=[file.ref], dtype=h5py.ref_dtype))


@refused("'x' is no array of numbers")
def type_array(folder):
    kind = h5py.h5t.array_create(h5py.h5t.IEEE_F32LE, (3,))
    return hdf5(folder, lambda file: h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((2,))) and None)


@refused("attribute 'x' of 'layers' is neither text")
def attribute_reference(folder):
    return hdf5(folder, lambda file: file["layers"].attrs.create("x", file.ref, dtype=h5py.ref_dtype))


@refused("attribute 'x' of '/' is no text in UTF-8")
def attribute_of_bytes(folder):
    return hdf5(folder, lambda file: file.attrs.create("x", np.bytes_(b"\xff\xfe")))


@refused("attribute 'x' of '/' is no text in UTF-8")
def attribute_list_of_bytes(folder):
    return hdf5(folder, lambda file: file.attrs.create("x", [b"fine", b"\xff\xfe"], dtype=h5py.string_dtype()))


# Archives.


def _with_member(name, mention, *members):
    def build(folder):
        return archive(folder, [(member, b"x") for member in members])

    build.__name__ = f"member_{name}"
    refused(mention)(build)


def _symlink():
    info = zipfile.ZipInfo("assets")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


_with_member("traversal", r"'\.\./\.\./evil' leads out", "../../evil")
_with_member("inner_traversal", "leads out", "assets/../../evil")
_with_member("absolute", "'/tmp/evil' leads out", "/tmp/evil")
_with_member("drive", "leads out", "C:/evil")
_with_member("backslash", "leads out", "..\\evil")
_with_member("twice", "two members 'config.json'", "config.json")
_with_member("weights_twice", "two members 'model.weights.h5'", "model.weights.h5")
_with_member("symlink", "'assets' is a symbolic link", _symlink())


@refused("member 'config.json' is encrypted")
def encrypted(folder):
    path = archive(folder)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    return path


@refused("config.json declares 1[0-9]{8} bytes|config.json declares 104,857,600 bytes")
def config_bomb(folder):
    return archive(folder, config=b" " * (100 << 20), compression=zipfile.ZIP_DEFLATED)


@refused("config.json of 68,157,440 bytes, more than")
def long_config(folder):
    return archive(folder, config=b" " * (65 << 20))


@refused("model.weights.h5 declares 100,000,008 bytes")
def weights_bomb(folder):
    content = b"\x89HDF\r\n\x1a\n" + bytes(100_000_000)
    return archive(folder, [("model.weights.h5", content)], weights=False, compression=zipfile.ZIP_DEFLATED)


@refused("damaged zip archive")
def understated_bomb(folder):
    path = archive(folder, config=b" " * (15 << 20), compression=zipfile.ZIP_DEFLATED)
    return patch(path, struct.pack("<I", 15 << 20), struct.pack("<I", 4000))


@refused("declares")
def overstated_window(folder):
    path = archive(folder)
    size = (folder / "hostile.weights.h5").stat().st_size
    return patch(path, struct.pack("<I", size), struct.pack("<I", 1 << 30))


@refused("compressed by method 12")
def bzip2(folder):
    return archive(folder, compression=zipfile.ZIP_BZIP2)


@refused("model.weights.npz, which can hold code")
def npz_weights(folder):
    content = io.BytesIO()
    np.savez(content, layers=np.array([Armed(f"touch {folder / 'executed'}")], object))
    return archive(folder, [("model.weights.npz", content.getvalue())], weights=False)


@refused("damaged zip archive: .*CRC")
def one_bit_of_a_weight(folder):
    return patch(archive(folder), struct.pack("<3f", 1, 2, 3), struct.pack("<3f", 1, -2, 3))


@refused("zip archive without model.weights.h5")
def no_weights(folder):
    return archive(folder, weights=False)


@refused("zip archive without config.json")
def no_config(folder):
    return archive(folder, config=None)


@refused("config.json is no text in UTF-8")
def config_of_bytes(folder):
    return archive(folder, config=b"\xff\xfe{}")


@refused("a text file as model.weights.h5")
def text_as_weights(folder):
    return archive(folder, [("model.weights.h5", b"no weights")], weights=False)


# What is no file of weights at all.


def _plain(name, mention, content):
    def build(folder):
        path = folder / "hostile.h5"
        path.write_bytes(content(folder) if callable(content) else content)
        return path

    build.__name__ = f"plain_{name}"
    refused(mention)(build)


class Armed:
    """Runs a command where it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


_plain("empty", r"\(an empty file\)", b"")
_plain("text", r"\(a text file\)", "Gewichte: größer\n".encode() * 999)
_plain("page", r"\(a text file\)", b"<!DOCTYPE html><title>404</title>")
_plain("pickle", r"\(a pickle\)", lambda folder: pickle.dumps(Armed(f"touch {folder / 'executed'}")))
_plain("zeros", "neither HDF5 nor a zip archive", bytes(9999))
_plain("random", "neither HDF5 nor a zip archive", random.Random(1).randbytes(9999))
_plain("gzip", "compressed by gzip", zlib.compress(b"x" * 99, wbits=31))
_plain("numpy", "array of NumPy's", b"\x93NUMPY\1\0")
_plain("signature", "damaged", b"\x89HDF\r\n\x1a\n")
_plain("signature_and_noise", "damaged", b"\x89HDF\r\n\x1a\n" + random.Random(2).randbytes(9999))
_plain("zip_signature", "damaged zip archive", b"PK\3\4" + bytes(999))
_plain("empty_zip", "without config.json", b"PK\5\6" + bytes(18))
_plain("npz", "without config.json", (DATA / "many_to_many.npz").read_bytes())


def inflating_chunk(folder):
    """A chunk of 1 KiB whose compressed bytes go on for 3 GiB: it can be listed, and not read."""
    compress = zlib.compressobj(9)
    start = compress.compress(b"\0") + compress.flush(zlib.Z_FULL_FLUSH)
    stream = start + (compress.compress(bytes(1 << 24)) + compress.flush(zlib.Z_FULL_FLUSH)) * 192

    def fill(file):
        x = file.create_dataset("x", (256,), "float32", chunks=(256,), compression="gzip")
        x.id.write_direct_chunk((0,), stream)

    return hdf5(folder, fill)


def honest_expansion(folder):
    """400 MB of zeros in 400 KB: the most that deflate can do, and allowed."""
    chunk = zlib.compress(bytes(4 << 20), 9)

    def fill(file):
        x = file.create_dataset("x", (100, 1 << 20), "float32", chunks=(1, 1 << 20), compression="gzip")
        for row in range(100):
            x.id.write_direct_chunk((row, 0), chunk)

    return hdf5(folder, fill)


# Configurations that would run code.


def _lambda_layer(command):
    code = compile(f"lambda x: __import__('os').system({command!r})", "<hostile>", "eval").co_consts[0]
    function = [base64.encodebytes(marshal.dumps(code)).decode("ascii"), None, None]
    return {"name": "lambda", "function": function, "function_type": "lambda", "arguments": {}}


@armed
def legacy_lambda(folder, command):
    path = folder / "hostile.h5"
    shutil.copy(DATA / "many_to_many.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"].append({"class_name": "Lambda", "config": _lambda_layer(command)})
        file.attrs["model_config"] = json.dumps(config)
    return path


def _config(layer):
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [layer]}})


@armed
def archived_lambda(folder, command):
    code = _lambda_layer(command)["function"][0]
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "lambda", "function": function}}
    return archive(folder, config=_config(layer))


@armed
def system_as_layer(folder, command):
    return archive(folder, config=_config({"module": "os", "class_name": "system", "config": {"command": command}}))


@armed
def system_as_function(folder, command):
    system = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    config = {"name": "dense", "units": command, "activation": system}
    return archive(folder, config=_config({"module": "keras.layers", "class_name": "Dense", "config": config}))
