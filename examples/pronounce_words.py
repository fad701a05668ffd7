"""Pronounces English words: learns from the CMU Pronouncing Dictionary to turn letters into phones.

A bidirectional LSTM reads the letters, an attention decoder writes the phones one by one, and a beam search finds the
most probable pronunciation:

    python examples/pronounce_words.py

downloads the dictionary (or reads it with `--data DIR`) and trains for about twenty minutes on two cores, or with
`--config best` a larger model for about two hours. It prints the error rates on words that were not trained on, draws
to which letters the decoder attends in `out/pronounce_words.png`, and saves a model that takes letters and returns
phones, `out/pronounce_words.keras`. Then

    python examples/pronounce_words.py --say keras tensor flow

pronounces the words, and without words asks for them. If a run is interrupted, start it again: it continues after the
last epoch that was complete.

Needs matplotlib: pip install "keras_seqx[examples]"
"""

import dataclasses
import json
import logging
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from command_line import Parser, existing_folder, whole_number

if __name__ == "__main__":
    # The arguments are read before Keras is imported, which takes seconds.
    parser = Parser(
        __doc__,
        seed="the weights, the draws and the order",
        files={"picture": "pronounce_words.png", "model": "pronounce_words.keras"},
        quick="tiny",
        needs=("matplotlib",),
    )
    parser.add_argument(
        "--data",
        type=existing_folder("train.txt", "dev.txt"),
        metavar="DIR",
        help="where train.txt and dev.txt are (default: download)",
    )
    parser.add_argument("--config", choices=["quick", "best"], default="quick", help="how large (default: quick)")
    parser.add_argument(
        "--epochs", type=whole_number(1), metavar="N", help="epochs to train for, instead of the configuration's"
    )
    parser.add_argument("--say", nargs="*", metavar="WORD", help="pronounce words by the model of --out, do not train")
    args = parser.parse_args(unless="say")
    args.config = "tiny" if args.quick else args.config
    args.run = args.out / f"pronounce_words_{args.config}"
    if args.say is None:
        parser.check_writable(args.run, [args.run / "run.json", args.run / "history.csv"])
    elif not args.model.is_file():
        # A quick run has a model too.
        args.model = args.out / "pronounce_words_tiny.keras"
        if not args.model.is_file():
            parser.error(f"there is no model in {args.out}: train one first, without --say")

import keras
import numpy as np
from keras import layers, ops
from matplotlib import pyplot as plt

import keras_seqx

logging.getLogger("tensorflow").setLevel("ERROR")

ORIGIN = "https://raw.githubusercontent.com/microsoft/CNTK/master/Examples/SequenceToSequence/CMUDict/Data"
FILES = {"train.txt": "cmudict-0.7b.train-dev-20-21", "dev.txt": "cmudict-0.7b.dev-20-21"}

LETTERS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# fmt: off
PHONES = [
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY",
    "F", "G", "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY",
    "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
]
# fmt: on
# Id 0 is padding in both alphabets. Two more ids of the phones mark the start and the end.
START, END, FIRST = 1, 2, 3
VOCABULARY = FIRST + len(PHONES)

Words = dict[str, list[list[str]]]


@dataclasses.dataclass(frozen=True)
class Config:
    """The size of the model and how it is trained."""

    units: int
    encoder_layers: int
    decoder_layers: int
    embedding: int
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    label_smoothing: float
    teacher_forcing: float  # at the end of the schedule, which begins at 1
    beams: int
    buckets: int
    words: int | None = None  # train on the first ones only, to see that it works


CONFIGS = {
    "quick": Config(128, 2, 1, 64, 0.2, 12, 128, 2e-3, 0.1, 0.9, 5, 6),
    "best": Config(256, 2, 1, 64, 0.3, 40, 128, 1.5e-3, 0.1, 0.9, 5, 6),
    "tiny": Config(16, 1, 1, 8, 0.0, 1, 64, 5e-3, 0.1, 0.9, 2, 2, 500),
}


# --- The dictionary


def read_dictionary(path: Path) -> Words:
    """Returns the pronunciations of each word of a file with lines of a word, two spaces and its phones."""
    words: Words = {}
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
        word, _, phones = line.strip().partition("  ")
        unknown = (set(word) - set(LETTERS)) | (set(phones.split()) - set(PHONES))
        if not word or not phones or unknown:
            raise SystemExit(
                f"pronounce_words: {path}, line {number} is no word with its phones: {line!r} {unknown or ''}"
            )
        words.setdefault(word, []).append(phones.split())
    return words


