"""What a model's own masks make of its inputs."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx.audit.comparison import Reference
from keras_seqx.audit.inputs import NOISE, Batch, Lengths
from keras_seqx.audit.trace import Recording, operations, same

Sources = dict[int, list[int]]


def mask_sources(first_run: Recording, leaves: list, time: list[bool]) -> Sources:
    """Returns the calls that made a mask, and the inputs each of them made it of."""
    sources = {}
    for number, call in enumerate(first_run.calls):
        if _first(call.output_masks) is not None and _first(call.masks) is None:
            own = [n for n, leaf in enumerate(leaves) if time[n] and any(same(leaf, t) for t in call.inputs)]
            steps = _first(call.output_masks).shape[1]
            sources[number] = own or [n for n, leaf in enumerate(leaves) if time[n] and leaf.shape[1] == steps]
    return sources


def own_lengths(first_run: Recording, sources: Sources, leaves: list, time: list[bool]) -> Lengths:
    """Returns the lengths that the model's masks give to its inputs, all steps where they give none."""
    found: Lengths = [
        np.full(len(leaf), leaf.shape[1]) if is_sequence else None
        for leaf, is_sequence in zip(leaves, time, strict=True)
    ]
    for number, inputs in sources.items():
        mask = ops.convert_to_numpy(_first(first_run.calls[number].output_masks))
        last = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)
        for n in inputs:
            if mask.shape == leaves[n].shape[:2]:
                found[n] = np.where(mask.any(axis=1), last, 1)
    return found


def run_padded(
    model: keras.Model, batch: Batch, extra: int, reference: Reference, sources: Sources
) -> tuple[Recording, list]:
    """Returns the run on inputs padded with the loudest values that the model's masks tell apart, and these values.

    That is noise where a mask is made of lengths, else the value of a Masking layer, or 0.
    """
    values = [layer.mask_value for layer in operations(model) if isinstance(layer, keras.layers.Masking)]
    heard = {n for inputs in sources.values() for n in inputs}
    queues = {n: [*(values if batch.leaves[n].dtype.kind == "f" else []), 0] for n in heard}
    fills = [
        NOISE if n in heard or (leaf is not None and leaf.dtype.kind == "f") else 0
        for n, leaf in enumerate(batch.leaves)
    ]
    while True:
        run = Recording(model, batch.padded(extra, fills), reference)
        unseen = {
            n for number, inputs in sources.items() if _spills(run, number, reference) for n in inputs if queues[n]
        }
        if not unseen:
            return run, fills
        for n in unseen:
            fills[n] = queues[n].pop(0)


def _spills(run: Recording, number: int, reference: Reference) -> bool:
    """Returns whether the masks of a call are true at padding."""
    masks = run.calls[number].output_masks
    matches = reference.match(number, "output_masks", masks)
    pairs = zip(masks, matches, strict=True)
    return any(match is not None and np.any(ops.convert_to_numpy(mask) & ~match.valid) for mask, match in pairs)


def _first(masks: list) -> Any:
    return next((mask for mask in masks if mask is not None), None)
