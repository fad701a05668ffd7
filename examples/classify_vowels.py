"""Identifies speakers: gives each sequence one label, whatever its length, and tests that by cross-validation.

Nine speakers say two vowels. Each of the 270 recordings is a series of 12 channels and 7 to 26 steps. A bidirectional
LSTM reads a recording and names the speaker. Each recording is tested once, by a model that was not trained on it:

    python examples/classify_vowels.py --data JapaneseVowels_TRAIN.ts

takes about a minute on two cores. It prints the accuracy of each fold and draws `out/vowels_confusion.png`.

Needs matplotlib: pip install "keras_seqx[examples]"
"""

import time
from pathlib import Path
from typing import Any

from command_line import Parser, existing_file, whole_number

if __name__ == "__main__":
    # The arguments are read before Keras is imported, which takes seconds.
    parser = Parser(
        __doc__,
        seed="the folds, the order and the weights",
        files={"picture": "vowels_confusion.png"},
        needs=("matplotlib",),
    )
    parser.add_argument(
        "--data",
        type=existing_file(".ts"),
        required=True,
        metavar="FILE",
        help="labelled series, .ts. Japanese Vowels is number 128 of the UCI Machine Learning Repository "
        "(archive.ics.uci.edu/dataset/128), and JapaneseVowels at timeseriesclassification.com",
    )
    parser.add_argument(
        "--folds", type=whole_number(2), default=5, metavar="N", help="parts, each of which is tested once (default: 5)"
    )
    parser.add_argument(
        "--epochs",
        type=whole_number(1),
        metavar="N",
        help="epochs to train for each part (default: 30, with --quick 10)",
    )
    args = parser.parse_args()

import keras
import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from series_files import read_series, read_ts_labels

import keras_seqx

Sequences = list[np.ndarray]

# A quick run reads at most so many series of each class, and so many steps of each.
QUICK_SERIES, QUICK_STEPS = 20, 100


# --- The data


def read(path: Path, quick: bool) -> tuple[Sequences, np.ndarray, list[str]]:
    """Returns the series (T, D), the number of each one's speaker (R,), and the speakers' names."""
    try:
        series = read_series(path).series
        names, speakers = np.unique(read_ts_labels(path), return_inverse=True)
    except (OSError, ValueError) as error:
        raise SystemExit(f"classify_vowels: {error}") from None
    if quick:
        # Some series of each class, and the first steps of each, are enough to see that it works.
        rows = np.sort(np.concatenate([np.flatnonzero(speakers == k)[:QUICK_SERIES] for k in range(len(names))]))
        print(f"A quick run: {len(rows)} of {len(series)} series, at most the first {QUICK_STEPS} steps of each.")
        series, speakers = [series[i][:QUICK_STEPS] for i in rows], speakers[rows]
    return series, speakers.astype("int32"), names.tolist()


