"""Labels every step of sequences of different lengths: trains on them together, shuffles them, predicts on them.

Four sensors record a machine that rests, climbs, falls or swings, each for a random time. The recordings are 10 to 100
steps long, and the model labels every step with one of the four. One noisy step alone does not show which it is, so a
bidirectional LSTM also reads the steps before and after it:

    python examples/label_steps.py

trains for about two minutes on two cores. It compares the labels with those of a network that sees single steps, and
the speed with that of padding to the longest sequence, and draws `out/label_steps.png`. To label sequences of your own,
give `LengthBucketing` a list of arrays (T, D) and a list of arrays (T,), each pair with its own T.

Needs matplotlib: pip install "keras_seqx[examples]"
"""

import logging
from pathlib import Path
from typing import Any

from command_line import Parser, whole_number

if __name__ == "__main__":
    # The arguments are read before Keras is imported, which takes seconds.
    parser = Parser(
        __doc__,
        seed="the sequences, their order and the weights",
        files={"picture": "label_steps.png", "model": "label_steps.keras"},
        needs=("matplotlib",),
    )
    # The first epoch compiles, and says nothing of the speed.
    parser.add_argument(
        "--epochs", type=whole_number(2), metavar="N", help="the most epochs to train for (default: 30, with --quick 6)"
    )
    args = parser.parse_args()

import keras
import numpy as np
from matplotlib import pyplot as plt

import keras_seqx

logging.getLogger("tensorflow").setLevel("ERROR")  # it warns when it compiles a model's first predictions

CLASSES = ["rest", "climb", "fall", "swing"]
CHANNELS = ["position", "speed", "current", "heat"]
NOISE = np.array([0.08, 0.15, 0.4, 0.25])
# Of Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ["#999999", "#e69f00", "#0072b2", "#cc79a7"]

Sequences = list[np.ndarray]


# --- The recordings


def draw_sequences(count: int, rng: np.random.Generator) -> tuple[Sequences, Sequences]:
    """Returns recordings (T, D) and the class of their steps (T,), T from 10 to 100, mostly short."""
    lengths = np.clip(rng.lognormal(np.log(30), 0.6, count), 10, 100).astype(int)
    x, y = zip(*(draw_sequence(length, rng) for length in lengths), strict=True)
    return list(x), list(y)


