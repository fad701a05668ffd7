"""The units of a live model, addressed as Keras' files address them."""

import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_seqx._core import keras_internals
from keras_seqx.transfer.layer_weights import LayerWeights, PathEntry, Weight, snake_case


def units_of(model: keras.Model) -> list[LayerWeights]:
    """Returns a unit for every layer of `model` that owns variables, each once, in the order of Keras' files."""
    return list(_walk(model, (), set()))


def _walk(layer: keras.layers.Layer, steps: tuple[PathEntry, ...], seen: set[int]) -> Iterator[LayerWeights]:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    stored: dict[str, Any] = {}
    layer.save_own_variables(stored)
    weights = tuple(weight_of(v, v.name if isinstance(v, keras.Variable) else key) for key, v in stored.items())
    if weights:
        yield LayerWeights(steps, weights, config_of(layer), layer)
    for attribute, child in _children(layer):
        yield from _walk(child, (*steps, PathEntry(attribute, child.name, type(child).__name__)), seen)


def config_of(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the layer's configuration, an empty one if it has none to show."""
    try:
        return layer.get_config()
    except Exception:  # users' layers, whatever they raise; only hints are lost
        return {}


def to_numpy(tensor: Any) -> np.ndarray:
    """Returns a tensor's values; TensorFlow cannot show a scalar of bfloat16 itself."""
    return ops.convert_to_numpy(tensor) if len(tensor.shape) else np.reshape(ops.convert_to_numpy(tensor[None]), ())


def weight_of(value: Any, name: str) -> Weight:
    """Returns a variable as a weight; what is no variable, but computed (LoRA, quantization), can only be read."""
    variable = value if isinstance(value, keras.Variable) else None

    def read(rows: slice | None = None) -> np.ndarray:
        tensor = value if variable is None else variable.value
        return to_numpy(tensor if rows is None else tensor[rows])

    return Weight(name, tuple(map(int, value.shape)), keras.backend.standardize_dtype(value.dtype), read, variable)


def _children(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (address, layer) of the layers that `layer` holds.

    Keras addresses them by attribute, public ones first, and within lists by class and a running number. The order
    matters: a layer held twice is addressed where it comes first.
    """
    skipped = _attributes_of_every_layer()
    is_functional = keras_internals.is_functional(layer)
    if is_functional:
        yield from _in_container("layers", layer.layers, set())
    for attribute in sorted(dir(layer), key=lambda name: "~" + name if name.startswith("_") else name):
        if attribute.startswith("__") or attribute in skipped:
            continue
        if is_functional and attribute in ("operations", "_operations", "_functional"):
            continue
        try:
            child = getattr(layer, attribute)
        except Exception:  # a property that is not to be had now, as `model.output` of a subclassed model
            continue
        if isinstance(child, keras.layers.Layer):
            yield attribute, child
        elif isinstance(child, (list, tuple, dict)):
            yield from _in_container(attribute, child, set())


@functools.cache
def _attributes_of_every_layer() -> frozenset[str]:
    return frozenset(dir(keras.layers.Layer()))


def _in_container(file_path: str, container: Any, seen: set[int]) -> Iterator[tuple[str, keras.layers.Layer]]:
    if id(container) in seen:
        return
    seen.add(id(container))
    used: dict[str, int] = {}
    for child in list(container.values() if isinstance(container, dict) else container):
        is_layer = isinstance(child, keras.layers.Layer)
        if not is_layer and not isinstance(child, (list, tuple, dict)):
            continue
        name = snake_case(type(child).__name__) if is_layer else "container"
        used[name] = used.get(name, -1) + 1
        numbered = f"{file_path}/{name}_{used[name]}" if used[name] else f"{file_path}/{name}"
        if is_layer:
            yield numbered, child
        else:
            yield from _in_container(numbered, child, seen)
