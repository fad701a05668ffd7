"""Measures `MaskedTimeDistributed` beside `keras.layers.TimeDistributed`, and `skip_masked` beside computing all steps.

    Dense             64 units at (32, T, 64)
    masked Dense      the same under a mask that half of the steps are padding in
    Conv2D            8 filters of 3 x 3 at (8, T, 16, 16, 3)
    small model       Conv2D, BatchNormalization, ReLU, GlobalAveragePooling2D and Dense at (8, T, 16, 16, 3)
    larger model      two Conv2D of 16 and 32 filters and a Dense at (8, T, 24, 24, 3)

    python benchmarks/time_distributed.py --backend jax --steps 20 200 --markdown

First calls and peak memory are taken in a process of each system's own; Keras' process goes on to time later calls
of both systems in turns. The table shows medians, and medians of the ratios of neighbouring calls. A process that runs
into `--limit` yields a lower bound, marked >, for what it was at.
"""

import argparse
import importlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from decoder import BACKENDS, Effort, check_same, formatted, in_turns, machine, megabytes, seconds

OURS, THEIRS = "MaskedTimeDistributed", "TimeDistributed"
CASES = ("Dense", "masked Dense", "Conv2D", "small model")
SKIPPING = ("masked Dense", "masked Conv2D", "masked small model", "masked larger model")
FIRST = ("first training step", "first prediction", "peak memory")
LATER = ("training step", "prediction")
# Shares of the steps that are padding, and ways to run a model, where shapes may depend on values.
PADDED, WAYS = (0.5, 0.9), {"tensorflow": ("graph", "eager"), "torch": ("eager",)}
FULL, QUICK = Effort(steps=(20, 200, 1000), limit=300.0, seconds=4.0), Effort(steps=(3,), limit=60.0, rounds=(3, 3))

# What one process yields, a JSON line each: the measure, the system, and the repeats.
Record = tuple[str, str, list[float]]


# The measurements. Only a child process calls what follows, as it imports Keras.


def made(system: str, case: str, steps: int, compile_args: dict | None = None, **kwargs: Any) -> Any:
    """Returns the compiled model of a case: one wrapper, from its inputs and the lengths of the rows."""
    import keras

    import keras_seqx

    keras.utils.set_random_seed(0)
    inputs, lengths = keras.Input((steps, *data(case, 1)[0].shape[2:])), keras.Input((), dtype="int32")
    wrap = keras_seqx.MaskedTimeDistributed if system == OURS else keras.layers.TimeDistributed
    x = keras_seqx.SequenceMask()([inputs, lengths]) if case.startswith("masked") else inputs
    model = keras.Model([inputs, lengths], wrap(layer(case), **kwargs)(x))
    model.compile("sgd", "mse", **compile_args or {})
    return model


def layer(case: str) -> Any:
    """Returns what a case applies to every step."""
    import keras
    from keras import layers

    if case.endswith("Dense"):
        return layers.Dense(64)
    if case == "Conv2D":
        return layers.Conv2D(8, 3)
    if case.endswith("Conv2D"):  # Keras' losses take no mask (B, T) for images
        return keras.Sequential([layers.Conv2D(8, 3), layers.Flatten()])
    if case.endswith("larger model"):
        parts = [layers.Conv2D(16, 3, activation="relu"), layers.Conv2D(32, 3, strides=2, activation="relu")]
        return keras.Sequential([*parts, layers.Flatten(), layers.Dense(32)])
    parts = [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()]
    return keras.Sequential([*parts, layers.Dense(8)])


def data(case: str, steps: int, padded: float = 0.5) -> list[np.ndarray]:
    """Returns the inputs, and lengths that leave a share of the steps for padding."""
    side = 24 if case.endswith("larger model") else 16
    shape = (32, steps, 64) if case.endswith("Dense") else (8, steps, side, side, 3)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    return [x, np.full(len(x), max(1, round(steps * (1 - padded))), "int32")]


def measure(system: str, case: str, steps: int, effort: Effort) -> Iterator[Record]:
    """Times the first calls of a system; behind those of Keras', the later ones of both in turns."""
    x = data(case, steps)
    model = made(system, case, steps)
    y = np.zeros(model.compute_output_shape([a.shape for a in x]), "float32")
    yield FIRST[0], system, [seconds(lambda: model.train_on_batch(x, y))]
    yield FIRST[1], system, [seconds(lambda: model.predict_on_batch(x))]
    yield FIRST[2], system, [megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)]
    if system == THEIRS:
        models = {THEIRS: model, OURS: made(OURS, case, steps)}
        models[OURS].set_weights(model.get_weights())
        valid = np.arange(steps) < x[1][0]
        check_same(*(m.predict_on_batch(x)[:, valid] for m in models.values()))
        yield from later(models, x, y, effort)


def later(models: dict, x: Any, y: Any, effort: Effort) -> Iterator[Record]:
    """Times training steps and predictions of several models in turns."""
    for name, calls in (
        (LATER[0], {key: lambda m=m: m.train_on_batch(x, y) for key, m in models.items()}),
        (LATER[1], {key: lambda m=m: m.predict_on_batch(x) for key, m in models.items()}),
    ):
        for record in in_turns(name, 0, calls, effort):
            yield name, record.system, record.values


