"""Reads videos of different lengths: labels a video, labels each of its frames, or predicts the frames that follow.

A ball flies in a box and bounces off its walls. The videos are 8 to 24 frames long. The example trains three models:

    many to one      how often does it bounce?                 a CNN at every frame, an LSTM over the frames
    many to many     where is it heading in each frame?        the same CNN, an LSTM with an output at each step
    one to many      where will it be in the next 24 frames?   the CNN on two frames, then AutoregressiveDecoder

    python examples/watch_videos.py

takes about four minutes on two cores. It tests the models on new videos of up to 48 frames, and draws
`out/watch_videos.png`.

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
        seed="the videos, their order and the weights",
        files={"picture": "watch_videos.png", "model": "watch_videos.keras"},
        needs=("matplotlib",),
    )
    parser.add_argument(
        "--epochs",
        type=whole_number(1),
        metavar="N",
        help="epochs to train each model for (default: 15, with --quick 1)",
    )
    args = parser.parse_args()

import keras
import numpy as np
from matplotlib import pyplot as plt

import keras_seqx

logging.getLogger("tensorflow").setLevel("ERROR")  # it warns when it compiles a model's first predictions

SIZE, SHORTEST, LONGEST, AHEAD = 16, 8, 24, 24
MOST = 4  # the largest class of bounces is this number or more
HEADINGS = ["down left", "up left", "down right", "up right"]
# Of Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ["#e69f00", "#0072b2", "#cc79a7", "#009e73"]


# --- The videos


def fly(frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns places (T, 2) within the unit square, headings (T,) and the bounces before each frame (T,)."""
    speed, angle = rng.uniform(0.06, 0.14), rng.uniform(0, 2 * np.pi)
    free = rng.random(2) + speed * np.array([np.cos(angle), np.sin(angle)]) * np.arange(frames + 1)[:, None]
    # Flight without walls, folded back into the box.
    crossed = np.floor(free)
    places = np.where(crossed % 2 == 0, free - crossed, 1 - (free - crossed))
    forward = (np.array([np.cos(angle), np.sin(angle)]) > 0) ^ (crossed % 2 == 1)
    bounces = np.abs(crossed - crossed[0]).sum(1)
    return places[1:].astype("float32"), (forward @ [2, 1])[1:].astype("int32"), bounces[1:].astype("int32")


def film(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the frames (T, SIZE, SIZE, 1) of a ball at `places` (T, 2), with noise."""
    pixels = (np.arange(SIZE) + 0.5) / SIZE
    across, along = (np.exp(-(((pixels - 0.1 - 0.8 * p[:, None]) / 0.09) ** 2)) for p in places.T)
    ball = along[:, ::-1, None] * across[:, None, :]
    return (ball + rng.normal(0, 0.05, ball.shape))[..., None].astype("float32")


def draw_videos(count: int, longest: int, rng: np.random.Generator) -> tuple[list, list, list]:
    """Returns videos of different lengths, their headings (T,), and how often the ball bounces in them."""
    flights = [fly(int(frames), rng) for frames in rng.integers(SHORTEST, longest + 1, count)]
    videos = [film(places, rng) for places, _, _ in flights]
    return videos, [headings for _, headings, _ in flights], [min(b[-1] - b[0], MOST) for _, _, b in flights]


def draw_futures(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns two successive frames (B, SIZE, SIZE, 2), the last place (B, 1, 2) and the next ones (B, AHEAD, 2)."""
    places = np.stack([fly(2 + AHEAD, rng)[0] for _ in range(count)])
    frames = np.stack([film(row[:2], rng)[..., 0] for row in places])
    return np.moveaxis(frames, 1, -1), places[:, 1:2], places[:, 2:]


# --- The models


def look(channels: int) -> keras.Model:
    """Returns the network that reads one picture."""
    layers: list[Any] = [keras.Input((SIZE, SIZE, channels))]
    for filters in (16, 32):
        layers += [keras.layers.Conv2D(filters, 3, strides=2, use_bias=False), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(32, "relu")], name="look")


