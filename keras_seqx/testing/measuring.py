"""Measures what a layer computes for a batch, and compares such measurements."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx.testing import execution
from keras_seqx.testing.batches import Batch, OutputMasks


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a layer computes for a batch of B rows.

    Attributes:
        outputs: flat, each (B, ...).
        masks: for each output, its Keras mask; None where it carries none.
        losses: scalars that the layer added.
        variables: the non-trainable variables as the call would leave them.
        input_slopes: the gradients of a smooth scalar of the valid outputs by each float input, None for others.
        weight_slopes: the same by each trainable variable.
    """

    outputs: list[np.ndarray]
    masks: list[np.ndarray | None]
    losses: list[np.ndarray]
    variables: list[np.ndarray]
    input_slopes: list[np.ndarray | None]
    weight_slopes: list[np.ndarray]


def build(layer: keras.layers.Layer, batch: Batch) -> None:
    """Builds a layer that is not built yet."""
    if not layer.built:
        layer(batch.inputs(list(map(ops.convert_to_tensor, batch.tensors))))


def measure(
    layer: keras.layers.Layer,
    batch: Batch,
    mode: str,
    *,
    training: bool = False,
    gradients: bool = False,
    rows: Any = None,
    sizes: Any = None,
) -> Measured:
    """Returns what a layer computes for a batch, and leaves its variables as they are.

    Args:
        layer: the layer, built, whose first argument takes the inputs.
        batch: the inputs.
        mode: one of the backend's modes.
        training: passed to the layer.
        gradients: whether to differentiate.
        rows: (B,) the rows' numbers, which say how the scalar weighs them. None: from 0 on.
        sizes: for each output, (B, rank - 1) the sizes of each row's valid part. None: all is valid.
    """
    floats = [i for i, x in enumerate(batch.tensors) if keras.backend.is_float_dtype(x.dtype.name)]
    trained, others = layer.trainable_variables, layer.non_trainable_variables
    rows = np.arange(len(batch)) if rows is None else rows

    def function(values: list, values_of_others: list, tensors: list) -> tuple[Any, Any]:
        tensors = list(tensors)
        for i, value in zip(floats, values[len(trained) :], strict=True):
            tensors[i] = value
        state = [*zip(trained, values, strict=False), *zip(others, values_of_others, strict=True)]
        with keras.StatelessScope(state, collect_losses=True) as scope:
            outputs = tree.flatten(layer(batch.inputs(tensors), training=training))
            masks = OutputMasks()(outputs)
            losses = list(layer.losses)
            variables = [scope.get_current_value(v) for v in others]
        scalar = ops.zeros((), "float32")
        for i, y in enumerate(outputs):
            if keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype)):
                y = y if sizes is None else ops.where(inside(sizes[i], tuple(y.shape)), y, ops.zeros_like(y))
                scalar += ops.cast(ops.sum(y * ops.cast(_weights(rows, tuple(y.shape)), y.dtype)), "float32")
        return scalar, (outputs, masks, losses, variables)

    tensors = list(map(ops.convert_to_tensor, batch.tensors))
    values = [*(v.value for v in trained), *(tensors[i] for i in floats)]
    arguments = (values, [v.value for v in others], tensors)
    slopes: list[Any] = []
    if gradients:
        slopes, measured = execution.compiled(execution.gradients(function), mode)(*arguments)
    else:
        measured = execution.compiled(lambda *a: function(*a)[1], mode)(*arguments)
    outputs, masks, losses, variables = execution.to_numpy(measured)
    slopes = execution.to_numpy(slopes)
    masks = [m if m.ndim else None for m in masks]
    by_input = dict(zip(floats, slopes[len(trained) :], strict=False))
    input_slopes = [by_input.get(i) for i in range(len(batch.arrays))]
    return Measured(outputs, masks, losses, variables, input_slopes, slopes[: len(trained)])


def inside(sizes: np.ndarray, shape: tuple) -> np.ndarray:
    """Returns which elements of an array (B, ...) lie within each row's sizes (B, k) of the k axes behind the first."""
    valid = np.ones(shape, bool)
    for axis, size in enumerate(sizes.T, 1):
        valid &= np.expand_dims(np.arange(shape[axis]) < size[:, None], [a for a in range(1, len(shape)) if a != axis])
    return valid


def _weights(rows: np.ndarray, shape: tuple) -> np.ndarray:
    """Returns a weight for each element of an array (B, ...), the same whatever padding is around it."""
    place = np.indices(shape, sparse=True)
    return np.cos(
        1.7 * np.expand_dims(rows, list(range(1, len(shape)))) + sum((0.7 + a) * x for a, x in enumerate(place[1:]))
    )


@contextlib.contextmanager
def attempt(law: str, layer: Any, what: str) -> Iterator[None]:
    """Turns an error under it into a law broken."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{law}: {describe(layer)} fails {what}: {error}") from error


def describe(layer: Any) -> str:
    """Returns how messages name a layer."""
    return f"{type(layer).__name__} {layer.name!r}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Says of one layer and law whether numbers agree.

    Attributes:
        law: its name.
        layer: the layer.
        atol: differences up to `atol + rtol * (the largest number expected)` are none.
        rtol: see there.
    """

    law: str
    layer: Any
    atol: float
    rtol: float

    def fail(self, what: str) -> None:
        """Raises."""
        raise AssertionError(f"{self.law}: {describe(self.layer)} {what}")

    def same(self, what: str, expected: Any, received: Any, when: str, rows: Any = None) -> None:
        """Raises unless two arrays agree, with the place of the largest difference; `rows` name their first axis."""
        expected, received = np.asarray(expected), np.asarray(received)
        if expected.shape != received.shape:
            self.fail(f"changes the shape of {what} from {expected.shape} to {received.shape} {when}.")
        expected, received = expected.astype("float64"), received.astype("float64")
        finite = np.abs(expected[np.isfinite(expected)])
        tolerance = self.atol + self.rtol * finite.max(initial=0)
        if np.allclose(received, expected, rtol=0, atol=tolerance, equal_nan=True):
            return
        with np.errstate(invalid="ignore"):
            difference = np.abs(received - expected)
        equal = (expected == received) | (np.isnan(expected) & np.isnan(received))
        difference = np.where(equal, 0, np.nan_to_num(difference, nan=np.inf))
        place = np.unravel_index(np.argmax(difference), difference.shape)
        named = tuple(map(int, place if rows is None else (rows[place[0]], *place[1:])))
        at = f" at {list(named)}" if named else ""
        by = f"from {expected[place]:.6g} to {received[place]:.6g}, by {difference[place]:.3g}"
        self.fail(f"changes {what}{at} {by}, {when}. The tolerance is {tolerance:.3g}.")
