"""A model rebuilt at another length, layer by layer along its graph, so that each is made for the shapes it gets."""

import contextlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import keras
from keras import tree

from keras_seqx._core import keras_internals
from keras_seqx.transfer.timesteps import length_rules
from keras_seqx.transfer.timesteps.length_rules import Lengths, is_keras

OWN_CODE = "Let the config of what holds it say the number, under a name such as `timesteps` or `steps`"
# Operations that may well contain a number that happens to be the length; not so a division, maybe a mean over time.
HARMLESS = {"Add", "Subtract", "Multiply", "Power", "Maximum", "Minimum", "Mod", "Clip", "Equal", "NotEqual", "Greater"}
HARMLESS |= {"GreaterEqual", "Less", "LessEqual", "Reshape"}


class Rebuilding:
    """The making of one model.

    Attributes:
        lengths: which it had and gets.
        made: the new layer for each old one, by its id; a layer that is used twice stays one.
        held: the new layer for each old one that another layer holds, made of that one's config, by its id.
        calls: the shapes of the inputs of each old layer, before and after, by its id.
        moved: the names of the config's entries that followed, by the old layer's id.
    """

    def __init__(self, lengths: Lengths):
        self.lengths = lengths
        self.made: dict[int, Any] = {}
        self.held: dict[int, Any] = {}
        self.calls: dict[int, tuple[list, list]] = {}
        self.moved: dict[int, list[str]] = {}
        # By the id of each new tensor: what stood there, the tensor, whether it depends on the length, who made it.
        self._before: dict[int, tuple[keras.KerasTensor, keras.KerasTensor, bool, Any]] = {}

    def model(self, old: keras.Model, shapes: list[tuple]) -> keras.Model:
        """Returns a copy of a Functional or Sequential model with inputs of the given shapes."""
        inputs = []
        for x, shape in zip(old.inputs, shapes, strict=True):
            layer = keras_internals.producer_of(x)
            self.made[id(layer)] = new = type(layer).from_config({**layer.get_config(), "batch_shape": shape})
            suspect = len(shape) == 2 and shape[1] == self.lengths.old  # steps or features: nothing told
            self._note(x, new.output, tuple(x.shape[1:]) != shape[1:] or suspect, new)
            inputs.append(new.output)
        if isinstance(old, keras.Sequential):
            return self._sequential(old, inputs[0])
        # The model's own graph in a plain model, which is neither compiled nor of a subclass.
        graph = keras.Model(old.inputs, old.outputs)
        outputs = keras.models.clone_model(
            graph, input_tensors=inputs, clone_function=lambda layer: layer, call_function=self._call
        ).outputs
        pack = tree.pack_sequence_as
        more = {}
        if type(old).get_config is not type(graph).get_config:
            own = ("layers", "input_layers", "output_layers", "name", "trainable")
            more = {key: value for key, value in old.get_config().items() if key not in own}
        return type(old)(pack(old.input, inputs), pack(old.output, outputs), name=old.name, **more)

    def _sequential(self, old: keras.Sequential, x: keras.KerasTensor) -> keras.Sequential:
        new = type(old)([x], name=old.name)
        for layer in old.layers:
            before, timed = self._past(x), self._timed([x])
            made = self.layer(layer, before, x)
            with self.refusing(layer, [before], [x]):
                new.add(made)
                outputs = new.outputs[0]
            self._compare(layer, layer.compute_output_spec(before), outputs, [(before, x)], timed)
            x = outputs
        return new

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the new layer where the old one was called; what `clone_model` asks for."""
        before = tree.map_structure(self._past, (args, kwargs))
        tensors = [
            (b, a) for b, a in zip(tree.flatten(before), tree.flatten((args, kwargs)), strict=True) if a is not b
        ]
        made = self.layer(layer, before, (args, kwargs))
        timed = self._timed([a for _, a in tensors])
        if not isinstance(layer, keras.Layer) and timed:
            self._check_numbers(layer, args, kwargs, any(tuple(b.shape) != tuple(a.shape) for b, a in tensors))
        with self.refusing(layer, [b for b, _ in tensors], [a for _, a in tensors]):
            outputs = made(*args, **kwargs)
        self._compare(layer, layer.compute_output_spec(*before[0], **before[1]), outputs, tensors, timed)
        return outputs

    def layer(self, old: Any, before: Any, after: Any) -> Any:
        """Returns the new layer for an old one that read `before` and is to read `after`, structures of tensors."""
        if id(old) in self.held:
            return self.held[id(old)]
        if id(old) not in self.made:
            self.calls[id(old)] = (_shapes(before), _shapes(after))
            self.made[id(old)] = self._make(old, before, after)
        return self.made[id(old)]

    def _make(self, old: Any, before: Any, after: Any) -> Any:
        past, shapes = self.calls[id(old)]
        if is_graph(old):
            inputs = [tuple(x.shape) for x in old.inputs]
            if len(inputs) > len(shapes):
                raise self.lengths.cannot_resize(old, "is called without some of its inputs", "Give it all of them")
            return self.model(old, [_fixed(own, shape) for own, shape in zip(inputs, shapes, strict=False)])
        if isinstance(old, keras.layers.TimeDistributed) or length_rules.is_a(old, length_rules.FOLDING):
            steps = [tree.map_structure(_step, structure) for structure in (before, after)]
            config = old.get_config()
            config.pop("layer")
            return type(old)(self.layer(old.layer, *steps), **config)
        if isinstance(old, keras.layers.Lambda):
            base = {key: value for key, value in old.get_config().items() if key in ("name", "trainable", "dtype")}
            return type(old)(old.function, keras_internals.output_shape_of(old), old.mask, dict(old.arguments), **base)
        config = self._config(old)
        if isinstance(old, keras.layers.Reshape):
            target = self._target(old, old.target_shape, after)
            return type(old).from_config({**config, "target_shape": target})
        if not isinstance(old, keras.Layer):
            shape = config.get("newshape")
            if type(old).__name__ == "Reshape" and isinstance(shape, (list, tuple)) and shape[0] in (-1, past[0][0]):
                target = self._target(old, shape[1:], after)
                if shape[0] == -1 and -1 in target:
                    raise self.lengths.cannot_resize(
                        old, "has no place for another open axis", "Use `keras.layers.Reshape`"
                    )
                config["newshape"] = (shape[0], *target)
            return type(old).from_config(config)
        return self.from_config(old)

    def _config(self, old: Any) -> dict:
        try:
            return old.get_config()
        except NotImplementedError as error:
            fix = "Implement `get_config` in its class, with every argument of its constructor"
            raise self.lengths.cannot_resize(old, "has no config to be made anew from", fix) from error

    def from_config(self, old: keras.Layer) -> Any:
        """Returns a layer, or a model of a user's class, made from its config for the new length.

        A layer inside it that was copied before is not copied again.
        """
        objects = {**self.held, **self.made}
        with keras_internals.object_sharing(objects):
            new = self._from_config(old)
        new_parts = {key: value for key, value in objects.items() if key not in self.made}
        self.held = {key: value for key, value in new_parts.items() if isinstance(value, keras.Layer)}
        return new

    def _from_config(self, old: keras.Layer) -> Any:
        self._config(old)  # Keras gives a part its id when it meets it again
        config, self.moved[id(old)] = length_rules.follow(self._config(old), old, self.lengths)
        for key, most in length_rules.too_long(config, self.lengths):
            reason = f"holds at most {most} steps by its `{key}`"
            raise self.lengths.cannot_resize(old, reason, f"Choose a length of at most {most}, or make it anew")
        for key in config:
            if getattr(getattr(old, key, None), "__name__", "") == "<lambda>":
                config[key] = getattr(old, key)  # a config holds it only as code that nothing would run
        try:
            return type(old).from_config(config)
        except Exception as error:
            entries = ", ".join(f"`{key}`={config[key]!r}" for key in self.moved[id(old)]) or "its config"
            raise self.lengths.cannot_resize(old, f"is not made of {entries}: {line(error)}", OWN_CODE) from error

    def _target(self, old: Any, target: Any, after: Any) -> tuple:
        (past, *_), (shape, *_) = self.calls[id(old)]
        try:
            return length_rules.reshaped(tuple(target), past[1:], shape[1:], self.lengths)
        except ValueError as error:
            makers = [self._before[id(x)][3] for x in tree.flatten(after) if id(x) in self._before]
            maker = f"; {length_rules.title(makers[0])} makes them" if makers and past == shape else ""
            fix = "Write -1 for the axis that is to grow, or decode with an RNN behind `RepeatVector`"
            raise self.lengths.cannot_resize(old, f"{error}{maker}", fix) from None

    def _past(self, x: Any) -> Any:
        return self._before[id(x)][0] if id(x) in self._before else x

    def _timed(self, tensors: list) -> bool:
        return any(self._before[id(x)][2] for x in tensors if id(x) in self._before)

    def _note(self, before: keras.KerasTensor, after: keras.KerasTensor, timed: bool, maker: Any) -> None:
        # The new tensor is kept, so that its id stays its own.
        self._before[id(after)] = (keras.KerasTensor(before.shape, dtype=before.dtype), after, timed, maker)

    def _compare(self, layer: Any, before: Any, after: Any, inputs: list, timed: bool) -> None:
        """Raises if an output stays at the old length; notes what the outputs were."""
        shapes = _shapes([old for old, _ in inputs]), _shapes([new for _, new in inputs])
        for past, x in zip(tree.flatten(before), tree.flatten(after), strict=True):
            if isinstance(x, keras.KerasTensor):
                self._note(past, x, timed, layer)
                rank = len(x.shape)
                axes = [
                    i
                    for old, new in zip(*shapes, strict=True)
                    for i, (a, b) in enumerate(zip(old, new, strict=True))
                    if a == self.lengths.old != b and len(new) == rank and i
                ]
                if timed and self.stuck(past, x, [*axes, *([1] if rank > 2 else [])]):
                    reason = f"writes {self.lengths.old} steps, as before, of inputs {shapes[1]}"
                    fix = FIX_DENSE if reads_time(*shapes) else STAYS
                    raise self.lengths.cannot_resize(layer, reads_time(*shapes) or reason, fix)

    def stuck(self, before: Any, after: Any, axes: list[int]) -> bool:
        """Returns whether a tensor has the old length still, along any of `axes`, and the caller did not ask for it."""
        asked = self.lengths.old in self.lengths.moves.values() or self.lengths.old == 1
        same = tuple(before.shape[1:]) == tuple(after.shape[1:])
        return self.lengths.changes and not asked and same and any(before.shape[i] == self.lengths.old for i in axes)

    def _check_numbers(self, operation: Any, args: tuple, kwargs: dict, grew: bool) -> None:
        """Raises if an operation on sequences is told the old length in a number."""
        old, kind = self.lengths.old, type(operation).__name__
        if old in (None, 1) or not self.lengths.changes or not ((grew and kind not in HARMLESS) or "Divide" in kind):
            return
        if kind == "GetItem":
            key = args[1] if len(args) > 1 else kwargs["key"]
            key = tuple(key) if isinstance(key, (list, tuple)) else (key,)
            at = key[1] if len(key) > 1 and Ellipsis not in [k for k in key[:2] if not isinstance(k, slice)] else None
            numbers = [at.start, at.stop] if isinstance(at, slice) else [at]
            told = [n for n in numbers if n in (old, old - 1, -old)]
        else:
            config = {k: v for k, v in operation.get_config().items() if k not in ("name", "axis", "dtype")}
            told = [n for n in tree.flatten((args, kwargs, config)) if type(n) is int and n == old]
        if told:
            reason = f"is told {told[0]}, which was the length or the last step"
            raise self.lengths.cannot_resize(operation, reason, "Count from the end, as in `x[:, -1]`, or use a layer")

    @contextlib.contextmanager
    def refusing(self, layer: Any, before: list, after: list) -> Iterator[None]:
        """Says of whatever is raised within that a layer did not take inputs `after` where it took `before`."""
        try:
            yield
        except Exception as error:
            if str(error).startswith("change_timesteps: "):
                raise
            shapes = _shapes(before), _shapes(after)
            moved = f"does not take inputs of {shapes[1]} in place of {shapes[0]}: {line(error)}"
            fix = "Give a number of steps" if self.lengths.new is None else "Let it take its length from its inputs"
            fix = FIX_DENSE if reads_time(*shapes) else fix
            raise self.lengths.cannot_resize(layer, reads_time(*shapes) or moved, fix) from error


FIX_DENSE = (
    "Summarize time by GlobalAveragePooling1D, work step by step by MaskedTimeDistributed, or let layers that do not "
    'fit start anew by `on_mismatch="skip"`'
)
STAYS = "Let it take its length from its inputs, or pass `steps` if a RepeatVector or a decoder decides it"


def reads_time(before: list[tuple], after: list[tuple]) -> str:
    """Returns in words that a layer takes time for features, if it does."""
    if not before or not before[0][1:] or not after or before[0][-1] == after[0][-1]:
        return ""
    what = "flattened time" if len(before[0]) == 2 else "the time axis"
    return f"reads {what} as features: its inputs {before[0]} become {after[0]}"


def is_graph(model: Any) -> bool:
    """Returns whether a model can be made of its inputs and outputs, or of its layers."""
    if isinstance(model, keras.Sequential):
        return _arguments(type(model)) == _arguments(keras.Sequential) and hasattr(model, "inputs")
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        return False
    return _arguments(type(model))[:2] in (["inputs", "outputs"], ["args", "kwargs"])


def _arguments(kind: type) -> list[str]:
    return list(inspect.signature(kind.__init__).parameters)[1:]  # type: ignore[misc]


def _fixed(own: tuple, shape: tuple) -> tuple:
    """Returns the shape of a nested model's input: what was open stays open."""
    return tuple(None if mine is None else given for mine, given in zip(own, shape, strict=True))


