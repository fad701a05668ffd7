"""The laws of a batch: padding changes nothing, and rows do not influence each other."""

from typing import Any

import keras
import numpy as np

from keras_seqx._core import errors
from keras_seqx.testing import execution
from keras_seqx.testing.batches import Batch
from keras_seqx.testing.measuring import Comparison, Measured, attempt, build, inside, measure


def check_padding_invariance(
    layer: keras.layers.Layer,
    inputs: Any,
    *,
    lengths: Any,
    extra_padding: int = 3,
    padding_value: Any = None,
    attach_masks: bool = True,
    training: bool = False,
    gradients: bool = True,
    mode: str | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Raises unless padding changes nothing.

    A batch with `extra_padding` more steps than its longest row is compared with the same batch without them and, in
    inference, with its rows alone and unpadded (rows of equal length together). Compared are the outputs at valid
    steps, the outputs' masks, the losses that the layer adds, the gradients of a smooth scalar of the valid outputs,
    and the non-trainable variables, the statistics of a `BatchNormalization` for example, as the call would leave
    them. Masks must be false, and gradients by the inputs zero, at padded steps. Which part of an output is valid is
    seen by the rows alone: what is longer in the padded batch is padding. The layer's variables stay as they are.

    Args:
        layer: a layer or model whose first argument takes the inputs. It is built if it was not.
        inputs: array (B, T, ...), or any structure of them. What stands behind a row's length is not used.
        lengths: integers (B,) within [1, T], the valid steps of each row; or a structure like `inputs` of them, with
            None for an input without a time axis, which is passed as it is.
        extra_padding: integer of at least 1. It, and no length, decides how many shapes are compiled.
        padding_value: what padding holds. Defaults to None: noise ten times larger than the data, or, for
            integers, numbers from the data. Give 0 for an `Embedding(mask_zero=True)`.
        attach_masks: whether the inputs carry their Keras masks. False for a layer that makes its own, from ids or
            from an input of lengths.
        training: passed to the layer. In training, rows are not compared with rows alone, as the statistics of a
            batch are its own. Dropout must be off: what it draws depends on the shape.
        gradients: whether gradients are compared too.
        mode: one of `modes()`. Defaults to None: the quickest.
        atol: differences up to `atol + rtol * (the largest number expected)` are none.
        rtol: see there.

    Raises:
        AssertionError: padding changes something. The message says what, where and by how much.
        ValueError: `inputs` have no common B; `lengths` do not fit them or are all None; there is no such mode.
        TypeError: lengths that are no integers.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx.testing import check_padding_invariance
    >>> x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    >>> check_padding_invariance(keras.layers.LSTM(4), x, lengths=[5, 2, 4])
    >>> try:
    ...     check_padding_invariance(keras.layers.GlobalMaxPooling1D(), x, lengths=[5, 2, 4])
    ... except AssertionError as error:
    ...     print(str(error).split(" at ")[0])
    padding_invariance: GlobalMaxPooling1D 'global_max_pooling1d' changes output 0
    """
    law = "padding_invariance_in_training" if training else "padding_invariance"
    owner = "check_padding_invariance"
    batch = Batch.of(owner, inputs, lengths, attach_masks, padding_value)
    if all(n is None for n in batch.lengths):
        fix = "Give the valid steps of each row"
        raise ValueError(errors.message(owner, "lengths", "given for an input or more", lengths, fix))
    fix = "It is how many steps are added behind the longest row"
    extra = errors.positive_integer(owner, "extra_padding", extra_padding, fix)
    mode = execution.choose_mode(owner, mode)
    compare = Comparison(law, layer, atol, rtol)

    with attempt(law, layer, "on the batch"):
        build(layer, batch)
    groups, alone = batch.groups(), []
    for rows in groups:
        with attempt(law, layer, f"on rows {rows.tolist()} alone"):
            part = batch.take(rows).pad()
            alone.append(measure(layer, part, mode, gradients=gradients and not training, rows=rows))
    sizes = _sizes(compare, groups, alone)
    options: dict[str, Any] = {"training": training, "gradients": gradients, "sizes": sizes}
    with attempt(law, layer, "on the batch"):
        together = measure(layer, batch.pad(), mode, **options)
    with attempt(law, layer, f"with {extra} more padded steps"):
        padded = measure(layer, batch.pad(extra), mode, **options)

    when = f"when {extra} padded steps are added to the batch"
    for i, (loss, padded_loss) in enumerate(zip(together.losses, padded.losses, strict=True)):
        compare.same(f"loss {i}", loss, padded_loss, when)
    for v, value, padded_value in zip(layer.non_trainable_variables, together.variables, padded.variables, strict=True):
        compare.same(f"variable {v.path!r}", value, padded_value, when)
    _same_parts(compare, batch, [np.arange(len(batch))], [together], padded, sizes, when)
    if not training:
        _same_parts(compare, batch, groups, alone, padded, sizes, "beside the rows alone and unpadded")


def _same_parts(
    compare: Comparison,
    batch: Batch,
    groups: list[np.ndarray],
    parts: list[Measured],
    padded: Measured,
    sizes: list[np.ndarray],
    when: str,
) -> None:
    """Raises unless groups of rows, each with less padding or none, make what they make in the padded batch."""
    for rows, part in zip(groups, parts, strict=True):
        for i, size in enumerate(sizes):
            _same_rows(compare, f"output {i}", part.outputs[i], padded.outputs[i], rows, size, when)
            mask, padded_mask = part.masks[i], padded.masks[i]
            if padded_mask is not None:
                mask = np.ones(part.outputs[i].shape[: padded_mask.ndim], bool) if mask is None else mask
                size = size[:, : padded_mask.ndim - 1]
                _same_rows(compare, f"the mask of output {i}", mask, padded_mask, rows, size, when, zero_outside=True)
        for i, n in enumerate(batch.lengths):
            slope, padded_slope = part.input_slopes[i], padded.input_slopes[i]
            if slope is not None and padded_slope is not None:
                size = np.empty((len(batch), 0), int) if n is None else n[:, None]
                what = f"the gradient by input {i}"
                _same_rows(compare, what, slope, padded_slope, rows, size, when, zero_outside=True)
    for i, slope in enumerate(padded.weight_slopes):
        whole = np.sum([part.weight_slopes[i] for part in parts], axis=0, dtype="float64")
        compare.same(f"the gradient by {compare.layer.trainable_variables[i].path!r}", whole, slope, when)


def _sizes(compare: Comparison, groups: list[np.ndarray], parts: list[Measured]) -> list[np.ndarray]:
    """Returns for each output the sizes of each row's valid part, (B, rank - 1), which rows alone show."""
    sizes = [np.empty((sum(map(len, groups)), max(y.ndim - 1, 0)), int) for y in parts[0].outputs]
    for rows, part in zip(groups, parts, strict=True):
        for i, (size, y) in enumerate(zip(sizes, part.outputs, strict=True)):
            if y.shape[:1] != rows.shape:
                compare.fail(f"gives {len(rows)} rows an output {i} of shape {y.shape}.")
            size[rows] = y.shape[1:]
    return sizes


def _same_rows(
    compare: Comparison,
    what: str,
    expected: np.ndarray,
    received: np.ndarray,
    rows: np.ndarray,
    sizes: np.ndarray,
    when: str,
    zero_outside: bool = False,
) -> None:
    """Raises unless some rows agree within their sizes (B, k) along the axes behind the first."""
    received, sizes = received[rows], sizes[rows]
    cut = received[tuple(map(slice, expected.shape))] if received.ndim == expected.ndim else received
    valid = inside(sizes, expected.shape)
    if cut.shape == expected.shape:
        expected, cut = np.where(valid, expected, 0), np.where(valid, cut, 0)
    compare.same(what, expected, cut, when, rows)
    if zero_outside:
        outside = np.where(inside(sizes, received.shape), 0, received)
        compare.same(f"{what} at padded steps", np.zeros_like(outside), outside, when, rows)


def check_batch_independence(
    layer: keras.layers.Layer,
    inputs: Any,
    *,
    lengths: Any = None,
    attach_masks: bool = True,
    mode: str | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Raises unless, in inference, no row's outputs depend on the other rows.

    The rows are put in reverse order, and every other row is replaced by noise.

    Args:
        layer: a layer or model whose first argument takes the inputs.
        inputs: array (B, ...) or any structure of them, B >= 2.
        lengths: as in `check_padding_invariance`. Defaults to None: the inputs carry no masks.
        attach_masks: see there.
        mode: see there.
        atol: see there.
        rtol: see there.

    Raises:
        AssertionError: a row's outputs depend on another row.
        ValueError: there is only one row; else as `check_padding_invariance`.
        TypeError: lengths that are no integers.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx.testing import check_batch_independence
    >>> x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    >>> check_batch_independence(keras.layers.BatchNormalization(), x)
    """
    owner, law = "check_batch_independence", "batch_independence"
    batch = Batch.of(owner, inputs, lengths, attach_masks)
    if len(batch) < 2:
        shapes, fix = [x.shape for x in batch.arrays], "Give rows that could influence each other"
        raise ValueError(errors.message(owner, "inputs", "of at least 2 rows", shapes, fix, "their shapes"))
    mode = execution.choose_mode(owner, mode)
    compare, rows = Comparison(law, layer, atol, rtol), np.arange(len(batch))

    def outputs(batch: Batch, what: str) -> list[np.ndarray]:
        with attempt(law, layer, what):
            build(layer, batch)
            return measure(layer, batch, mode).outputs

    expected = outputs(batch, "on the batch")
    others = [
        (rows, rows[::-1], outputs(batch.take(rows[::-1]), "on the rows in reverse"), "when the rows are reversed"),
        *(
            (kept, kept, outputs(batch.replace(np.setdiff1d(rows, kept)), "on other rows"), "when other rows change")
            for kept in (rows[::2], rows[1::2])
        ),
    ]
    for at, now, received, when in others:
        for i, (a, b) in enumerate(zip(expected, received, strict=True)):
            compare.same(f"output {i}", a[now], b[at], when, rows[now])