def draw_sequence(length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns one recording (T, D) and the class of its steps (T,)."""
    classes, speeds, steps, regime = [], [], 0, rng.integers(4)
    while steps < length:
        duration = int(rng.integers(6, 25))
        pace, angle = rng.uniform(0.06, 0.16), 2 * np.pi * (np.arange(duration) / rng.uniform(4, 7) + rng.random())
        speeds.append(pace * [np.zeros(duration), np.ones(duration), -np.ones(duration), 1.5 * np.cos(angle)][regime])
        classes.append(np.full(duration, regime, "int32"))
        steps += duration
        regime = (regime + rng.integers(1, 4)) % 4
    speed = np.concatenate(speeds)
    position = np.cumsum(speed) + rng.normal()
    heat = np.convolve(np.abs(speed), 3 * 0.8 ** np.arange(20))[:steps]
    channels = np.stack([position, speed, 4 * np.abs(speed), heat], axis=1) + NOISE * rng.normal(size=(steps, 4))
    start = rng.integers(steps - length + 1)  # the recording begins and ends at any point of a phase
    return channels[start : start + length].astype("float32"), np.concatenate(classes)[start : start + length]


# --- The models


def build_model(context: bool) -> keras.Model:
    """Returns a compiled model that labels each step, from the whole sequence or, without context, from the step."""
    inputs = keras.Input((None, len(CHANNELS)), name="inputs")
    lengths = keras.Input((), dtype="int32", name="lengths")
    hidden: Any = keras_seqx.SequenceMask()([inputs, lengths])
    if context:
        read = keras.layers.Bidirectional(keras.layers.LSTM(32, return_sequences=True))
        hidden = keras_seqx.KeepMask(read)(hidden)  # the loss and the metrics must not count padding
    else:
        hidden = keras.layers.Dense(64, "relu")(keras.layers.Dense(64, "relu")(hidden))
    outputs = keras.layers.Dense(len(CLASSES))(hidden)
    model = keras.Model({"inputs": inputs, "lengths": lengths}, outputs)
    # The mean over the weights, which are 0 at padded steps: padding changes nothing.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(1e-2, clipnorm=1.0), loss, weighted_metrics=["accuracy"])
    return model


def fit(title: str, train: Any, validation: Any, context: bool, epochs: int) -> tuple[keras.Model, dict[str, Any]]:
    """Returns a model with the weights of its best epoch, and what training logged."""
    print(f"\n{title}\n", flush=True)
    best = [keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)] if validation else []
    callbacks, model = [keras_seqx.PaddingMonitor(train), *best], build_model(context)
    # The data set shuffles by itself, so `fit` does not.
    history = model.fit(train, validation_data=validation, epochs=epochs, shuffle=False, callbacks=callbacks)
    return model, history.history


# --- What came out


def print_accuracies(y: Sequences, answers: dict[str, Sequences]) -> None:
    """Prints how many of all steps, and of the steps of each class, have the right label."""
    truth = np.concatenate(y)
    print(f"\nAccuracy on the {len(truth):,} steps of {len(y):,} test sequences\n")
    print(f"{'':28}" + "".join(f"{name:>8}" for name in ["all", *CLASSES]))
    for name, labels in answers.items():
        right = np.concatenate(labels) == truth
        cells = [right.mean(), *(right[truth == c].mean() for c in range(len(CLASSES)))]
        print(f"{name:28}" + "".join(f"{cell:8.3f}" for cell in cells))


def print_speeds(runs: dict[str, tuple[Any, dict[str, Any]]]) -> None:
    """Prints how much of the batches was valid, and how long an epoch took once everything was compiled."""
    print("\nTraining, validation not counted; the median of the epochs after the first, which compiles\n")
    print(f"{'':28}{'efficiency':>12}{'valid steps/s':>16}{'s/epoch':>10}{'first epoch':>13}")
    for name, (data, history) in runs.items():
        speeds = history["valid_steps_per_second"]
        efficiency, valid, speed = np.mean(history["efficiency"]), data.report().valid_steps, np.median(speeds[1:])
        print(f"{name:28}{efficiency:12.3f}{speed:16,.0f}{valid / speed:10.2f}{valid / speeds[0]:13.2f}")


def draw(report: Any, x: Sequences, y: Sequences, labels: Sequences, accuracy: float, path: Path) -> None:
    """Draws the lengths with the buckets, and a short, a medium and a long test sequence with its labels."""
    order = [row for row in np.argsort([len(row) for row in x], kind="stable") if len(np.unique(y[row])) > 1]
    shown = [order[round(place * (len(order) - 1))] for place in (0.05, 0.5, 0.95)]
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 10.5, "axes.edgecolor": "#7b8794"})
    figure = plt.figure(figsize=(12.5, 6.8), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=[1, 1.5])

    axis = report.plot(figure.add_subplot(grid[:, 0]))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper right", framealpha=1, edgecolor="white")
    for place, row in enumerate(shown):
        axis, steps = figure.add_subplot(grid[place, 1]), np.arange(1, len(x[row]) + 1)
        for d in range(len(CHANNELS)):
            values = x[row][:, d]
            axis.plot(steps, 0.8 * (values - values.min()) / np.ptp(values) - d, color="#1f2933", lw=1.1)
        for height, classes in ((-4.0, y[row]), (-4.8, labels[row])):
            axis.bar(steps, 0.7, 1, height, color=np.array(COLOURS)[classes])
        axis.set_yticks([0.4, -0.6, -1.6, -2.6, -3.65, -4.45], [*CHANNELS, "true label", "prediction"])
        axis.set(xlim=(0.5, len(steps) + 0.5), ylim=(-5.0, 0.95))
        axis.set_title(f"{len(steps)} steps, {np.mean(labels[row] == y[row]):.0%} labelled right", loc="left")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axis.set_xlabel("step (each channel drawn to its own range)")

    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS]
    figure.legend(handles, CLASSES, loc="outside upper right", ncols=4, frameon=False)
    title = f"Every step labelled: {accuracy:.1%} right on test sequences"
    figure.suptitle(title, x=0.01, ha="left", size=15, weight="bold")
    figure.savefig(path, dpi=95, pil_kwargs={"optimize": True})
    plt.close(figure)


def main(args: Any) -> None:
    size, buckets, batch_size, epochs = (160, 2, 128, 6) if args.quick else (2000, 8, 32, 30)
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    x_test, y_test = draw_sequences(size // 4, rng)
    x, y = draw_sequences(size, rng)

    options: dict[str, Any] = {"batch_size": batch_size, "lengths_as_input": "lengths", "seed": args.seed}
    data = keras_seqx.LengthBucketing(x, y, buckets=buckets, **options)
    train, validation = data.split(0.2)
    print(f"{len(x)} sequences to train on and validate, {len(x_test)} to test\n\n{train.report()}\n")
    for epoch in range(2):
        shapes = train.steps(epoch * len(train), epoch * len(train) + 12)[2]
        print(f"Epoch {epoch + 1} begins with batches of", *shapes[:, 1], "steps")

    model, history = fit("The whole sequence, in buckets", train, validation, True, args.epochs or epochs)
    padded, _ = keras_seqx.LengthBucketing(x, y, buckets=1, **options).split(0.2)
    _, padded_history = fit("The same, padded to the longest, for its speed", padded, None, True, 3)
    dense, _ = fit("Each step by itself", padded, None, False, epochs // 2)

    print("\nLabelling the test sequences\n", flush=True)
    test = keras_seqx.LengthBucketing(x_test, buckets=buckets, **options)
    logits = {"each step by itself": test.predict(dense), "the whole sequence": test.predict(model)}
    commonest = np.bincount(np.concatenate(y)).argmax()
    answers = {f"always {CLASSES[commonest]}": [np.full(len(row), commonest) for row in y_test]}
    # The predictions are unpadded and in the order of the data, as `y_test` is.
    answers |= {name: [row.argmax(axis=-1) for row in rows] for name, rows in logits.items()}
    print_accuracies(y_test, answers)
    print_speeds({f"{buckets} buckets": (train, history), "to the longest": (padded, padded_history)})
    labels = answers["the whole sequence"]
    accuracy = np.mean(np.concatenate(labels) == np.concatenate(y_test))
    draw(train.report(), x_test, y_test, labels, accuracy, args.picture)

    model.save(args.model)
    long, truth = draw_sequence(250, rng)
    outputs = keras.saving.load_model(args.model).predict({"inputs": long[None], "lengths": np.array([250])}, verbose=0)
    right = np.mean(outputs[0].argmax(axis=-1) == truth)
    print(f"\nLoaded again, the model labels a sequence of 250 steps, though it learned from 100: {right:.1%} right.")
    if args.quick:
        print("These numbers come from a quick run.")
    print(f"\nPicture  {args.picture}\nModel    {args.model}")


if __name__ == "__main__":
    main(args)