def measure_skipping(way: str, case: str, padded: float, steps: int, effort: Effort) -> Iterator[Record]:
    """Times a system that skips masked steps beside one that does not."""
    compile_args = {"run_eagerly": way == "eager", "jit_compile": False}
    x = data(case, steps, padded)
    models = {s: made(OURS, case, steps, compile_args, skip_masked=s == "skipping") for s in ("all steps", "skipping")}
    y = np.zeros(models["skipping"].compute_output_shape([a.shape for a in x]), "float32")
    models["skipping"].set_weights(models["all steps"].get_weights())
    check_same(*(m.predict_on_batch(x) for m in models.values()))
    yield from later(models, x, y, effort)


def child(name: str, case: str, steps: int, padded: float, effort: Effort) -> None:
    """Measures; prints the versions, then each record, as JSON lines."""
    import keras

    backend = keras.backend.backend()
    keras.ops.ones(1) + 1  # Starts the backend, which is no part of building a model.
    print(json.dumps({"keras": keras.version(), backend: importlib.import_module(backend).__version__}), flush=True)
    wraps = name in (OURS, THEIRS)
    records = measure(name, case, steps, effort) if wraps else measure_skipping(name, case, padded, steps, effort)
    for record in records:
        print(json.dumps(record), flush=True)


# The parent imports no backend: it starts the processes, reads their records and prints the tables.


def run_child(args: Any, backend: str, name: str, case: str, steps: int, padded: float) -> tuple[dict, dict, bool]:
    """Measures in a process of its own; returns {(measure, system): repeats}, versions, and whether it failed.

    What the limit cut off has its lower bound as a negative number.
    """
    print(f"{backend}: {name}, {case}, {steps} steps", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--child", name, "--case", case, "--steps", str(steps)]
    command += ["--padded", str(padded), *["--quick"] * args.quick]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    done = subprocess.run(
        ["timeout", "--signal=KILL", str(args.limit), *command], capture_output=True, text=True, env=environment
    )
    spent = time.perf_counter() - start
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {(measure, system): values for measure, system, values in lines[1:]}
    cut = done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL) and spent >= args.limit
    if cut and not found:
        found[FIRST[0], name] = [-spent]
    if done.returncode and not cut:
        print(f"{done.stderr}\n    failed with status {done.returncode}", file=sys.stderr, flush=True)
    return found, lines[0] if lines else {}, bool(done.returncode) and not cut


def shown(values: list[float], unit: str = " s") -> str:
    """Returns the median, behind a > if it is a lower bound."""
    if not values:
        return "not reached"
    value = statistics.median(values)
    return ">" * (value < 0) + (f"{abs(value):.0f}" if abs(value) >= 100 else f"{abs(value):.3g}") + unit


def ratio(theirs: list[float], ours: list[float]) -> str:
    """Returns the median of the ratios of neighbours."""
    if not theirs or not ours:
        return ""
    value = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
    return ">" * (value < 0) + f"{abs(value):.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--steps", nargs="+", type=int, help="20 200 1000 by default, with --quick 3")
    parser.add_argument("--case", nargs="+", choices=(*CASES, *SKIPPING), help="all by default, with --quick one")
    parser.add_argument("--limit", type=float, help="seconds for each process, 300 by default, with --quick 60")
    parser.add_argument("--quick", action="store_true", help="few steps and repeats, to see that it runs")
    parser.add_argument("--markdown", action="store_true", help="print markdown tables")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--padded", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    effort = QUICK if args.quick else FULL
    args.limit = args.limit or effort.limit
    steps, cases = list(args.steps or effort.steps), args.case or (CASES[1:2] if args.quick else CASES)
    if args.child:
        return child(args.child, cases[0], steps[0], args.padded, effort)
    versions: dict[str, str] = {}
    failures = 0

    def run(*what: Any) -> dict:
        nonlocal versions, failures
        found, new, failed = run_child(args, *what)
        versions, failures = versions | new, failures + failed
        return found

    rows = [["backend", "layer", "T", "measure", "ours", "Keras'", "Keras' / ours", "ours / ours at the first T"]]
    skipping = [["backend", "layer", "padding", "measure", "all steps", "skipping", "all / skipping"]]
    for backend in args.backend:
        for case in cases:
            base: dict[str, list[float]] = {}
            for n in steps:
                found = {**run(backend, THEIRS, case, n, 0.5), **run(backend, OURS, case, n, 0.5)}
                for measure in (*FIRST, *LATER):
                    ours, theirs = (found.get((measure, system), []) for system in (OURS, THEIRS))
                    unit = " MB" if measure == FIRST[2] else " s"
                    growth = ratio(ours, base.setdefault(measure, ours)) if measure in FIRST else ""
                    cells = [shown(ours, unit), shown(theirs, unit), ratio(theirs, ours), growth]
                    rows.append([backend, case, str(n), measure, *cells])
        for way in WAYS.get(backend, ()):
            for case in SKIPPING[:1] if args.quick else SKIPPING:
                for padded in PADDED[1:] if args.quick else PADDED:
                    found = run(backend, way, case, steps[min(1, len(steps) - 1)], padded)
                    for measure in LATER:
                        every, skipped = (found.get((measure, s), []) for s in ("all steps", "skipping"))
                        cells = [shown(every), shown(skipped), ratio(every, skipped)]
                        skipping.append([f"{backend}, {way}", case, f"{padded:.0%}", measure, *cells])
    print(formatted(rows, args.markdown), formatted(skipping, args.markdown), machine(versions), sep="\n\n")
    if failures:
        sys.exit(f"{failures} of the processes failed, see above")


if __name__ == "__main__":
    main()
