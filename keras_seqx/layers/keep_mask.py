"""KeepMask: a layer whose output carries its input's mask."""

import functools
import inspect
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core import errors, sharing
from keras_seqx._core.tensors import new_tensor

LAYER = "a Keras layer that keeps the time axis: (B, T, ...) in, (B, T, ...) out"


@keras.saving.register_keras_serializable(package="keras_seqx")
class KeepMask(keras.layers.Wrapper):
    """Calls a layer, and attaches the mask of its input to its output.

    Many layers end a mask: `Conv1D`, `Reshape` and `Lambda` in every Keras 3, and from Keras 3.16 on `RNN`, `LSTM`,
    `GRU`, `Bidirectional` and `TimeDistributed` too. Every layer after them then reads padding as if it were data, and
    so do the loss and the metrics. Wrap such a layer where its output at a step belongs to the input at that step.
    The wrapped layer is called as it would be called alone, with the mask if it takes one, and computes the same.

    It keeps the mask; it does not make the layer ignore padding. A `Conv1D(padding="same")` still reads padded steps at
    the end of a sequence. `audit_masking` shows whether a model does.

    Args:
        layer: the layer to wrap. Its first output must keep the time axis: set `return_sequences=True` for an RNN.
            `layer.supports_masking` becomes True.
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: what `layer` takes first: a tensor (B, T, ...), or a structure of such tensors.
        mask: boolean tensor (B, T), True at valid steps. Defaults to the mask that `inputs` carry. If several inputs
            carry masks, a step is valid where all of them say so.
        *args, **kwargs: the other arguments of `layer`, such as `initial_state` and `training`.

    Returns:
        What `layer` returns. Its first output carries the mask (B, T), unless the layer attaches another one. Other
        outputs, such as the states of an RNN, carry none.

    Raises:
        TypeError: `layer` is not a Keras layer.
        ValueError: `layer` does not keep the time axis, or the masks of several inputs have different shapes.

    Masking:
        An RNN called with `initial_state` gets the mask too. Without the wrapper, Keras fills `mask` only where a layer
        is called with one tensor.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import KeepMask, SequenceMask
    >>> x, lengths = keras.Input((None, 3)), keras.Input((), dtype="int32")
    >>> encode = KeepMask(keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True)))
    >>> mean = keras.layers.GlobalAveragePooling1D()(encode(SequenceMask()([x, lengths])))
    >>> model = keras.Model([x, lengths], mean)
    >>> frames = np.ones((1, 5, 3), "float32")
    >>> padded = np.pad(frames, ((0, 0), (0, 2), (0, 0)), constant_values=100.0)
    >>> shorter, longer = (model.predict([data, np.array([5])], verbose=0) for data in (frames, padded))
    >>> bool(np.allclose(shorter, longer, atol=1e-6))
    True

    References:
        - Keras pull request 23235, which ends masks after RNN layers.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any):
        if not isinstance(layer, keras.layers.Layer):
            fix = "Pass for example `keras.layers.LSTM(40, return_sequences=True)`"
            raise TypeError(errors.message("KeepMask", "layer", LAYER, layer, fix))
        if getattr(layer, "return_sequences", True) is False:
            what = f"{LAYER}. This one returns its last step alone"
            raise ValueError(errors.message("KeepMask", "layer", what, layer, "Set its `return_sequences=True`"))
        super().__init__(layer, **kwargs)
        self.supports_masking = True
        # Keras warns that a layer not marked so destroys the mask, which is not true here.
        for part in (layer, getattr(layer, "forward_layer", None), getattr(layer, "backward_layer", None)):
            if part is not None:
                part.supports_masking = True
        self._takes_mask = "mask" in inspect.signature(layer.call).parameters

    # Keras fills `mask` where `inputs` are the one tensor argument, and `inputs_mask` where there are others.
    def call(self, inputs: Any, *args: Any, mask: Any = None, inputs_mask: Any = None, **kwargs: Any) -> Any:
        mask = inputs_mask if mask is None else mask
        if self._takes_mask and mask is not None:
            kwargs["mask"] = mask
        outputs = self.layer(inputs, *args, **kwargs)
        self._check_steps(inputs, outputs)
        # The layer may return its input, whose mask is the caller's.
        given = {id(x) for x in tree.flatten((inputs, args, kwargs))}
        return tree.map_structure(lambda y: new_tensor(y) if id(y) in given else y, outputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        if type(self.layer).compute_mask is not keras.layers.Layer.compute_mask:
            own = tree.flatten(self.layer.compute_mask(inputs, previous_mask))
            if own and own[0] is not None:
                return own[0]
        masks = [mask for mask in tree.flatten(previous_mask) if mask is not None]
        shapes = [tuple(mask.shape) for mask in masks]
        if not all(_agree(shape, shapes[0]) for shape in shapes):
            what, fix = "tensors whose masks have one shape", "Attach a mask to the output with SequenceMask instead"
            raise ValueError(errors.message(self, "inputs", what, shapes, fix, "the masks' shapes"))
        # Of a single mask, Keras makes the mask of the first output.
        return functools.reduce(ops.logical_and, masks) if masks else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(
        self, inputs: Any, *args: Any, mask: Any = None, inputs_mask: Any = None, **kwargs: Any
    ) -> Any:
        outputs = self.layer.compute_output_spec(inputs, *args, **kwargs)
        self._check_steps(inputs, outputs)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **sharing.serialize({"layer": self.layer})}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "KeepMask":
        with keras.saving.custom_object_scope(custom_objects or {}):
            return cls(**sharing.deserialize(config, "layer"))

    def _check_steps(self, inputs: Any, outputs: Any) -> None:
        """Checks that the first output has the time axis of the inputs."""
        before, after = (tuple(tree.flatten(x)[0].shape) for x in (inputs, outputs))
        if len(before) < 2 or len(after) < 2 or not _agree(before[:2], after[:2]):
            fix = "Attach a mask of the new lengths to its output with SequenceMask instead"
            context = f"its output has shape {after} for inputs of shape {before}"
            raise ValueError(errors.message(self, "layer", LAYER, self.layer, fix, context))


def _agree(shape: tuple, other: tuple) -> bool:
    """Returns whether two shapes have one rank, and one size wherever both are known."""
    return len(shape) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape, other, strict=True)
    )
