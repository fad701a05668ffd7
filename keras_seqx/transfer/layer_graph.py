"""Who reads whose outputs, by a model's configuration: what tells two layers of equal shapes apart.

A unit's colour is what can be said of its place without a name. Colours start out as the ranks of its weights and are
refined, as in the Weisfeiler-Leman test, by the colours of those that it reads from and, if asked, of those that read
from it. Layers without weights pass on what they read, so that a Dropout or another RepeatVector changes nothing.
"""

import dataclasses
import itertools
from typing import Any

from keras_seqx.transfer.layer_weights import LayerWeights
from keras_seqx.transfer.sources import model_config

NODE_LIMIT = 100_000
WORK_LIMIT = 20_000_000  # colours; a chain of 3,000 layers takes as many
Producer = int | tuple[str, int]  # a unit, or an input of the model
Values = list[tuple[Producer, ...]]  # for each tensor, where it comes from


@dataclasses.dataclass
class LayerGraph:
    """The units of one model as a graph.

    Attributes:
        tags: for each unit, its place within the layer that holds it, if that place has a meaning of its own.
        reads: for each unit, what it reads from, in the order of the arguments of its first call.
        outputs: what the model's outputs come from.
    """

    tags: list[Any]
    reads: list[tuple[Producer, ...]]
    outputs: Values


def wire(config: Any, units: list[LayerWeights]) -> LayerGraph | None:
    """Returns the wiring of `units`, None where the configuration is not that of a graph of layers."""
    if not model_config.is_graph(config):
        return None
    graph = LayerGraph([None] * len(units), [(("nowhere", 0),)] * len(units), [])
    try:
        graph.outputs = _Tracer(graph, units).model(config, (), None)
    except (_Untraceable, TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError):
        return None  # a configuration of another form than those of Keras 1 to 3: names and shapes have to do
    return graph


def wl_labels(a: LayerGraph, b: LayerGraph, *, consumers: bool) -> tuple[list[int], list[int]] | None:
    """Returns the colours of the units of two models, comparable with each other; None if that takes too long.

    Args:
        a: the one.
        b: the other.
        consumers: whether those who read from a unit colour it too.
    """
    sides = (a, b)
    numbers: dict[Any, int] = {}
    current = [[numbers.setdefault(tag, len(numbers)) for tag in side.tags] for side in sides]
    distinct = work = 0
    while work < WORK_LIMIT:
        work += len(a.reads) + len(b.reads)
        numbers.clear()
        refined = [
            [numbers.setdefault(key, len(numbers)) for key in _keys(side, colour, consumers)]
            for side, colour in zip(sides, current, strict=True)
        ]
        if len(numbers) == distinct:
            return refined[0], refined[1]
        current, distinct = refined, len(numbers)
    return None


def isomorphic(a: LayerGraph, b: LayerGraph, to_a: dict[int, int]) -> bool:
    """Whether a map of the units of `b` to those of `a` leaves everything as it is: who reads what, and the outputs."""

    def mapped(refs: tuple[Producer, ...]) -> tuple[Producer, ...]:
        return tuple(to_a[ref] if isinstance(ref, int) else ref for ref in refs)

    return [mapped(refs) for refs in b.outputs] == a.outputs and all(
        b.tags[i] == a.tags[to_a[i]] and mapped(b.reads[i]) == a.reads[to_a[i]] for i in range(len(b.tags))
    )


def _keys(side: LayerGraph, colour: list[int], consumers: bool) -> list[Any]:
    def of(ref: Producer) -> Any:
        return colour[ref] if isinstance(ref, int) else ref

    read_by: list[list[Any]] = [[] for _ in side.reads]
    if consumers:
        for reader, reads in enumerate(side.reads):
            for position, ref in enumerate(reads):
                if isinstance(ref, int):
                    read_by[ref].append((0, position, colour[reader]))
        for position, refs in enumerate(side.outputs):
            for ref in refs:
                if isinstance(ref, int):
                    read_by[ref].append((1, position, 0))
    return [(colour[i], tuple(map(of, reads)), tuple(sorted(read_by[i]))) for i, reads in enumerate(side.reads)]


class _Untraceable(Exception):
    pass