def load(data: Path | None, out: Path) -> tuple[Words, Words]:
    """Returns the words to train on, and other words to test on."""
    if data is None:
        data = out / "cmudict"
        for name, origin in FILES.items():
            if not (data / name).exists():
                url = f"{ORIGIN}/{origin}.txt"
                try:
                    keras.utils.get_file(name, url, cache_dir=str(out), cache_subdir="cmudict")
                except Exception as error:  # the network fails in many ways
                    raise SystemExit(f"pronounce_words: cannot download {url}: {error}. Say --data DIR") from None
    train, dev = (read_dictionary(data / name) for name in FILES)
    return train, {word: phones for word, phones in dev.items() if word not in train}


def letter_ids(word: str) -> np.ndarray:
    """Returns a word as ids (S,)."""
    return np.array([1 + LETTERS.index(letter) for letter in word], "int32")


def phone_ids(phones: list[str]) -> np.ndarray:
    """Returns phones as ids (T,)."""
    return np.array([FIRST + PHONES.index(phone) for phone in phones], "int32")


def phones_of(ids: np.ndarray, length: int) -> list[str]:
    """Returns the phones of the first ids of a row, without the end."""
    return [PHONES[i - FIRST] for i in ids[:length] if i >= FIRST]


def pairs(words: Words, config: Config, seed: int) -> keras_seqx.LengthBucketing:
    """Returns every pronunciation of every word, in batches of similar lengths."""
    listed = [(word, phones) for word, several in words.items() for phones in several]
    letters = [letter_ids(word) for word, _ in listed]
    spoken = [phone_ids(phones) for _, phones in listed]
    read = [np.concatenate([[START], phones]).astype("int32") for phones in spoken]
    written = [np.concatenate([phones, [END]]).astype("int32") for phones in spoken]
    options: dict[str, Any] = {"batch_size": config.batch_size, "buckets": config.buckets, "seed": seed}
    return keras_seqx.LengthBucketing({"letters": letters, "phones": read}, written, **options)


# --- The models


