"""The inputs of a model: which of them are sequences, and how long each becomes."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_seqx._core import errors, keras_internals
from keras_seqx.transfer.timesteps import length_rules
from keras_seqx.transfer.timesteps.length_rules import Lengths

STEPWISE = (keras.layers.RNN, keras.layers.TimeDistributed, keras.layers.Bidirectional, keras.layers.Masking)


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: how errors call it.
        shape: as the model has it, with the batch.
        kind: "steps" (B, T, ...); "ids" (B, T), to which a layer adds features; "flags" (B, T) as long as others;
            "still" for what has no time axis.
    """

    name: str
    shape: tuple
    kind: str

    @property
    def timed(self) -> bool:
        return self.kind in ("steps", "ids")


def of_graph(model: keras.Model) -> list[ModelInput]:
    """Returns the inputs of a Functional or Sequential model."""
    return [ModelInput(keras_internals.producer_of(x).name, tuple(x.shape), _kind(model, x)) for x in model.inputs]


def of_shapes(model: keras.Model, shapes: list[tuple]) -> list[ModelInput]:
    """Returns the inputs of a subclassed model, of which only shapes and layers are known."""
    parts = length_rules.parts(model)
    ids = any(isinstance(part, keras.layers.Embedding) for part in parts)
    deep = any(is_stepwise(part) for part in parts)
    kinds = {2: "ids" if ids else "still", 3: "steps"}
    return [
        ModelInput(f"inputs[{i}]", shape, kinds.get(len(shape), "steps" if deep and len(shape) > 3 else "still"))
        for i, shape in enumerate(shapes)
    ]


def is_stepwise(layer: Any) -> bool:
    """Returns whether a layer takes axis 1 for time, however many axes there are."""
    names = (length_rules.FOLDING, "keras_seqx>SequenceMask")
    return isinstance(layer, STEPWISE) or any(length_rules.is_a(layer, name) for name in names)


def _kind(model: keras.Model, x: keras.KerasTensor) -> str:
    rank = len(x.shape)
    if rank == 3:
        return "steps"
    if rank > 3:
        # (B, H, W, C) is a picture unless something reads it step by step.
        open_alone = x.shape[1] is None and None not in x.shape[2:]
        return "steps" if open_alone or any(is_stepwise(layer) for layer, _ in _readers(model, x)) else "still"
    if rank == 2:
        for layer, output in _readers(model, x):
            featured = len(output.shape) > 2 and output.shape[1] == x.shape[1]
            if featured and not isinstance(layer, keras.layers.RepeatVector):
                return "ids"
        return "still" if "float" in x.dtype else "flags"
    return "still"


def _readers(model: keras.Model, x: keras.KerasTensor) -> Iterator[tuple[Any, keras.KerasTensor]]:
    """Yields the layers that read a tensor, as it is or behind layers that keep its shape, and what they make of it."""
    for layer in getattr(model, "operations", model.layers):
        for node in keras_internals.nodes_of(layer):
            places = [i for i, tensor in enumerate(node.input_tensors) if tensor is x]
            if places and isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
                yield from _readers(layer, layer.inputs[min(places[0], len(layer.inputs) - 1)])
                continue
            for output in node.output_tensors if places else []:
                yield layer, output
                if output.shape == x.shape:
                    yield from _readers(model, output)


def plan(
    model: keras.Model,
    entrances: list[ModelInput],
    timesteps: int | None,
    steps: int | None,
    batch_size: int | None,
) -> tuple[Lengths, list[tuple]]:
    """Returns the old and new lengths of a model, and the shape that each of its inputs gets."""
    timed = [e for e in entrances if e.timed]
    if timesteps is not None and not timed:
        shapes = ", ".join(f"{e.name} {e.shape}" for e in entrances)
        fix = "Its inputs need a time axis, (B, T, D), or (B, T) ids that an Embedding reads"
        what = "None for a model whose inputs have no time axis"
        raise ValueError(errors.message("change_timesteps", "timesteps", what, timesteps, fix, shapes))
    fixed = _lengths(entrances)
    outputs = {x.shape[1]: [model] for x in getattr(model, "outputs", None) or [] if len(x.shape) > 2}
    written = {n: layers for n, layers in outputs.items() if n in fixed} if steps is not None else {}
    if len(fixed) > 1:  # inputs as long as what a decoder writes belong to the horizon
        main = set(fixed) - set(length_rules.output_lengths(model, None)) - set(written)
        if len(main) != 1:
            named = ", ".join(f"{name} has {n}" for n, names in fixed.items() for name in names)
            fix = "Pass `steps` too if one of them is as long as the output; or change it in the code that makes it"
            what = "meant for inputs of one length"
            raise ValueError(errors.message("change_timesteps", "timesteps", what, timesteps, fix, named))
    old = next(iter(main if len(fixed) > 1 else fixed), None)
    found = length_rules.output_lengths(model, old)
    if len(fixed) > 1:
        found = {**{n: layers for n, layers in written.items() if n != old}, **found}
    lengths = Lengths(old, timesteps, length_rules.moves(found, old, timesteps, steps), batch_size)
    return lengths, [_shape(e, lengths) for e in entrances]


def _lengths(entrances: list[ModelInput]) -> dict[int, list[str]]:
    """Returns the fixed lengths of a model's inputs, with their names; ids count where nothing else has a length."""
    for kind in ("steps", "ids"):
        timed = [e for e in entrances if e.kind == kind]
        longer = [e for e in timed if e.shape[1] != 1]  # one step beside many is a start frame
        alone = all(e.shape[1] == 1 for e in entrances if e.timed)
        fixed: dict[int, list[str]] = {}
        for entrance in timed if alone else longer:
            if entrance.shape[1] is not None:
                fixed.setdefault(entrance.shape[1], []).append(entrance.name)
        if fixed:
            return fixed
    return {}


def _shape(entrance: ModelInput, lengths: Lengths) -> tuple:
    batch, *rest = entrance.shape
    batch = lengths.batch_size or batch
    if entrance.kind != "still":
        steps = rest[0]
        if steps is not None and steps == lengths.old:
            rest[0] = lengths.new
        elif steps in lengths.moves:
            rest[0] = lengths.moves[steps]
        elif steps is None and lengths.old is None and entrance.timed:
            rest[0] = lengths.new
    return (batch, *rest)
