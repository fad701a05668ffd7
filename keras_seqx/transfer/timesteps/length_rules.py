"""What follows a model's length, and how: inputs, horizons, reshapes, entries of configs."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras

from keras_seqx._core import errors, keras_internals

DECODER = "keras_seqx>AutoregressiveDecoder"
FOLDING = "keras_seqx>MaskedTimeDistributed"
# Entries of other people's configs that say how long a sequence is.
ENTRIES = {
    *("sequence_length", "seq_length", "seq_len", "max_sequence_length", "max_length", "max_len", "maxlen", "length"),
    *("timesteps", "time_steps", "num_timesteps", "n_timesteps", "input_length", "num_positions", "max_positions"),
}
# And those that say how long its output is.
HORIZONS = {"steps", "horizon", "output_steps", "output_length", "forecast_horizon"}
FOLLOW = "a length that every layer of the model can follow"


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Which lengths a model had, and which it gets.

    Attributes:
        old: the steps of its inputs; None where they are open.
        new: those of the new model's.
        moves: what becomes of each output horizon that moves.
        batch_size: the new model's, None for the one it has.
    """

    old: int | None
    new: int | None
    moves: dict[int, int]
    batch_size: int | None

    @property
    def changes(self) -> bool:
        return self.old is not None and self.new != self.old

    def cannot_resize(self, layer: Any, reason: str, fix: str) -> ValueError:
        """Returns the error that a layer cannot follow."""
        text = errors.message("change_timesteps", "timesteps", FOLLOW, self.new, fix, f"{title(layer)} {reason}")
        return ValueError(text)


def title(layer: Any) -> str:
    """Returns how errors call a layer."""
    return f"{type(layer).__name__} '{layer.name}'"


def is_keras(kind: type) -> bool:
    """Returns whether a class is Keras' own."""
    return kind.__module__.split(".")[0] == "keras"


def is_a(layer: Any, registered: str) -> bool:
    """Returns whether a layer is of a class, or of one derived from it, which this package may not import from here."""
    return any(keras.saving.get_registered_name(kind) == registered for kind in type(layer).__mro__)


def parts(layer: Any) -> list:
    """Returns a layer and all the layers that it contains."""
    return keras_internals.sublayers(layer) if isinstance(layer, keras.Layer) else [layer]


def horizon_of(layer: Any) -> int | None:
    """Returns how many steps a layer writes whatever it reads; None if it is no such layer."""
    if isinstance(layer, keras.layers.RepeatVector):
        return layer.n
    return layer.steps if is_a(layer, DECODER) else None


def output_lengths(model: keras.Model, old: int | None) -> dict[int, list]:
    """Returns the layers that write a fixed number of steps, by that number; a start frame is none."""
    found: dict[int, list] = {}
    for layer in parts(model):
        steps = horizon_of(layer)
        if steps is not None and (steps > 1 or old == 1):
            found.setdefault(steps, []).append(layer)
    return found


def moves(found: dict[int, list], old: int | None, new: int | None, steps: int | None) -> dict[int, int]:
    """Returns what becomes of each horizon: one of the model's own length follows it, any other follows `steps`."""
    own = [n for n in found if n != old]
    if steps is not None and not found:
        fix = "Leave `steps` out: no RepeatVector or AutoregressiveDecoder of the model has a number of steps"
        what = "None for a model without an output horizon"
        raise ValueError(errors.message("change_timesteps", "steps", what, steps, fix))
    if steps is not None and len(own) > 1:
        named = "; ".join(f"{n} in {', '.join(title(layer) for layer in found[n])}" for n in own)
        fix = "Change one horizon at a time, in the code that makes the model"
        what = "None for a model of several output horizons"
        raise ValueError(errors.message("change_timesteps", "steps", what, steps, fix, named))
    if steps is not None and (own or old in found):
        moved = {own[0] if own else old: steps}
    elif old is None and new is not None and own:
        layer = found[own[0]][0]
        reason = f"writes {own[0]} steps, and as the inputs are open it cannot be told whether they follow"
        fix = f"Pass `steps` too: `steps={own[0]}` keeps them"
        raise ValueError(errors.message("change_timesteps", "steps", "given", steps, fix, f"{title(layer)} {reason}"))
    else:
        moved = {}
    if old in found and old not in moved:
        if new is None:
            layer = found[old][0]
            fix = "Pass `steps=`, or build the model with `keras_seqx.RepeatToLength`, which repeats to any length"
            raise Lengths(old, new, {}, None).cannot_resize(
                layer, f"writes {old} steps and cannot leave them open", fix
            )
        moved[old] = new
    return {n: after for n, after in moved.items() if n is not None}


def follow(config: dict, layer: Any, lengths: Lengths) -> tuple[dict, list[str]]:
    """Returns a copy of a layer's config at the new length, and the names of the entries that moved."""
    config = copy.deepcopy(config)
    registered = DECODER if is_a(layer, DECODER) else ""
    moved = _edit(config, type(layer).__name__, registered, is_keras(type(layer)), lengths)
    return config, moved


