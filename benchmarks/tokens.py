"""Measures token generation beside what people use for it.

Two LSTMs of 256 units with Bahdanau attention over a memory of 20 steps, an embedding of 256, and 60 tokens without an
early end; greedy and by 4 beams; B = 1, 64, 256 rows and V = 64 and 8,000 tokens. The peers, on the same weights where
they can have them:

    ours, XLA       ours on TensorFlow with `jit_compile=True`, which Keras leaves out on a CPU unless told
    ours, stream    ours one token after the other, as `TokenGenerator.stream` yields them
    Addons          BasicDecoder and BeamSearchDecoder of TensorFlow Addons 0.23 (`--addons PYTHON`, an interpreter
                    that has it, TensorFlow 2.15 and typing_extensions 4.5), in a `tf.function`
    lax.scan        the greedy loop written by hand in JAX, jitted
    KerasHub        its GreedySampler and BeamSampler over our decoder's step, jitted (`keras_hub`, where installed)
    transformers    `generate` of a BART decoder of as many parameters, on torch (`transformers`, where installed)

    python benchmarks/tokens.py --backend tensorflow --addons addons/bin/python --markdown

Each system runs in a process of its own, which tells the time from nothing to its first result (building included,
imports and making up the weights not), the time of that first call alone, of the later calls the time to their first
token and the tokens a second, and its peak memory. What is said of a pair is the ratio of neighbouring calls in one
process (`pairs`), or else of medians.
"""

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
from decoder import BACKENDS, formatted, machine, megabytes, seconds

UNITS, MEMORY, STEPS, BEAMS = 256, 20, 60, 4
START = 1
OURS, XLA, STREAM = "ours", "ours, XLA", "ours, stream"
ADDONS, SCAN, HUB, BART = "Addons", "lax.scan", "KerasHub", "transformers"
SYSTEMS = {
    "tensorflow": (OURS, XLA, STREAM, ADDONS, HUB),
    "jax": (OURS, STREAM, SCAN, HUB),
    "torch": (OURS, STREAM, BART),
}
GREEDY_ONLY = (STREAM, SCAN)


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload: how many rows and tokens, how many beams, 1 for the greedy search."""

    rows: int
    vocabulary: int
    beams: int

    def __str__(self) -> str:
        return f"{'greedy' if self.beams == 1 else f'beam {self.beams}'}, B = {self.rows}, V = {self.vocabulary:,}"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much to measure: cases, and least and most repeats within so many seconds."""

    rows: tuple[int, ...] = (1, 64, 256)
    vocabularies: tuple[int, ...] = (64, 8000)
    repeats: tuple[int, int] = (5, 51)
    seconds: float = 6.0


FULL, QUICK = Effort(), Effort((1, 2), (64,), (3, 3), 1.0)


# What all systems share.


