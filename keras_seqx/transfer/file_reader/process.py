"""The process that meets the files, as seen from the one that asks: started, spoken with, watched and ended."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from keras_seqx.transfer.file_reader.limits import MIB, PIECE

START = 60.0  # seconds that Python and h5py may take to be imported
SCRIPT = pathlib.Path(__file__).with_name("worker.py")


class RefusedError(Exception):
    """The process refuses a file, in words; it goes on."""

    def __init__(self, found: Any, fix: Any):
        self.found, self.fix = (
            "".join(c if c.isprintable() else "?" for c in text[:400]) if isinstance(text, str) else ""
            for text in (found, fix)
        )


class NonsenseError(Exception):
    """The process says what it never would of its own accord."""


class BrokenError(Exception):
    """The process is no more; the text says why."""


class Child:
    """A process that runs `worker.py`, and is ended at the first thing that is not as it must be."""

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HDF5_")}
        environment |= {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._stdin: Any = self._process.stdin
        self._stdout: Any = self._process.stdout
        try:
            with self.talking(START):
                self.send({"paths": [os.path.abspath(path) for path in sys.path if path]})
                self.receive()
        except (RefusedError, BrokenError) as error:
            self.end()
            found = error.found if isinstance(error, RefusedError) else error
            raise RuntimeError(f"transfer_weights: the process that reads files did not start: {found}.") from None

    def end(self) -> None:
        """Ends the process, at once: it has nothing to lose."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):  # a request that the process did not take
                pipe.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it never started
            self.end()

    @contextlib.contextmanager
    def talking(self, seconds: float) -> Iterator["Watchdog"]:
        """Ends the process if anything fails within, or nothing moves for some seconds; a refusal is no failure."""
        try:
            with Watchdog(self._process, seconds) as watchdog:
                yield watchdog
        except RefusedError:
            raise
        except (OSError, EOFError, NonsenseError) as error:
            found = self._epitaph(error, watchdog)
            self.end()
            raise BrokenError(found) from None
        except BaseException:
            self.end()
            raise

    def send(self, request: dict[str, Any]) -> None:
        """Asks for something."""
        self._stdin.write(json.dumps(request).encode() + b"\n")
        self._stdin.flush()

    def receive(self, limit: int = MIB) -> dict[str, Any]:
        """Returns the next reply of at most `limit` bytes."""
        line = self._stdout.readline(limit)
        if not line.endswith(b"\n"):
            raise NonsenseError if len(line) == limit else EOFError
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            raise NonsenseError from None
        if not isinstance(reply, dict):
            raise NonsenseError
        if "error" in reply:
            raise RefusedError(reply["error"], reply.get("fix"))
        return reply

    def fill(self, view: memoryview, watchdog: "Watchdog") -> None:
        """Reads an array's pieces into memory that has just room for them."""
        done = 0
        while done < len(view):
            count = self.receive().get("bytes")
            if type(count) is not int or not 0 < count <= min(PIECE, len(view) - done):
                raise NonsenseError
            end = done + count
            while done < end:
                part = view[done : min(done + MIB, end)]
                if self._stdout.readinto(part) != len(part):
                    raise EOFError
                done += len(part)
                watchdog.progress()

    def _epitaph(self, error: Exception, watchdog: "Watchdog") -> str:
        if watchdog.expired:
            return f"damaged: reading it took too long, more than {watchdog.seconds:.0f} s"
        if isinstance(error, NonsenseError):
            return "damaged: it upsets the process that reads it"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1)
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"status {code}"
            return f"damaged: it ends the process that reads it by {name}"
        return "damaged: the process that reads it fell silent"


class Watchdog:
    """Ends a process that makes no progress for some seconds; it watches within `with`."""

    def __init__(self, process: subprocess.Popen, seconds: float):
        self.seconds, self.expired = seconds, False
        self._process, self._done = process, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keras_seqx.Reader", daemon=True)
        self.progress()

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def progress(self) -> None:
        self._deadline = time.monotonic() + self.seconds

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if self._done.wait(left):
                return
        self.expired = True
        self._process.kill()
