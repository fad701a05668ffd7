"""SequencePlot: what a model writes, beside what it should write."""

import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors
from keras_seqx.callbacks import sequence_drawing
from keras_seqx.callbacks.event_file import EventFile
from keras_seqx.callbacks.sequence_samples import Samples

DOTS_PER_INCH = 120


@keras.saving.register_keras_serializable(package="keras_seqx")
class SequencePlot(keras.callbacks.Callback):
    """Draws predictions beside truths at the end of epochs.

    Values become lines, a panel for each sequence and channel. Tokens become a table in which those that differ are
    marked, with maps of where the decoder looked if the predictions tell.

    Written tokens are laid beside the true ones with as few substitutions, insertions and deletions as possible, and
    the title tells how many there are; of logits, each step is compared with its own. Training goes on as it would
    without: what a prediction moves, such as the state of a seed, is put back.

    Args:
        x: arrays in any structure that `predict` takes.
        y: the truths: tokens if they are integers (B, T); values if they are other numbers (B, T) or (B, T, D).
        predict: a model or a function of `x`. It returns for values an array of the shape of `y`; for tokens logits
            (B, T, V), ids (B, L), or the dict of a `TokenGenerator`, whose best sequences are shown. Defaults to None:
            the model that is trained.
        lengths: integers (B,), the valid steps of `y`. Defaults to None: all of them, but of tokens the zeros at the
            end of a row.
        source: integers (B, S), tokens to be shown above the true ones, without zeros at the end. Defaults to None.
        tokens: sequence of strings, the names of the ids of `y`. Defaults to None: the ids themselves.
        source_tokens: the same for `source`.
        count: integer of at least 1, how many sequences are shown, from the first on. Defaults to 4.
        freq: integer of at least 1, the epochs from one picture to the next. Defaults to 1.
        filepath: string or path, where a picture is saved, in the format of its ending. `epoch`, which is 1 at first,
            and the logs may stand in it in braces. None saves none. Defaults to "sequences/epoch_{epoch:03d}.png".
        log_dir: string or path, the folder where TensorBoard looks, where the pictures become the run "sequences".
            Defaults to None: they do not.

    Returns:
        A callback. `draw()` returns a picture at any other time, as a matplotlib figure.

    Raises:
        TypeError: data or options of other kinds.
        ValueError: shapes or lengths that do not fit, predictions of another shape, neither `filepath` nor `log_dir`.
        ImportError: matplotlib is missing, or for `log_dir` tensorflow, which writes the files.

    Masking:
        Padded steps are neither drawn nor counted. A map ends with the predicted tokens and with the source; where the
        memory is not the source step by step, with the last place that any of the tokens looked at.

    Example:

    >>> import keras, numpy as np, pathlib, tempfile
    >>> from keras_seqx import AutoregressiveDecoder
    >>> from keras_seqx.callbacks import SequencePlot
    >>> decoder = AutoregressiveDecoder(keras.layers.GRUCell(4), keras.layers.Dense(1))
    >>> model = keras.Sequential([keras.Input((9, 1)), decoder])
    >>> model.compile("adam", "mse")
    >>> x, folder = np.zeros((8, 9, 1)), pathlib.Path(tempfile.mkdtemp())
    >>> plot = SequencePlot(x, x, freq=2, filepath=folder / "epoch_{epoch}.png")
    >>> history = model.fit(x, x, epochs=5, verbose=0, callbacks=[plot])
    >>> sorted(path.name for path in folder.iterdir())
    ['epoch_2.png', 'epoch_4.png']
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        predict: Callable | None = None,
        lengths: Any = None,
        source: Any = None,
        tokens: Sequence[str] | None = None,
        source_tokens: Sequence[str] | None = None,
        count: int = 4,
        freq: int = 1,
        filepath: str | os.PathLike | None = "sequences/epoch_{epoch:03d}.png",
        log_dir: str | os.PathLike | None = None,
    ):
        super().__init__()
        self.count = errors.positive_integer(self, "count", count, "It is how many sequences are shown")
        self.freq = errors.positive_integer(self, "freq", freq, "1 draws at the end of every epoch")
        self.samples = Samples(self, x, y, lengths, source, tokens, source_tokens, self.count)
        if predict is not None and not callable(predict):
            fix = "Leave it out for the model that is trained"
            raise TypeError(errors.message(self, "predict", "a model or another function of `x`", predict, fix))
        self.predict = predict
        self.filepath, self.log_dir = self._path("filepath", filepath), self._path("log_dir", log_dir)
        if self.filepath is None and self.log_dir is None:
            fix = "Say where the pictures shall go"
            raise ValueError(errors.message(self, "filepath", "a path where `log_dir` is None", None, fix))
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError:
            raise ImportError('SequencePlot needs matplotlib: pip install "keras_seqx[examples]"') from None
        self._events = None
        if self.log_dir is not None:
            try:
                self._events = EventFile(os.path.join(self.log_dir, "sequences"))
            except ImportError:
                text = "SequencePlot: `log_dir` needs tensorflow, whatever the backend: pip install tensorflow"
                raise ImportError(text) from None

    def draw(self, title: str = "") -> Any:
        """Returns a picture of what is predicted now.

        Args:
            title: string, what its title begins with. Defaults to "".

        Returns:
            A `matplotlib.figure.Figure`.
        """
        predictions = self._predict()
        if self.samples.are_tokens:
            return sequence_drawing.draw_tokens(self.samples.written(predictions), title)
        truths, lengths = self.samples.y, self.samples.lengths
        return sequence_drawing.draw_values(truths, self.samples.values(predictions), lengths, title)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.freq:
            return
        figure = self.draw(f"epoch {epoch + 1}")
        if self.filepath is not None:
            path = self._formatted(self.filepath, epoch, logs or {})
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            figure.savefig(path, dpi=DOTS_PER_INCH)
        if self._events is not None:
            picture = io.BytesIO()
            figure.savefig(picture, dpi=DOTS_PER_INCH, format="png")
            # TensorBoard's own callback counts epochs from 0.
            self._events.add_image("sequences", picture.getvalue(), step=epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._events is not None:
            self._events.close()

    def get_config(self) -> dict[str, Any]:
        """Returns the options, without the data and `predict`."""
        return {
            "tokens": self.samples.tokens,
            "source_tokens": self.samples.source_tokens,
            "count": self.count,
            "freq": self.freq,
            "filepath": self.filepath,
            "log_dir": self.log_dir,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], x: Any = None, y: Any = None, **data: Any) -> "SequencePlot":
        """Returns a callback of these options for `x`, `y` and, by name, `predict`, `lengths` and `source`."""
        return cls(x, y, **data, **config)

    def _predict(self) -> Any:
        """Predictions as arrays, with all variables left as they were."""
        if self.model is None and self.predict is None:
            fix = "Draw in or after `fit`, or give it by `set_model(model)`"
            raise ValueError(errors.message(self, "model", "set where there is no `predict`", None, fix))
        predict = self.model if self.predict is None else self.predict
        layers = [layer for layer in (self.model, predict) if isinstance(layer, keras.Layer)]
        variables = {id(v): v for layer in layers for v in layer.non_trainable_variables}.values()
        before = [ops.convert_to_numpy(v.value) for v in variables]
        # Not `predict`, whose data loader draws a number from torch's generator, which shuffles the training data too.
        predictions = (predict.predict_on_batch if isinstance(predict, keras.Model) else predict)(self.samples.x)
        for v, value in zip(variables, before, strict=True):
            if not np.array_equal(ops.convert_to_numpy(v.value), value):
                v.assign(value)
        # A distribution strategy returns the rows of every replica, which are the same.
        return tree.map_structure(lambda part: ops.convert_to_numpy(part)[: len(self.samples.y)], predictions)

    def _path(self, argument: str, value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(errors.message(self, argument, "a string or a path", value, "None leaves it out"))
        return str(os.fspath(value))

    def _formatted(self, path: str, epoch: int, logs: dict[str, Any]) -> str:
        try:
            return path.format(epoch=epoch + 1, **logs)
        except KeyError as missing:
            fix = "The logs of validation are there in epochs with validation"
            names = ", ".join(["epoch", *logs])
            what = f"a path that names nothing but {names}"
            raise ValueError(errors.message(self, "filepath", what, path, fix, f"{missing}")) from None