class _Tracer:
    """Follows the calls of a configuration from its outputs back to its inputs."""

    def __init__(self, graph: LayerGraph, units: list[LayerWeights]):
        self.graph = graph
        self.units = units
        self.owned: dict[tuple[str, ...], list[int]] = {}
        for i, unit in enumerate(units):
            for depth in range(1, len(unit.steps) + 1):
                self.owned.setdefault(tuple(step.attribute for step in unit.steps[:depth]), []).append(i)
        self.called: set[tuple[str, ...]] = set()
        self.nodes = 0

    def model(self, config: Any, prefix: tuple[str, ...], inputs: Values | None) -> Values:
        """Returns where the outputs of a model come from, given where its inputs do."""
        layers = model_config.layers_of(config)
        places = {model_config.name_of(layer): (f"layers/{at}", layer) for at, layer in model_config.numbered(layers)}
        inner = config["config"]
        if not isinstance(inner, dict) or "input_layers" not in inner:
            values: Values = [(("input", 0),)] if inputs is None else inputs
            for at, layer in places.values():
                if model_config.kind_of(layer) != "InputLayer":
                    values = self.layer(layer, (*prefix, at), values)
            return values
        names = [name for name, *_ in _tensors(inner["input_layers"], places)]
        given = inputs if inputs is not None else [(("input", i),) for i in range(len(names))]
        known = {(name, 0): [given[i]] for i, name in enumerate(names)}
        wanted = _tensors(inner["output_layers"], places)
        self.follow(wanted, places, prefix, known)
        return [_tensor(known, name, node, tensor) for name, node, tensor in wanted]

    def follow(self, wanted: list, places: dict, prefix: tuple[str, ...], known: dict) -> None:
        """Calls whatever `wanted` needs, without recursion: an unrolled graph is deep."""
        pending = [(name, node) for name, node, _ in reversed(wanted)]
        started: set[tuple[str, int]] = set()
        while pending:
            call = pending[-1]
            if call in known:
                pending.pop()
                continue
            at, layer = places[call[0]]
            arguments = _tensors(_without_masks(layer["inbound_nodes"][call[1]]), places)
            missing = [(name, node) for name, node, _ in arguments if (name, node) not in known]
            if not missing:
                known[call] = self.layer(layer, (*prefix, at), [_tensor(known, *argument) for argument in arguments])
                continue
            self.nodes += 1
            if call in started or self.nodes > NODE_LIMIT:
                raise _Untraceable
            started.add(call)
            pending += reversed(missing)

    def layer(self, config: Any, place: tuple[str, ...], inputs: Values) -> Values:
        """Returns where the outputs of a layer come from; wires its units at its first call."""
        if model_config.is_graph(config):
            return self.model(config, place, inputs)
        flat = tuple(dict.fromkeys(ref for refs in inputs for ref in refs))
        members = self.owned.get(place, [])
        if not members:
            return [flat]
        relative = {i: "/".join(step.attribute for step in self.units[i].steps[len(place) :]) for i in members}
        inside = [i for i in members if relative[i]]
        order = model_config.chain(config)
        is_chain = bool(inside) and all(relative[i] in order for i in inside)
        ordered = sorted(inside, key=lambda i: order.index(relative[i])) if is_chain else []
        ends = ordered[-1:] or sorted(members, key=lambda i: relative[i])
        if place not in self.called:
            self.called.add(place)
            for i in members:
                ranks = tuple(len(shape) for shape in self.units[i].shapes if shape)
                # A bias of a GRU has one axis or two by a setting; the other two tell it from everything else.
                ranks = ranks[:2] if self.units[i].is_gru else ranks
                tag = relative[i] or ("own" if len(members) > 1 else "")
                tag = "" if is_chain and relative[i] else tag
                own = model_config.settings_of(
                    ([config, *model_config.resolve(config, self.units[i].steps[len(place) :])])[-1]
                )
                functions = tuple(str(own.get(key)) for key in ("activation", "recurrent_activation"))
                self.graph.tags[i] = (ranks, functions, tag)
                self.graph.reads[i] = flat
            for before, after in itertools.pairwise(ordered):
                self.graph.reads[after] = (before,)
        return [tuple(ends)]


def _tensor(known: dict, name: str, node: int, tensor: int) -> tuple[Producer, ...]:
    values = known[name, node]
    return values[tensor] if len(values) > 1 else values[0]


def _tensors(value: Any, places: dict) -> list[tuple[str, int, int]]:
    """Returns every (layer, call, tensor) within a configuration's value, in order."""
    if isinstance(value, dict):
        is_tensor = value.get("class_name") == "__keras_tensor__"
        return _tensors(value["config"]["keras_history"] if is_tensor else list(value.values()), places)
    if not isinstance(value, (list, tuple)):
        return []
    if len(value) >= 3 and isinstance(value[0], str) and value[0] in places and {*map(type, value[1:3])} == {int}:
        return [(value[0], value[1], value[2]), *_tensors(list(value[3:]), places)]
    return [found for item in value for found in _tensors(item, places)]


def _without_masks(node: Any) -> Any:
    """Leaves out the masks among a call's arguments: Keras adds them where a symbolic mask is about."""
    if isinstance(node, dict) and isinstance(node.get("kwargs"), dict):
        kept = {k: v for k, v in node["kwargs"].items() if k != "mask" and not k.endswith("_mask")}
        return [node.get("args"), kept]
    return node
