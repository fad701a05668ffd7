"""SequenceAccuracy: how many sequences are right throughout."""

from typing import Any

import keras
from keras import ops

from keras_seqx.metrics.sequences import SequenceMetric, Sequences, references_that_count


@keras.saving.register_keras_serializable(package="keras_seqx")
class SequenceAccuracy(SequenceMetric):
    """Measures the share of items whose whole sequence equals a reference: 1 - the word error rate, of words of tokens.

    Which steps are in a sequence is decided as in `EditDistance`.

    Args:
        end_token: integer, the id that ends a sequence. Defaults to None: no id does.
        pad_token: integer, the id of padding. Defaults to None: no id is.
        name: string. Defaults to "sequence_accuracy".
        dtype: dtype of the sums. Defaults to None: Keras' float type.

    Call arguments:
        y_true: integer tensor (B, T), or (B, R, T) with R references for each item, of which empty ones do not
            count.
        y_pred: integer tensor of ids (B, T'), or float tensor of logits or probabilities (B, T', V), of which the
            largest is taken.
        sample_weight: tensor (B,) of weights of items, or (B, T) of the steps of one reference, as in `EditDistance`.
            Defaults to None.

    Returns:
        `result()` is a float scalar within [0, 1], 0 before the first update.

    Raises:
        TypeError: targets or ids that are no integers; a token that is no integer.
        ValueError: shapes that do not fit.

    Masking:
        As in `EditDistance`.

    Example:

    >>> import numpy as np
    >>> from keras_seqx import SequenceAccuracy
    >>> metric = SequenceAccuracy(pad_token=0)
    >>> metric.update_state(np.array([[1, 2, 0], [3, 4, 4]]), np.array([[1, 2, 0, 0], [3, 4, 0, 0]]))
    >>> float(metric.result())
    0.5
    """

    def __init__(
        self,
        *,
        end_token: int | None = None,
        pad_token: int | None = None,
        name: str = "sequence_accuracy",
        dtype: Any = None,
    ):
        super().__init__(end_token=end_token, pad_token=pad_token, name=name, dtype=dtype)
        self._direction = "up"  # for callbacks that ask which results are better

    def measure(self, references: Sequences, prediction: Sequences) -> tuple[Any, Any]:
        lengths = references.lengths
        true, pred = _left_aligned(references), _left_aligned(prediction)
        # One step more, so that a longer reference has something to be compared with; its length tells it apart.
        pred = ops.pad(pred, [[0, 0], [0, 1]])
        position = ops.arange(ops.shape(true)[2], dtype="int32")
        pred = ops.take(pred, ops.minimum(position, ops.shape(pred)[1] - 1), axis=1)
        same = ops.logical_or(true == pred[:, None], position >= lengths[..., None])
        equal = ops.logical_and(ops.all(same, axis=-1), lengths == prediction.lengths[:, None])
        right = ops.any(ops.logical_and(equal, references_that_count(lengths)), axis=1)
        return right, ops.ones_like(right)


def _left_aligned(sequences: Sequences) -> Any:
    """The ids with those that count in front, in their order."""
    total = ops.shape(sequences.ids)[-1]
    position = ops.arange(total, dtype="int32")
    order = ops.argsort(ops.where(sequences.valid, position, position + total), axis=-1)
    return ops.take_along_axis(sequences.ids, order, axis=-1)