@functools.cache
def weights(vocabulary: int) -> dict[str, np.ndarray]:
    """Returns the same weights for all systems: large enough that no two tokens are near a tie."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * (3.0 / np.sqrt(shape[0]))).astype("float32")

    values = {
        "embedding": rng.normal(size=(vocabulary, UNITS)).astype("float32"),
        "memory_kernel": normal(UNITS, UNITS),
        "query_kernel": normal(UNITS, UNITS),
        "vector": normal(UNITS),
        "output_kernel": normal(2 * UNITS, UNITS),
        "dense": normal(UNITS, vocabulary),
        "dense_bias": np.zeros(vocabulary, "float32"),
    }
    for name, width in (("lstm_0", 2 * UNITS), ("lstm_1", UNITS)):
        values |= {f"{name}_kernel": normal(width, 4 * UNITS), f"{name}_recurrent": normal(UNITS, 4 * UNITS)}
        values[f"{name}_bias"] = np.zeros(4 * UNITS, "float32")
    return values


def encoded(rows: int) -> np.ndarray:
    """Returns the same memory (B, S, M) at every call."""
    return np.random.default_rng(1).normal(size=(rows, MEMORY, UNITS)).astype("float32")


# Our side.


def decoder_layer(vocabulary: int) -> Any:
    """Returns our decoder with the weights."""
    import keras

    import keras_seqx

    # The weights are assigned below: no time for drawing an orthogonal matrix, nor do the peers take any.
    cells = [keras.layers.LSTMCell(UNITS, recurrent_initializer="zeros") for _ in range(2)]
    decoder = keras_seqx.AutoregressiveDecoder(
        keras_seqx.AttentionCell(cells),
        keras.layers.Dense(vocabulary),
        embedding=keras.layers.Embedding(vocabulary, UNITS),
    )
    decoder.build((None, 1), (None, MEMORY, UNITS))
    values = weights(vocabulary)
    order = ["memory_kernel", "query_kernel", "vector", "output_kernel"]
    order += [f"lstm_{i}_{part}" for i in range(2) for part in ("kernel", "recurrent", "bias")]
    for variable, name in zip(decoder.trainable_variables, [*order, "dense", "dense_bias", "embedding"], strict=True):
        variable.assign(values[name])
    return decoder


def our_model(case: Case, decoder: Any = None, **options: Any) -> Any:
    """Returns the model from a memory (B, S, M) to tokens."""
    import keras

    import keras_seqx

    search = "greedy" if case.beams == 1 else keras_seqx.BeamSearch(case.beams)
    options = {"end_token": None, "max_steps": STEPS, **options}
    generator = keras_seqx.TokenGenerator(decoder or decoder_layer(case.vocabulary), search=search, **options)
    memory = keras.Input((MEMORY, UNITS))
    start = keras.ops.cast(keras.ops.full_like(memory[:, :1, 0], START), "int32")
    return keras.Model(memory, generator(start, memory=memory))


def ours(case: Case, xla: bool = False) -> Callable:
    """Returns a call of ours that gives the tokens, compiled as Keras does by itself, or by XLA on TensorFlow too."""
    model, memory = our_model(case), encoded(case.rows)
    if xla:
        model.compile(jit_compile=True)
    return lambda: model.predict_on_batch(memory)["tokens"]


class Stream:
    """A call of ours that takes the tokens one after the other, and notes when the first one came."""

    def __init__(self, case: Case):
        import keras_seqx

        decoder = decoder_layer(case.vocabulary)
        self.generator = keras_seqx.TokenGenerator(decoder, end_token=None, max_steps=STEPS)
        self.start, self.memory = np.full((case.rows, 1), START, "int32"), encoded(case.rows)
        self.first_token: list[float] = []

    def __call__(self) -> np.ndarray:
        began = time.perf_counter()
        tokens = self.generator.stream(self.start, memory=self.memory)
        first = next(tokens)
        self.first_token.append(time.perf_counter() - began)
        return np.stack([first, *tokens], axis=1)


# The peers.


def scan(case: Case) -> Callable:
    """Returns a call of the greedy loop in pure JAX."""
    import jax
    import jax.numpy as jnp

    def lstm(w, name, x, h, c):
        gates = x @ w[f"{name}_kernel"] + h @ w[f"{name}_recurrent"] + w[f"{name}_bias"]
        i, f, candidate, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(candidate)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    @jax.jit
    def generate(w, memory):
        keys = memory @ w["memory_kernel"]
        zeros = jnp.zeros((memory.shape[0], UNITS))

        def step(carry, _):
            token, attention, h0, c0, h1, c1, score = carry
            x = jnp.concatenate([w["embedding"][token], attention], axis=-1)
            h0, c0 = lstm(w, "lstm_0", x, h0, c0)
            h1, c1 = lstm(w, "lstm_1", h0, h1, c1)
            scores = jnp.tanh(keys + (h1 @ w["query_kernel"])[:, None]) @ w["vector"]
            context = jnp.einsum("bs,bsm->bm", jax.nn.softmax(scores), memory)
            attention = jnp.tanh(jnp.concatenate([h1, context], axis=-1) @ w["output_kernel"])
            logits = attention @ w["dense"] + w["dense_bias"]
            token = jnp.argmax(logits, axis=-1)
            score = score + jnp.max(jax.nn.log_softmax(logits), axis=-1)
            return (token, attention, h0, c0, h1, c1, score), token

        token = jnp.full((memory.shape[0],), START)
        carry = (token, *[zeros] * 5, zeros[:, 0])
        carry, tokens = jax.lax.scan(step, carry, length=STEPS)
        return tokens.T, carry[-1]

    values, memory = jax.device_put(weights(case.vocabulary)), encoded(case.rows)
    return lambda: np.asarray(generate(values, memory)[0])


def hub(case: Case) -> Callable:
    """Returns a call of KerasHub's sampler over one step of our decoder, compiled as ours is."""
    import keras
    from keras import ops
    from keras_hub import samplers

    decoder = decoder_layer(case.vocabulary)
    core = decoder._core

    @keras.saving.register_keras_serializable(package="benchmark")
    class Generate(keras.Layer):
        def __init__(self):
            super().__init__()
            self.decoder = decoder
            kinds = {1: samplers.GreedySampler}
            self.sampler = kinds.get(case.beams, lambda: samplers.BeamSampler(case.beams))()

        def call(self, memory):
            rows = memory.shape[0]

            def step(prompt, cache, index):
                states, memories = cache
                passes = core.passes(memories, None, training=False)
                token = ops.take(prompt, index - 1, axis=1)
                logits, states, _ = passes.step(token, states, index - 1)
                hidden = ops.zeros((ops.shape(prompt)[0], 1))
                return logits, hidden, (states, memories)

            memories = [{k: v for k, v in m.items() if v is not None} for m in core.cells.prepare_memory(memory, None)]
            prompt = ops.zeros((rows, STEPS + 1), "int32") + ops.one_hot(0, STEPS + 1, dtype="int32") * START
            cache = (core.initial_states(None, rows, memory), memories)
            return self.sampler(next=step, prompt=prompt, cache=cache, index=1)[:, 1:]

    memory = keras.Input(batch_shape=(case.rows, MEMORY, UNITS))
    layer = Generate()
    layer.compute_output_spec = lambda memory: keras.KerasTensor((case.rows, STEPS), "int32")
    model, values = keras.Model(memory, layer(memory)), encoded(case.rows)
    return lambda: model.predict_on_batch(values)


