"""Configurations of layers that hold other layers: a layer that several hold stays one layer.

Keras gives an object an id in a file once it meets the object a second time, and deserializes objects with one id to
one object. An object that is met within the configuration of another one gets no id the first time, as Keras writes a
copy of that configuration. `get_config` and `from_config` alone, and `keras.models.clone_model`, know no ids.

An object of this package that holds layers serializes and deserializes them by the two functions here.
"""

import contextlib
import copy
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
from keras import tree

from keras_seqx._core import keras_internals
from keras_seqx._core.keras_internals import ID

_running = threading.local()


def serialize(parts: dict[str, Any]) -> dict[str, Any]:
    """Returns the configurations of layers, and of other objects, by their names.

    In a file, and while a model is cloned, each says which object it is. Elsewhere only layers that are met several
    times within `parts` do, and their ids count from 0, so that equal layers have equal configurations.
    """
    if getattr(_running, "is_serializing", False):  # within another call, which does all that follows
        return keras.saving.serialize_keras_object(parts)
    ids_are_wanted = keras_internals.shares_objects() or keras_internals.cloning() is not None
    layers = {id(layer) for layer in _layers(parts)}
    _running.is_serializing = True
    try:
        with _scope(None):
            met = keras_internals.ids_met() & layers
            for _ in range(2):  # the second time every object has been met before
                configs = keras.saving.serialize_keras_object(parts)
            keras_internals.mark_where_first_met(met)
    finally:
        _running.is_serializing = False
    return configs if ids_are_wanted else _numbered(configs, layers)


def deserialize(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns a copy of `config` in which the objects of these names are made from their configurations."""
    config = copy.deepcopy(config)  # deserializing `StackedRNNCells` empties the dictionary that it is given
    parts = {name: config[name] for name in names if name in config}
    with _scope(keras_internals.cloning()):
        return {**config, **keras.saving.deserialize_keras_object(parts)}


@contextlib.contextmanager
def _scope(cloning: keras_internals.Cloning | None) -> Iterator[None]:
    """Has Keras share objects, if it does not yet, with those that a clone consists of so far."""
    if keras_internals.shares_objects():
        yield
        return
    objects = {} if cloning is None else _copied(cloning)
    with keras_internals.object_sharing(objects):
        yield
        if cloning is not None and cloning.by_config:
            _copy_holders(cloning, objects)
    if cloning is not None:
        cloning.copies.update({key: value for key, value in objects.items() if isinstance(value, keras.layers.Layer)})


def _copied(cloning: keras_internals.Cloning) -> dict[int, Any]:
    """Returns the copies of layers, and of all layers within these, by the ids of their originals."""
    copies = dict(cloning.copies)
    for layer in cloning.model.layers:
        old = keras_internals.sublayers(layer)
        new = keras_internals.sublayers(copies[id(layer)]) if id(layer) in copies else []
        if [type(part) for part in old] == [type(part) for part in new]:
            copies |= {id(a): b for a, b in zip(old, new, strict=True)}
    return copies


def _copy_holders(cloning: keras_internals.Cloning, copies: dict[int, Any]) -> None:
    """Copies the layers to come that hold what there is a copy of already, such as a wrapper around a shared layer.

    One that holds the layer that is being copied has to wait for it.
    """
    for layer in cloning.model.layers:
        parts = {id(part) for part in keras_internals.sublayers(layer)}
        if id(layer) not in copies and id(cloning.layer) not in parts and not parts.isdisjoint(copies):
            layer.get_config()  # Keras gives a part its id when it meets it again
            copies[id(layer)] = type(layer).from_config(layer.get_config())


def _layers(parts: Any) -> Iterator[keras.layers.Layer]:
    for part in tree.flatten(parts):
        if isinstance(part, keras.layers.Layer):
            yield from keras_internals.sublayers(part)


def _numbered(configs: Any, layers: set[int]) -> Any:
    """Returns configurations with ids for layers that are met several times alone, numbered as they come."""
    met = Counter(_ids(configs))
    numbers: dict[int, int] = {}

    def numbered(config: Any) -> Any:
        if isinstance(config, (list, tuple)):
            return type(config)(map(numbered, config))
        if not isinstance(config, dict):
            return config
        result = {key: numbered(value) for key, value in config.items() if key != ID}
        own = config.get(ID)
        if own in layers and met[own] > 1:
            result[ID] = numbers.setdefault(own, len(numbers))
        return result

    return numbered(configs)


def _ids(config: Any) -> Iterator[int]:
    if isinstance(config, dict):
        if ID in config:
            yield config[ID]
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from _ids(part)
