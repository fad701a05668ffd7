"""What the tests of data sets share: sequences that can be told apart, and models that note what they see."""

import keras
import numpy as np

from keras_seqx import KeepMask, SequenceMask
from tests.cases import BACKEND


def sequences(count=60, seed=0, longest=12, features=2):
    """Sequences whose first value is their number plus one, and labels for each step."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, count, endpoint=True)
    x = [rng.normal(size=(length, features)).astype("float32") for length in lengths]
    for number, row in enumerate(x):
        row[0, 0] = number + 1
    return x, [rng.integers(0, 3, length).astype("int32") for length in lengths]


def tagger(features=2, per_step=True, run_eagerly=False, reduction="sum_over_batch_size", **compile_options):
    frames, lengths = keras.Input((None, features), name="inputs"), keras.Input((), dtype="int32", name="lengths")
    masked = SequenceMask()([frames, lengths])
    hidden = KeepMask(keras.layers.GRU(4, return_sequences=True))(masked) if per_step else keras.layers.GRU(4)(masked)
    model = keras.Model({"inputs": frames, "lengths": lengths}, keras.layers.Dense(3)(hidden))
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.1, w.shape) for w in model.get_weights()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    metrics = [keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")]
    model.compile("sgd", loss, weighted_metrics=metrics, run_eagerly=run_eagerly, **compile_options)
    return model


class Recorder(keras.layers.Layer):
    """Notes the first value of every row that passes in training."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x, training=False):
        if training and not isinstance(x, keras.KerasTensor) and not self._is_traced(x):
            self.seen.append([int(v) for v in keras.ops.convert_to_numpy(x)[:, 0, 0]])
        return x

    @staticmethod
    def _is_traced(x):
        if BACKEND == "jax":
            import jax

            return isinstance(x, jax.core.Tracer)
        return BACKEND == "torch" and x.device.type == "meta"

    def compute_output_spec(self, x, training=False):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def recording_model():
    """A model that runs eagerly and is not built, so that Keras looks at batches before it trains."""
    recorder = Recorder()
    model = keras.Sequential([recorder, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model, recorder.seen


def rows_of(data, epoch):
    plan = data._finite_source.plan(epoch)
    return [[row + 1 for row in plan.sequences(index, 0).tolist()] for index in range(len(plan))]
