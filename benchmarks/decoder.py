"""Measures `AutoregressiveDecoder` beside what people write without it.

Four LSTMs of 40 units and a Dense of 5, batch 32, compiled with Adam and MSE. The peers:

    unrolled graph   the loop written out with layers, 4 x steps LSTM calls; free running
    lax.scan         the loop written by hand in JAX; free running, jitted, with a trainer on neither side
    LSTM layers      four LSTM layers and a Dense; every input forced
    itself at N      our own layer at N steps, in time and in size of graph; free running

    python benchmarks/decoder.py --backend jax --steps 30 150 --markdown

Building, the first calls and the peak memory are taken in a process of each system's own. Later calls are taken
in one process, two systems in turns: the table shows each one's median, and the median of the ratios of neighbouring
calls. A process that runs into `--limit` yields a lower bound, marked >, for what it was at.
"""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")
BATCH, WIDTH, UNITS, LAYERS = 32, 5, 40, 4
OURS, UNROLLED, SCAN, STACK = "decoder", "unrolled graph", "lax.scan", "LSTM layers"
# What a process of one system yields, in this order.
MEASURES = ("build", "first prediction", "first training step", "peak memory", "prediction", "training step")


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much to measure: numbers of steps, seconds for each process, rounds of calls in turns."""

    steps: tuple[int, ...] = (30, 150)
    growth: tuple[int, ...] = (30, 75, 150, 300)
    limit: float = 600.0
    rounds: tuple[int, int] = (7, 201)
    seconds: float = 10.0


FULL, QUICK = Effort(), Effort(steps=(3,), growth=(3, 6), limit=60.0, rounds=(3, 3))


@dataclasses.dataclass(frozen=True)
class Record:
    """One measure of one system in one process.

    Attributes:
        measure, system, steps: what was measured, of what, and at how many steps.
        values: seconds of each repeat, or one figure; empty where the process never came so far.
        bound: whether the true value is above the given one.
        backend, process: where it was measured.
    """

    measure: str
    system: str
    steps: int
    values: list[float]
    bound: bool = False
    backend: str = ""
    process: str = ""


# The systems. Only a child process calls what follows, as it imports Keras.


def decoder_model(steps: int, forced: bool = False) -> Any:
    """Returns the compiled model around our layer."""
    import keras

    inputs = keras.Input((steps if forced else 1, WIDTH))
    return compiled(inputs, decoder_layer(steps)(inputs))


def decoder_layer(steps: int) -> Any:
    """Returns our layer."""
    import keras

    from keras_seqx import AutoregressiveDecoder

    cells = [keras.layers.LSTMCell(UNITS) for _ in range(LAYERS)]
    return AutoregressiveDecoder(cells, keras.layers.Dense(WIDTH), steps=steps)


def unrolled_model(steps: int) -> Any:
    """Returns the model that calls the same layers once for every step."""
    import keras

    lstms = [
        keras.layers.LSTM(UNITS, return_sequences=i < LAYERS - 1, return_state=True, name=f"lstm_{i}")
        for i in range(LAYERS)
    ]
    dense, as_sequence = keras.layers.Dense(WIDTH), keras.layers.Reshape((1, WIDTH))
    frame = start = keras.Input((1, WIDTH))
    states: list[Any] = [None] * LAYERS
    outputs = []
    for _ in range(steps):
        x = frame
        for i, lstm in enumerate(lstms):
            x, *states[i] = lstm(x, initial_state=states[i])
        frame = as_sequence(dense(x))
        outputs.append(frame)
    return compiled(start, keras.layers.Concatenate(axis=1)(outputs))


def stack_model(steps: int) -> Any:
    """Returns the model of LSTM layers that read the whole forced sequence."""
    import keras

    x = inputs = keras.Input((steps, WIDTH))
    for _ in range(LAYERS):
        x = keras.layers.LSTM(UNITS, return_sequences=True)(x)
    return compiled(inputs, keras.layers.Dense(WIDTH)(x))


def compiled(inputs: Any, outputs: Any) -> Any:
    """Returns the model from inputs to outputs, ready to train."""
    import keras

    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(), keras.losses.MeanSquaredError())
    return model


def scan_forward(weights: list[Any], start: Any, steps: int) -> Any:
    """Returns (B, steps, D) of the same decoder in pure JAX, from the variables' values in Keras' order."""
    import jax
    import jax.numpy as jnp

    *cells, (dense, dense_bias) = [weights[i : i + 3] for i in range(0, len(weights), 3)]
    zeros = jnp.zeros((start.shape[0], UNITS))

    def step(carry, _):
        x, states = carry
        new_states = []
        for (kernel, recurrent, bias), (h, c) in zip(cells, states, strict=True):
            i, f, candidate, o = jnp.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(candidate)
            x = jax.nn.sigmoid(o) * jnp.tanh(c)
            new_states.append((x, c))
        frame = x @ dense + dense_bias
        return (frame, new_states), frame

    _, frames = jax.lax.scan(step, (start[:, 0], [(zeros, zeros)] * LAYERS), length=steps)
    return jnp.swapaxes(frames, 0, 1)


# The measurements, each a generator, so that a process cut off leaves what it has.


def measure_system(system: str, steps: int, effort: Effort) -> Iterator[Record]:
    """Measures one system from nothing, then its later calls: a peer's in turns with ours."""
    x, y = data(1), data(steps)
    start = time.perf_counter()
    model = (decoder_model if system == OURS else unrolled_model)(steps)
    yield Record("build", system, steps, [time.perf_counter() - start])
    yield Record("first prediction", system, steps, [seconds(lambda: model.predict_on_batch(x))])
    yield Record("first training step", system, steps, [seconds(lambda: model.train_on_batch(x, y))])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield Record("peak memory", system, steps, [megabytes(peak)])
    models = {OURS: model} if system == OURS else {OURS: decoder_model(steps), system: model}
    yield from measure_models(models, steps, x, y, effort)


