"""MaskedTimeDistributed: any layer at every timestep, masks right, time folded into the batch."""

import functools
import inspect
import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors, keras_internals, mask_metadata, sharing
from keras_seqx.layers import batch_norm_masking, time_folding

INPUTS_FIX = "Give the time axis after the batch's, as in (B, T, D)"
MASK_FIX = "Pass one boolean for each step, or let the inputs carry their masks"


@keras.saving.register_keras_serializable(package="keras_seqx")
class MaskedTimeDistributed(keras.layers.Wrapper):
    """Applies a layer to every timestep.

    Time is folded into the batch, (B, T, ...) to (B * T, ...), for one call of the layer whatever T is, and unfolded
    after it. It takes the place of `keras.layers.TimeDistributed`, to and from which `transfer_weights` moves weights.
    It differs from it in that

    - neither the calls of the layer nor the time of compiling grow with T;
    - inputs and outputs are tensors or any nested structure of them, of different dtypes and ranks, (B, T) included;
    - the layer receives the masks of its own axes, and the masks that it makes come back;
    - masked steps reach no gradient and no batch statistics, and their outputs do not depend on the padding.

    Args:
        layer: the layer or model to apply, called with one argument, a tensor or a structure of tensors. It contains no
            stateful RNN. Wrap a layer of several arguments into a functional model.
        masked_value: number that outputs hold at masked steps. Defaults to None: they hold the outputs of a valid step,
            which every loss can take. Zeros, for example, make the mean of a crossentropy NaN: it is 0 / 0 there,
            and stays NaN when the mask multiplies it by 0.
        skip_masked: whether to compute valid steps alone: they are gathered, the layer is called on them, and its
            outputs are put back at their places. Pays where much is masked and the layer costs more than a copy. This
            needs shapes that depend on values, so it takes effect on torch and on TensorFlow, where Keras then does
            without XLA; JAX, and XLA where it is enforced, compute all steps. The result is the same.
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: tensor of shape (B, T, ...), or a structure of such tensors with the same B and T.
        training: whether the layer is called in training mode.
        mask: boolean tensor of shape (B, T) or deeper, (B, T, W, ...), for all inputs; or a structure like that of the
            inputs. By default the masks that the inputs carry.

    Returns:
        What the layer returns, its outputs (B * T, ...) unfolded to (B, T, ...).

    Raises:
        ValueError: `layer` is no layer or contains a stateful RNN; inputs of rank below 2, or whose B or T disagree; a
            mask of another shape; the layer returns something else than tensors with a row for each step, or
            regularizes its activity while steps are masked.
        TypeError: `masked_value` is neither a number nor None, or `skip_masked` no bool.

    Masking:
        A step is valid where the masks of all inputs say so. A mask with more axes than (B, T) says so where any of its
        entries is true, and goes on to the layer as (B * T, W, ...). Outputs carry the mask that the layer gives them,
        unfolded, or (B, T) where it gives none. A masked step is computed on a copy of the inputs of its row's first
        valid step, or of another row's where its own has none. It holds the result, without gradient, unless there is
        a `masked_value`. A layer of vectors that takes a `mask` gets that of the steps, and decides what masked steps
        hold. A BatchNormalization anywhere in the layer counts valid steps alone, and an `activity_regularizer` of this
        layer sees zeros at masked steps. A loss that the wrapped layer adds by `add_loss` counts all steps. Losses that
        sum over time themselves take no mask: for `keras.losses.Dice` and `Tversky` with their default `axis` give
        `masked_value=0`, and pad targets with zeros.

    Randomness:
        Drawn for the whole (B * T, ...): dropout differs from step to step.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import MaskedTimeDistributed
    >>> words = keras.Input((None, None), dtype="int32")  # (paragraphs, sentences, words)
    >>> sentence = keras.Sequential([keras.layers.Embedding(100, 8, mask_zero=True), keras.layers.LSTM(4)])
    >>> paragraph = keras.layers.LSTM(2)(MaskedTimeDistributed(sentence)(words))
    >>> keras.Model(words, paragraph).predict(np.ones((3, 5, 7), "int32"), verbose=0).shape
    (3, 2)
    """

    def __init__(self, layer: Any, *, masked_value: float | None = None, skip_masked: bool = False, **kwargs: Any):
        if not isinstance(layer, keras.layers.Layer):
            fix = "Pass an instance, as in `MaskedTimeDistributed(keras.layers.Dense(8))`"
            raise ValueError(errors.message(self, "layer", "a keras.layers.Layer", layer, fix))
        super().__init__(layer, **kwargs)
        number = isinstance(masked_value, numbers.Real) and not isinstance(masked_value, bool)
        if masked_value is not None and (not number or math.isnan(masked_value)):
            fix = "Give 0 for layers that sum over time without a mask; losses want None"
            raise TypeError(errors.message(self, "masked_value", "a number or None", masked_value, fix))
        if not isinstance(skip_masked, bool):
            fix = "Say `skip_masked=True` to compute valid steps alone"
            raise TypeError(errors.message(self, "skip_masked", "True or False", skip_masked, fix))
        self.masked_value: float | None = masked_value
        self.skip_masked: bool = skip_masked
        self.supports_masking = True
        if kwargs.get("activity_regularizer") is not None:
            self.activity_regularizer = _AtValidSteps(keras.regularizers.get(kwargs["activity_regularizer"]))
        if keras.backend.backend() == "tensorflow":
            self.supports_jit = not skip_masked
        self._check_stateless()

    def build(self, input_shape: Any) -> None:
        folded, _ = self._fold_shapes(input_shape)
        self._check_stateless()
        super().build(folded)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        flat, masks = self._flatten(inputs, mask)
        valid = _valid(masks)
        steps = self._steps(valid, flat)
        rows = [self._carrying(steps, x, mask) for x, mask in zip(flat, masks, strict=True)]
        counted = _counted(valid, flat[0])
        if counted is not None:
            self._check_adds_no_loss()
            counted = steps.flags(counted)
        with batch_norm_masking.of_steps(self.layer, counted):
            outputs = self._call_layer(inputs, rows, training)
        self._check_outputs(outputs, rows[0])
        valid = None if valid is None else time_folding.fold(valid)

        def unfold(y: Any) -> Any:
            y, mask = _map(steps.place, [y, mask_metadata.read(y)])
            if valid is not None:
                other = ops.stop_gradient(y) if self.masked_value is None else ops.cast(self.masked_value, y.dtype)
                y = ops.where(time_folding.expand(valid, y), y, other)
            mask = _output_mask(mask, valid, len(y.shape))
            y = time_folding.unfold(y, flat[0])
            return y if mask is None else mask_metadata.write(y, time_folding.unfold(mask, flat[0]))

        return tree.map_structure(unfold, outputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        # Outputs leave `call` with their masks, of which only the layer knows the shapes. A symbolic output has none:
        # a functional model would hand it on, whatever masks the layer makes when it runs.
        masked = any(mask is not None for mask in tree.flatten(previous_mask))
        if not masked or isinstance(tree.flatten(inputs)[0], keras.KerasTensor):
            return None
        return tree.map_structure(mask_metadata.read, self.call(inputs, training=False, mask=previous_mask))

    def compute_output_shape(self, input_shape: Any) -> Any:
        folded, batch_and_time = self._fold_shapes(input_shape)
        outputs = self.layer.compute_output_shape(folded)
        return tree.map_shape_structure(lambda shape: (*batch_and_time, *shape[1:]), outputs)

    def compute_output_spec(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        flat, _ = self._flatten(inputs, mask)
        rows = tree.map_structure(time_folding.fold, inputs)
        outputs = self.layer.compute_output_spec(rows)
        self._check_outputs(outputs, tree.flatten(rows)[0])
        return tree.map_structure(lambda y: time_folding.unfold(y, flat[0]), outputs)

    def get_config(self) -> dict:
        own = {**sharing.serialize({"layer": self.layer}), "masked_value": self.masked_value}
        config = {**super().get_config(), **own, "skip_masked": self.skip_masked}
        if isinstance(self.activity_regularizer, _AtValidSteps):
            config["activity_regularizer"] = self.activity_regularizer.get_config()["regularizer"]
        return config

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "MaskedTimeDistributed":
        with keras.saving.custom_object_scope(custom_objects or {}):
            return cls(**sharing.deserialize(config, "layer"))

    def _fold_shapes(self, input_shape: Any) -> tuple[Any, tuple]:
        """Returns the shapes of the rows, structured as the inputs, and (B, T), after checking the shapes."""
        shapes: list = []
        tree.map_shape_structure(shapes.append, input_shape)
        self._check_shapes(shapes)
        return tree.map_shape_structure(time_folding.fold_shape, input_shape), tuple(shapes[0][:2])

    def _flatten(self, inputs: Any, mask: Any) -> tuple[list, list]:
        """Returns the tensors of `inputs`, and the mask of each or None, after checking their shapes."""
        flat = tree.flatten(inputs)
        self._check_shapes([tuple(x.shape) for x in flat])
        masks = tree.flatten(mask)
        if len(masks) == 1:
            masks = masks * len(flat)
        if len(masks) != len(flat):
            what = f"one mask for all inputs, or one for each of the {len(flat)}"
            raise ValueError(errors.message(self, "mask", what, len(masks), MASK_FIX, "their number"))
        for x, m in zip(flat, masks, strict=True):
            # The last axis of a tensor holds features, as a rule, which a mask need not agree with.
            size = len(x.shape)
            fits = m is None or (
                len(m.shape) >= 2
                and all(None in (a, b) or a == b for a, b in zip(m.shape[: max(size - 1, 2)], x.shape, strict=False))
            )
            if not fits:
                what = f"of shape (B, T) or deeper, where the input has the shape {tuple(x.shape)}"
                raise ValueError(errors.message(self, "mask", what, tuple(m.shape), MASK_FIX, "its shape"))
        return flat, _map(lambda m: ops.cast(m, "bool"), masks)

    def _call_layer(self, inputs: Any, rows: list, training: bool | None) -> Any:
        pieces = time_folding.pieces(self.layer, rows)
        if pieces == 1:
            return self.layer(tree.pack_sequence_as(inputs, rows), training=training)
        borders = np.linspace(0, rows[0].shape[0], pieces + 1).astype(int)[1:-1].tolist()
        return ops.concatenate([self.layer(part) for part in ops.split(rows[0], borders)], axis=0)

    def _steps(self, valid: Any, flat: list) -> time_folding.EveryStep:
        """Returns how the steps of a call become rows, and rows become steps."""
        if valid is None:
            return time_folding.EveryStep(valid)
        # A layer that takes the mask of its rows decides what masked ones hold, so that it must see them.
        skips = self.skip_masked and time_folding.shapes_may_vary() and not any(map(self._takes_mask_of_rows, flat))
        return time_folding.ValidSteps(valid) if skips else time_folding.AllSteps(valid)

    def _takes_mask_of_rows(self, x: Any) -> bool:
        """Whether the layer is to be called with the mask of steps, where `x` has the shape (B, T, D)."""
        # Their `mask` means something else, or has the axes of words, or comes from `step_context`.
        others = (keras.Model, keras.layers.Softmax, MaskedTimeDistributed, keras.layers.BatchNormalization)
        takes_mask = "mask" in inspect.signature(self.layer.call).parameters
        return len(x.shape) == 3 and takes_mask and not isinstance(self.layer, others)

    def _carrying(self, steps: time_folding.EveryStep, x: Any, mask: Any) -> Any:
        """Returns rows of `x` (n, ...) carrying the mask of their own axes, or, for a layer that asks, of the rows."""
        rows = steps.select(x)
        if mask is not None and len(mask.shape) > 2:
            return mask_metadata.write(rows, steps.select(mask))
        if mask is not None and self._takes_mask_of_rows(x):
            return mask_metadata.write(rows, steps.flags(steps.valid))
        return rows

    def _check_shapes(self, shapes: list) -> None:
        for shape in shapes:
            if len(shape) < 2:
                raise ValueError(
                    errors.message(self, "inputs", "of shape (B, T, ...)", tuple(shape), INPUTS_FIX, "a shape")
                )
            if any(None not in pair and pair[0] != pair[1] for pair in zip(shape[:2], shapes[0][:2], strict=True)):
                what = "tensors of the same B and T"
                fix = "Repeat an input without time by `RepeatToLength`"
                raise ValueError(errors.message(self, "inputs", what, [tuple(s) for s in shapes], fix, "their shapes"))

    def _check_outputs(self, outputs: Any, row: Any) -> None:
        for y in tree.flatten(outputs):
            tensor = isinstance(y, keras.KerasTensor) or ops.is_tensor(y)
            shape = tuple(y.shape) if tensor else None
            if not shape or (None not in (shape[0], row.shape[0]) and shape[0] != row.shape[0]):
                what = "one that returns tensors with a row for each step"
                received = f"the shape {shape}" if tensor else repr(y)
                context = f"it returned {received} for inputs of shape {tuple(row.shape)}"
                fix = "Return tensors of shape (B, ...) for inputs of shape (B, ...)"
                raise ValueError(errors.message(self, "layer", what, self.layer, fix, context))

    def _check_stateless(self) -> None:
        for part in keras_internals.sublayers(self.layer):
            if getattr(part, "stateful", False):
                fix = "Set `stateful=False`, as every step is a row of the batch of its own"
                raise ValueError(errors.message(self, "layer", "without a stateful RNN", self.layer, fix, part.name))

    def _check_adds_no_loss(self) -> None:
        for part in keras_internals.sublayers(self.layer):
            if part.activity_regularizer is not None:
                what = "without `activity_regularizer` where steps are masked, as it would count them"
                fix = "Give it to MaskedTimeDistributed itself, which counts valid steps alone"
                raise ValueError(errors.message(self, "layer", what, self.layer, fix, part.name))


class _AtValidSteps(keras.regularizers.Regularizer):
    """Calls a `regularizer` of activity on outputs that are zero at masked steps."""

    def __init__(self, regularizer: Any):
        self.regularizer = regularizer

    def __call__(self, x: Any) -> Any:
        mask = mask_metadata.read(x)
        if mask is not None:
            x = ops.where(time_folding.expand(mask, x), x, ops.zeros_like(x))
        return self.regularizer(x)

    def get_config(self) -> dict:
        return {"regularizer": keras.regularizers.serialize(self.regularizer)}


def _map(function: Any, xs: list) -> list:
    return [None if x is None else function(x) for x in xs]


def _valid(masks: list) -> Any:
    """Returns which steps all masks hold valid, (B, T), or None where there is no mask."""
    masks = [m if len(m.shape) == 2 else ops.any(m, axis=tuple(range(2, len(m.shape)))) for m in masks if m is not None]
    return functools.reduce(ops.logical_and, masks) if masks else None


def _counted(valid: Any, like: Any) -> Any:
    """Returns which steps of `like` (B, T, ...) statistics count: the `valid` ones of rows that count themselves."""
    outer = batch_norm_masking.outer_valid(like.shape[0])
    if outer is None:
        return valid
    outer = ops.broadcast_to(ops.expand_dims(outer, 1), ops.shape(like)[:2])
    return outer if valid is None else ops.logical_and(valid, outer)


def _output_mask(mask: Any, valid: Any, rank: int) -> Any:
    """Returns the mask of an output of that `rank`: what the layer gave, (N, ...), where the steps are valid, (N,)."""
    if mask is None:
        return valid
    while len(mask.shape) >= max(rank, 2):  # the output has lost that axis
        mask = ops.any(mask, axis=-1)
    return mask if valid is None else ops.logical_and(mask, time_folding.expand(valid, mask))
