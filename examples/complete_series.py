"""Completes series: reads the first part of a series, whatever its length, and predicts the steps that follow.

An LSTM reads the first part, the context. Its state starts four more LSTMs, which continue from the last frame: at each
step they read what they predicted at the step before. Without arguments the series are sine waves:

    python examples/complete_series.py

trains for about two minutes on two cores to complete 150 steps. It then loads the saved model in a fresh process,
completes 150 steps and 300 steps, prints the errors and draws `out/complete_series.png`. Series of your own come from
a file:

    python examples/complete_series.py --data my_series.csv

The model learns to complete the second half of each series from its first half; long series are cut into windows. The
steps after the end of each series are then written to `out/complete_series_forecast.csv`. The file is one of

    .csv  a row of feature names, then a row for each step; a column `series` or `id` tells several series apart, and
          a column of dates, or of a number that grows evenly, is taken for the time and continued
    .npz  one array (N, T, D), with the `lengths` (N,) of its series where they are padded, or an array (T, D) for each
    .ts   the text format of sktime and the UEA archive

Needs matplotlib: pip install "keras_seqx[examples]"
"""

from pathlib import Path
from typing import Any, NamedTuple

from command_line import Parser, existing_file, run_again, whole_number

if __name__ == "__main__":
    # The arguments are read before Keras is imported, which takes seconds.
    parser = Parser(
        __doc__,
        seed="the series, their split and the weights",
        files={
            "picture": "complete_series.png",
            "model": "complete_series.keras",
            "forecast": "complete_series_forecast.csv",
        },
        needs=("matplotlib",),
    )
    parser.add_argument(
        "--data",
        type=existing_file(".csv", ".npz", ".ts"),
        metavar="FILE",
        help="series of your own, .csv, .npz or .ts",
    )
    parser.add_argument(
        "--header",
        choices=["guess", "yes", "no"],
        default="guess",
        help="whether a CSV begins with names (default: guess)",
    )
    parser.add_argument(
        "--time", metavar="COLUMN", help="the column of a CSV with the time, or none (default: look for it)"
    )
    parser.add_argument(
        "--epochs", type=whole_number(1), metavar="N", help="epochs to train for (default: 21, with --quick 3)"
    )
    parser.add_argument(
        "--complete",
        type=existing_file(".keras"),
        metavar="MODEL",
        help="complete with a saved model, without training",
    )
    args = parser.parse_args()
    if (args.time or args.header != "guess") and (not args.data or args.data.suffix.lower() != ".csv"):
        parser.error("--header and --time need a CSV file: --data FILE.csv")

import keras
import numpy as np
from keras import ops
from matplotlib import pyplot as plt
from series_files import SeriesFile, quick_part, read_series, split, write_forecast

import keras_seqx

BATCH_SIZE = 64


class Windows(NamedTuple):
    """N series in two parts, each part padded on the right to one number of steps, with its numbers of valid steps."""

    context: np.ndarray  # (N, T, D)
    lengths: np.ndarray  # (N,)
    future: np.ndarray  # (N, S, D)
    future_lengths: np.ndarray  # (N,)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return {"context": self.context, "lengths": self.lengths}

    @property
    def last_frames(self) -> np.ndarray:
        return self.context[np.arange(len(self.lengths)), self.lengths - 1]

    def weights(self, steps: int) -> np.ndarray:
        """Returns (N, steps): 1 at the valid steps of the future, 0 at its padding."""
        return (np.arange(steps) < self.future_lengths[:, None]).astype("float32")


class Data(NamedTuple):
    """Series of D features, and the number of steps to complete."""

    title: str
    features: list[str]
    steps: int
    train: Windows
    validation: Windows
    test: Windows
    mean: np.ndarray  # (D,), of the valid training frames
    deviation: np.ndarray  # (D,), their standard deviation


# --- The series


