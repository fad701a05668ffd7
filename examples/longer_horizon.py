"""Moves two trained models from 60 timesteps to 120, without training them from the start.

    autoencoder    Bidirectional(LSTM), RepeatVector(60), LSTM: reproduces the 60 steps that it has read
    forecaster     LSTM, AutoregressiveDecoder: reads 60 steps and writes the 60 that follow

Both train at 60 steps. `change_timesteps` makes them models of 120 steps with the same weights and the same optimizer
state, and they train on. For comparison, the same models train at 120 steps from new weights. Moved back to 60 steps,
the models predict what they predicted before. At the end, a decoder that Keras 2 saved as `.h5`, written as nine layer
calls by hand, becomes an `AutoregressiveDecoder`.

    python examples/longer_horizon.py

takes about five minutes on two cores and draws `out/longer_horizon.png`.

Needs matplotlib: pip install "keras_seqx[examples]"
"""

import logging
from pathlib import Path
from typing import Any

from command_line import Parser, existing_file, whole_number

if __name__ == "__main__":
    # The arguments are read before Keras is imported, which takes seconds.
    parser = Parser(
        __doc__,
        seed="the series and the weights",
        files={"picture": "longer_horizon.png"},
        needs=("matplotlib",),
    )
    for name, default, meaning in (
        ("series", 2048, "series to train on"),
        ("epochs", 12, "epochs to train for at each length"),
        ("units", 32, "units of each direction of the encoder"),
    ):
        parser.add_argument(
            f"--{name}", type=whole_number(1), default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    parser.add_argument(
        "--legacy",
        type=existing_file(".h5"),
        default=Path(__file__).parents[1] / "tests" / "transfer" / "data" / "unrolled_decoder.h5",
        metavar="FILE",
        help="the unrolled decoder, saved by Keras 2, next to an .npz file (default: that of the tests)",
    )
    parser.add_argument("--verbose", type=int, default=1, choices=(0, 1, 2), help="of the progress bars (default: 1)")
    args = parser.parse_args()

import keras
import numpy as np
from matplotlib import pyplot as plt

import keras_seqx

logging.getLogger("tensorflow").setLevel("ERROR")  # it warns when it compiles a model's first predictions

SHORT, LONG, FEATURES = 60, 120, 2
# Of Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {"autoencoder": "#0072b2", "forecaster": "#d55e00"}


def series(count: int, steps: int, seed: int) -> np.ndarray:
    """Returns (count, steps, 2): a wave of two frequencies, and its rate of change."""
    rng = np.random.default_rng(seed)
    slow, fast = rng.uniform(0.05, 0.15, (2, count, 1)) * [[[1.0]], [[2.5]]]
    at = np.arange(steps)[None]
    phases = rng.uniform(0, 2 * np.pi, (2, count, 1))
    wave = np.sin(slow * at + phases[0]) + 0.4 * np.sin(fast * at + phases[1])
    rate = np.gradient(wave, axis=1) / 0.1
    return np.stack([wave, rate], axis=-1).astype("float32")


def autoencoder(units: int) -> keras.Model:
    """Returns the model of 60 steps, which its input and `RepeatVector` fix."""
    x = keras.Input((SHORT, FEATURES), name="series")
    code = keras.layers.Bidirectional(keras.layers.LSTM(units))(x)
    repeated = keras.layers.RepeatVector(SHORT)(code)
    hidden = keras.layers.LSTM(2 * units, return_sequences=True)(repeated)
    return compiled(keras.Model(x, keras.layers.Dense(FEATURES)(hidden), name="autoencoder"))


def forecaster(units: int) -> keras.Model:
    """Returns the model that reads 60 steps and writes 60."""
    context = keras.Input((SHORT, FEATURES), name="context")
    _, *state = keras.layers.LSTM(2 * units, return_state=True)(context)
    decoder = keras_seqx.AutoregressiveDecoder(
        keras.layers.LSTMCell(2 * units), keras.layers.Dense(FEATURES), steps=SHORT
    )
    return compiled(keras.Model(context, decoder(context[:, -1:], initial_state=state), name="forecaster"))


def compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.Adam(2e-3, clipnorm=1.0), "mae")
    return model