def _edit(config: dict, kind: str, registered: str, keras_own: bool, lengths: Lengths) -> list[str]:
    """Edits the config of one object, and of all within, in place."""
    moved = []

    def move(key: str, value: Any) -> None:
        if config[key] != value:
            config[key] = value
            moved.append(key)

    if keras_own and kind == "RepeatVector":
        move("n", lengths.moves.get(config["n"], config["n"]))
    elif registered == DECODER:
        move("steps", lengths.moves.get(config["steps"], config["steps"]))
    elif keras_own and kind == "InputLayer":
        batch, *shape = config["batch_shape"]
        if lengths.changes and shape[:1] == [lengths.old] and len(shape) < 3:
            shape[0] = lengths.new
        config["batch_shape"] = (lengths.batch_size if batch else batch, *shape)
    elif keras_own and kind == "Reshape" and lengths.changes and tuple(config["target_shape"])[:1] == (lengths.old,):
        rest = [-1 if lengths.new is None else lengths.new, *config["target_shape"][1:]]
        config["target_shape"] = tuple(rest)
    elif not keras_own:
        for key, value in config.items():
            if type(value) is not int:
                continue
            if key in ENTRIES and lengths.changes and value == lengths.old:
                move(key, lengths.new)
            elif key in HORIZONS and value in lengths.moves:
                move(key, lengths.moves[value])
    for value in config.values():
        _edit_nested(value, lengths)
    config.pop("build_input_shape", None)
    return moved


def _edit_nested(value: Any, lengths: Lengths) -> None:
    """Edits whatever objects a config holds."""
    if isinstance(value, (list, tuple)):
        for part in value:
            _edit_nested(part, lengths)
    elif isinstance(value, dict) and isinstance(value.get("config"), dict) and "class_name" in value:
        value.pop("build_config", None)  # the shapes that it was built on; its owner builds it again
        own = (value.get("module") or "").split(".")[0] == "keras" and value.get("registered_name") is None
        _edit(value["config"], value["class_name"], value.get("registered_name") or "", own, lengths)
    elif isinstance(value, dict):
        for part in value.values():
            _edit_nested(part, lengths)


def too_long(config: dict, lengths: Lengths) -> Iterator[tuple[str, int]]:
    """Yields the entries of a user's config that allow the old length but not the new one."""
    for key, value in config.items():
        room = key in ENTRIES and type(value) is int and ("max" in key or (lengths.old or value) < value)
        if room and lengths.new is not None and lengths.new > value:
            yield key, value


def reshaped(target: tuple, before: tuple, after: tuple, lengths: Lengths) -> tuple:
    """Returns a Reshape's target for inputs of shape `after` in place of `before`, all without the batch.

    Numbers are laid out step after step, so that the one axis that may grow is the one with as many numbers before it
    as stand before time in the input.

    Raises:
        ValueError: time does not follow; its text is the reason.
    """
    grown = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    if not grown:
        if lengths.changes and len(target) > 1 and _whole(target, before)[0] == lengths.old:
            raise ValueError(f"spreads inputs of {before}, which have no time axis, over {lengths.old} steps")
        return target
    axis, steps = grown[0], before[grown[0]]
    others = before[:axis] + before[axis + 1 :]
    if -1 in target and (steps is None or None in others):
        return target
    if len(grown) > 1 or None in others:
        raise ValueError(f"has inputs of {before} that become {after}, so that several axes change")
    if steps is None:
        steps = math.prod(target) // math.prod(others)
    whole, lead = _whole(target, (*others, steps)), math.prod(before[:axis])
    places = [i for i in range(len(whole)) if math.prod(whole[:i]) == lead]
    if -1 in target and target.index(-1) in places:
        return target
    place = next((i for i in reversed(places) if whole[i] != 1), None)
    if -1 in target and (place is None or whole[place] % steps):
        return target  # -1 tells which axis grows
    if place is None or not (whole[place] == lengths.old or _is_time(whole, place, steps, others)):
        raise ValueError(f"makes {target} of {before}, from which it cannot be told which axis is time")
    if after[axis] is None:
        return (*whole[:place], -1, *whole[place + 1 :])
    if whole[place] * after[axis] % steps:
        raise ValueError(f"makes {whole[place]} parts of {steps} steps, and {after[axis]} do not divide like that")
    return (*whole[:place], whole[place] * after[axis] // steps, *whole[place + 1 :])


def _whole(target: tuple, shape: tuple) -> tuple:
    """Returns a target with its -1 worked out, where the shape it is made of is known."""
    if None in shape:
        return target
    return tuple(math.prod(shape) // -math.prod(target) if n == -1 else n for n in target)


def _is_time(whole: tuple, place: int, steps: int, others: tuple) -> bool:
    """Returns whether an axis of a target is certain to be time: the whole of it, or merged with features."""
    if steps > 1 and steps in whole[:place] + whole[place + 1 :] and steps not in others:
        return False
    ends = [math.prod(whole[place:end]) for end in range(place + 1, len(whole) + 1)]
    return whole[place] % steps == 0 or (steps % whole[place] == 0 and steps not in ends)
