"""Watches a model at work: what every layer got and gave, call by call."""

import contextlib
import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core.keras_internals import get_mask, patched_call, set_mask
from keras_seqx.audit.comparison import Match, Reference


def with_mask(tensor: Any, mask: Any) -> Any:
    """Returns a copy of an eager tensor that carries `mask`."""
    copy = ops.convert_to_tensor(ops.convert_to_numpy(tensor).copy(), tensor.dtype)
    set_mask(copy, ops.convert_to_tensor(mask, "bool"))
    return copy


@dataclasses.dataclass
class Call:
    """One call of one layer or operation.

    Attributes:
        layer: what was called.
        name: its name, after those of the nested models that called it.
        owner: the model that called it.
        args: the positional and the keyword arguments.
        inputs: the tensors among them.
        sources: for each of them the number of the call it came from; None for an input of the model and for a mask,
            and -1 where no call gave it, so that operations in the owner's `call` made it.
        masks: the mask that each of them carried, or None.
        came: their values as they came, before they got the reference's.
        input_matches: what became of each by padding, None where it has no counterpart.
        missing_masks: the masks that should have come with padded ones, by their place, where none came or a wrong
            one; None if it is not axis 1 that is padded.
        outputs: the values that were computed.
        output_matches: what became of each of them.
        returned: the tensors that the model went on with.
        output_masks: the mask that each of them carried, or None.
        drops_input_masks: whether it took the mask off its inputs, as attention does; then they come from here.
    """

    layer: Any
    name: str
    owner: keras.Model
    args: Any
    inputs: list
    sources: list
    masks: list
    came: list
    input_matches: list[Match | None]
    missing_masks: dict[int, Any] = dataclasses.field(default_factory=dict)
    outputs: list = dataclasses.field(default_factory=list)
    output_matches: list[Match | None] = dataclasses.field(default_factory=list)
    returned: list = dataclasses.field(default_factory=list)
    output_masks: list = dataclasses.field(default_factory=list)
    drops_input_masks: bool = False


class Refused(Exception):
    """A model did not run; the cause is what was raised.

    Attributes:
        where: the name of the layer whose `call` raised, or None.
        number: the number of the call that it stopped at.
        shapes: the shapes of the model's inputs.
        why: what was raised, without what Keras adds to it.
    """

    def __init__(self, where: str | None, number: int, shapes: list, why: str):
        super().__init__(where, number, shapes, why)
        self.where, self.number, self.shapes, self.why = where, number, shapes, why


