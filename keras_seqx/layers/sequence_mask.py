"""SequenceMask: lengths become a Keras mask."""

from typing import Any

import keras
from keras import ops

from keras_seqx import _checks, masking

LENGTHS = "an integer tensor of shape (B,) or (B, 1), the number of valid steps of each row"


@keras.saving.register_keras_serializable(package="keras_seqx")
class SequenceMask(keras.layers.Layer):
    """Attaches the mask of the first `lengths` steps to a sequence.

    The values pass unchanged. Differs from `keras.layers.Masking` in that no value is reserved to mean
    padding, so a genuine frame of zeros stays valid.

    Args:
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: a pair `[inputs, lengths]`: a tensor of shape (B, T, ...) and an integer tensor of shape (B,) or
            (B, 1).

    Returns:
        The first tensor, (B, T, ...), carrying the mask (B, T) that is true at its first `lengths` steps. A mask
        that it carried before stays in force.

    Raises:
        ValueError: `inputs` is no pair, has no time axis, or the lengths have another shape.
        TypeError: the lengths are not integers.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import SequenceMask
    >>> x, lengths = keras.Input((None, 3)), keras.Input((), dtype="int32")
    >>> mean = keras.layers.GlobalAveragePooling1D()(SequenceMask()([x, lengths]))
    >>> model = keras.Model([x, lengths], mean)
    >>> frames = np.ones((2, 4, 3), "float32") * np.arange(4, dtype="float32")[:, None]
    >>> model.predict([frames, np.array([4, 2])], verbose=0)[:, 0].tolist()
    [1.5, 0.5]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        fix = "Call it as `SequenceMask()([inputs, lengths])`"
        if len(input_shape) != 2 or not all(isinstance(shape, (list, tuple)) for shape in input_shape):
            what = "a pair `[inputs, lengths]`"
            raise ValueError(_checks.message(self, "inputs", what, input_shape, fix, "its shape"))
        sequence, lengths = (tuple(shape) for shape in input_shape)
        if len(sequence) < 2:
            raise ValueError(_checks.message(self, "inputs", "of shape (B, T, ...)", sequence, fix, "its shape"))
        sizes = (sequence[0], 1) if len(lengths) == 2 else (sequence[0],)
        _checks.shape(self, "lengths", lengths, "(B,) or (B, 1)", sizes, fix)

    def call(self, inputs: Any) -> Any:
        sequence, lengths = inputs
        if "int" not in keras.backend.standardize_dtype(lengths.dtype):
            fix = "Cast the lengths to 'int32'"
            raise TypeError(_checks.message(self, "lengths", LENGTHS, lengths.dtype, fix, "dtype"))
        return sequence

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        self.call(inputs)
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        mask = masking.lengths_to_mask(inputs[1], like=inputs[0])
        if isinstance(previous_mask, (list, tuple)) and previous_mask[0] is not None:
            mask = ops.logical_and(mask, previous_mask[0])
        return mask
