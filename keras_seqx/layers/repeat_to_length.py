"""RepeatToLength: one vector for every step of another sequence."""

from typing import Any

import keras
from keras import ops

from keras_seqx._core import errors

FIX = "Call it as `RepeatToLength()([vector, sequence])`"


@keras.saving.register_keras_serializable(package="keras_seqx")
class RepeatToLength(keras.layers.Layer):
    """Repeats its input along a new time axis, once for every step of another sequence.

    Differs from `keras.layers.RepeatVector` in that the number of steps is not fixed by the layer but comes with the
    data, so that a model that was trained at one length works at any other.

    Args:
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: a pair `[x, sequence]`: a tensor of shape (B, ...), and a tensor of shape (B, T, ...) of which only T
            and the mask are used.

    Returns:
        Tensor of shape (B, T, ...) and the dtype of `x`.

    Raises:
        ValueError: `inputs` is no pair, `sequence` has no time axis, or their batch sizes differ; the two seem to be
            swapped, as `sequence` is a matrix of floats while `x` has more axes or integer ids. A sequence of numbers
            without features has the shape (B, T, 1).

    Masking:
        The output carries the mask of `sequence`, (B, T); one with more axes is true where any entry is.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import RepeatToLength
    >>> x = keras.Input((None, 3))
    >>> summary = keras.layers.LSTM(8)(x)
    >>> autoencoder = keras.Model(x, keras.layers.LSTM(3, return_sequences=True)(RepeatToLength()([summary, x])))
    >>> [autoencoder(np.ones((2, steps, 3), "float32")).shape[1] for steps in (4, 7)]
    [4, 7]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self._check(input_shape)

    def call(self, inputs: Any) -> Any:
        self._check([x.shape for x in inputs])
        self._check_order(inputs)
        x, sequence = inputs
        return ops.broadcast_to(ops.expand_dims(x, 1), (*ops.shape(sequence)[:2], *ops.shape(x)[1:]))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        self._check(input_shape)
        x, sequence = input_shape
        return (x[0], sequence[1], *x[1:])

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        self._check_order(inputs)
        return keras.KerasTensor(self.compute_output_shape([x.shape for x in inputs]), dtype=inputs[0].dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        mask = previous_mask[1] if isinstance(previous_mask, (list, tuple)) else None
        if mask is not None and len(mask.shape) > 2:
            mask = ops.any(mask, axis=tuple(range(2, len(mask.shape))))
        return mask

    def _check(self, shapes: Any) -> None:
        if len(shapes) != 2 or not all(isinstance(shape, (list, tuple)) or hasattr(shape, "rank") for shape in shapes):
            what = "a pair `[x, sequence]`"
            raise ValueError(errors.message(self, "inputs", what, shapes, FIX, "its shape"))
        x, sequence = (tuple(shape) for shape in shapes)
        if len(x) < 1 or len(sequence) < 2:
            what = "a pair of shapes (B, ...) and (B, T, ...)"
            raise ValueError(errors.message(self, "inputs", what, (x, sequence), FIX, "their shapes"))
        if None not in (x[0], sequence[0]) and x[0] != sequence[0]:
            what = "a pair with the same B"
            raise ValueError(errors.message(self, "inputs", what, (x, sequence), FIX, "their shapes"))

    def _check_order(self, inputs: Any) -> None:
        x, sequence = inputs
        dtypes = [keras.backend.standardize_dtype(each.dtype) for each in inputs]
        looks_like_sequence = len(x.shape) > 2 or (len(x.shape) == 2 and "int" in dtypes[0])
        if looks_like_sequence and len(sequence.shape) == 2 and "float" in dtypes[1]:
            what = "a pair `[x, sequence]`, in this order"
            shapes = (tuple(x.shape), tuple(sequence.shape))
            fix = f"{FIX}, with a sequence (B, T, D); one without features has the shape (B, T, 1)"
            raise ValueError(errors.message(self, "inputs", what, shapes, fix, f"their shapes, of {dtypes}"))