def bart(case: Case) -> Callable:
    """Returns a call of `generate` of a BART whose decoder has as many parameters as ours."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    torch.manual_seed(0)
    # Two layers of 4 + 4 projections of 256 x 256 and a feed-forward of 512: 1.6 million parameters beside our 1.9.
    config = BartConfig(
        vocab_size=case.vocabulary,
        d_model=UNITS,
        encoder_layers=1,
        decoder_layers=2,
        decoder_attention_heads=4,
        encoder_attention_heads=4,
        decoder_ffn_dim=2 * UNITS,
        encoder_ffn_dim=UNITS,
        max_position_embeddings=STEPS + 4,
        forced_eos_token_id=None,
        decoder_start_token_id=START,
    )
    model = BartForConditionalGeneration(config).eval()
    memory = torch.from_numpy(encoded(case.rows))
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "num_beams": case.beams, "do_sample": False}

    def call():
        with torch.inference_mode():
            found = model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=memory), **options)
        return found[:, 1:].numpy()

    return call


MAKERS: dict[str, Callable] = {
    OURS: ours,
    XLA: functools.partial(ours, xla=True),
    STREAM: Stream,
    SCAN: scan,
    HUB: hub,
    BART: bart,
}


# One process: one system and one case, or a pair in turns.


def measure(system: str, case: Case, effort: Effort, make: Callable) -> Iterator[dict]:
    """Measures a system from nothing."""
    weights(case.vocabulary)  # To make them up is no part of it.
    began = time.perf_counter()
    call = make(case)
    built = time.perf_counter()
    tokens = np.asarray(call())
    ended = time.perf_counter()
    yield {"measure": "first result", "values": [ended - began]}
    yield {"measure": "first call", "values": [ended - built]}
    times = repeated([call], effort)[0]
    yield {"measure": "compilation", "values": [ended - built - median(times)]}
    # Who gives all tokens at once gives the first one with the last.
    yield {"measure": "first token", "values": getattr(call, "first_token", times)[-len(times) :]}
    yield {"measure": "tokens a second", "values": [case.rows * STEPS / t for t in times]}
    yield {"measure": "peak memory", "values": [megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)]}
    yield {"measure": "check", "values": [float(np.sum(tokens * np.arange(1, STEPS + 1)))]}


def pairs(effort: Effort) -> Iterator[dict]:
    """Measures what is compared in one process: beams and the greedy search, an early end, the hand-written loop."""
    import keras

    import keras_seqx

    vocabulary = effort.vocabularies[0]
    for rows in effort.rows[:2]:
        decoder = decoder_layer(vocabulary)
        beam, greedy = (our_model(Case(rows, vocabulary, k), decoder) for k in (BEAMS, 1))
        first, second = repeated([predicts(beam, encoded(rows)), predicts(greedy, encoded(BEAMS * rows))], effort)
        yield pair(f"beam {BEAMS} / greedy with {BEAMS} times the rows", f"B = {rows}, V = {vocabulary}", first, second)
        if keras.backend.backend() == "jax":
            case = Case(rows, vocabulary, 1)
            calls = [ours(case), scan(case)]
            np.testing.assert_array_equal(np.asarray(calls[0]()), np.asarray(calls[1]()))
            first, second = repeated(calls, effort)
            yield pair("greedy / lax.scan", f"B = {rows}, V = {vocabulary}", first, second)
    case, forced = Case(effort.rows[1], vocabulary, 1), keras_seqx.ForcedTokens({9: 2})
    ends = [our_model(case, decoder, end_token=end, max_steps=200, processors=[forced]) for end in (2, None)]
    first, second = repeated([predicts(model, encoded(case.rows)) for model in ends], effort)
    yield pair("200 steps, ended at step 10 / not ended", f"B = {case.rows}, V = {vocabulary}", first, second)


def predicts(model: Any, memory: np.ndarray) -> Callable:
    """Returns a call of a model."""
    return lambda: model.predict_on_batch(memory)


def pair(name: str, at: str, first: list[float], second: list[float]) -> dict:
    """Returns a record of the ratios of neighbouring calls."""
    return {"measure": name, "case": at, "values": [a / b for a, b in zip(first, second, strict=True)]}


def repeated(calls: list[Callable], effort: Effort) -> list[list[float]]:
    """Times calls in turns, after one untimed call each."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    least, most = effort.repeats
    began = time.perf_counter()
    while len(times[0]) < most and (len(times[0]) < least or time.perf_counter() - began < effort.seconds):
        for own, call in zip(times, calls, strict=True):
            own.append(seconds(call))
    return times


