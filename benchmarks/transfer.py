"""Measures `transfer_weights` from a file of a gigabyte beside `model.load_weights`: peak extra memory and time.

    python benchmarks/transfer.py --backend torch --megabytes 1000 --markdown

The model is ten Dense layers of equal size. Each system gets a process of its own, which builds the model, notes its
memory, and then reads the file; extra is what its peak, and that of the process that reads for it, lies above. A thread
that looks every two milliseconds takes the peak.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from decoder import BACKENDS, formatted, machine

SYSTEMS = ("transfer_weights", "load_weights")
LAYERS = 10


def build(megabytes: int):
    """Returns a model of about that size in float32, all of it in ten equal kernels."""
    import keras

    width = int((megabytes / LAYERS * 2**20 / 4) ** 0.5)
    stack = [keras.layers.Dense(width, use_bias=False, kernel_initializer="ones") for _ in range(LAYERS)]
    return keras.Sequential([keras.Input((width,)), *stack])


class Peak(threading.Thread):
    """The largest memory of this process and its children together, in MiB, while the context is open."""

    def __enter__(self):
        self.start_at = self.peak = self.now()
        self.stopped = threading.Event()
        self.start()
        return self

    def __exit__(self, *error):
        self.stopped.set()
        self.join()

    def run(self):
        while not self.stopped.wait(0.002):
            self.peak = max(self.peak, self.now())

    @property
    def extra(self) -> float:
        return self.peak - self.start_at

    @staticmethod
    def now() -> float:
        children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        total, command = 0, pathlib.Path("/proc/self/cmdline").read_bytes()
        for process in ("self", *children):
            try:
                if process != "self" and pathlib.Path(f"/proc/{process}/cmdline").read_bytes() == command:
                    continue  # it is only being started, and still shares all memory with this one
                lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
            except OSError:  # it has ended since
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
        return total / 1024


def child(system: str, megabytes: int, path: str) -> None:
    """Reads the file into a model and prints what that took, as JSON."""
    import keras
    import numpy as np

    model = build(megabytes)
    if not os.path.exists(path):
        for i, variable in enumerate(model.variables):
            variable.assign(np.full(variable.shape, i, "float32"))
        model.save_weights(path)
        return
    largest = max(np.prod(v.shape) for v in model.variables) * 4 / 2**20
    small = build(1)  # whatever is set up once is set up before
    with tempfile.TemporaryDirectory() as folder:
        small.save_weights(f"{folder}/small.weights.h5")
        read(system, f"{folder}/small.weights.h5", small)
    with Peak() as peak:
        start = time.perf_counter()
        read(system, path, model)
        seconds = time.perf_counter() - start
    for i, variable in enumerate(model.variables):
        if {float(keras.ops.convert_to_numpy(variable.value[k, k])) for k in (0, -1)} != {float(i)}:
            raise SystemExit("the values are others")
    versions = {name: str(__import__(name).__version__) for name in ("keras", keras.backend.backend())}
    print(json.dumps({"seconds": seconds, "extra": peak.extra, "largest": largest, "versions": versions}))


def read(system: str, path: str, model) -> None:
    import keras_seqx

    if system == "transfer_weights":
        keras_seqx.transfer_weights(path, model)
    else:
        model.load_weights(path)


def run(system: str, args: argparse.Namespace, backend: str, path: str) -> dict | None:
    command = [sys.executable, __file__, "--child", system, "--file", path, "--megabytes", str(args.megabytes)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1]) if result.stdout.strip() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backend", nargs="+", choices=BACKENDS, default=[os.environ.get("KERAS_BACKEND", "tensorflow")]
    )
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file")
    parser.add_argument("--rounds", type=int, default=3, help="repeats, in turns; the table has the medians")
    parser.add_argument("--quick", action="store_true", help="100 MiB, once")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--child", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.megabytes, args.file)
    if args.quick:
        args.megabytes, args.rounds = 100, 1
    rows = [["backend", "system", "peak extra memory, MiB", "/ largest variable", "seconds"]]
    versions: dict[str, str] = {}
    for backend in args.backend:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/large.weights.h5"
            run(SYSTEMS[0], args, backend, path)
            results: dict[str, list[dict]] = {system: [] for system in SYSTEMS}
            for i in range(args.rounds):
                for system in SYSTEMS[:: 1 if i % 2 else -1]:
                    results[system].append(run(system, args, backend, path) or {})
        for system, found in results.items():
            extra, seconds = (sorted(r[key] for r in found)[len(found) // 2] for key in ("extra", "seconds"))
            versions |= found[0]["versions"]
            share = extra / found[0]["largest"]
            rows.append([backend, system, f"{extra:.0f}", f"{share:.2f}", f"{seconds:.2f}"])
    print(formatted(rows, args.markdown))
    print(f"\nA file of {args.megabytes} MiB, ten variables. {machine(versions)}")


if __name__ == "__main__":
    main()