def optimizer(steps: int) -> keras.optimizers.Optimizer:
    """Returns Adam with a rate that falls to zero along a cosine."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps), clipnorm=1.0)


def video_model(many: bool, steps: int) -> keras.Model:
    """Returns a compiled model of videos (B, T, SIZE, SIZE, 1): logits for each frame, or for the whole."""
    frames = keras.Input((None, SIZE, SIZE, 1), name="inputs")
    lengths = keras.Input((), dtype="int32", name="lengths")
    # The network is called once, on the frames of all videos. Padding enters none of its statistics.
    seen = keras_seqx.MaskedTimeDistributed(look(1))(keras_seqx.SequenceMask()([frames, lengths]))
    read = keras.layers.LSTM(48, return_sequences=many)
    # With an output for each frame, the loss and the metrics need the mask, in order not to count padding.
    hidden = (keras_seqx.KeepMask(read) if many else read)(seen)
    outputs = keras.layers.Dense(len(HEADINGS) if many else MOST + 1)(hidden)
    model = keras.Model({"inputs": frames, "lengths": lengths}, outputs)
    reduction = "mean_with_sample_weight" if many else "sum_over_batch_size"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile(optimizer(steps), loss, weighted_metrics=["accuracy"])
    return model


def future_model(steps: int) -> keras.Model:
    """Returns a compiled model that sees one picture of two frames, and decodes where the ball will be."""
    frames, place = keras.Input((SIZE, SIZE, 2)), keras.Input((1, 2))
    seen = look(2)(frames)
    states = [keras.layers.Dense(96, "tanh")(seen) for _ in range(2)]
    decoder = keras_seqx.AutoregressiveDecoder(keras.layers.LSTMCell(96), keras.layers.Dense(2), steps=AHEAD)
    model = keras.Model([frames, place], decoder(place, initial_state=states))
    model.compile(optimizer(steps), "mse", metrics=["mae"])
    return model


# --- What came out


def draw(videos: list, headings: list, counts: list, answers: dict[str, Any], path: Path) -> None:
    """Draws a video with its labels, the counts against the true ones, and four futures."""
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 10.5, "axes.edgecolor": "#7b8794"})
    figure = plt.figure(figsize=(12.5, 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.5])

    row = max(range(len(videos)), key=lambda i: (len(videos[i]) <= 14) * len(np.unique(headings[i])) * len(videos[i]))
    axis = top.subplots()
    film_strip = np.concatenate([np.pad(frame[..., 0], 1, constant_values=1) for frame in videos[row]], axis=1)
    axis.imshow(film_strip, cmap="Greys", vmin=0, vmax=1.2)
    width = SIZE + 2
    for height, labels in ((SIZE + 3, headings[row]), (SIZE + 9, answers["headings"][row])):
        for t, label in enumerate(labels):
            axis.add_patch(plt.Rectangle((t * width, height), width - 1, 5, color=COLOURS[label], clip_on=False))
    axis.set(xlim=(0, film_strip.shape[1]), ylim=(SIZE + 15, -1), xticks=[], yticks=[SIZE / 2, SIZE + 5.5, SIZE + 11.5])
    axis.set_yticklabels(["frame", "heading", "prediction"])
    axis.tick_params(axis="y", length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(
        f"Many to many: where it is heading, frame by frame ({answers['heading accuracy']:.1%} right). "
        f"Many to one: it bounces {counts[row]} times, and {answers['counts'][row]} are counted",
        loc="left",
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS]
    top.legend(handles, HEADINGS, loc="outside lower right", ncols=4, frameon=False)

    axes = bottom.subplots(1, 5, width_ratios=[1.15, 1, 1, 1, 1])
    table = np.zeros((MOST + 1, MOST + 1), int)
    np.add.at(table, (np.array(counts), np.array(answers["counts"])), 1)
    axes[0].imshow(table / np.maximum(table.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.4)
    for (i, j), n in np.ndenumerate(table):
        axes[0].text(j, i, n or "", ha="center", va="center", size=9)
    names = [*map(str, range(MOST)), f"{MOST}+"]
    axes[0].set(xticks=range(MOST + 1), yticks=range(MOST + 1), xlabel="counted", ylabel="bounces")
    axes[0].set_xticklabels(names)
    axes[0].set_yticklabels(names)
    axes[0].set_title(f"Many to one: {answers['count accuracy']:.1%} right", loc="left")
    for i, axis in enumerate(axes[1:]):
        start, truth, future = (answers[name][i] for name in ("start", "truth", "future"))
        axis.plot(*np.concatenate([start, truth]).T, color="#999999", lw=4, label="flight")
        axis.plot(*np.concatenate([start, future]).T, color="#0072b2", lw=1.5, marker="o", ms=2.5, label="decoded")
        axis.plot(*start.T, "o", color="#d55e00", label="last frame seen")
        axis.set(xlim=(-0.08, 1.08), ylim=(-0.08, 1.08), xticks=[], yticks=[], aspect="equal")
    axes[1].set_title(f"One to many: the next {AHEAD} places", loc="left")
    bottom.legend(*axes[1].get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
    figure.savefig(path, dpi=95, pil_kwargs={"optimize": True})
    plt.close(figure)


def main(args: Any) -> None:
    size, buckets, epochs = (64, 1, args.epochs or 1) if args.quick else (3000, 4, args.epochs or 15)
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    videos, headings, counts = draw_videos(size, LONGEST, rng)
    test_videos, test_headings, test_counts = draw_videos(max(size // 6, 8), LONGEST, rng)
    long_videos, long_headings, _ = draw_videos(max(size // 12, 4), 2 * LONGEST, rng)

    options: dict[str, Any] = {"buckets": buckets, "lengths_as_input": "lengths", "seed": args.seed}
    test = keras_seqx.LengthBucketing(test_videos, **options)
    answers: dict[str, Any] = {}
    models = {}
    for name, y in (("many to one", np.array(counts)), ("many to many", headings)):
        print(f"\n{name.capitalize()}\n", flush=True)
        data = keras_seqx.LengthBucketing(videos, y, **options)
        models[name] = video_model(name == "many to many", epochs * len(data))
        models[name].fit(data, epochs=epochs, shuffle=False)
    answers["counts"] = np.argmax(test.predict(models["many to one"], verbose=0), axis=-1)
    answers["headings"] = [row.argmax(-1) for row in test.predict(models["many to many"], verbose=0)]

    print("\nOne to many\n", flush=True)
    frames, start, future = draw_futures(3 * size, rng)
    futures = future_model(2 * epochs * -(-len(frames) // 64))
    futures.fit([frames, start], future, batch_size=64, epochs=2 * epochs)
    frames, answers["start"], answers["truth"] = draw_futures(max(size // 6, 8), rng)
    answers["future"] = futures.predict([frames, answers["start"]], verbose=0)

    answers["count accuracy"] = np.mean(answers["counts"] == np.array(test_counts))
    answers["heading accuracy"] = np.mean(np.concatenate(answers["headings"]) == np.concatenate(test_headings))
    long = keras_seqx.LengthBucketing(long_videos, **options).predict(models["many to many"], verbose=0)
    of_long = np.mean(np.concatenate([row.argmax(-1) for row in long]) == np.concatenate(long_headings))
    errors = np.linalg.norm(answers["future"] - answers["truth"], axis=-1).mean(0)
    stays = np.linalg.norm(answers["start"] - answers["truth"], axis=-1).mean(0)
    print(f"\nOn {len(test_videos)} new videos\n")
    print(
        f"many to one    {answers['count accuracy']:.1%} of the videos counted right (always the most frequent count: "
        f"{np.bincount(test_counts).max() / len(test_counts):.1%})"
    )
    print(
        f"many to many   {answers['heading accuracy']:.1%} of the frames labelled right, and in videos of up to "
        f"{2 * LONGEST} frames {of_long:.1%}"
    )
    print(
        "one to many    mean distance after 1, 12, 24 frames, in widths of the box: "
        + ", ".join(f"{errors[t]:.3f}" for t in (0, 11, 23))
        + "; for a ball that stays where it is: "
        + ", ".join(f"{stays[t]:.3f}" for t in (0, 11, 23))
    )

    # Padding changes nothing: a video alone, and the same video padded in a batch.
    i = min(range(len(test_videos)), key=lambda i: len(test_videos[i]))
    one = keras_seqx.LengthBucketing(test_videos[i : i + 1], **options)
    alone, among = (part.predict(models["many to one"], verbose=0) for part in (one, test))
    print(
        f"\nA video of {len(test_videos[i])} frames alone, and padded in a batch: the logits differ by at most "
        f"{np.abs(alone[0] - among[i]).max():.1e}."
    )
    draw(test_videos, test_headings, test_counts, answers, args.picture)
    models["many to many"].save(args.model)
    if args.quick:
        print("These numbers come from a quick run.")
    print(f"\nPicture  {args.picture}\nModel    {args.model} (many to many)")


if __name__ == "__main__":
    main(args)
