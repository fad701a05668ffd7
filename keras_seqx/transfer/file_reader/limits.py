"""What a file of weights may ask for: shared by the process that reads it and the one that asks for it."""

import contextlib

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

MIB = 1 << 20
PIECE = 8 * MIB  # as much of an array as the process that reads it holds
DTYPES = {"bool", "bfloat16", "float16", "float32", "float64"}
DTYPES |= {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
EXPANSION, SLACK = 1100, MIB  # of what is stored; deflate shrinks by 1,032 at best
MAX_DEPTH, MAX_OBJECTS, MAX_LISTING = 64, 1_000_000, 160 * MIB
MAX_CHUNK, CACHE = 512 * MIB, 64 * MIB
FILTERS = {1, 2, 3, 32000}  # deflate, shuffle, fletcher32, lzf; szip, nbit and scaleoffset are libhdf5's weakest parts
MAX_CONFIG, MAX_INFLATED = 64 * MIB, 1024 * MIB
ZIP_EXPANSION, ZIP_FLOOR = 100, 16 * MIB
BEFORE_IMPORT = {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
AFTER_IMPORT = {"RLIMIT_NOFILE": 16, "RLIMIT_NPROC": 0}
MEMORY = 1536 * MIB  # of addresses: h5py takes 150 MiB, the longest listing 1 GiB; compressed data takes more
CPU_SECONDS = 600  # of one request; ends a loop whose caller has gone


class Refusal(Exception):
    """Tells the user why a file is not read, and what to do if it is not to save it again."""

    def __init__(self, found: str, fix: str = ""):
        super().__init__(found)
        self.fix = fix


def text(value: str | bytes, where: str) -> str:
    """Returns text that is UTF-8; h5py passes on what is not in surrogates."""
    try:
        return (value.encode() if isinstance(value, str) else value).decode()
    except UnicodeError:
        raise Refusal(f"{where} is no text in UTF-8") from None


def limit(limits: dict[str, int]) -> None:
    """Sets limits of this process, for good but those of memory and time; what the platform lacks is passed over."""
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, hard if name in ("RLIMIT_AS", "RLIMIT_CPU") else value))