def sine_waves(seed: int, quick: bool) -> Data:
    """Sine waves of random wavelength and phase, in five features with different levels and units."""
    rng = np.random.default_rng(seed)
    shrink = 5 if quick else 1
    shortest, longest, steps = 150 // shrink, 300 // shrink, 150 // shrink

    # The wavelengths, from 60 to 140 steps, fall into 16 bands of equal width. Two bands are for validation and two for
    # the test. All four lie between bands of the training series.
    bands = np.linspace(60, 140, 16, endpoint=False) / shrink
    validation_bands, test_bands = [3, 10], [6, 13]
    training_bands = np.setdiff1d(np.arange(16), validation_bands + test_bands)

    # The last two features go through two waves while the others go through one.
    waves = np.array([1, 1, 1, 2, 2])
    lag = np.array([0.0, 0.7, 2.0, 0.4, 1.5])
    amplitude = np.array([1.0, 0.4, 3.0, 20.0, 5.0])
    level = np.array([0.0, 2.0, -1.0, 50.0, 10.0])

    def draw(count: int, its_bands: Any, future_steps: int) -> Windows:
        wavelength = bands[rng.choice(its_bands, count)] + rng.uniform(0, bands[1] - bands[0], count)
        phase = rng.uniform(0, 2 * np.pi, count)
        angle = 2 * np.pi * np.arange(longest + future_steps) / wavelength[:, None] + phase[:, None]
        series = level + amplitude * np.sin(waves * angle[:, :, None] + lag)
        lengths = rng.integers(shortest, longest + 1, count)
        pairs = [(row[:n], row[n : n + future_steps]) for row, n in zip(series, lengths, strict=True)]
        return pad_right(pairs, future_steps)

    return describe(
        "Sine waves of wavelengths never trained on",
        [f"feature {d + 1}" for d in range(5)],
        steps,
        draw(256 if quick else 2048, training_bands, steps),
        draw(64 if quick else 256, validation_bands, steps),
        draw(64 if quick else 256, test_bands, 2 * steps),
    )


