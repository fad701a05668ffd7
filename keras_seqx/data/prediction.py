"""Predictions on sequences of different lengths, unpadded and in the order of the data."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_seqx._core import errors
from keras_seqx.audit.padding_check import warn_of_padding
from keras_seqx.data.feeding.finite import FiniteSource, collate
from keras_seqx.data.feeding.probe import make_probe
from keras_seqx.data.planning.epoch_plan import plan_epoch
from keras_seqx.data.planning.options import OWNER


def predict(source: FiniteSource, model: Any, verbose: Any) -> Any:
    """Returns a model's outputs for all sequences; see `LengthBucketing.predict`."""
    if isinstance(model, type) or not hasattr(model, "predict_on_batch"):
        raise TypeError(errors.message(OWNER, "model", "a Keras model", model, "Hand it the model that predicts"))
    if source.buckets.dropped:
        fix = "Say `overlong='truncate'`, or leave these sequences out"
        text = f"one that keeps all sequences, {source.buckets.dropped} have no predictions otherwise"
        raise ValueError(errors.message(OWNER, "overlong", text, source.options.overlong, fix))
    remainder = "fill" if source.options.remainder == "fill" else "keep"
    options = dataclasses.replace(source.options, remainder=remainder, shuffle=False, num_shards=1)
    plan = plan_epoch(source.buckets, options, source.seed, 0)
    bar = keras.utils.Progbar(len(plan), verbose=1 if verbose == "auto" else verbose)
    rows, padded, outputs = [], [], []
    for index in range(len(plan)):
        x = collate(source.fields, plan, index, 0, False)[0]
        made = model.predict_on_batch(x)
        if not index:
            probe = make_probe(source.fields, source.buckets, source.options, source.weighted)
            warn_of_padding("LengthBucketing.predict", model, probe, losses=False)
        rows.append(plan.sequences(index, 0))
        padded.append(plan.padded[index])
        outputs.append([output[plan.places(index, 0)] for output in keras.tree.flatten(made)])
        if verbose:
            bar.update(index + 1)
    shapes = _output_shapes(model)
    leaves = [
        _in_order(list(leaf), rows, np.array(padded), source, shapes[number] if shapes else None)
        for number, leaf in enumerate(zip(*outputs, strict=True))
    ]
    return keras.tree.pack_sequence_as(made, leaves)


def _in_order(batches: list, rows: list, padded: np.ndarray, source: FiniteSource, shape: tuple | None) -> Any:
    """Returns one output of all sequences, in their order.

    Args:
        batches: the output of each batch, (B, ...), without the rows that fill it.
        rows: the sequences of each batch.
        padded: (M, C) the lengths that each batch was padded to.
        source: the data.
        shape: what the model says of the output's shape; None where it does not.

    Returns:
        A list of arrays, each axis that follows a length cut to it, or an array (R, ...) if none does.
    """
    sizes = np.array([batch.shape[1:] for batch in batches])
    follows = {k: _length_behind(sizes[:, k], k, padded, source, shape) for k in range(sizes.shape[1])}
    if not any(axis is not None for axis in follows.values()):
        stacked = np.empty((len(source.fields.lengths), *sizes[0]), batches[0].dtype)
        for batch, sequences in zip(batches, rows, strict=True):
            stacked[sequences] = batch
        return stacked
    lengths = source.fields.lengths
    unpadded: list = [None] * len(lengths)
    for batch, sequences in zip(batches, rows, strict=True):
        for place, sequence in enumerate(sequences):
            cut = (slice(None if axis is None else lengths[sequence, axis]) for axis in follows.values())
            unpadded[sequence] = batch[place][tuple(cut)].copy()
    return unpadded


def _length_behind(
    sizes: np.ndarray, k: int, padded: np.ndarray, source: FiniteSource, shape: tuple | None
) -> int | None:
    """Returns which length an output's axis k behind the batch follows, None if it follows none."""
    fits = [axis for axis in _axes(source) if (sizes == padded[:, axis]).all()]
    if len(set(sizes)) > 1:
        if fits:
            return fits[0]
        sizes_seen, lengths = sorted(set(sizes.tolist())), np.unique(padded, axis=0).tolist()
        raise ValueError(
            f"{OWNER}: the output of `model` must have a step for each step of its input, or always as many. Its axis "
            f"{k + 1} has {sizes_seen} for inputs padded to {lengths}. Predict what has other steps batch by batch."
        )
    # All are as long, perhaps by chance. Where the model does not say, the first axis is time and others are not.
    follows = k == 0 if shape is None else shape[k + 1] is None
    return fits[0] if fits and follows else None


def _axes(source: FiniteSource) -> list[int]:
    """Returns the lengths that an output may have: rather those of `y` than those of `x`."""
    parts = source.fields.parts
    of_y = [c.axis for c in parts["y"].fields if c.axis is not None] if "y" in parts else []
    return list(dict.fromkeys([*of_y, *range(source.fields.lengths.shape[1])]))


def _output_shapes(model: Any) -> list[tuple] | None:
    """Returns the shapes of a model's outputs, None where it does not say which axes are open."""
    try:
        inputs, shapes = model.inputs, [output.shape for output in model.outputs]
    except (AttributeError, ValueError):
        return None
    return shapes if any(len(i.shape) > 1 and i.shape[1] is None for i in inputs or ()) else None
