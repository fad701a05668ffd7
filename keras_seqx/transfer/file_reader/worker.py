"""Reads files of weights for another process: a script that `reader.Reader` runs.

libhdf5 crashes, loops and oversteps its memory on files that are damaged, or made to do so. This process is what such
a file meets: it holds nothing of the user's, cannot write, takes a bounded amount of memory, and may be ended any time.

A request is a line of JSON on stdin: `{"paths": [...]}` once, then `{"open": path}` and `{"read": name, "start": row,
"stop": row}`. A reply is a line of JSON on stdout: a listing, or `{"error": ..., "fix": ...}`. The reply to a read is
a line `{"bytes": n}` and n raw bytes for each piece of the array, in C order and little endian; an error may follow
any piece.
"""

import json
import os
import pathlib
import signal
import sys
import time
import types
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the package itself would bring Keras
    for name in ("keras_seqx", "keras_seqx.transfer", "keras_seqx.transfer.file_reader"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(pathlib.Path(__file__).parent)]

from keras_seqx.transfer.file_reader.limits import AFTER_IMPORT, BEFORE_IMPORT, CPU_SECONDS, MAX_LISTING, Refusal, limit

if TYPE_CHECKING:
    from keras_seqx.transfer.file_reader.worker_hdf5 import Source


def answers(request: dict[str, Any], held: list["Source"]) -> Iterator[tuple[dict[str, Any], bytes | memoryview]]:
    """Yields the replies to a request; `held` is the file that is open, if one is."""
    if "paths" in request:
        sys.path += [path for path in request["paths"] if path not in sys.path]
        import keras_seqx.transfer.file_reader.worker_hdf5  # noqa: F401

        limit(AFTER_IMPORT)
        yield {"ready": True}, b""
    elif "open" in request:
        from keras_seqx.transfer.file_reader.worker_hdf5 import Source

        while held:
            held.pop().close()
        held.append(Source(request["open"].encode("latin-1")))
        yield held[0].listing, b""
    else:
        for piece in held[0].read(request["read"], request["start"], request["stop"]):
            yield {"bytes": len(piece)}, piece


def described(error: BaseException) -> dict[str, Any]:
    """Returns the reply that tells of an error, of whatever type."""
    if isinstance(error, Refusal):
        return {"error": str(error), "fix": error.fix}
    if isinstance(error, MemoryError):
        return {"error": "reading it takes more memory than weights may take"}
    where = "a damaged zip archive" if isinstance(error, zipfile.BadZipFile) else "damaged"
    return {"error": f"{where}: {type(error).__name__}, {error}".partition("\n")[0][:200]}


def main() -> None:
    """Answers requests until there are no more."""
    limit(BEFORE_IMPORT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the process that asks decides
    sys.dont_write_bytecode = True
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    held: list[Source] = []
    for line in sys.stdin.buffer:
        limit({"RLIMIT_CPU": int(time.process_time()) + CPU_SECONDS})
        try:
            for reply, body in answers(json.loads(line), held):
                encoded = json.dumps(reply, ensure_ascii=False).encode()
                if len(encoded) >= MAX_LISTING:
                    raise Refusal(f"its listing takes {len(encoded):,} bytes, more than {MAX_LISTING:,}")
                out.write(encoded + b"\n")
                out.write(body)
                out.flush()
        except BaseException as error:
            out.write(json.dumps(described(error)).encode() + b"\n")
            out.flush()


if __name__ == "__main__":
    main()