def _step(x: Any) -> Any:
    return keras.KerasTensor((x.shape[0], *x.shape[2:]), dtype=x.dtype) if isinstance(x, keras.KerasTensor) else x


def _shapes(structure: Any) -> list[tuple]:
    return [tuple(x.shape) for x in tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def line(error: BaseException) -> str:
    """Returns what an error says in a line, without Keras' frame around it."""
    lines = [text for text in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if text.strip()]
    framed = len(lines) > 1 and lines[0].startswith(("Exception encountered", "Error when deserializing"))
    return lines[1 if framed else 0].strip()[:300] if lines else type(error).__name__


def objects(model: keras.Model) -> dict[str, Any]:
    """Returns the classes and functions that a model's configs name, so that none needs to be registered."""
    found: dict[str, Any] = {}
    optimizer = getattr(model, "optimizer", None)
    optimizers = [optimizer, getattr(optimizer, "inner_optimizer", None)]
    for part in (*length_rules.parts(model), *getattr(model, "operations", []), *optimizers, *model.metrics):
        for value in (type(part), *vars(part).values()) if part is not None else ():
            kind: Any = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
            if not is_keras(kind) and kind.__module__ not in ("builtins", "numpy") and "<" not in kind.__name__:
                found[keras.saving.get_registered_name(kind)] = kind
    return found