def child(system: str, case: Case, effort: Effort) -> None:
    """Measures what a process is for; prints the versions, then each record, as JSON lines."""
    import keras

    backend = keras.backend.backend()
    keras.ops.ones(1) + 1  # Starts the backend, which is no part of building a model.
    versions = {"keras": keras.version(), backend: importlib.import_module(backend).__version__}
    if system in (HUB, BART):
        package = importlib.import_module({HUB: "keras_hub", BART: "transformers"}[system])
        versions[system] = package.__version__
    print(json.dumps(versions), flush=True)
    for record in pairs(effort) if system == "pairs" else measure(system, case, effort, MAKERS[system]):
        print(json.dumps(record), flush=True)


# The parent imports no backend: it starts the processes, reads their records and prints the tables.


def run_child(backend: str, system: str, case: Case, args: Any) -> tuple[list[dict], dict[str, str]]:
    """Measures in a process of its own; returns the records and the versions."""
    print(f"{backend}: {system}, {case}", file=sys.stderr, flush=True)
    options = ["--case", json.dumps(dataclasses.asdict(case)), *["--quick"] * args.quick]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        if system == ADDONS:
            file = pathlib.Path(folder) / "weights.npz"
            arrays: dict[str, Any] = {"memory": encoded(case.rows), **weights(case.vocabulary)}
            np.savez(file, **arrays)
            script = pathlib.Path(__file__).with_name("tokens_addons.py")
            command = [args.addons, script, "--weights", file, *options]
        else:
            command = [sys.executable, __file__, "--child", system, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{done.stderr}\n{backend}: {system}, {case}, failed with status {done.returncode}")
    versions, *records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    about = {"backend": backend, "system": system, "case": str(case)}
    return [{**about, **record} for record in records], versions


def tables(records: list[dict]) -> list[list[list[str]]]:
    """Returns a table of what each process yielded, and one of the pairs."""
    measures = ["first result", "compilation", "first token", "tokens a second", "peak memory"]
    header = [
        "backend",
        "case",
        "system",
        "first result",
        "compilation",
        "first token",
        "tokens/s",
        "peak memory",
        "tokens/s, ours / its",
    ]
    rows = [header]
    alone = [r for r in records if r["system"] != "pairs"]
    for backend, case, system in dict.fromkeys((r["backend"], r["case"], r["system"]) for r in alone):
        values = {
            r["measure"]: median(r["values"])
            for r in alone
            if (r["backend"], r["case"], r["system"]) == (backend, case, system)
        }
        own = [
            median(r["values"])
            for r in alone
            if (r["backend"], r["case"], r["system"], r["measure"]) == (backend, case, OURS, "tokens a second")
        ]
        first, compilation, token, speed, memory = (values[m] for m in measures)
        ratio = f"{own[0] / speed:.2f}" if own and system != OURS else ""
        shown = [f"{first:.2f} s", f"{max(compilation, 0):.2f} s", f"{1000 * token:.1f} ms", f"{speed:,.0f}"]
        rows.append([backend, case, system, *shown, f"{memory:.0f} MB", ratio])
    ratios = [["backend", "pair", "case", "ratio of times"]]
    for r in records:
        if r["system"] == "pairs":
            ratios.append([r["backend"], r["measure"], r["case"], f"{median(r['values']):.2f}"])
    return [rows, ratios]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--systems", nargs="+", help="some of the systems alone, `pairs` among them")
    parser.add_argument("--addons", metavar="PYTHON", help="an interpreter with TensorFlow Addons")
    parser.add_argument("--quick", action="store_true", help="few rows and repeats, to see that it runs")
    parser.add_argument("--markdown", action="store_true", help="print markdown tables")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the raw figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    effort = QUICK if args.quick else FULL
    if args.child:
        return child(args.child, Case(**args.case), effort)
    here = {HUB: "keras_hub", BART: "transformers"}
    records: list[dict] = []
    versions: dict[str, str] = {}
    errors: list[str] = []
    for backend in args.backend:
        for system in [*SYSTEMS[backend], "pairs"]:
            missing = system == ADDONS and not args.addons
            missing = missing or (system in here and importlib.util.find_spec(here[system]) is None)
            if missing or (args.systems and system not in args.systems):
                continue
            for beams in (1, BEAMS):
                for vocabulary in effort.vocabularies:
                    for rows in effort.rows:
                        case = Case(rows, vocabulary, beams)
                        again = case != Case(effort.rows[0], effort.vocabularies[0], 1)
                        if (system == "pairs" and again) or (system in GREEDY_ONLY and beams > 1):
                            continue
                        try:
                            found, new = run_child(backend, system, case, args)
                        except RuntimeError as error:  # The others' figures are not to be lost.
                            errors.append(str(error))
                            continue
                        records, versions = records + found, versions | new
    about = machine(versions)
    shown = [formatted(rows, args.markdown) for rows in tables(records) if len(rows) > 1]
    print(*shown, about, sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "records": records}, indent=1) + "\n")
    errors += differences(records)
    if errors:
        sys.exit("\n\n".join(errors))


def differences(records: list[dict]) -> list[str]:
    """Tells where systems of the same weights did not choose the same tokens by the greedy search."""
    sums: dict[str, set[float]] = {}
    for r in records:
        if r["measure"] == "check" and r["system"] != BART and r["case"].startswith("greedy"):
            sums.setdefault(r["case"], set()).update(r["values"])
    return [f"The systems differ in their tokens, {case}: {v}" for case, v in sums.items() if len(v) > 1]


if __name__ == "__main__":
    main()