def deal(classes: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Returns the fold of each series, (R,). Every fold gets an equal share of every class."""
    rng = np.random.default_rng(seed)
    fold_of = np.empty(len(classes), int)
    dealt = 0
    for number in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == number))
        fold_of[rows] = (dealt + np.arange(len(rows))) % folds
        dealt += len(rows)
    return fold_of


# --- The model


def build_model(frames: np.ndarray, classes: int, batches: int) -> keras.Model:
    """Returns a compiled model that standardizes its inputs by the frames (N, D) of the training series."""
    inputs = keras.Input((None, frames.shape[1]), name="inputs")
    lengths = keras.Input((), dtype="int32", name="lengths")
    variance = np.maximum(frames.var(axis=0), 1e-12)  # a constant channel has no scale to measure it by
    hidden = keras.layers.Normalization(mean=frames.mean(axis=0), variance=variance)(inputs)
    hidden = keras_seqx.SequenceMask()([hidden, lengths])
    hidden = keras.layers.Bidirectional(keras.layers.LSTM(48))(hidden)
    outputs = keras.layers.Dense(classes)(keras.layers.Dropout(0.5)(hidden))
    model = keras.Model({"inputs": inputs, "lengths": lengths}, outputs)
    # The mean over the weights, which are 0 for the rows that fill up a batch.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, batches, alpha=0.01)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss, weighted_metrics=["accuracy"])
    return model


def train(x: Sequences, y: np.ndarray, classes: int, epochs: int, options: dict[str, Any]) -> Any:
    """Returns a trained model, and which part of the steps in its batches was valid."""
    data = keras_seqx.LengthBucketing(x, y, **options)
    model = build_model(np.concatenate(x), classes, epochs * len(data))
    bar = keras.utils.Progbar(epochs, unit_name="epoch", stateful_metrics=["accuracy", "loss", "efficiency"])

    def show(epoch: int, logs: dict[str, float]) -> None:
        bar.update(epoch + 1, [(name, logs[name]) for name in ("accuracy", "loss", "efficiency")])

    callbacks = [keras_seqx.PaddingMonitor(data), keras.callbacks.LambdaCallback(on_epoch_end=show)]
    # The data set shuffles by itself, so `fit` does not.
    history = model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks).history
    return model, float(np.mean(history["efficiency"]))


# --- What came out


def print_table(rows: list[tuple[int, int, float, float, float]]) -> None:
    print(f"\n{'fold':>4}{'trained on':>12}{'tested on':>11}{'accuracy':>10}{'efficiency':>12}{'seconds':>9}")
    for number, (trained, tested, accuracy, efficiency, seconds) in enumerate(rows, start=1):
        print(f"{number:4}{trained:12}{tested:11}{accuracy:10.3f}{efficiency:12.3f}{seconds:9.1f}")
    accuracies = [row[2] for row in rows]
    print(f"\nmean accuracy {np.mean(accuracies):.3f}, standard deviation {np.std(accuracies, ddof=1):.3f}")


def draw(confusion: np.ndarray, names: list[str], report: Any, title: str, path: Path) -> None:
    """Draws the confusion matrix, and the lengths with the buckets."""
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 10.5, "axes.edgecolor": "#7b8794"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), layout="constrained", width_ratios=[1, 1.05])
    left.imshow(confusion, cmap="Blues", norm=matplotlib.colors.PowerNorm(0.5, 0, max(confusion.max(), 1)))
    for (row, column), count in np.ndenumerate(confusion):
        shade = "#c3cad2" if not count else "white" if count > 0.4 * confusion.max() else "#1f2933"
        left.text(column, row, f"{count}", ha="center", va="center", color=shade)
    left.set_xticks(range(len(names)), names)
    left.set_yticks(range(len(names)), names)
    left.set(xlabel="named speaker", ylabel="true speaker", title="recordings, all folds together")
    left.tick_params(length=0)
    left.spines[:].set_visible(False)
    report.plot(right)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.spines[["top", "right"]].set_visible(False)
    right.legend(loc="upper right", framealpha=1, edgecolor="white")
    figure.suptitle(title, x=0.01, ha="left", size=15, weight="bold")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(args: Any) -> None:
    series, speakers, names = read(args.data, args.quick)
    fewest = np.bincount(speakers).min()
    if len(names) < 2 or fewest < 2:
        raise SystemExit(f"classify_vowels: {args.data} must hold two classes at least, and two series of each")
    if args.folds > fewest:
        raise SystemExit(f"classify_vowels: --folds must be from 2 to {fewest}, the fewest series of a class")
    epochs = args.epochs or (10 if args.quick else 30)

    # "fill" gives all batches of a bucket one shape, which is compiled once.
    options: dict[str, Any] = {"batch_size": 16, "remainder": "fill", "lengths_as_input": "lengths", "seed": args.seed}
    options["buckets"] = 2 if args.quick else 4
    report = keras_seqx.LengthBucketing(series, speakers, **options).report()
    print(f"{len(series)} series of {len(names)} speakers, {series[0].shape[1]} channels\n\n{report}")

    fold_of = deal(speakers, args.folds, args.seed)
    confusion, rows = np.zeros((len(names), len(names)), int), []
    for fold in range(2 if args.quick else args.folds):
        print(f"\nFold {fold + 1} of {args.folds}", flush=True)
        keras.utils.set_random_seed(args.seed)
        began, trained, tested = time.perf_counter(), np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        model, efficiency = train([series[i] for i in trained], speakers[trained], len(names), epochs, options)
        test = keras_seqx.LengthBucketing([series[i] for i in tested], **options | {"buckets": 1})
        named = test.predict(model, verbose=0).argmax(axis=1)  # in the order of the data
        np.add.at(confusion, (speakers[tested], named), 1)
        accuracy = float(np.mean(named == speakers[tested]))
        rows.append((len(trained), len(tested), accuracy, efficiency, time.perf_counter() - began))

    print_table(rows)
    note = " (quick run)" if args.quick else ""
    if args.quick:
        print("These numbers come from a quick run.")
    title = f"Who speaks: {np.trace(confusion)} of {confusion.sum()} recordings named rightly{note}"
    draw(confusion, names, report, title, args.picture)
    print(f"\nPicture  {args.picture}")


if __name__ == "__main__":
    main(args)