class Recording:
    """One eager run of a model.

    With a `reference`, every call gets the reference's values in the valid part of its inputs, whatever came before it:
    each layer is judged alone.

    Attributes:
        x: what the model was given.
        calls: the calls, in order; one last stands for the model itself, what it returns being its inputs.
        outputs: what the model returned, as it is structured.
    """

    def __init__(self, model: keras.Model, x: Any, reference: Reference | None = None):
        self.calls: list[Call] = []
        self._reference = reference
        self.x = x
        self._maker: dict[int, int] = {}
        self._busy = False
        self._models = [model]
        self._raised: tuple[str | None, Exception] | None = None
        with contextlib.ExitStack() as stack:
            for layer in operations(model):
                watch = self._enter if isinstance(layer, keras.Model) else self._call
                stack.enter_context(patched_call(layer, functools.partial(watch, layer)))
            try:
                self.outputs = model(tree.map_structure(_to_tensor, x), training=False)
            except Exception as error:
                shapes = [np.shape(leaf) for leaf in tree.flatten(x)]
                # As the layer raised it: Keras raises another error in its place, without its cause.
                where, raised = self._raised or (None, error)
                raise Refused(where, len(self.calls), shapes, f"{type(raised).__name__}: {raised}") from raised
        call, leaves = self._arrive(model, model.name, model, self.outputs)
        self.outputs = tree.pack_sequence_as(self.outputs, leaves)
        self.calls.append(call)

    def _enter(self, model: keras.Model, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Stands for the `call` of a nested model."""
        if self._busy:
            return original(*args, **kwargs)
        self._models.append(model)
        try:
            return original(*args, **kwargs)
        finally:
            self._models.pop()

    def _call(self, layer: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Stands for the `call` of a layer."""
        if self._busy:  # inside another layer, maybe in its loop
            return original(*args, **kwargs)
        name = "/".join([*(model.name for model in self._models[1:]), layer.name])
        record, leaves = self._arrive(layer, name, self._models[-1], (args, kwargs))
        record.args = args, kwargs = tree.pack_sequence_as((args, kwargs), leaves)
        self._busy = True
        try:
            outputs = original(*args, **kwargs)
        except Exception as error:
            self._raised = name, error
            raise
        finally:
            self._busy = False
        bare = [t for t, mask in zip(record.inputs, record.masks, strict=True) if get_mask(t) is not mask]
        self._maker.update((id(tensor), len(self.calls)) for tensor in bare)
        record.drops_input_masks = bool(bare)
        leaves = tree.flatten(outputs)
        # Copied, because on torch a later layer may change them in place.
        record.outputs = [ops.convert_to_numpy(leaf).copy() for leaf in leaves if ops.is_tensor(leaf)]
        leaves, record.returned, record.output_matches = self._align("outputs", leaves)
        self._maker.update((id(tensor), len(self.calls)) for tensor in record.returned)
        self.calls.append(record)
        return tree.pack_sequence_as(outputs, leaves)

    def _arrive(self, layer: Any, name: str, owner: keras.Model, args: Any) -> tuple[Call, list]:
        if self.calls:  # Keras has attached their masks by now, and the next layer may strip them off.
            self.calls[-1].output_masks = [get_mask(tensor) for tensor in self.calls[-1].returned]
        paths, flat = zip(*tree.flatten_with_path(args), strict=True)
        tensors = [leaf for leaf in flat if ops.is_tensor(leaf)]
        sources = [
            None if len(path) > 1 and str(path[1]).endswith("mask") else self._source(leaf)
            for path, leaf in zip(paths, flat, strict=True)
            if ops.is_tensor(leaf)
        ]
        came = [ops.convert_to_numpy(tensor).copy() for tensor in tensors]
        leaves, inputs, input_matches = self._align("inputs", list(flat))
        call = Call(layer, name, owner, args, inputs, sources, [get_mask(t) for t in tensors], came, input_matches)
        if any(input_matches) and self._reference is not None:
            wrong = self._reference.wrong(len(self.calls), "masks", call.masks, tensors)
            call.missing_masks = {
                n: match.steps
                for n, (match, mask) in enumerate(zip(input_matches, call.masks, strict=True))
                if match is not None and match.padded and (mask is None or wrong[n])
            }
        return call, leaves

    def again(self, number: int) -> list[Match | None]:
        """Returns how what came to a call matches what came to it in the reference."""
        assert self._reference is not None
        return self._reference.match(number, "came", self.calls[number].came)

    def _source(self, tensor: Any) -> int | None:
        if id(tensor) in self._maker:
            return self._maker[id(tensor)]
        if any(same(x, tensor) for x in tree.flatten(self.x) if x is not None):
            return None
        # By value, because Keras may have cast it on the way.
        made = ((n, own) for n, call in reversed(list(enumerate(self.calls))) for own in call.returned)
        return next((n for n, own in made if own.dtype != tensor.dtype and same(own, tensor)), -1)

    def _align(self, side: str, leaves: list) -> tuple[list, list, list[Match | None]]:
        """Returns `leaves` with the reference's values, the tensors among them, and how these matched."""
        places = [place for place, leaf in enumerate(leaves) if ops.is_tensor(leaf)]
        tensors = [leaves[place] for place in places]
        matches: list[Match | None] = [None] * len(places)
        if self._reference is not None and len(self.calls) in self._reference.calls:
            matches = self._reference.match(len(self.calls), side, tensors)
            leaves = list(leaves)
            for n, match in enumerate(matches):
                if match is not None and match.change:
                    aligned = ops.convert_to_tensor(match.aligned, tensors[n].dtype)
                    if get_mask(tensors[n]) is not None:
                        set_mask(aligned, get_mask(tensors[n]))
                    leaves[places[n]] = tensors[n] = aligned
        return leaves, tensors, matches


def operations(model: keras.Model) -> list[Any]:
    """Returns the layers and operations that a model calls, nested models and what is in them included, each once."""
    found = {}
    for layer in getattr(model, "operations", model.layers):
        if not isinstance(layer, keras.layers.InputLayer):
            found[id(layer)] = layer
        if isinstance(layer, keras.Model):
            found.update((id(part), part) for part in operations(layer))
    return list(found.values())


def data_calls(run: Recording) -> set[int]:
    """Returns the calls that a run's outputs are made of; the others only make masks."""
    found = {n for n, call in enumerate(run.calls) if isinstance(call.layer, keras.Layer)}
    for number in reversed(range(len(run.calls))):
        if number in found:
            found.update(source for source in run.calls[number].sources if source is not None and source >= 0)
    return found


def models(model: keras.Model) -> list[keras.Model]:
    """Returns a model and those nested in it."""
    return [model, *(layer for layer in operations(model) if isinstance(layer, keras.Model))]


def same(x: Any, y: Any) -> bool:
    """Returns whether two arrays or tensors have the same values, but for their dtype."""
    return tuple(x.shape) == tuple(y.shape) and np.allclose(
        ops.convert_to_numpy(x), ops.convert_to_numpy(y), rtol=1e-2, equal_nan=True
    )


def _to_tensor(x: Any) -> Any:
    return None if x is None else ops.convert_to_tensor(x)
