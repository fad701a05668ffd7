"""change_timesteps: a trained model at another length."""

import re
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors, keras_internals
from keras_seqx.transfer.timesteps import length_rules, model_inputs, rebuild
from keras_seqx.transfer.timesteps.length_rules import ENTRIES, FOLLOW, title
from keras_seqx.transfer.timesteps.rebuild import OWN_CODE, Rebuilding
from keras_seqx.transfer.timesteps.recompile import compile_like
from keras_seqx.transfer.transfer_weights import transfer_weights

OWNER = "change_timesteps"


def change_timesteps(
    model: keras.Model,
    timesteps: int | None = None,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    on_mismatch: str | dict[str, str] = "error",
) -> keras.Model:
    """Returns a trained model at another length: the same layers, weights, and compiled state with its optimizer.

    Everything that has the model's length follows it: inputs (B, T, ...), and (B, T) ids that become (B, T, D);
    `RepeatVector` and the steps of an `AutoregressiveDecoder`; the axis of a `Reshape` that is time; entries of other
    people's configs under a name such as `timesteps` or `max_length`. A layer that would stay at the old length
    raises an error with its name. A start frame, of one step beside longer inputs, stays one. An input of
    four or more axes is a sequence if a layer reads it step by step (an RNN, a `TimeDistributed`, a `Masking`), else a
    picture. Where inputs have several lengths, those as long as what a `RepeatVector` or a decoder writes belong to
    the output. `model` is left as it is.

    Args:
        model: a built Functional or Sequential model, nested as you like, or one of a class with `get_config`.
        timesteps: the steps of its inputs, an integer of at least 1. Defaults to None: any number.
        steps: the steps that it writes where that is no matter of its inputs, an integer of at least 1: of each
            `RepeatVector` and decoder that has another number than the inputs, or that of the inputs if there is none.
            Defaults to None: those of the inputs' length follow `timesteps`, others stay.
        batch_size: the batch axis of its inputs, which stateful models have fixed. Defaults to None: as it was.
        on_mismatch: what to do with weights whose shape depends on the length, as in `transfer_weights`: "error",
            "skip" (they keep their new initial values), "truncate" or "interpolate" (tables of positions), or a dict
            from layers to these.

    Returns:
        A new model of the same class, with names, frozen layers and precision kept. Its optimizer and its seeds go on
        where the model's are; the states of stateful layers and the metrics start at zero.

    Raises:
        ValueError: a layer cannot follow, for example a `Dense` that reads flattened time; its name and the reason are
            told. Inputs whose lengths leave open which is meant, `steps` without an output horizon, a model that is not
            built.
        TypeError: `model` is no Keras model; a length that is no integer.

    Example:

    >>> import keras
    >>> from keras_seqx import change_timesteps
    >>> autoencoder = keras.Sequential([
    ...     keras.Input((60, 5)),
    ...     keras.layers.Bidirectional(keras.layers.LSTM(8)),
    ...     keras.layers.RepeatVector(60),
    ...     keras.layers.LSTM(5, return_sequences=True),
    ... ])
    >>> longer = change_timesteps(autoencoder, 120)
    >>> longer.input_shape, longer.output_shape
    ((None, 120, 5), (None, 120, 5))
    """
    fix = "Give a number of steps, or None for {}"
    if not isinstance(model, keras.Model):
        text = errors.message(
            OWNER, "model", "a Keras model", model, "Wrap a layer into one: `keras.Sequential([layer])`"
        )
        raise TypeError(text)
    if timesteps is not None:
        timesteps = errors.positive_integer(OWNER, "timesteps", timesteps, fix.format("any"))
    if steps is not None:
        steps = errors.positive_integer(OWNER, "steps", steps, fix.format("those of the inputs"))
    if batch_size is not None:
        batch_size = errors.positive_integer(OWNER, "batch_size", batch_size, "Leave it out to keep the batch axis")
    if not model.built:
        raise ValueError(errors.message(OWNER, "model", "built", model.name, "Call it on a batch first"))
    with keras.saving.custom_object_scope(rebuild.objects(model)):
        if rebuild.is_graph(model):
            lengths, shapes = model_inputs.plan(model, model_inputs.of_graph(model), timesteps, steps, batch_size)
            work = Rebuilding(lengths)
            new = work.made[id(model)] = work.model(model, shapes)
        else:
            work, new = _constructed(model, timesteps, steps, batch_size)
        layers = _pairs(model, new)
        _check_parts(layers, work)
        variables = _settle(layers)
        compile_like(model, new, {id(old): new for old, new, _ in variables})
    if isinstance(on_mismatch, dict):  # parts that a user's code made again have new automatic names
        names = {old.name: after.name for old, after in layers}
        on_mismatch = {names.get(key, key): way for key, way in on_mismatch.items()}
    _transfer(model, new, work, variables, on_mismatch)
    for old, after, owner in variables:
        if not any(old is weight for weight in owner.weights):  # the state of a seed
            after.assign(np.array(ops.convert_to_numpy(old)))  # a copy: JAX deletes buffers that training is done with
    return new