def examples(name: str, steps: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs and the targets of a model."""
    waves = series(count, 2 * steps, seed)
    return (waves[:, :steps], waves[:, :steps]) if name == "autoencoder" else (waves[:, :steps], waves[:, steps:])


class Study:
    """One model's way from 60 steps to 120."""

    def __init__(self, build: Any, args: Any):
        self.build, self.args, self.name = build, args, build.__name__
        self.errors: dict[str, list[float]] = {}

    def train(self, model: keras.Model, steps: int, label: str, epochs: int) -> None:
        """Trains, and keeps the error on unseen series, also before the first epoch."""
        x, y = examples(self.name, steps, self.args.series, 3 * self.args.seed + 1)
        unseen = examples(self.name, steps, 256, 3 * self.args.seed + 2)
        errors = self.errors.setdefault(label, [])
        errors.append(float(model.evaluate(*unseen, batch_size=256, verbose=0)))
        print(f"\n{self.name}, {label}: {errors[-1]:.3f} before training")
        history = model.fit(x, y, batch_size=32, epochs=epochs, validation_data=unseen, verbose=self.args.verbose)
        errors += history.history["val_loss"]
        print(f"{self.name}, {label}: {errors[-1]:.3f} after {epochs} epochs")

    def run(self) -> None:
        keras.utils.set_random_seed(self.args.seed)
        short = self.build(self.args.units)
        self.train(short, SHORT, "60 steps", self.args.epochs)

        long = keras_seqx.change_timesteps(short, LONG)
        print(
            f"\n{self.name}: {short.input_shape} -> {short.output_shape}, now {long.input_shape} -> {long.output_shape}"
        )
        print(keras_seqx.transfer_weights(short, long, dry_run=True))  # what it did to the weights
        x = examples(self.name, SHORT, 64, 3 * self.args.seed + 3)[0]
        back = keras_seqx.change_timesteps(long, SHORT)
        difference = np.abs(back.predict(x, verbose=0) - short.predict(x, verbose=0)).max()
        print(f"\nback at 60 steps, the largest difference of its predictions: {difference:.1e}")

        self.train(long, LONG, "120 steps, moved", self.args.epochs)
        untrained = compiled(keras_seqx.change_timesteps(self.build(self.args.units), LONG))
        self.train(untrained, LONG, "120 steps, from nothing", self.args.epochs)


def rescue(path: Path) -> None:
    """Gives an `AutoregressiveDecoder` the weights of a decoder that was unrolled by hand and saved by Keras 2."""
    context, start = keras.Input((None, 5)), keras.Input((1, 5))
    _, *state = keras.layers.LSTM(6, return_state=True, name="encoder")(context)
    decoder = keras_seqx.AutoregressiveDecoder(keras.layers.LSTMCell(6), keras.layers.Dense(5), steps=9, name="decoder")
    model = keras.Model([context, start], decoder(start, initial_state=state))
    print(f"\n{path.name}, saved by Keras 2 as nine calls of an LSTM and a Dense layer, becomes one layer:")
    print(keras_seqx.transfer_weights(path, model))
    with np.load(path.with_suffix(".npz")) as file:
        x, expected = [file["x0"], file["x1"]], file["y"]
    print(
        f"largest difference to its predictions in Keras 2: {np.abs(model.predict(x, verbose=0) - expected).max():.1e}"
    )
    longer = keras_seqx.change_timesteps(model, steps=30)
    print(f"and with 30 steps instead of 9: {longer.predict(x, verbose=0).shape}")


def draw(studies: list[Study], path: Path) -> None:
    """Draws the errors of both models, epoch by epoch."""
    figure, axes = plt.subplots(1, len(studies), figsize=(10, 3.8), sharey=False, layout="constrained")
    for study, ax in zip(studies, axes, strict=True):
        colour, epochs = COLOURS[study.name], len(study.errors["60 steps"])
        ax.plot(study.errors["60 steps"], color="0.45", label="trained at 60 steps")
        after = np.arange(epochs - 1, 2 * epochs - 1)
        ax.plot(after, study.errors["120 steps, moved"], color=colour, label="moved to 120, trained on")
        ax.plot(after, study.errors["120 steps, from nothing"], color=colour, ls=":", label="120 from nothing")
        ax.axvline(epochs - 1, color="0.8", lw=1, zorder=0)
        ax.annotate(
            "change_timesteps",
            (epochs - 1, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color="0.4",
        )
        ax.set(title=study.name, xlabel="epoch", ylabel="mean absolute error", ylim=(0, None))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle("Error on unseen series, while training")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(args: Any) -> None:
    if args.quick:
        args.series, args.epochs, args.units, args.verbose = 64, 1, 4, 2
    studies = [Study(build, args) for build in (autoencoder, forecaster)]
    for study in studies:
        study.run()
    rescue(args.legacy)
    draw(studies, args.picture)
    print(f"\nerror on unseen series{'':14}60 steps   120, moved   trained on   from nothing")
    for study in studies:
        moved = study.errors["120 steps, moved"]
        figures = study.errors["60 steps"][-1], moved[0], moved[-1], study.errors["120 steps, from nothing"][-1]
        print(f"{study.name:36}" + "".join(f"{figure:8.3f}     " for figure in figures).rstrip())
    print(f"\nPicture  {args.picture}")


if __name__ == "__main__":
    main(args)
