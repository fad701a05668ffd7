"""Predictions on sequences of different lengths, unpadded and in the order of the data."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_seqx import _checks
from keras_seqx.data.epochs import Epochs, assemble
from keras_seqx.data.options import OWNER
from keras_seqx.data.plan import plan_epoch


def predict(epochs: Epochs, model: Any, verbose: Any) -> Any:
    """Returns a model's outputs for all sequences; see `LengthBucketing.predict`."""
    if epochs.buckets.dropped:
        fix = "Say `overlong='truncate'`, or leave these sequences out"
        text = f"one that keeps all sequences, {epochs.buckets.dropped} have no predictions otherwise"
        raise ValueError(_checks.message(OWNER, "overlong", text, epochs.options.overlong, fix))
    remainder = "fill" if epochs.options.remainder == "fill" else "keep"
    options = dataclasses.replace(epochs.options, remainder=remainder, shuffle=False, num_shards=1)
    plan = plan_epoch(epochs.buckets, options, epochs.key, 0)
    bar = keras.utils.Progbar(len(plan), verbose=1 if verbose == "auto" else verbose)
    rows, padded, outputs = [], [], []
    for index in range(len(plan)):
        x = assemble(epochs.components, plan, index, 0, False)[0]
        made = model.predict_on_batch(x)
        rows.append(plan.sequences(index, 0))
        padded.append(plan.padded[index])
        outputs.append(keras.tree.flatten(made))
        if verbose:
            bar.update(index + 1)
    leaves = [
        _in_order(list(leaf), rows, np.array(padded), epochs, _time_is_open(model, number, padded))
        for number, leaf in enumerate(zip(*outputs, strict=True))
    ]
    return keras.tree.pack_sequence_as(made, leaves)


def _in_order(batches: list, rows: list, padded: np.ndarray, epochs: Epochs, per_step: bool | None) -> Any:
    """Returns one output of all sequences, in their order.

    Args:
        batches: the output of each batch, (B, ...).
        rows: the sequences of each batch.
        padded: (M, C) the lengths that each batch was padded to.
        epochs: the data.
        per_step: whether the output has a step for each of the first length; None where that is to be found out.

    Returns:
        A list of arrays (T, ...), or an array (R, ...) if the output has no steps.
    """
    sizes = np.array([batch.shape[1] if batch.ndim > 1 else -1 for batch in batches])
    axes = [axis for axis in _axes(epochs) if (sizes == padded[:, axis]).all()]
    if per_step is False or not axes:
        if len(set(sizes)) > 1:
            sizes_seen, lengths = sorted(set(sizes.tolist())), np.unique(padded, axis=0).tolist()
            raise ValueError(
                f"{OWNER}: the output of `model` must have a step for each step of its input, or always as many. It "
                f"has {sizes_seen} for inputs padded to {lengths}. Predict what has other steps batch by batch."
            )
        stacked = np.empty((len(epochs.components.lengths), *batches[0].shape[1:]), batches[0].dtype)
        for batch, sequences in zip(batches, rows, strict=True):
            stacked[sequences] = batch[: len(sequences)]
        return stacked
    lengths = epochs.components.lengths[:, axes[0]]
    unpadded: list = [None] * len(lengths)
    for batch, sequences in zip(batches, rows, strict=True):
        for place, sequence in enumerate(sequences):
            unpadded[sequence] = batch[place, : lengths[sequence]].copy()
    return unpadded


def _axes(epochs: Epochs) -> list[int]:
    """Returns the lengths that an output may have: rather those of `y` than those of `x`."""
    parts = epochs.components.parts
    of_y = [c.axis for c in parts["y"].components if c.axis is not None] if "y" in parts else []
    return list(dict.fromkeys([*of_y, *range(epochs.components.lengths.shape[1])]))


def _time_is_open(model: Any, number: int, padded: list) -> bool | None:
    """Returns whether an output's first axis after the batch follows the input's, None where the model does not say."""
    if len(np.unique(padded, axis=0)) > 1:
        return None  # the sizes of the outputs say it
    try:
        inputs, shapes = model.inputs, [output.shape for output in model.outputs]
    except (AttributeError, ValueError):
        return None
    if not any(len(i.shape) > 1 and i.shape[1] is None for i in inputs or ()):
        return None
    return len(shapes[number]) > 1 and shapes[number][1] is None