def read(args: Any) -> tuple[Data, SeriesFile | None]:
    """Returns the series to learn from, and the file they are from, if it is a file."""
    if not args.data:
        return sine_waves(args.seed, args.quick), None
    try:
        file = read_series(args.data, args.header, args.time)
        file = quick_part(file) if args.quick else file
        parts = split(file, args.data, args.seed, args.quick)
    except (OSError, ValueError) as error:
        raise SystemExit(f"complete_series: {error}") from None
    # The second half of each piece is to be completed from its first.
    halves = [[np.split(piece, [len(piece) - len(piece) // 2]) for piece in part] for part in parts]
    steps = max(len(future) for pairs in halves for _, future in pairs)
    windows = (pad_right(pairs, steps) for pairs in halves)
    return describe(f"Series of {args.data.name}", file.features, steps, *windows), file


def pad_right(pairs: list[Any], future_steps: int) -> Windows:
    """Returns pairs of a context (T, D) and a future (S, D) as arrays, padded with zeros."""

    def pad(parts: Any, steps: int) -> np.ndarray:
        return np.stack([np.pad(part, [(0, steps - len(part)), (0, 0)]) for part in parts]).astype("float32")

    contexts, futures = zip(*pairs, strict=True)
    lengths = np.array([len(context) for context in contexts], "int32")
    future_lengths = np.array([len(future) for future in futures], "int32")
    return Windows(pad(contexts, max(lengths)), lengths, pad(futures, future_steps), future_lengths)


def describe(title: str, features: list[str], steps: int, train: Windows, validation: Windows, test: Windows) -> Data:
    """Returns the data with the mean and standard deviation of all valid frames of the training series."""
    valid = np.arange(train.context.shape[1]) < train.lengths[:, None]
    frames = np.concatenate([train.context[valid], train.future[train.weights(steps) > 0]]).astype("float64")
    deviation = frames.std(axis=0)
    deviation[deviation == 0] = 1  # a constant feature has no scale
    return Data(title, features, steps, train, validation, test, frames.mean(axis=0), deviation)


# --- The model


def build_models(data: Data, units: int) -> tuple[keras.Model, keras.Model]:
    """Returns the model to train, whose outputs are in standard deviations, and the one to keep, in the data's units.

    They are one network with one set of weights. In training, all features count equally in the loss, because errors
    are measured in standard deviations. The model to keep takes series and returns them in the units of the data.
    """
    size, statistics = len(data.features), {"mean": data.mean, "variance": data.deviation**2}
    context = keras.Input((None, size), name="context")
    lengths = keras.Input((), dtype="int32", name="lengths")
    frames = keras.layers.Normalization(**statistics)(context)
    last_frame = ops.take_along_axis(frames, ops.expand_dims(lengths - 1, (1, 2)), axis=1)

    valid_frames = keras_seqx.SequenceMask()([frames, lengths])
    _, *state = keras.layers.LSTM(units, return_state=True, name="encoder")(valid_frames)

    cells = [keras.layers.LSTMCell(units) for _ in range(4)]
    decoder = keras_seqx.AutoregressiveDecoder(cells, keras.layers.Dense(size), steps=data.steps, name="decoder")
    completion = decoder(last_frame, initial_state=state)

    inputs = {"context": context, "lengths": lengths}
    in_units = keras.layers.Normalization(**statistics, invert=True)(completion)
    return keras.Model(inputs, completion), keras.Model(inputs, in_units)


def train(data: Data, units: int, batches: int, epochs: int, file: Path) -> None:
    """Trains, and saves the model with the weights of the best epoch."""
    trainee, model = build_models(data, units)

    # Every batch is full, because each further shape would be compiled too. To fill the last batch, some series are
    # read twice in an epoch, and the series of a small set several times.
    count = len(data.train.lengths)
    rows = np.resize(np.arange(count), BATCH_SIZE * max(batches, -(-count // BATCH_SIZE)))
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, epochs * len(rows) // BATCH_SIZE, alpha=0.01)
    optimizer = keras.optimizers.Adam(schedule, clipnorm=1.0)

    def fit(steps: int, first: int, last: int, callbacks: list[Any]) -> None:
        def targets(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
            return (windows.future[:, :steps] - data.mean) / data.deviation, windows.weights(steps)

        print(f"\nLearning to complete {steps} steps: epochs {first + 1} to {last}\n", flush=True)
        trainee.get_layer("decoder").steps = steps
        # The mean over the weights, which are 0 at padding: padding changes nothing.
        trainee.compile(optimizer, keras.losses.MeanAbsoluteError(reduction="mean_with_sample_weight"))
        y, weights = targets(data.train)
        # The first steps weigh most: three of the four LSTMs start from zeros, and all later steps depend on them.
        weights *= 1 + 10 / np.arange(1, steps + 1, dtype="float32")
        trainee.fit(
            {name: values[rows] for name, values in data.train.inputs.items()},
            y[rows],
            sample_weight=weights[rows],
            validation_data=(data.validation.inputs, *targets(data.validation)),
            batch_size=BATCH_SIZE,
            validation_batch_size=256,
            initial_epoch=first,
            epochs=last,
            callbacks=callbacks,
        )

    # Train on the first third of the steps for a third of the epochs: later steps depend on earlier ones, and are
    # learned faster once those are right.
    early = epochs // 3
    if early:
        fit(max(1, data.steps // 3), 0, early, [])
    best_epoch = file.with_stem(f"{file.stem}_best_epoch")
    fit(data.steps, early, epochs, [keras.callbacks.ModelCheckpoint(best_epoch, save_best_only=True)])

    trainee.load_weights(best_epoch)
    best_epoch.unlink()
    model.save(file)


# --- The completion, in a fresh process


def complete(data: Data, model: keras.Model, picture: Path) -> None:
    """Completes the test series, by as many steps as the model was trained on and by twice as many."""
    columns = []
    for steps in (data.steps, 2 * data.steps):
        model.get_layer("decoder").steps = steps
        model.make_predict_function(force=True)
        completion = model.predict(data.test.inputs, batch_size=256, verbose=0)
        if steps <= data.test.future.shape[1]:
            last_frames = data.test.last_frames[:, None]
            columns.append((steps, mean_error(completion, data.test, steps), mean_error(last_frames, data.test, steps)))
    print_table(data, columns)
    if len(columns) == 1:
        print(f"\nThe completion of {steps} steps goes beyond the end of the test series: its error is unknown.")
    draw(data, completion, columns, picture)


def forecast(data: Data, file: SeriesFile, model: keras.Model, path: Path) -> str:
    """Writes the steps that follow the end of each series of a file; returns a line that says what was written."""
    model.get_layer("decoder").steps = data.steps
    model.make_predict_function(force=True)
    # The model reads as many steps at the end of each series as it has learned to read.
    most = data.train.context.shape[1]
    nothing = np.zeros((0, len(data.features)))
    ends = pad_right([(values[-most:], nothing) for values in file.series], 0)
    how = write_forecast(path, file, model.predict(ends.inputs, batch_size=256, verbose=0))
    return f"Forecast {path}: the {data.steps} steps after the end of each series; {how}"


def mean_error(completion: np.ndarray, windows: Windows, steps: int) -> np.ndarray:
    """Returns the mean absolute error of each feature over the valid ones of the first steps, (D,)."""
    weights = windows.weights(steps)[:, :, None]
    return (weights * np.abs(completion - windows.future[:, :steps])).sum(axis=(0, 1)) / weights.sum()


def summarise(data: Data, columns: list[Any]) -> list[tuple[int, float, float]]:
    """Returns, for each horizon, the errors of the model and of the last frame, in standard deviations."""
    return [(steps, *(float((e / data.deviation).mean()) for e in errors)) for steps, *errors in columns]


def print_table(data: Data, columns: list[Any]) -> None:
    print(f"\nMean absolute error on {len(data.test.lengths)} test series, compared with repeating the last frame\n")
    width = max(map(len, [*data.features, "all, in std"]))
    print(" " * width + "".join(f"{f'{steps} steps':>33}" for steps, *_ in columns))
    print(" " * width + f"{'model':>12}{'last frame':>13}{'ratio':>8}" * len(columns))
    rows = [(name, [(e[d], last[d]) for _, e, last in columns]) for d, name in enumerate(data.features)]
    rows.append(("all, in std", [(e, last) for _, e, last in summarise(data, columns)]))
    for name, cells in rows:
        print(f"{name:{width}}" + "".join(f"{e:12.4g}{last:13.4g}{last / e:8.1f}" for e, last in cells))


def draw(data: Data, completion: np.ndarray, columns: list[Any], path: Path) -> None:
    """Draws the first and the last feature of the test series with the smallest, the median and the largest error."""
    test, steps = data.test, data.test.future.shape[1]
    weights = test.weights(steps)
    distance = (np.abs(completion[:, :steps] - test.future) / data.deviation).mean(axis=2)
    errors = (distance * weights).sum(axis=1) / weights.sum(axis=1)
    order = np.argsort(errors)
    rows = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    shown = sorted({0, len(data.features) - 1})

    grey, dark, colour = "#9aa5b1", "#1f2933", "#e4572e"
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": "#cbd2d9", "text.color": dark, "axes.labelcolor": dark})
    plt.rcParams.update({"xtick.color": "#616e7c", "ytick.color": "#616e7c"})
    figure, grid = plt.subplots(3, len(shown), figsize=(14 if len(shown) == 2 else 12, 7.6), sharex=True, squeeze=False)
    for (rank, row), axes in zip(rows.items(), grid, strict=True):
        n, valid = test.lengths[row], test.future_lengths[row]
        for axis, d in zip(axes, shown, strict=True):
            past, last = test.context[row, :n, d], test.context[row, n - 1 : n, d]
            truth = np.append(last, test.future[row, :valid, d])
            written = np.append(last, completion[row, :, d])
            axis.axvspan(0, data.steps, color=colour, alpha=0.06, lw=0)
            for edge in (0, data.steps, 2 * data.steps):
                axis.axvline(edge, color="#7b8794", lw=0.8, ls=(0, (2, 3)))
            axis.plot(np.arange(1 - n, 1), past, color=grey, lw=1.5, label="context")
            axis.plot(np.arange(len(written)), written, color=colour, lw=2.6, alpha=0.85, label="completion")
            axis.plot(np.arange(len(truth)), truth, color=dark, lw=0.9, label="truth")
            axis.grid(color="#e4e7eb", lw=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(length=0)
            axis.set_title(f"{data.features[d]}, {rank} of {len(order)} series", loc="left", fontsize=9.5)
    for axis in grid[-1]:
        axis.set_xlabel("steps from the end of the context")
        axis.set_xlim(1 - test.lengths[list(rows.values())].max(), 2 * data.steps)

    parts = [f"{e:.2g} over {steps} steps (last frame {last:.2g})" for steps, e, last in summarise(data, columns)]
    trained = f"trained on {data.steps} steps (shaded), completed by {2 * data.steps}"
    figure.text(0.012, 0.965, data.title, fontsize=15, fontweight="bold")
    figure.text(0.012, 0.935, f"{trained}; mean absolute error in standard deviations: {', '.join(parts)}")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=3, frameon=False, bbox_to_anchor=(0.995, 0.995))
    figure.tight_layout(rect=(0, 0, 1, 0.925), h_pad=1.6, w_pad=2.5)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main(args: Any) -> None:
    keras.utils.set_random_seed(args.seed)
    data, file = read(args)
    if args.complete:
        model = keras.saving.load_model(args.complete)
        learned = model.input["context"].shape[-1]
        if learned != len(data.features):
            raise SystemExit(
                f"complete_series: {args.complete} is for series of {learned} features, these have {len(data.features)}"
            )
        complete(data, model, args.picture)
        print(f"\nPicture  {args.picture}\nModel    {args.complete}")
        if file:
            print(forecast(data, file, model, args.forecast))
        return

    for note in file.notes if file else ():
        print(note)
    counts = [len(windows.lengths) for windows in (data.train, data.validation, data.test)]
    lengths = np.concatenate([windows.lengths for windows in (data.train, data.validation, data.test)])
    print(f"{data.title}: {counts[0]} to train on, {counts[1]} to validate, {counts[2]} to test.")
    print(
        f"{len(data.features)} features, contexts of {min(lengths)} to {max(lengths)} steps, {data.steps} to complete."
    )
    epochs = args.epochs or (3 if args.quick else 21)
    train(data, 12 if args.quick else 48, 4 if args.quick else 32, epochs, args.model)
    print("\nCompleting the test series in a fresh process", flush=True)
    raise SystemExit(run_again("--complete", str(args.model)))


if __name__ == "__main__":
    main(args)
