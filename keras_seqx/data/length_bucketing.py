"""LengthBucketing: ragged data into few, static, nearly full shapes."""

import copy
import dataclasses
import inspect
import random
from typing import Any

import keras
import numpy as np

from keras_seqx._core import errors, keras_internals
from keras_seqx._core.arguments import refuse_unknown
from keras_seqx.data.feeding.finite import FiniteSource
from keras_seqx.data.feeding.keras_dataset import BatchDataset
from keras_seqx.data.feeding.stream import StreamSource
from keras_seqx.data.planning.options import Options, check_options, check_seed
from keras_seqx.data.prediction import predict
from keras_seqx.data.report import BucketingReport
from keras_seqx.data.sequences.class_weights import from_pairs, to_pairs
from keras_seqx.data.sequences.fields import read_fields

# The arguments of `keras.utils.PyDataset`.
PYDATASET = ("workers", "use_multiprocessing", "max_queue_size")


@keras.saving.register_keras_serializable(package="keras_seqx")
class LengthBucketing(BatchDataset):
    """Turns sequences of different lengths into batches of few shapes with little padding.

    Sequences of similar length share a bucket, and are padded on the right to its boundary. The boundaries are those
    that cost the fewest padded steps. Each epoch shuffles the sequences within their buckets, and the batches.

    Differs from `tf.data.Dataset.bucket_by_sequence_length` in that the boundaries are optimal, the batches come in
    random order, the same from any seed on every backend, each sequence once an epoch, and predictions come back
    unpadded, in the order of the data.

    Args:
        x: the sequences: a list of arrays (T, ...) or of lists of numbers, a pair `(values, lengths)` of arrays, a
            `RaggedArray`, an array (R, T, ...), a `tf.RaggedTensor`, a torch `PackedSequence`, a pyarrow list array or
            a Hugging Face or pandas column of lists. A tuple or dict of these makes a model's several inputs; arrays
            (R, ...) in it are inputs without time. A tuple of arrays or lists of numbers alone, which cannot be that,
            holds the sequences, as `x, y = zip(*samples)` makes it; so does one of nested lists of different lengths.
            An iterator of samples, `x`, `(x, y)` or `(x, y, sample_weight)`, is a stream: give `steps_per_epoch` to
            `fit`. What Keras asked for and did not train on is not seen again.
        y: targets, in the same forms: sequences as long as those of `x`, sequences of their own length, which are
            bucketed jointly, or an array (R, ...) or list of numbers, one for each sequence. A tuple of R items is one
            target where `x` is a tuple of R sequences, or where the items do not have R rows each; any other tuple
            makes several targets. Optional.
        sample_weight: weights, one for each sequence or for each step of it. Padded steps have weight 0; beside targets
            with steps, all weights leave as (B, T), as Keras needs them. Optional.
        batch_size: rows of a batch, for each shard. Default 32.
        max_tokens: the most steps of a batch, padding included, instead of `batch_size`: short sequences come in larger
            batches. Default None.
        buckets: the number of padded lengths, the padded lengths themselves (for sequences with two lengths a pair
            for each bucket), or None to pad each batch to its longest sequence. Default 8.
        length_multiple: padded lengths are multiples of it. Default 1.
        padding_value: what padded steps of `x` and `y` hold. Default 0.
        remainder: what becomes of a bucket's last sequences, too few for a batch: "keep" them as a smaller batch,
            "drop" them (others every epoch), or "fill" the batch up with rows of weight 0 and one valid step, so that
            each bucket has one shape alone. Default "keep".
        overlong: what becomes of sequences longer than `max_length` or than the given boundaries: "error", "drop" or
            "truncate" to their first steps. Default "error".
        max_length: the longest sequence allowed. Default None: any.
        shuffle: whether to shuffle. Default True.
        seed: an integer that decides the order together with the epoch. Default None: drawn as Keras draws its seeds.
        lengths_as_input: the name of an input that gets the lengths, (B,) int32, for `SequenceMask`; `x` then becomes
            `{"inputs": x, name: lengths}`, and a dict `x` gets an entry more. A dict `{component: name}` where the
            components of `x` differ in length. Default None.
        num_shards: the number of processes that train together, with `jax.distributed` or torch. Each sees its share
            of every batch, of the same shape at the same step; rows of weight 0 fill the shares up. A Keras
            distribution needs `auto_shard_dataset=False` then. Several devices of one process, and
            `tf.distribute`, which splits the batches of every process itself, need 1, `remainder="fill"` and a
            `batch_size` that they divide. Default 1.
        shard_index: which of them this is. Default 0.
        window: how many samples of a stream are held, and shuffled. Default 4096.
        class_weight: weights of classes, a dict `{class: weight}`, for several targets `{target: {class: weight}}`.
            Each sequence, or each step where targets have steps, gets the weight of its class, times its
            `sample_weight`. Classes are integers, or positions in one-hot targets; others have weight 1. The same
            argument of `fit` is for one target for each sequence, without other weights. Default None.
        normalize_weights: whether to divide the weights of each batch, all shards together, by their sum. A loss with
            `reduction="sum"` is then their weighted mean, on any number of replicas (see Replicas). Default False.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of `keras.utils.PyDataset`. More than one worker
            makes batches ahead; they are always threads, and the batches the same.

    Returns:
        A data set for `fit` and `evaluate`. `data[i]` is a batch: `(x,)`, `(x, y)` or `(x, y, sample_weight)`; floating
        arrays have the dtype `keras.config.floatx()`. Pass `shuffle=False` to `fit`, which would otherwise shuffle the
        batches once more, with another seed.

    Raises:
        ValueError: no or empty sequences, parts that disagree, boundaries that are unsorted or too short, a budget that
            holds no row, shards out of range.
        TypeError: what holds no numbers, or mixes integers with floats; an unknown argument.

    Masking:
        Padding is on the right, and no row is empty or fully masked. Let the model mask it, by `SequenceMask` and
        `lengths_as_input`, by `Masking` or an `Embedding(mask_zero=True)`. Rows that fill batches have weight 0, and
        lie spread over the batch: use `weighted_metrics`, and a loss with `reduction="mean_with_sample_weight"` or,
        with `normalize_weights=True`, "sum". The loss that Keras reports for an epoch weighs each batch by its rows,
        those that fill it included; its metrics over steps weigh a batch by its valid steps / T. With
        `normalize_weights=True`, metrics weigh all batches alike.

    Replicas:
        Several replicas train to the weights of one where the loss does not depend on how they share the rows. Keras
        divides by what each replica holds, so that the reductions differ:

        - "sum" agrees always: with masks, weights, and shares of different sizes. With `normalize_weights=True` it is
          what "mean_with_sample_weight" is on one replica. torch's `DistributedDataParallel` averages the gradients of
          the replicas; multiply its losses by their number.
        - "sum_over_batch_size" agrees where the output has no mask and the replicas have rows in equal number.
        - "mean_with_sample_weight", and "sum_over_batch_size" with a mask, agree on the devices of a JAX distribution
          alone, which compute one batch together. With `tf.distribute` and torch they do where the weights, or valid
          steps, of all replicas have the same sum.

        Statistics of batches, such as those of `BatchNormalization`, are Keras' matter: each replica may have its own.

    Randomness:
        The order of an epoch is a function of the data, the options, the seed and the epoch alone.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import LengthBucketing
    >>> x = [np.ones((length, 3)) for length in (2, 3, 3, 9, 10, 10)]
    >>> y = [np.zeros(len(row), "int32") for row in x]
    >>> data = LengthBucketing(x, y, batch_size=3, buckets=2, seed=0)
    >>> data.boundaries
    (3, 10)
    >>> sorted(data[i][0].shape for i in range(len(data)))
    [(3, 3, 3), (3, 10, 3)]
    >>> inputs = keras.Input((None, 3))
    >>> labels = keras.layers.Dense(2)(keras.layers.LSTM(4, return_sequences=True)(keras.layers.Masking()(inputs)))
    >>> model = keras.Model(inputs, labels)
    >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> history = model.fit(data, epochs=2, shuffle=False, verbose=0)
    >>> [len(row) for row in data.predict(model, verbose=0)]
    [2, 3, 3, 9, 10, 10]
    """

    rows: np.ndarray | None = None

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int = 32,
        max_tokens: int | None = None,
        buckets: Any = 8,
        length_multiple: int = 1,
        padding_value: Any = 0,
        remainder: str = "keep",
        overlong: str = "error",
        max_length: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        lengths_as_input: Any = None,
        num_shards: int = 1,
        shard_index: int = 0,
        window: int = 4096,
        class_weight: Any = None,
        normalize_weights: bool = False,
        **kwargs: Any,
    ):
        known = {*inspect.signature(LengthBucketing).parameters, *PYDATASET} - {"kwargs"}
        refuse_unknown(self, kwargs, known)
        super().__init__(**kwargs)
        if isinstance(buckets, (list, tuple, np.ndarray)):
            buckets = tuple(np.asarray(bucket).tolist() for bucket in buckets)
        self.options = Options(
            batch_size, max_tokens, buckets, length_multiple, remainder, overlong, max_length, shuffle, num_shards
        )
        self.padding_value, self.lengths_as_input, self.window = padding_value, lengths_as_input, window
        check_options(self.options)
        if not isinstance(normalize_weights, bool):
            fix = "Say True for a loss whose reduction is 'sum'"
            raise TypeError(errors.message(self, "normalize_weights", "True or False", normalize_weights, fix))
        errors.positive_integer(self, "window", window, "It is the number of samples held")
        self.shard_index, self.seed = shard_index, check_seed(self.options, seed, shard_index)
        # Drawn as Keras draws its seeds, so that `keras.utils.set_random_seed` makes a run repeat.
        self._key = random.randint(1, 10**9) if self.seed is None else self.seed
        self.class_weight, self.normalize_weights = from_pairs(class_weight), normalize_weights
        reading: dict[str, Any] = {"padding": padding_value, "lengths_as_input": lengths_as_input}
        reading |= {"class_weight": self.class_weight, "normalized": normalize_weights}
        if not hasattr(x, "__next__"):
            fields = read_fields(x, y, sample_weight, **reading)
            self._open(FiniteSource(fields, self.options, self._key, shard_index))
            return
        if y is not None or sample_weight is not None:
            fix = "Let the iterator yield `(x, y)` or `(x, y, sample_weight)`"
            raise ValueError(errors.message(self, "x", "no iterator where `y` is given apart", x, fix))
        self._open(StreamSource(x, self.options, self._key, shard_index, window, **reading))

    @property
    def boundaries(self) -> tuple | None:
        """The padded lengths, pairs of them for sequences with two lengths, None where there are no fixed ones."""
        boundaries = self._finite_source.buckets.boundaries if self._stream is None else self._stream.boundaries()
        if boundaries is None:
            return None
        return tuple(tuple(b) if len(b) > 1 else b[0] for b in np.asarray(boundaries).tolist())

    def report(self) -> BucketingReport:
        """Returns what an epoch costs: `print` it as a table, or `plot` it."""
        return BucketingReport.of(self._finite("report"), self.epoch)

    def predict(self, model: Any, verbose: Any = "auto") -> Any:
        """Returns a model's outputs, unpadded and in the order of the data.

        Args:
            model: a Keras model that takes the batches' `x`.
            verbose: as in `keras.Model.predict`.

        Returns:
            A list of R arrays (T, ...) where the output has a step for each step of the input, and an array (R, ...)
            otherwise, in the structure of the model's outputs. Every axis that follows a length is cut to it, both of
            alignments (B, T, S) too. Shards do not matter here: it is always all sequences.

        Raises:
            TypeError: `model` is no Keras model.
            ValueError: sequences were dropped for their length, or the output has other numbers of steps.
        """
        return predict(self._finite("predict"), model, verbose)

    def split(self, fraction: float) -> tuple["LengthBucketing", "LengthBucketing"]:
        """Returns a data set to train on, and one of a fraction of the sequences, unshuffled, to validate on.

        Args:
            fraction: how much of the data the second one gets, within (0, 1). It is drawn by the seed.

        Returns:
            Two data sets of the options of this one, which share its values. Each chooses its own boundaries, unless
            they were given, and has in `rows` the positions of its sequences in this one.
        """
        count = len(self._finite("split").given.lengths)
        if not 0 < fraction < 1 or not 1 <= round(fraction * count) < count:
            text = f"within (0, 1), and leave of {count} sequences some on either side"
            raise ValueError(errors.message(self, "fraction", text, fraction, "Choose another"))
        rows = np.random.default_rng([self._key]).permutation(count)
        cut = count - round(fraction * count)
        kept = self.options.remainder.replace("drop", "keep")
        return self._part(rows[:cut]), self._part(rows[cut:], shuffle=False, remainder=kept)

    def _part(self, rows: np.ndarray, **options: Any) -> "LengthBucketing":
        """Returns a data set of some of the sequences."""
        part = copy.copy(self)
        part.rows = np.sort(rows)
        part.options = dataclasses.replace(self.options, **options)
        part._open(FiniteSource(self._finite_source.given.take(part.rows), part.options, self._key, self.shard_index))
        return part

    def state_dict(self) -> dict[str, Any]:
        """Returns where training stands: the first batch not yet trained on.

        Within an epoch of `fit`, that is known if a `PaddingMonitor` of this data set is among the callbacks.

        Returns:
            A dict of numbers and strings, for `load_state_dict` of a data set of the same data, options and seed.
        """
        epochs = self._finite("state_dict")
        self._check_resumable()
        if self._tracker.position is None:
            text = "with `PaddingMonitor(data)` among them, for `state_dict` to know what was trained on in this epoch"
            raise RuntimeError(
                errors.message(self, "callbacks", text, None, "Keras asks for batches ahead of training")
            )
        epoch, batch = divmod(self._tracker.position, epochs.batches)
        return {"epoch": epoch, "batch": batch, "seed": self.seed, "fingerprint": epochs.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken: the next pass begins with the first batch not trained on.

        Every pass still has as many batches as an epoch has: what the first one leaves to the end, it takes from the
        epoch after it.
        """
        epochs = self._finite("load_state_dict")
        self._check_resumable()
        if not isinstance(state, dict) or not {"epoch", "batch", "seed", "fingerprint"} <= set(state):
            raise ValueError(errors.message(self, "state", "what `state_dict` returned", state, "Save and load that"))
        for name, mine, what in (
            ("fingerprint", epochs.fingerprint(), "of the same data and options"),
            ("seed", self.seed, "of the same seed"),
        ):
            if state[name] != mine:
                fix = f"Here `{name}` is {mine!r}: make this data set as that one was made"
                raise ValueError(errors.message(self, "state", what, state, fix))
        self.position = state["epoch"] * epochs.batches + state["batch"]

    def _check_resumable(self) -> None:
        """Raises if the order depends on a seed that was drawn."""
        if self.seed is None and self.options.shuffle:
            fix = "Give one when making the data set"
            raise ValueError(errors.message(self, "seed", "an integer where training is to be resumed", None, fix))

    def get_config(self) -> dict[str, Any]:
        """Returns the options, without the data."""
        options = dataclasses.asdict(self.options)
        if isinstance(options["buckets"], tuple):
            options["buckets"] = [list(b) if isinstance(b, (tuple, list)) else b for b in options["buckets"]]
        names = ("padding_value", "seed", "lengths_as_input", "shard_index", "window", "normalize_weights")
        options["class_weight"] = to_pairs(self.class_weight)
        return options | {name: getattr(self, name) for name in names} | keras_internals.queue_options(self)

    @classmethod
    def from_config(cls, config: dict[str, Any], x: Any = None, y: Any = None, sample_weight: Any = None) -> Any:
        """Returns a data set of these options, for data that a config does not hold."""
        return cls(x, y, sample_weight, **config)
