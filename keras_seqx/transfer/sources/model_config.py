"""Reading the configuration of a model as data: nothing in it is imported, called or rebuilt."""

from collections.abc import Iterator
from typing import Any

from keras_seqx.transfer.layer_weights import PathEntry, snake_case

Config = dict[str, Any]


def layers_of(config: Any) -> list[Config]:
    """Returns the serialized layers of a Functional or Sequential model's configuration, of any Keras."""
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else inner  # Keras 1 and 2.0 keep a bare list
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def settings_of(config: Config) -> Config:
    """Returns what the layer was made with."""
    inner = config.get("config")
    return inner if isinstance(inner, dict) else {}


def is_graph(config: Any) -> bool:
    """Whether it is the configuration of a Functional or Sequential model."""
    return bool(layers_of(config)) and ("input_layers" in config["config"] or config.get("class_name") == "Sequential")


def name_of(config: Config) -> str:
    """Returns the layer's name."""
    inner = config.get("config")
    name = config.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
    return name if isinstance(name, str) else ""


def kind_of(config: Config) -> str:
    """Returns the layer's class name."""
    kind = config.get("class_name")
    return kind if isinstance(kind, str) else ""


def numbered(configs: list[Config]) -> Iterator[tuple[str, Config]]:
    """Yields (address, configuration), addressed by class and a running number as within Keras' files."""
    used: dict[str, int] = {}
    for config in configs:
        name = snake_case(kind_of(config))
        used[name] = used.get(name, -1) + 1
        yield (f"{name}_{used[name]}" if used[name] else name), config


def child(config: Config, attribute: str) -> Config:
    """Returns the configuration of the layer that `config`'s layer keeps as `attribute`, {} if it does not say."""
    inner = config.get("config")
    head, _, rest = attribute.partition("/")
    if attribute.startswith("cell/cells/"):
        return child(child(config, "cell"), attribute.removeprefix("cell/"))
    if head == "layers" and rest:
        return dict(numbered(layers_of(config))).get(rest, {})
    if not isinstance(inner, dict):
        return {}
    if head == "cell" and "units" in inner:  # an LSTM layer shows its cell's configuration as its own
        return {"class_name": f"{kind_of(config)}Cell", "config": inner}
    found = inner.get({"forward_layer": "layer"}.get(head, head))
    if found is None and head == "backward_layer":
        found = inner.get("layer")
    if isinstance(found, list) and rest:
        return dict(numbered([item for item in found if isinstance(item, dict)])).get(rest, {})
    return found if isinstance(found, dict) and isinstance(found.get("config"), dict) else {}


def resolve(config: Config | None, steps: tuple[PathEntry, ...]) -> list[Config]:
    """Returns the configurations on the way down `steps`, {} from where it is not known."""
    found: list[Config] = []
    current = config or {}
    for step in steps:
        current = child(current, step.attribute)
        found.append(current)
    return found


def chain(config: Config) -> list[str]:
    """Returns where a layer keeps the layers that it calls one after the other, in that order, [] if not known.

    They are what an LSTM layer, an RNN of stacked cells, a TimeDistributed and an AutoregressiveDecoder have in
    common, whatever each of them calls the places.
    """
    inner, kind = config.get("config"), kind_of(config)
    if not isinstance(inner, dict) or kind == "Bidirectional":  # its two halves run side by side
        return []
    places: list[tuple[str, Any]] = []
    for key in ("layer", "cell", "cells", "output_layer"):
        value = inner.get(key)
        if isinstance(value, list):
            places += [(f"{key}/{name}", item) for name, item in numbered([c for c in value if isinstance(c, dict)])]
        elif isinstance(value, dict) and "class_name" in value:
            places.append((key, value))
    if not places:
        return ["cell"] if kind in ("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU") else []
    return [f"{place}/{rest}" if rest else place for place, value in places for rest in chain(value) or [""]]
