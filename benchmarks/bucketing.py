"""Measures `LengthBucketing` beside what people batch sequences with.

python benchmarks/bucketing.py --section efficiency assembly --markdown
"""

import argparse
import json
import os
import pathlib
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
from decoder import formatted, machine, megabytes

# The section, the case, the system, and the repeats of each measure.
Record = tuple[str, str, str, dict[str, list[float]]]

BATCH, MEGABATCH, SEED = 32, 50, 0
OURS, SAMPLER = "LengthBucketing", "sorted megabatches"
LONGEST, RANDOM = "all padded to the longest", "random batches padded to their longest"
CMUDICT = pathlib.Path(__file__).resolve().parents[1] / "../shared/data/cmudict/train.txt"
# Log-normal lengths: the mean and deviation of their logarithms, and what they are clipped to.
SHORT, LONG = (3.1, 0.62, 1, 256), (5.23, 0.67, 10, 2500)

# How much to measure: sequences of each kind, buckets, and repeats.
FULL, QUICK = SimpleNamespace(), SimpleNamespace()
FULL.words, FULL.short, FULL.long, FULL.frames, FULL.trained = 10**6, 50_000, 20_000, 2_000, 4_000
QUICK.words, QUICK.short, QUICK.long, QUICK.frames, QUICK.trained = 1_000, 1_000, 500, 200, 64
FULL.planned, FULL.buckets, FULL.rounds, FULL.epochs, FULL.processes = (10**7, 10**8), 8, 7, 4, 3
QUICK.planned, QUICK.buckets, QUICK.rounds, QUICK.epochs, QUICK.processes = (10**6,), 2, 3, 2, 1

TEXTS = {
    "efficiency": f"""Valid steps / all steps of an epoch in batches of {BATCH}, filler rows counted, and how many
shapes (B, T) the batches have. tf.data chooses no boundaries: it gets ours or one of the usual guesses, and pads to
them unless the table says otherwise. Megabatches are {MEGABATCH} random batches, sorted by length and cut again.""",
    "assembly": """Epochs of batches without a model; the systems take turns in one process. Ours also plans the epoch;
the row below is given the rows and lengths of our batches. tf.data makes the same shapes unshuffled, fed in the fastest
of three ways, prefetches, and may use every core. `RaggedArray.pad` is given the rows and also checks them.""",
    "compilation": """Embedding(32, 16, mask_zero=True), GRU(32) and Dense(1), trained on JAX in processes of their own,
in turns. Ours fills its batches up. Epoch 1 includes building; the later epoch is the median one of the others.""",
    "planning": """`sort_into_buckets`, which finds the boundaries, and `plan_epoch`, of int32 lengths alone, each in a
process of its own. Memory is the peak with the plans of two epochs, as `LengthBucketing` keeps them. The bar for
100,000,000 lengths is 60 s and 4,000 MB in all.""",
}
# Columns that another one follows, of their ratio to ours; of the efficiency it is ours to theirs.
RATIOS = {"efficiency": "ours / theirs", "µs / batch": "time / ours"}
RATIOS |= {"epoch 1, s": "epoch 1 / ours", "later epoch, s": "later / ours"}

# The measurements. Only a child process calls them, as they import Keras.


def measure_efficiency(effort: SimpleNamespace, path: str) -> Iterator[Record]:
    """Makes an epoch of batches by each system, and adds up their steps."""
    sets = {"CMUdict letters": np.array([*map(len, read_words(path, effort.words))])} if path else {}
    sets |= {"log-normal(3.1, .62)": log_normal(SHORT, effort.short)}
    sets |= {"log-normal(5.23, .67)": log_normal(LONG, effort.long)}
    for case, lengths in sets.items():
        for system, shapes in batch_shapes(lengths, effort.buckets):
            valid = float(lengths.sum() / sum(rows * steps for rows, steps in shapes))
            yield "efficiency", case, system, {"efficiency": [valid], "shapes": [len(set(shapes))]}