def _constructed(model: Any, *arguments: int | None) -> tuple[Rebuilding, Any]:
    """Returns a copy of a model of a user's class, made from its config, and how it was made."""
    if getattr(model, "inputs", None):
        lengths, shapes = model_inputs.plan(model, model_inputs.of_graph(model), *arguments)
        work = Rebuilding(lengths)
        new = work.from_config(model)
        got = [tuple(x.shape) for x in new.inputs]
        if got != shapes:
            raise lengths.cannot_resize(model, f"makes inputs of {got} in its constructor, not {shapes}", OWN_CODE)
        return work, new
    build = model.get_build_config() or {}
    struct = build.get("input_shape", build.get("shapes_dict"))
    if struct is None:
        fix = "Call it on a batch, or implement `get_build_config`"
        raise ValueError(errors.message(OWNER, "model", "one that knows the shapes it was built on", model.name, fix))
    inputs = model_inputs.of_shapes(model, _shapes(struct))
    lengths, shapes = model_inputs.plan(model, inputs, *arguments)
    work = Rebuilding(lengths)
    new = work.from_config(model)
    past = [entrance.shape for entrance in inputs]
    # Nothing but its code limits such a model; where it is to take any length, it is built at the old and tried at
    # another one.
    build_at, try_at = ([_filled(a, b, more) for a, b in zip(shapes, past, strict=True)] for more in (0, 1))
    with work.refusing(model, [], []):
        outputs = [_call(new, struct, at, inputs) for at in (build_at, try_at)][-1]
    _check_parts(_pairs(model, new), work)
    for before, after in zip(_call(model, struct, past, inputs), outputs, strict=True):
        if len(after.shape) > 2 and work.stuck(before, after, [1]):
            raise lengths.cannot_resize(model, f"writes {lengths.old} steps, as before", OWN_CODE)
    return work, new


def _shapes(struct: Any) -> list[tuple]:
    """Returns the shapes in a structure of them, in order."""
    if isinstance(struct, dict):
        return [shape for key in sorted(struct) for shape in _shapes(struct[key])]
    if not all(size is None or isinstance(size, int) for size in struct):
        return [shape for part in struct for shape in _shapes(part)]
    return [tuple(struct)]


def _filled(shape: tuple, past: tuple, more: int) -> tuple:
    """Returns a shape with the old sizes, or some more, for those that are open now."""
    pairs = zip(shape, past, strict=True)
    return tuple(old + more if new is None and old is not None else new for new, old in pairs)


def _call(model: Any, struct: Any, shapes: list[tuple], inputs: list[model_inputs.ModelInput]) -> list:
    """Calls a model on symbols of some shapes; a new one is built by it."""
    tensors = [
        keras.KerasTensor(shape, dtype="int32" if entrance.kind == "ids" else model.compute_dtype)
        for shape, entrance in zip(shapes, inputs, strict=True)
    ]
    left = iter(tensors)

    def pack(part: Any) -> Any:
        if isinstance(part, dict):
            packed = {key: pack(part[key]) for key in sorted(part)}
            return {key: packed[key] for key in part}
        if not all(size is None or isinstance(size, int) for size in part):
            return type(part)(pack(inner) for inner in part)
        return next(left)

    packed = pack(struct)
    return tree.flatten(model.compute_output_spec(packed) if model.built else model(packed))


