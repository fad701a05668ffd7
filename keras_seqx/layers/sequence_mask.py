"""SequenceMask: lengths become a Keras mask."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx._core import errors, masks, tensors

LENGTHS = "an integer tensor of shape (B,) or (B, 1), the number of valid steps of each row"
INPUTS_FIX = "Call it as `SequenceMask()([inputs, lengths])`"
LENGTHS_FIX = "Give the number of steps before padding, one for each row"


@keras.saving.register_keras_serializable(package="keras_seqx")
class SequenceMask(keras.layers.Layer):
    """Attaches the mask of the first `lengths` steps to a sequence.

    The values pass unchanged. Differs from `keras.layers.Masking` in that no value is reserved to mean
    padding, so a genuine frame of zeros stays valid.

    Args:
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: a pair `[inputs, lengths]`: a tensor of shape (B, T, ...) and an integer tensor or list of shape (B,)
            or (B, 1), each length within [0, T].

    Returns:
        A tensor with the values of the first, (B, T, ...), and the mask (B, T) that is true at its first `lengths`
        steps. A mask that the first tensor carries stays in force. The tensor given keeps the mask that it has.

    Raises:
        ValueError: `inputs` is no pair, has no time axis, or the lengths have another shape; a length is below 0 or
            above T. Values are checked in eager calls, and on torch for lengths in the CPU's memory; elsewhere
            a length below 0 counts as 0, and one above T as T.
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

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras takes a list of numbers for a structure of inputs.
        if isinstance(inputs, (list, tuple)) and len(inputs) == 2 and isinstance(inputs[1], (list, tuple)):
            inputs = [inputs[0], np.asarray(inputs[1])]
        return super().__call__(inputs, *args, **kwargs)

    def build(self, input_shape: Any) -> None:
        self._check_shapes(input_shape)

    def call(self, inputs: Any) -> Any:
        self._check_shapes([x.shape for x in inputs])
        sequence, lengths = inputs
        self._check_lengths(lengths, sequence.shape[1])
        return tensors.new_tensor(sequence)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return self.call(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        mask = masks.lengths_to_mask(inputs[1], like=inputs[0])
        if isinstance(previous_mask, (list, tuple)) and previous_mask[0] is not None:
            mask = ops.logical_and(mask, previous_mask[0])
        return mask

    def _check_shapes(self, shapes: Any) -> None:
        if len(shapes) != 2 or not all(isinstance(shape, (list, tuple)) or hasattr(shape, "rank") for shape in shapes):
            what = "a pair `[inputs, lengths]`"
            raise ValueError(errors.message(self, "inputs", what, shapes, INPUTS_FIX, "its shape"))
        sequence, lengths = (tuple(shape) for shape in shapes)
        if len(sequence) < 2:
            raise ValueError(errors.message(self, "inputs", "of shape (B, T, ...)", sequence, INPUTS_FIX, "its shape"))
        sizes = (sequence[0], 1) if len(lengths) == 2 else (sequence[0],)
        errors.shape(self, "lengths", lengths, "(B,) or (B, 1)", sizes, INPUTS_FIX)

    def _check_lengths(self, lengths: Any, steps: int | None) -> None:
        dtype = keras.backend.standardize_dtype(lengths.dtype)
        if "int" not in dtype:
            fix = "Cast the lengths to 'int32'"
            raise TypeError(errors.message(self, "lengths", LENGTHS, lengths.dtype, fix, "dtype"))
        values = tensors.host_values(lengths)
        if values is not None and steps is not None and ((values < 0) | (values > steps)).any():
            what = f"within [0, {steps}], as there are {steps} steps"
            raise ValueError(errors.message(self, "lengths", what, values.ravel().tolist(), LENGTHS_FIX))