def batch_shapes(lengths: np.ndarray, buckets: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yields each system, and the shapes (B, T) of an epoch's batches."""
    import tensorflow as tf

    from keras_seqx import LengthBucketing

    source = (np.ones(lengths.sum(), "int8"), lengths)
    data = LengthBucketing(source, batch_size=BATCH, buckets=buckets, seed=SEED)
    yield OURS, [x.shape for (x,) in data]
    filled = LengthBucketing(source, batch_size=BATCH, buckets=buckets, seed=SEED, remainder="fill")
    yield f'{OURS}, remainder="fill"', [x.shape for (x,) in filled]
    zeros = tf.data.Dataset.from_tensor_slices(lengths).map(lambda length: tf.zeros([length], "int8"))
    parts = np.arange(1, buckets + 1) / buckets
    for name, boundaries, fixed in (
        ("our boundaries", data.boundaries, True),
        ("our boundaries, batches padded to their longest", data.boundaries, False),
        ("boundaries at quantiles", np.unique(np.quantile(lengths, parts, method="higher")), True),
        ("buckets of one width", np.unique(np.ceil(lengths.max() * parts)), True),
    ):
        yield f"tf.data, {name}", [x.shape for x in bucketed(zeros, boundaries, BATCH, fixed).as_numpy_iterator()]
    yield SAMPLER, [(len(rows), int(lengths[rows].max())) for rows in megabatches(lengths, BATCH, SEED)]
    batches = cut(np.random.default_rng(SEED).permutation(len(lengths)), BATCH)
    yield RANDOM, [(len(rows), int(lengths[rows].max())) for rows in batches]
    yield LONGEST, [(len(rows), int(lengths.max())) for rows in batches]


def measure_assembly(effort: SimpleNamespace, path: str) -> Iterator[Record]:
    """Makes batches of words and of long frames."""
    letters = [np.array([*map(ord, word)], "int32") for word in read_words(path, effort.words)] if path else []
    for rows in (BATCH, 4 * BATCH) if letters else ():
        yield from assemble_in_turns(f"CMUdict letters, {rows} rows", letters, rows, effort.buckets, effort.rounds)
    rng = np.random.default_rng(SEED)
    frames = [rng.normal(size=(length, 16)).astype("float32") for length in log_normal(LONG, effort.frames)]
    yield from assemble_in_turns(
        f"frames of 16 channels, {BATCH} rows", frames, BATCH, effort.buckets, 7 * effort.rounds
    )


def assemble_in_turns(case: str, sequences: list, rows: int, count: int, rounds: int) -> Iterator[Record]:
    """Times epochs of each system, in turns; the first shows that they make the same, and does not count."""
    from keras_seqx import LengthBucketing, RaggedArray
    from keras_seqx.data.planning.epoch_plan import plan_epoch, sort_into_buckets
    from keras_seqx.data.planning.options import Options

    options, ragged = Options(batch_size=rows, buckets=count), RaggedArray(sequences)
    data = LengthBucketing(sequences, batch_size=rows, buckets=count, seed=SEED)
    buckets = sort_into_buckets(ragged.lengths[:, None], options)
    feed, fed = fastest_feed(sequences, ragged, data.boundaries, rows)
    times: dict[str, list[float]] = {}
    for epoch in range(rounds + 1):
        plan = plan_epoch(buckets, options, SEED, epoch)  # The one that `data` will make.
        chosen, steps = [plan.sequences(i, 0) for i in range(len(plan))], plan.padded[:, 0].tolist()
        sampled = map(np.ndarray.tolist, megabatches(ragged.lengths, rows, epoch))
        systems = {
            OURS: data,
            "pad_sequences, the same rows": pad(sequences, [some.tolist() for some in chosen], steps),
            f"tf.data, {feed}": unpack(fed),
            f"{SAMPLER}, pad_sequences": pad(sequences, sampled, [None] * len(sequences)),
            "RaggedArray.pad alone": map(ragged.pad, chosen, steps),
            "data[i] alone": map(data.__getitem__, range(len(data))),
        }
        data.epoch = epoch
        if epoch == 0:
            check_same(*([*batches] for batches in [*systems.values()][:3]))
            continue
        *names, last = systems  # The last needs the plan that the first makes.
        for name in [*np.roll(names, epoch).tolist(), last]:
            times.setdefault(name, []).append(seconds(systems[name]))
    for name, each in ((name, times[name]) for name in systems):
        yield "assembly", case, name, {"µs / batch": [1e6 * t for t in each], "batches / s": [1 / t for t in each]}


def seconds(batches: Iterable) -> float:
    """Returns how long a batch takes."""
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return (time.perf_counter() - start) / count


def check_same(ours: list, padded: list, fed: list) -> None:
    """Raises where systems make other batches, as their times would say nothing."""
    for (own,), theirs in zip(ours, padded, strict=True):
        np.testing.assert_array_equal(own, theirs, strict=True)
    # tf.data has the sequences of a bucket in an order of its own.
    assert sorted(batch.shape for batch in fed) == sorted(batch.shape for batch in padded)
    np.testing.assert_allclose(
        *(sum(np.square(b, dtype="float64").sum() for b in batches) for batches in (fed, padded))
    )


def pad(sequences: list, batches: Iterable[list], steps: Iterable[int | None]) -> Iterator[np.ndarray]:
    """Yields batches as `pad_sequences` makes them."""
    import keras

    for rows, length in zip(batches, steps, strict=False):
        chosen = [sequences[i] for i in rows]
        yield keras.utils.pad_sequences(chosen, maxlen=length, padding="post", dtype=chosen[0].dtype)


def unpack(dataset: Any) -> Iterator[np.ndarray]:
    """Yields the batches of a tf.data set, which does nothing before."""
    yield from dataset.as_numpy_iterator()


def megabatches(lengths: np.ndarray, rows: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the sequences of each batch: shuffled, cut into megabatches, each sorted by length and cut again."""
    for mega in cut(np.random.default_rng(seed).permutation(len(lengths)), MEGABATCH * rows):
        yield from cut(mega[np.argsort(-lengths[mega], kind="stable")], rows)


def cut(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]


def fastest_feed(sequences: list, ragged: Any, boundaries: Any, rows: int) -> tuple[str, Any]:
    """Returns the way from memory into tf.data that is fastest for the first sequences, and its data set."""
    import tensorflow as tf

    values, slices = tf.constant(ragged.values), tf.data.Dataset.from_tensor_slices
    spec, lengths = tf.TensorSpec([None, *ragged.inner_shape], ragged.dtype), ragged.lengths
    feeds = {
        "from_generator": tf.data.Dataset.from_generator(lambda: iter(sequences), output_signature=spec),
        "from_tensor_slices(ragged)": slices(tf.RaggedTensor.from_row_lengths(values, lengths)).map(lambda x: x),
        "slices of one tensor": slices((ragged.starts, lengths)).map(lambda start, size: values[start : start + size]),
    }
    some = {name: bucketed(feed.take(2000), boundaries, rows) for name, feed in feeds.items()}
    times = {name: min(seconds(few.as_numpy_iterator()) for _ in range(3)) for name, few in some.items()}
    best = min(times, key=times.__getitem__)
    return best, bucketed(feeds[best], boundaries, rows).prefetch(tf.data.AUTOTUNE)


def bucketed(dataset: Any, boundaries: Any, rows: int, fixed: bool = True) -> Any:
    """Returns a tf.data set of padded batches; it takes the first length that does not fit for a boundary."""
    import tensorflow as tf

    edges = [int(boundary) + 1 for boundary in boundaries]
    sizes = [rows] * (len(edges) + 1)
    return dataset.bucket_by_sequence_length(lambda x: tf.shape(x)[0], edges, sizes, pad_to_bucket_boundary=fixed)


def measure_compilation(effort: SimpleNamespace, system: str) -> Iterator[Record]:
    """Trains a model on JAX."""
    import keras

    compiled, data, times, counts = count_compilations(), training_data(effort, system), [], []
    inputs = keras.Input((None,), dtype="int32")
    states = keras.layers.GRU(32)(keras.layers.Embedding(32, 16, mask_zero=True)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(states))
    model.compile("adam", keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))
    shapes: set[tuple[int, ...]] = set()
    for epoch in range(effort.epochs):
        start = time.perf_counter()
        model.fit(data, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0)
        times.append(time.perf_counter() - start)
        counts.append(len(compiled))
        shapes |= set(data.report().shapes) if system == OURS else data.shapes()
    values = {"shapes": len(shapes), "compilations": counts[-1], "in epoch 1": counts[0], "epoch 1, s": times[0]}
    values["later epoch, s"] = float(np.median(times[1:]))
    case = f"{effort.trained:,} sequences, {effort.epochs} epochs"
    yield "compilation", case, system, {name: [value] for name, value in values.items()}


def count_compilations() -> list[str]:
    """Returns a list that grows with each compilation of a function called `train_step`, as that of Keras is."""
    import jax

    compiled: list[str] = []

    def listen(event: str, seconds: float, fun_name: str = "", **_: Any) -> None:
        compiled.extend([fun_name] * (event.endswith("/backend_compile_duration") and "train_step" in fun_name))

    def train_step(x):
        return x + 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    known = jax.jit(train_step)
    for size in (1, 2, 2, 3):
        known(np.ones(size, "float32"))
    assert len(compiled) == 3, f"3 shapes were compiled, JAX reports {compiled}"
    compiled.clear()
    return compiled


def training_data(effort: SimpleNamespace, system: str) -> Any:
    """Returns the same sequences and targets, in the batches of one system."""
    import keras

    from keras_seqx import LengthBucketing

    rng, lengths = np.random.default_rng(SEED), log_normal(SHORT, effort.trained)
    padded = lengths if system == RANDOM else np.full_like(lengths, lengths.max())
    x, y = [rng.integers(1, 32, size).astype("int32") for size in lengths], rng.normal(size=len(lengths))
    if system == OURS:
        return LengthBucketing(x, y, batch_size=BATCH, buckets=effort.buckets, remainder="fill", seed=SEED)

    class Padded(keras.utils.PyDataset):
        batches = cut(np.arange(len(x)), BATCH)

        def on_epoch_begin(self):
            self.batches = cut(rng.permutation(len(x)), BATCH)

        def shapes(self):
            return {(len(rows), int(padded[rows].max())) for rows in self.batches}

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, index):
            rows = self.batches[index]
            return next(pad(x, [rows.tolist()], [int(padded[rows].max())])), y[rows].astype("float32")

    return Padded()


def measure_planning(effort: SimpleNamespace, count: str) -> Iterator[Record]:
    """Plans two epochs of lengths, and keeps both plans, as `LengthBucketing` does."""
    from keras_seqx.data.planning.epoch_plan import plan_epoch, sort_into_buckets
    from keras_seqx.data.planning.options import Options

    imports, lengths, rng = peak(), np.empty(int(count), "int32"), np.random.default_rng(SEED)
    for part in cut(lengths, 2**20):
        part[:] = np.clip(np.rint(rng.lognormal(*SHORT[:2], len(part))), 1, 2000)
    before, options, times, plans = peak(), Options(batch_size=BATCH), [time.perf_counter()], []
    buckets = sort_into_buckets(lengths[:, None], options)
    times.append(time.perf_counter())
    for epoch in range(2):
        plans.append(plan_epoch(buckets, options, SEED, epoch))
        times.append(time.perf_counter())
    values = dict(zip(("sort, s", "plan, s", "next epoch, s"), np.diff(times).tolist(), strict=True))
    values |= {"sort and plan, s": times[2] - times[0], "imports, MB": imports, "lengths, MB": lengths.nbytes / 1e6}
    values |= {"planning, MB": peak() - before, "all, MB": peak()}
    yield "planning", f"{len(lengths):,} lengths", OURS, {name: [value] for name, value in values.items()}


def peak() -> float:
    """Returns this process's peak resident size in MB."""
    return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def read_words(path: str, most: int) -> list[str]:
    """Returns words from all over a file whose rows are a word, two spaces and its phones."""
    words = [line.partition("  ")[0] for line in pathlib.Path(path).read_text("utf-8").splitlines()]
    return words[:: -(-len(words) // most)]


def log_normal(shape: tuple[float, float, int, int], count: int) -> np.ndarray:
    """Returns lengths, the same at every call."""
    lengths = np.rint(np.random.default_rng(SEED).lognormal(*shape[:2], count))
    return np.clip(lengths, *shape[2:]).astype("int64")


MEASURES: dict[str, Any] = {"efficiency": measure_efficiency, "assembly": measure_assembly}
MEASURES |= {"compilation": measure_compilation, "planning": measure_planning}

# The parent imports no backend: it starts the processes, reads their records and prints the tables.


def run_child(section: str, argument: str, quick: bool) -> tuple[list[Record], int]:
    """Measures in a process of its own; returns its records and its status."""
    print(section, argument, file=sys.stderr, flush=True)
    backend = "tensorflow" if section in ("efficiency", "assembly") else "jax"
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if section == "assembly":
        # Else glibc returns what tf.data frees to the system, and every large array of the others is mapped anew.
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
    command = [sys.executable, __file__, "--child", section, argument, *["--quick"] * quick]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{done.stderr}\n    failed with status {done.returncode}", file=sys.stderr, flush=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def table(records: list[Record]) -> list[list[str]]:
    """Returns the header, and a row for each system: the medians, and the medians of the ratios to ours."""
    merged: dict[tuple[str, str], dict[str, list[float]]] = {}
    for _, case, system, values in records:
        for measure, repeats in values.items():
            merged.setdefault((case, system), {}).setdefault(measure, []).extend(repeats)
    rows: list[dict[str, str]] = []
    for (case, system), theirs in merged.items():
        rows.append({"case": case, "system": system})
        for measure, repeats in theirs.items():
            rows[-1][measure] = shown(repeats)
            if measure in RATIOS:
                pairs = zip(repeats, merged.get((case, OURS), {}).get(measure, []), strict=False)
                rows[-1][RATIOS[measure]] = shown([o / t if measure == "efficiency" else t / o for t, o in pairs])
    return [[*row] for row in rows[:1]] + [[*row.values()] for row in rows]


def shown(values: list[float]) -> str:
    """Returns the median."""
    value = float(np.median(values)) if values else float("nan")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--section", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--data", type=pathlib.Path, help="a CMUdict file: a word, two spaces and its phones a row")
    parser.add_argument("--quick", action="store_true", help="few sequences and repeats, to see that it runs")
    parser.add_argument("--markdown", action="store_true", help="print markdown")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    effort = QUICK if args.quick else FULL
    if args.child:
        for record in MEASURES[args.child[0]](effort, args.child[1]):
            print(json.dumps(record), flush=True)
        return
    path = str(args.data or (CMUDICT if CMUDICT.is_file() else ""))
    if args.data and not args.data.is_file():
        parser.error(f"there is no file {args.data}")
    arguments = {"efficiency": [path], "assembly": [path], "planning": [*map(str, effort.planned)] * effort.processes}
    arguments["compilation"] = [OURS, LONGEST, RANDOM] * effort.processes
    command = shlex.join(["python", "benchmarks/bucketing.py", *sys.argv[1:]])
    print(
        f"# Length bucketing beside its peers\n\nWhat `{command}` printed. Figures are medians, ratios are medians of"
    )
    print("the ratios within each turn.\n")
    failures = 0
    for section in args.section:
        done = [run_child(section, argument, args.quick) for argument in arguments[section]]
        failures += sum(status != 0 for _, status in done)
        rows = table([record for records, _ in done for record in records])
        print(f"## {section.capitalize()}\n\n{TEXTS[section]}\n\n{formatted(rows, args.markdown)}\n", flush=True)
    print(machine({name: metadata.version(name) for name in ("numpy", "keras", "tensorflow", "jax")}))
    if not path:
        print("\nThere is no CMUdict where the benchmark looks for it, so its rows are missing: name it by `--data`.")
    if failures:
        sys.exit(f"{failures} of the processes failed, see above")


if __name__ == "__main__":
    main()