def measure_pairs(steps: list[int], effort: Effort) -> Iterator[Record]:
    """Measures all that needs no process of its own."""
    import keras

    yield from measure_growth(effort)
    for n in steps:
        models = {OURS: decoder_model(n, forced=True), STACK: stack_model(n)}
        yield from measure_models(models, n, data(n), data(n), effort, prefix="forced ")
        if keras.backend.backend() == "jax":
            yield from measure_scan(n, effort)


def measure_models(models: dict, steps: int, x: Any, y: Any, effort: Effort, prefix: str = "") -> Iterator[Record]:
    """Measures the later calls of compiled models that compute the same, in turns."""
    first, *others = models.values()
    for model in others:
        for own, theirs in zip(model.trainable_variables, first.trainable_variables, strict=True):
            own.assign(np.copy(theirs.numpy()))
        check_same(model.predict_on_batch(x), first.predict_on_batch(x))
    calls = {name: lambda model=model: model.predict_on_batch(x) for name, model in models.items()}
    yield from in_turns(prefix + "prediction", steps, calls, effort)
    calls = {name: lambda model=model: model.train_on_batch(x, y) for name, model in models.items()}
    yield from in_turns(prefix + "training step", steps, calls, effort)


def measure_scan(steps: int, effort: Effort) -> Iterator[Record]:
    """Measures our layer's pure function beside the loop written in JAX: the same weights, both jitted."""
    import jax
    import jax.numpy as jnp

    decoder, x, y = decoder_layer(steps), jnp.asarray(data(1)), jnp.asarray(data(steps))
    decoder(x)
    weights = [v.value for v in decoder.trainable_variables]
    others = [v.value for v in decoder.non_trainable_variables]

    def ours(weights, others, x, training=False):
        return decoder.stateless_call(weights, others, x, training=training)[0]

    def scan(weights, others, x, training=False):
        return scan_forward(weights, x, steps)

    def jitted(function):
        def loss(weights, others, x, y):
            return jnp.mean((function(weights, others, x, training=True) - y) ** 2)

        forward, backward = jax.jit(function), jax.jit(jax.value_and_grad(loss))
        return {
            "forward, jitted": lambda: jax.block_until_ready(forward(weights, others, x)),
            "forward and backward, jitted": lambda: jax.block_until_ready(backward(weights, others, x, y)),
        }

    calls = {OURS: jitted(ours), SCAN: jitted(scan)}
    for measure in calls[OURS]:
        pair = {name: calls[name][measure] for name in calls}
        for own, theirs in zip(*(jax.tree.leaves(call()) for call in pair.values()), strict=True):
            check_same(theirs, own)
        yield from in_turns(measure, steps, pair, effort)


