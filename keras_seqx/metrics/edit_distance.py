"""EditDistance: how many tokens have to be changed, put in or left out."""

from typing import Any

import keras
from keras import ops

from keras_seqx.metrics.sequences import SequenceMetric, Sequences, references_that_count

FAR = 2**30  # beyond every distance, and small enough to add to


@keras.saving.register_keras_serializable(package="keras_seqx")
class EditDistance(SequenceMetric):
    """Measures the error rate of written sequences: of phonemes, characters or words, by what a token is.

        sum over items of distance / sum over items of the reference's length

    where the distance is the smallest number of substitutions, insertions and deletions that turn the prediction into
    a reference. Of several references the nearest one counts, among equally near ones the longest.

    A sequence ends before its first `end_token`. Steps that hold `pad_token`, that a Keras mask leaves out or that have
    a sample weight of 0 are not in it.

    Args:
        normalize: whether to divide by the lengths, as above; otherwise the result is the mean distance of an item.
            Defaults to True.
        end_token: integer, the id that ends a sequence. Defaults to None: no id does.
        pad_token: integer, the id of padding. Defaults to None: no id is.
        name: string. Defaults to "edit_distance".
        dtype: dtype of the sums. Defaults to None: Keras' float type.

    Call arguments:
        y_true: integer tensor (B, T), or (B, R, T) with R references for each item, of which empty ones do not
            count.
        y_pred: integer tensor of ids (B, T'), or float tensor of logits or probabilities (B, T', V), of which the
            largest is taken.
        sample_weight: tensor (B,) of weights of items, or (B, T) of the steps of one reference: then an item weighs
            the mean of its steps' weights that are not 0. Defaults to None.

    Returns:
        `result()` is a float scalar, 0 before the first update.

    Raises:
        TypeError: targets or ids that are no integers; a token that is no integer.
        ValueError: shapes that do not fit.

    Masking:
        Of scores (B, T', V) for one reference with T = T', each step is the prediction of the target's step: masks and
        weights of either leave out both. Otherwise each has its own. In the training steps of `fit` on JAX, Keras loses
        the output's mask before it comes to the metrics (not so in validation and `evaluate`): give `pad_token`,
        `end_token`, or (B, T) weights and `weighted_metrics`.

    Example:

    >>> import numpy as np
    >>> from keras_seqx import EditDistance
    >>> metric = EditDistance(end_token=0)
    >>> metric.update_state(np.array([[1, 2, 3, 0]]), np.array([[1, 3, 0, 2, 2]]))
    >>> round(float(metric.result()), 4)
    0.3333

    References:
        - Levenshtein, 1966, Binary codes capable of correcting deletions, insertions, and reversals.
    """

    def __init__(
        self,
        *,
        normalize: bool = True,
        end_token: int | None = None,
        pad_token: int | None = None,
        name: str = "edit_distance",
        dtype: Any = None,
    ):
        super().__init__(end_token=end_token, pad_token=pad_token, name=name, dtype=dtype)
        self.normalize = bool(normalize)
        self._direction = "down"  # for callbacks that ask which results are better

    def measure(self, references: Sequences, prediction: Sequences) -> tuple[Any, Any]:
        lengths = references.lengths
        distances = ops.where(references_that_count(lengths), edit_distances(references, prediction), FAR)
        nearest = ops.min(distances, axis=1)
        length = ops.max(ops.where(distances == nearest[:, None], lengths, 0), axis=1)
        return nearest, length if self.normalize else ops.ones_like(length)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "normalize": self.normalize}


def edit_distances(references: Sequences, prediction: Sequences) -> Any:
    """Returns the distance from each item's prediction (B, T') to its references (B, R, T), int32 (B, R).

    d[i, j], from the first i steps of the prediction to the first j of the reference, is

        min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (prediction[i] != reference[j]))

    and comes with all of its diagonal i + j at once, from the two diagonals before. A step that is not in its sequence
    costs nothing and matches nothing.
    """
    ids, valid = references.ids, references.valid
    weight = ops.cast(valid, "int32")
    # Behind the prediction there are as many steps that are not in it as the last diagonals reach beyond.
    beyond = ops.zeros_like(ids[:, 0])
    tokens = ops.concatenate([prediction.ids, beyond], axis=1)
    weights = ops.concatenate([ops.cast(prediction.valid, "int32"), beyond], axis=1)
    corner = ops.zeros_like(ids[..., :1])
    far = ops.full_like(ids, FAR)
    before = ops.concatenate([corner + FAR, far], axis=-1)
    last = ops.concatenate([corner, far], axis=-1)
    window = ops.zeros_like(last[:, 0])

    def diagonal(k, state):
        before, last, token, deletion = state
        # Entry j of the diagonal stands at step k - j of the prediction: one diagonal on, each moves by one.
        token = ops.concatenate([ops.take(tokens, k, axis=1)[:, None], token[:, :-1]], axis=1)
        deletion = ops.concatenate([ops.take(weights, k, axis=1)[:, None], deletion[:, :-1]], axis=1)
        step = deletion[:, None, 1:]
        differs = ops.cast(ids != token[:, None, 1:], "int32")
        substitution = ops.where(ops.logical_and(valid, step == 1), differs, ops.maximum(weight, step))
        up = last + deletion[:, None]
        other = ops.minimum(last[..., :-1] + weight, before[..., :-1] + substitution)
        return last, ops.concatenate([up[..., :1], ops.minimum(up[..., 1:], other)], axis=-1), token, deletion

    _, last, _, _ = ops.fori_loop(0, ops.shape(tokens)[1], diagonal, (before, last, window, window))
    return last[..., -1]