def _pairs(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Returns every layer of a model with its counterpart, owners first.

    Raises:
        ValueError: a layer that several others share has become several.
    """
    found: dict[int, tuple[Any, Any, Any]] = {}

    def walk(old: Any, new: Any, owner: Any) -> None:
        if id(old) in found:
            _, other, first = found[id(old)]
            if other is not new:
                fix = "Call it in the model itself: only there it stays one layer"
                context = f"{title(old)} is part of {title(first)} and of {title(owner)}"
                what = "a model in which no layers share a part"
                raise ValueError(errors.message(OWNER, "model", what, old.name, fix, context))
            return
        found[id(old)] = (old, new, owner)
        ours, theirs = (
            [*keras_internals.sublayers(layer, include_self=False, recursive=False)] for layer in (old, new)
        )
        named = {layer.name: layer for layer in theirs}
        if len(named) == len(theirs) and {layer.name for layer in ours} == set(named):
            theirs = [named[layer.name] for layer in ours]
        if [type(layer) for layer in ours] != [type(layer) for layer in theirs]:
            fix = "Make the same layers of the same config"
            context = f"{title(old)} consists of {len(ours)} layers, and made anew of {len(theirs)}"
            raise ValueError(errors.message(OWNER, "model", "made whole by its config", model_name, fix, context))
        for a, b in zip(ours, theirs, strict=True):
            walk(a, b, old)

    model_name = old.name
    walk(old, new, old)
    return [(old, new) for old, new, _ in found.values()]


def _check_parts(layers: list[tuple[Any, Any]], work: Rebuilding) -> None:
    """Raises if a part of a layer, made by its owner's code, stayed at the old length."""
    lengths = work.lengths
    for old, new in layers:
        n, after = length_rules.horizon_of(old), length_rules.horizon_of(new)
        if n is not None and after != lengths.moves.get(n, n):
            raise lengths.cannot_resize(
                old, f"writes {after} steps still, whatever the config of its owner says", OWN_CODE
            )
        if not lengths.changes or id(old) in work.made:
            continue
        fixed = None
        if isinstance(new, keras.layers.Reshape):
            fixed = new.target_shape[0]
        elif isinstance(new, keras.layers.InputLayer) and len(new.batch_shape) in (2, 3):
            fixed = new.batch_shape[1]
        elif not length_rules.is_keras(type(new)) and id(old) not in work.moved:
            fixed = next(
                (v for k, v in vars(new).items() if k in ENTRIES and type(v) is int and v == lengths.old), None
            )
        if fixed == lengths.old:
            raise lengths.cannot_resize(
                old, f"has the length {fixed} still, whatever the config of its owner says", OWN_CODE
            )


def _settle(layers: list[tuple[Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """Freezes what was frozen, keeps models' precision, and returns each variable, its counterpart and old layer."""
    variables = []
    for old, new in layers:
        if new.dtype_policy.name != old.dtype_policy.name:  # models' and inputs' configs do not say it
            new.dtype_policy = old.dtype_policy
        if new.trainable != old.trainable:
            new.trainable = old.trainable
        ours, theirs = _own(old), _own(new)
        if len(ours) != len(theirs):
            fix = "Make the same weights of the same config"
            context = f"{title(old)} has {len(ours)} variables, and made anew {len(theirs)}"
            raise ValueError(errors.message(OWNER, "model", "made whole by its config", old.name, fix, context))
        variables += [(a, b, old) for a, b in zip(ours, theirs, strict=True)]
    for old, new, _ in variables:
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    return variables


def _own(layer: Any) -> list:
    """Returns the variables of a layer that are in none of its parts."""
    parts = keras_internals.sublayers(layer, include_self=False, recursive=False)
    theirs = {id(v) for part in parts for v in part.variables}
    return [v for v in layer.variables if id(v) not in theirs]


def _transfer(model: Any, new: Any, work: Rebuilding, variables: list[tuple[Any, Any, Any]], on_mismatch: Any) -> None:
    """Gives the new model the weights and the optimizer's state, or says which layers cannot have theirs, and why."""
    states = {id(v) for *_, layer in variables for v in tree.flatten(getattr(layer, "states", None)) if v is not None}
    clashes = [(a, b, layer) for a, b, layer in variables if a.shape != b.shape and id(a) not in states]
    if clashes and on_mismatch == "error":
        raise _clash(clashes, work)
    if not model.weights:
        return
    trained = model.compiled and model.optimizer is not None and model.optimizer.built
    try:
        transfer_weights(model, new, on_mismatch=on_mismatch, include_optimizer=trained)
    except ValueError as error:
        if not clashes or "`on_mismatch`" in str(error).split(". Received")[0]:
            raise
        raise _clash(clashes, work) from error


def _clash(clashes: list[tuple[Any, Any, Any]], work: Rebuilding) -> ValueError:
    reasons: dict[int, str] = {}
    advice: dict[str, None] = {}
    for old, new, layer in clashes:
        shapes = f"its {re.split('[/.]', old.path)[-1]} {tuple(old.shape)} would be {tuple(new.shape)}"
        reason, fix = rebuild.reads_time(*work.calls.get(id(layer), ([], []))), rebuild.FIX_DENSE
        if not reason:
            table = work.moved.get(id(layer)) or not length_rules.is_keras(type(layer))
            reason = "holds a table of positions" if table else "has weights along the time axis"
            fix = f"Pass `on_mismatch={{{layer.name!r}: 'interpolate'}}`, 'truncate', or 'skip' to start it anew"
        reasons.setdefault(id(layer), f"{title(layer)} {reason}; {shapes}")
        advice[fix] = None
    context = "\n  ".join(["these layers hold the length in their weights", *reasons.values()])
    return ValueError(errors.message(OWNER, "timesteps", FOLLOW, work.lengths.new, "; or: ".join(advice), context))
