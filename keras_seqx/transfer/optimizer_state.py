"""An optimizer's variables: which belong to which weight, on both sides, and what is to become of them."""

import dataclasses
import functools
from typing import Any

import keras

from keras_seqx._core import errors, keras_internals
from keras_seqx.transfer.conversions import Inexact, Move, copy, resized
from keras_seqx.transfer.layer_weights import LayerWeights, Weight
from keras_seqx.transfer.sources import legacy_file, live_model, model_config
from keras_seqx.transfer.sources.source import File, Source

FIX = "Leave it out and let the optimizer start anew"
SEED = "seed_generator_state"
# What Keras 1 and 2 called the slots that today's optimizers keep as these attributes.
OLD_SLOTS = {
    "_momentums": ("m", "momentum"),
    "momentums": ("m", "momentum"),
    "_velocities": ("v", "rms", "velocity"),
    "_velocity_hats": ("vhat",),
    "_average_gradients": ("mg",),
    "_accumulators": ("accumulator",),
    "_iterations": ("iteration",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """One variable of an optimizer.

    Attributes:
        label: the optimizer's attribute that holds it, "_momentums".
        weight: the weight it belongs to, None for the step and the learning rate.
        variable: the variable.
    """

    label: str
    weight: Any
    variable: Any


def slots_of(optimizer: keras.optimizers.Optimizer) -> list[Slot]:
    """Returns the variables of a built optimizer, in Keras' order."""
    held: dict[int, tuple[str, Any]] = {}
    owners, prefix = [optimizer], ""
    while owners:
        owner = owners.pop()
        weights = keras_internals.trained_by(owner)
        for label, value in vars(owner).items():
            if isinstance(value, keras.Variable):
                held.setdefault(id(value), (prefix + label, None))
            elif isinstance(value, (list, tuple)) and label not in ("_variables", "_trainable_variables"):
                for i, item in enumerate(value):
                    if isinstance(item, keras.Variable) and len(value) == len(weights):
                        held.setdefault(id(item), (prefix + label, weights[i]))
        if isinstance(getattr(owner, "inner_optimizer", None), keras.optimizers.Optimizer):
            owners.append(owner.inner_optimizer)
            prefix += "inner_optimizer."
    found = [(v, *held.get(id(v), (prefix + v.name, None))) for v in optimizer.variables]
    return [Slot(label, weight, variable) for variable, label, weight in found]


def moves(
    source: Source, target: keras.Model, pairs: list[tuple[LayerWeights, LayerWeights]], weights: list[Move]
) -> list[Move]:
    """Returns what to do for every variable of the target's optimizer, and for its random states.

    Args:
        source: where it comes from.
        target: a compiled model.
        pairs: the units that belong together, of the source and of the target.
        weights: what is done for the weights; a slot goes where its weight goes.
    """
    optimizer = getattr(target, "optimizer", None)
    if optimizer is None:
        raise _refusal("the target is not compiled", "Compile the target first, with the source's optimizer")
    kind = _kind(source)
    kinds = [type(o).__name__ for o in (optimizer, getattr(optimizer, "inner_optimizer", None)) if o is not None]
    if kind is not None and kind not in kinds:
        fix = "Compile the target with the source's kind of optimizer"
        raise _refusal(f"the source has {kind}, the target {kinds[0]}", fix)
    if not optimizer.built:  # one like it shows what there will be, and leaves the target as it is
        optimizer = type(optimizer).from_config(optimizer.get_config())
        optimizer.build(target.trainable_variables)
    slots = slots_of(optimizer)
    if not isinstance(source.origin, File):
        find = _in_model(source.origin)
    elif source.origin.is_legacy:
        find = _in_old_file(source.origin)
    else:
        find = _in_file(source, source.origin, slots, pairs)
    by_target = {id(move.target.variable): move for move in weights}
    of_slots = [_move(slot, by_target.get(id(slot.weight)), find) for slot in slots]
    return of_slots + ([] if isinstance(source.origin, File) else _seeds(source.origin, target))


def _seeds(source: keras.Model, target: keras.Model) -> list[Move]:
    """Dropout goes on as well, where the two models draw in the same places; files do not keep random states."""
    ours, theirs = ([v for v in m.non_trainable_variables if v.name == SEED] for m in (source, target))
    if len(ours) != len(theirs):
        return []
    return [copy(*(live_model.weight_of(v, v.path) for v in pair)) for pair in zip(ours, theirs, strict=True)]


def _move(slot: Slot, of_weight: Move | None, find: Any) -> Move:
    variable = live_model.weight_of(slot.variable, "optimizer/" + slot.variable.path)
    if slot.weight is None:
        found = find(slot.label, None)
    else:
        if of_weight is None or of_weight.action not in ("copied", "cast", "truncated", "interpolated"):
            return Move(variable, None, "kept")
        found = find(slot.label, of_weight.source)
    if found is None:
        if slot.weight is None:
            return Move(variable, None, "kept")
        raise _refusal(f"the source's optimizer has nothing for {slot.variable.path!r}", FIX)
    try:
        if found.shape == variable.shape:
            return copy(found, variable)
        how = {"truncated": "truncate", "interpolated": "interpolate"}.get(of_weight.action if of_weight else "")
        move = resized(found, dataclasses.replace(variable, name="slot"), how) if how else None
    except Inexact:
        move = None
    if move is None:
        shapes = f"{slot.variable.path!r} has shape {variable.shape}, what the source has for it {found.shape}"
        raise _refusal(shapes, FIX)
    return dataclasses.replace(move, target=variable)


def _refusal(context: str, fix: str) -> ValueError:
    constraint = "left out where the optimizers do not agree"
    return ValueError(errors.message("transfer_weights", "include_optimizer", constraint, True, fix, context))


def _kind(source: Source) -> str | None:
    """Returns the class name of the source's optimizer, None where a file does not tell it."""
    if not isinstance(source.origin, File):
        optimizer = getattr(source.origin, "optimizer", None)
        if optimizer is None or not optimizer.built:
            fix = "Compile and train it first, or leave `include_optimizer` out"
            raise _refusal("the source has no optimizer that has been trained with", fix)
        return type(optimizer).__name__
    described = (source.config or {}).get("compile_config")
    described = described.get("optimizer") if isinstance(described, dict) else None
    if isinstance(described, dict):
        return model_config.kind_of(described) or None
    return described if isinstance(described, str) and described[:1].isupper() else None


def _in_model(model: keras.Model) -> Any:
    known = {(slot.label, id(slot.weight)): slot.variable for slot in slots_of(model.optimizer)}

    def find(label: str, weight: Weight | None) -> Weight | None:
        variable = known.get((label, id(weight.variable if weight is not None else None)))
        return None if variable is None else live_model.weight_of(variable, "optimizer/" + variable.path)

    return find


def _in_old_file(file: File) -> Any:
    known = legacy_file.optimizer_weights(file.listing, file.reader)
    if not known:
        raise _refusal("there is none in the file", FIX)

    def find(label: str, weight: Weight | None) -> Weight | None:
        keys = [(slot, weight.key if weight is not None else "") for slot in OLD_SLOTS.get(label, ())]
        return next((known[key] for key in keys if key in known), None)

    return find


def _in_file(source: Source, file: File, slots: list[Slot], pairs: list[tuple[LayerWeights, LayerWeights]]) -> Any:
    """Today's files number an optimizer's variables in the order of the model's weights.

    Whose they are is known where both models keep their weights in the same order, and only there.
    """
    listing, reader = file.listing, file.reader
    arrays = [name for name in listing.arrays if name.startswith("optimizer/vars/")]
    if not arrays:
        raise _refusal("there is none in the file", FIX)
    if len(arrays) != len(slots):
        fix = "Compile the target as the source was"
        raise _refusal(f"the source's optimizer has {len(arrays)} variables, the target's {len(slots)}", fix)
    file_paths = {unit.file_path for unit in source.units}
    if any(ours.file_path != theirs.file_path for ours, theirs in pairs) or len(file_paths) != len(pairs):
        context = "the file numbers the optimizer's variables in the order of its own model's weights"
        fix = "Pass the model itself, loaded by `keras.saving.load_model`, or leave `include_optimizer` out"
        raise _refusal(context, fix)
    partner = {id(w.variable): ours for s, t in pairs for ours, w in zip(s.weights, t.weights, strict=True)}
    places = {
        (slot.label, None if slot.weight is None else id(partner.get(id(slot.weight)))): f"optimizer/vars/{i}"
        for i, slot in enumerate(slots)
    }

    def find(label: str, weight: Weight | None) -> Weight | None:
        name = places.get((label, id(weight) if weight is not None else None))
        if name is None or name not in listing.arrays:
            return None
        info = listing.arrays[name]
        return Weight(name, info.shape, info.dtype, functools.partial(reader.read, name), key=name)

    return find
