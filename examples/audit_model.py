"""Audits a classifier of sensor recordings, finds three mistakes in it that nothing else reports, and corrects them.

The recordings are 20 to 60 steps long and are padded to the longest of their batch. The same recording therefore gets
more padding in one batch than in another, and its class must not depend on that:

    python examples/audit_model.py

trains a classifier whose answers do depend on padding, prints what `audit_masking` finds in it, then trains a corrected
classifier and audits that one too. Both classify the same recordings with 0, 10 and 50 more padded steps. It takes half
a minute on two cores.
"""

import warnings
from typing import Any

from command_line import Parser

if __name__ == "__main__":
    # The arguments are read before Keras is imported, which takes seconds.
    args = Parser(__doc__, seed="the recordings and the weights").parse_args()

import keras
import numpy as np
from keras import layers, ops

from keras_seqx import SequenceMask, audit_masking

warnings.filterwarnings("ignore", message="Layer .* does not support masking")  # the audit finds that

CHANNELS = 4
CLASSES = 3


def draw_recordings(count: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns padded recordings (R, T, D) with their lengths (R,), and classes (R,): how fast the channels swing."""
    lengths = rng.integers(20, 61, count)
    y = rng.integers(0, CLASSES, count)
    period = np.array([24.0, 16.0, 10.0])[y] * rng.uniform(0.9, 1.1, count)
    phase = 2 * np.pi * rng.random((count, 1, CHANNELS))
    steps = np.arange(lengths.max())
    waves = np.sin(2 * np.pi * steps[None, :, None] / period[:, None, None] + phase)
    frames = waves + 0.5 * rng.normal(size=waves.shape) + 0.5
    return {"frames": _silenced(frames, lengths), "lengths": lengths.astype("int32")}, y


def _silenced(frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return (frames * (np.arange(frames.shape[1]) < lengths[:, None])[..., None]).astype("float32")


def padded(x: dict[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """Returns recordings with more padded steps."""
    return x | {"frames": np.pad(x["frames"], [(0, 0), (0, steps), (0, 0)])}


@keras.saving.register_keras_serializable(package="keras_seqx_examples")
class MaskedWindows(layers.Layer):
    """A convolution over windows around each step, which reads padding as zeros and passes its mask on."""

    def __init__(self, filters: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.width, self.supports_masking = filters, width, True
        self.convolution = layers.Conv1D(filters, width, padding="same", activation="relu")

    def build(self, input_shape):
        self.convolution.build(input_shape)

    def call(self, inputs, mask=None):
        if mask is not None:
            inputs = inputs * ops.cast(mask, inputs.dtype)[..., None]
        return self.convolution(inputs)

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "width": self.width}


def build_model(corrected: bool) -> keras.Model:
    """Returns a classifier. Unless it is corrected, three of its layers depend on padding or lose the mask."""
    frames = keras.Input((None, CHANNELS), name="frames")
    lengths = keras.Input((), dtype="int32", name="lengths")
    h = SequenceMask()([frames, lengths])
    h = layers.Dense(16, name="mix")(h)
    if corrected:
        h = MaskedWindows(16, 5, name="windows")(h)
        h = layers.LayerNormalization(name="normalize")(h)
        h = layers.Rescaling(0.5)(h)
    else:
        h = layers.Conv1D(16, 5, padding="same", activation="relu", name="windows")(h)
        h = layers.GroupNormalization(4, name="normalize")(h)
        h = h * 0.5
    h = layers.GlobalAveragePooling1D(name="mean")(h)
    model = keras.Model(
        {"frames": frames, "lengths": lengths}, layers.Dense(CLASSES, activation="softmax", name="class")(h)
    )
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(args: Any) -> None:
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    count, epochs = (128, 1) if args.quick else (1024, 10)
    x, y = draw_recordings(count, rng)
    x_test, y_test = draw_recordings(200, rng)
    # Six recordings are enough for an audit.
    few = {name: rows[:6] for name, rows in x_test.items()}

    answers = {}
    for name, corrected in (("as built", False), ("corrected", True)):
        print(f"\nTraining the model {name}", flush=True)
        model = build_model(corrected)
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
        audit = audit_masking(model, few, y_test[:6])
        print(f"\nThe model {name}\n\n{audit}", flush=True)
        answers[name] = [model.predict(padded(x_test, more), verbose=0) for more in (0, 10, 50)]

    print(f"\nThe same {len(y_test)} test recordings with more padding\n")
    print(f"{'model':12}{'padded steps':>14}{'accuracy':>10}{'largest change':>16}{'classes changed':>17}")
    for name, runs in answers.items():
        for more, run in zip((0, 10, 50), runs, strict=True):
            change, other = np.abs(run - runs[0]).max(), (run.argmax(-1) != runs[0].argmax(-1)).sum()
            accuracy = np.mean(run.argmax(-1) == y_test)
            print(f"{name:12}{f'+{more}':>14}{accuracy:10.3f}{change:16.6f}{other:17}")
    if args.quick:
        print("\nThese numbers come from a quick run.")


if __name__ == "__main__":
    main(args)