def measure_growth(effort: Effort) -> Iterator[Record]:
    """Measures our layer at several numbers of steps, in turns, as a peer of itself at the fewest."""
    base, *more = effort.growth
    itself = f"itself at {base}"
    models = {n: decoder_model(n) for n in effort.growth}
    sizes = {n: graph_size(model) for n, model in models.items()}
    for n in more:
        for what, size in sizes[n].items():
            yield from (Record(what, OURS, n, [size]), Record(what, itself, n, [sizes[base][what]]))
    x, ys = data(1), {n: data(n) for n in effort.growth}
    predict = {n: lambda n=n: models[n].predict_on_batch(x) for n in effort.growth}
    train = {n: lambda n=n: models[n].train_on_batch(x, ys[n]) for n in effort.growth}
    for measure, calls in (("prediction", predict), ("training step", train)):
        values = {int(r.system): r.values for r in in_turns(measure, base, calls, effort)}
        for n in more:
            yield from (Record(measure, OURS, n, values[n]), Record(measure, itself, n, values[base]))


def in_turns(measure: str, steps: int, calls: dict[Any, Callable], effort: Effort) -> Iterator[Record]:
    """Times calls, A B A B, after one untimed call each; an odd number of rounds."""
    times: dict[Any, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    least, most = effort.rounds
    start = time.perf_counter()
    for done in range(1, most + 1):
        for name, call in calls.items():
            times[name].append(seconds(call))
        if done >= least and done % 2 and time.perf_counter() - start > effort.seconds:
            break
    yield from (Record(measure, str(name), steps, values) for name, values in times.items())


def graph_size(model: Any) -> dict[str, int]:
    """Returns the number of operations in the model's traced call, by the name of their kind."""
    import keras

    x = data(1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        graph = tf.function(lambda x: model(x)).get_concrete_function(tf.convert_to_tensor(x)).graph.as_graph_def()
        return {"graph nodes": len(graph.node) + sum(len(f.node_def) for f in graph.library.function)}
    if keras.backend.backend() == "jax":
        import jax

        values = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
        return {"jaxpr equations": equations(jax.make_jaxpr(lambda *a: model.stateless_call(*a)[0])(*values, x))}
    return {}


def equations(part: Any) -> int:
    """Counts the equations of a jaxpr and of all jaxprs within it."""
    if isinstance(part, (list, tuple)):
        return sum(equations(p) for p in part)
    jaxpr = getattr(part, "jaxpr", part)
    if not hasattr(jaxpr, "eqns"):
        return 0
    return sum(1 + equations(list(e.params.values())) for e in jaxpr.eqns)


def data(steps: int) -> np.ndarray:
    """Returns the same noise (B, steps, D) at every call."""
    return np.random.default_rng(0).normal(size=(BATCH, steps, WIDTH)).astype("float32")


def seconds(call: Callable) -> float:
    """Returns how long a call took."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def check_same(ours: Any, theirs: Any) -> None:
    """Raises where two systems do not compute the same, as their times would say nothing."""
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-3, atol=1e-4)


def megabytes(ru_maxrss: int) -> float:
    """Returns a peak resident size in MB; Linux counts in KiB, macOS in bytes."""
    return ru_maxrss / 1e6 if sys.platform == "darwin" else ru_maxrss * 1024 / 1e6


def child(process: str, steps: list[int], effort: Effort) -> None:
    """Measures what `process` names; prints the versions, then each record, as JSON lines."""
    import keras

    backend = keras.backend.backend()
    keras.ops.ones(1) + 1  # Starts the backend, which is no part of building a model.
    print(json.dumps({"keras": keras.version(), backend: importlib.import_module(backend).__version__}), flush=True)
    system = process in (OURS, UNROLLED)
    for record in measure_system(process, steps[0], effort) if system else measure_pairs(steps, effort):
        record = dataclasses.replace(record, backend=backend, process=process)
        print(json.dumps(dataclasses.asdict(record)), flush=True)


# The parent imports no backend: it starts the processes, reads their records and prints the table.


def run_child(
    backend: str, process: str, steps: list[int], limit: float, quick: bool
) -> tuple[list[Record], dict, bool]:
    """Measures in a process of its own; returns the records, the versions, and whether the process failed."""
    print(f"{backend}: {process}, steps {', '.join(map(str, steps))}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--child", process, "--steps", *map(str, steps), *["--quick"] * quick]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    records: list[Record] = []
    versions: dict[str, str] = {}
    start = last = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        killer = threading.Timer(limit, running.kill)
        killer.start()
        try:
            for line in running.stdout or ():
                last = time.perf_counter()
                if versions:
                    records.append(Record(**json.loads(line)))
                else:
                    versions = json.loads(line)
            _, status, usage = os.wait4(running.pid, 0)
            end, running.returncode = time.perf_counter(), os.waitstatus_to_exitcode(status)
        except BaseException:
            running.kill()
            raise
        finally:
            killer.cancel()
        cut = running.returncode == -signal.SIGKILL and end - start >= limit
        failed = running.returncode != 0 and not cut
        if failed:
            errors.seek(0)
            print(f"{errors.read()}\n    failed with status {running.returncode}", file=sys.stderr, flush=True)
    if cut:
        print(f"    cut off after {limit:g} s", file=sys.stderr, flush=True)
    if cut and versions and process != "pairs":
        missing = MEASURES[len({r.measure for r in records}) :]
        bounds = {"peak memory": megabytes(usage.ru_maxrss)}
        if "peak memory" in missing:
            bounds[missing[0]] = end - last
        for measure in missing:
            values = [bounds[measure]] if measure in bounds else []
            records.append(Record(measure, process, steps[0], values, True, backend, process))
    return records, versions, failed


def table(records: list[Record]) -> list[list[str]]:
    """Returns the header, and a row for each measure of a peer, beside ours from the same process if there is one."""
    rows = [["backend", "measure", "steps", "ours", "peer", "peer's", "peer / ours", "ours / peer"]]
    for peer in (r for r in records if r.system != OURS):
        key = (peer.backend, peer.measure, peer.steps)
        ours = [r for r in records if r.system == OURS and (r.backend, r.measure, r.steps) == key]
        own = min(ours, key=lambda r: r.process != peer.process, default=Record("", OURS, 0, []))
        ratios = ["", ""]
        if own.values and peer.values and not own.bound:
            ratio = statistics.median(p / o for p, o in zip(peer.values, own.values, strict=True))
            ratios = [">" * peer.bound + f"{ratio:.3g}", "<" * peer.bound + f"{1 / ratio:.3g}"]
        rows.append([*key[:2], str(peer.steps), shown(own), peer.system, shown(peer), *ratios])
    return rows


def shown(record: Record) -> str:
    """Returns the median with its unit, behind a > if it is a lower bound."""
    if not record.values:
        return "not reached"
    value = statistics.median(record.values)
    unit = {"peak memory": " MB", "graph nodes": "", "jaxpr equations": ""}.get(record.measure, " s")
    return ">" * record.bound + (f"{value:.0f}" if value >= 100 else f"{value:.3g}") + unit


def formatted(rows: list[list[str]], markdown: bool) -> str:
    """Returns the table as aligned text, or as markdown."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if markdown:
        header, *body = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([header, "|" + "---|" * len(widths), *body])
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def machine(versions: dict[str, str]) -> str:
    """Returns one line: the processor, its cores, and the versions."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--steps", nargs="+", type=int, help="30 150 by default, with --quick 3")
    parser.add_argument("--limit", type=float, help="seconds for each process, 600 by default, with --quick 60")
    parser.add_argument("--quick", action="store_true", help="few steps and repeats, to see that it runs")
    parser.add_argument("--markdown", action="store_true", help="print a markdown table")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the raw figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    effort = QUICK if args.quick else FULL
    steps, limit = list(args.steps or effort.steps), args.limit or effort.limit
    if args.child:
        return child(args.child, steps, effort)
    records: list[Record] = []
    versions: dict[str, str] = {}
    failures = 0
    systems = [(process, [n]) for n in steps for process in (OURS, UNROLLED)]
    for backend in args.backend:
        for process, at in [*systems, ("pairs", steps)]:
            new_records, new_versions, failed = run_child(backend, process, at, limit, args.quick)
            records, versions, failures = records + new_records, versions | new_versions, failures + failed
    about = machine(versions)
    print(formatted(table(records), args.markdown), about, sep="\n\n")
    if args.json:
        raw = {"machine": about, "records": [dataclasses.asdict(r) for r in records]}
        args.json.write_text(json.dumps(raw, indent=1) + "\n")
    if failures:
        sys.exit(f"{failures} of the processes failed, see above")


if __name__ == "__main__":
    main()