@keras.saving.register_keras_serializable(package="pronounce_words")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits (B, T, V) and ids (B, T), with label smoothing: all tokens share a part of the weight."""

    def __init__(self, smoothing: float = 0.1, name: str = "crossentropy", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        logp = ops.log_softmax(y_pred, axis=-1)
        chosen = ops.take_along_axis(logp, ops.cast(y_true, "int32")[..., None], axis=-1)[..., 0]
        return -(1 - self.smoothing) * chosen - self.smoothing * ops.mean(logp, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}


def build(config: Config, seed: int) -> tuple[keras.Model, Any, Any]:
    """Returns the model to train, from letters and phones to the next phones, and its encoder and decoder."""
    letters = keras.Input((None,), dtype="int32", name="letters")
    phones = keras.Input((None,), dtype="int32", name="phones")
    hidden = layers.Embedding(1 + len(LETTERS), config.embedding, mask_zero=True)(letters)
    for _ in range(config.encoder_layers):
        read = layers.Bidirectional(layers.LSTM(config.units, return_sequences=True))
        hidden = keras_seqx.KeepMask(read)(hidden)  # the decoder must not look at padding
        hidden = layers.Dropout(config.dropout)(hidden)
    encoder = keras.Model(letters, hidden, name="encoder")

    first, *others = (layers.LSTMCell(config.units, dropout=config.dropout) for _ in range(config.decoder_layers))
    decoder = keras_seqx.AutoregressiveDecoder(
        [keras_seqx.AttentionCell(first), *others],
        keras.Sequential([layers.Dropout(config.dropout), layers.Dense(VOCABULARY)]),
        embedding=layers.Embedding(VOCABULARY, config.embedding, mask_zero=True),
        sampler=keras_seqx.Categorical(),
        seed=seed,
        name="decoder",
    )
    return keras.Model({"letters": letters, "phones": phones}, decoder(phones, memory=hidden)), encoder, decoder


def speaker(encoder: Any, decoder: Any, beams: int, alignments: bool = False) -> keras.Model:
    """Returns the model to use: from letters (B, S) to the best phones, their score and, if asked, the attention."""
    letters = keras.Input((None,), dtype="int32", name="letters")
    search = keras_seqx.BeamSearch(beams) if beams > 1 else "greedy"
    generator = keras_seqx.TokenGenerator(
        decoder, end_token=END, max_steps=40, search=search, return_alignments=alignments, name="generator"
    )
    start = ops.full_like(letters[:, :1], START)
    return keras.Model(letters, generator(start, memory=encoder(letters)))


def train(model: keras.Model, data: Any, validation: Any, config: Config, folder: Path) -> float:
    """Trains a model, from the epoch where an interrupted run stopped; returns the seconds that it took."""
    steps = config.epochs * len(data)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=config.learning_rate, warmup_steps=min(500, steps // 10)
    )
    # The mean of the last weights generalizes better than the last ones; at its end `fit` replaces them by it.
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0, use_ema=True, ema_momentum=0.998)
    # XLA compiles each shape again. TensorFlow's own graph takes all shapes.
    jit = keras.backend.backend() == "jax"
    loss = SmoothedCrossentropy(config.label_smoothing, reduction="mean_with_sample_weight")
    model.compile(optimizer, loss, weighted_metrics=["accuracy"], jit_compile=jit)
    callbacks: list[Any] = [
        keras_seqx.TeacherForcingSchedule("linear", end=config.teacher_forcing, epochs=config.epochs),
        keras_seqx.PaddingMonitor(data),
        keras.callbacks.CSVLogger(folder / "history.csv", append=True),
        keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False),
    ]
    began = time.perf_counter()
    model.fit(data, validation_data=validation, epochs=config.epochs, shuffle=False, callbacks=callbacks)
    return time.perf_counter() - began


# --- What comes out


def pronounce(model: keras.Model, words: list[str], verbose: Any = 0) -> list[list[str]]:
    """Returns the phones of each word."""
    data = keras_seqx.LengthBucketing([letter_ids(word) for word in words], batch_size=256, buckets=8)
    found = data.predict(model, verbose=verbose)
    return [phones_of(ids, length) for ids, length in zip(found["tokens"], found["lengths"], strict=True)]


def error_rates(truth: Words, answers: list[list[str]]) -> dict[str, float]:
    """Returns the word and phoneme error rates, each measured against the nearest pronunciation of a word."""
    several = max(map(len, truth.values()))
    longest = max(len(p) for phones in [*truth.values(), answers] for p in phones)
    references = np.zeros((len(truth), several, longest), "int32")
    predictions = np.zeros((len(truth), longest), "int32")
    for row, (phones, answer) in enumerate(zip(truth.values(), answers, strict=True)):
        for place, reference in enumerate(phones):
            references[row, place, : len(reference)] = phone_ids(reference)
        predictions[row, : len(answer)] = phone_ids(answer)
    metrics = {"PER": keras_seqx.EditDistance(pad_token=0), "words right": keras_seqx.SequenceAccuracy(pad_token=0)}
    for metric in metrics.values():
        metric.update_state(references, predictions)
    return {"WER": 1 - float(metrics["words right"].result()), "PER": float(metrics["PER"].result())}


def draw(words: list[str], truth: Words, model: keras.Model, rates: dict[str, float], path: Path) -> None:
    """Draws to which letters the decoder attends as it writes the phones of a few words."""
    letters = keras.utils.pad_sequences([letter_ids(word) for word in words], padding="post")
    found = model.predict(letters, verbose=0)
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 11, "axes.edgecolor": "#7b8794"})
    figure, axes = plt.subplots(2, math.ceil(len(words) / 2), figsize=(12.5, 7), layout="constrained", squeeze=False)
    for row, (axis, word) in enumerate(zip(axes.flat, words, strict=False)):
        spoken = phones_of(found["tokens"][row], found["lengths"][row])
        look = found["alignments"][row, : max(1, len(spoken)), : len(word)]
        axis.imshow(look, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(word)), list(word))
        axis.set_yticks(range(len(spoken)), spoken)
        axis.tick_params(length=0)
        right = spoken in truth[word]
        axis.set_title(f"{word.lower()}: {'right' if right else 'should be ' + ' '.join(truth[word][0])}", loc="left")
        axis.spines[:].set_visible(False)
    title = f"Where the decoder looked: {1 - rates['WER']:.1%} of unseen words pronounced right"
    figure.suptitle(title, x=0.01, ha="left", size=15, weight="bold")
    figure.savefig(path, dpi=95, pil_kwargs={"optimize": True})
    plt.close(figure)


def say(words: list[str], path: Path) -> None:
    """Pronounces words, or what is typed."""
    if path.stem.endswith("_tiny"):
        print(f"This is the model of a quick run, which has learned little: {path}")
    model = keras.saving.load_model(path)

    def spell(word: str) -> None:
        known = "".join(letter for letter in word.upper().replace("\u2019", "'") if letter in LETTERS)
        if not known:
            print(f"{word}: has none of the letters A to Z")
        else:
            print(f"{known.lower():20} {' '.join(pronounce(model, [known])[0])}", flush=True)

    for word in words:
        spell(word)
    if not words:
        print("Type words, an empty line ends.", flush=True)
        for line in sys.stdin:
            if not line.strip():
                break
            for word in line.split():
                spell(word)


def record(args: Any, config: Config, scores: dict[str, Any], seconds: float, parameters: int) -> None:
    """Writes the settings and the results of a run, in order to compare it with others."""
    history = np.genfromtxt(args.run / "history.csv", delimiter=",", names=True, ndmin=1)
    run = {
        "command": " ".join(["python", *sys.argv]),
        "configuration": dataclasses.asdict(config),
        "seed": args.seed,
        "parameters": parameters,
        "backend": keras.backend.backend(),
        "versions": {
            "keras": keras.__version__,
            "keras_seqx": keras_seqx.__version__,
            "python": platform.python_version(),
        },
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "training seconds of this run": round(seconds),
        "processor seconds of this run": round(time.process_time()),
        "scores": scores,
        "history": {name: [float(f"{value:.5g}") for value in history[name]] for name in history.dtype.names or ()},
    }
    (args.run / "run.json").write_text(json.dumps(run, indent=1) + "\n")


def main(args: Any) -> None:
    if args.say is not None:
        say(args.say, args.model)
        return
    config = CONFIGS[args.config]
    if args.epochs:
        config = dataclasses.replace(config, epochs=args.epochs)

    words, dev = load(args.data, args.out)
    words = dict(list(words.items())[: config.words])
    dev = dict(list(dev.items())[: config.words])
    keras.utils.set_random_seed(args.seed)
    data, validation = pairs(words, config, args.seed), pairs(dev, config, args.seed)
    print(f"{len(words):,} words to train on, {len(dev):,} others to test\n\n{data.report()}\n")
    model, encoder, decoder = build(config, args.seed)
    model.summary()
    seconds = train(model, data, validation, config, args.run)

    scores: dict[str, Any] = {}
    listed = list(dev)
    for beams in (1, config.beams):
        print(
            f"\nPronouncing {len(dev):,} words by {'the greedy search' if beams == 1 else f'{beams} beams'}", flush=True
        )
        spoken = speaker(encoder, decoder, beams)
        scores[f"{beams} beams"] = error_rates(dev, pronounce(spoken, listed, "auto"))
    print(f"\n{'':16}{'WER':>8}{'PER':>8}")
    for search, rates in scores.items():
        print(f"{search:16}{rates['WER']:8.2%}{rates['PER']:8.2%}")
    record(args, config, scores, seconds, model.count_params())

    spoken = speaker(encoder, decoder, config.beams, alignments=True)
    spoken.save(args.model)
    shown: list[str] = [w for w in ("ABBREVIATED", "KNIGHTLY", "PSYCHOLOGICAL", "THOROUGHNESS") if w in dev]
    shown += [w for w in sorted(dev, key=lambda w: (abs(len(w) - 9), w))[:: max(1, len(dev) // 40)] if w not in shown]
    draw(shown[:6], dev, keras.saving.load_model(args.model), scores[f"{config.beams} beams"], args.picture)
    if args.quick:
        print("These numbers come from a quick run.")
    print(f"\nPicture  {args.picture}\nModel    {args.model}\nRun      {args.run / 'run.json'}")
    quick = "--quick " if args.quick else ""
    print(f"\nTry      python examples/pronounce_words.py {quick}--out {args.out} --say keras tensor flow")


if __name__ == "__main__":
    main(args)
