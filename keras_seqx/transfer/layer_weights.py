"""What a model and a file are to a transfer: a list of layers that own weights."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


@functools.lru_cache(4096)
def snake_case(name: str) -> str:
    """Returns a class' name as Keras writes it in automatic names and in files: `LSTMCell` is `lstm_cell`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@functools.cache
def _automatic_names() -> frozenset[str]:
    classes = [name for name in dir(keras.layers) if name[0].isupper()]
    return frozenset(map(snake_case, [*classes, "Sequential", "Functional", "Model", "CuDNNLSTM", "CuDNNGRU"]))


@dataclasses.dataclass(frozen=True)
class PathEntry:
    """One layer on the way from the model to a unit.

    Attributes:
        attribute: where its parent keeps it, as Keras' files address it: "layers/lstm_1", "cell", "forward_layer".
        name: the layer's name, empty if the file does not tell it.
        kind: its class' name, empty if the file does not tell it.
    """

    attribute: str
    name: str = ""
    kind: str = ""

    @property
    def is_named(self) -> bool:
        """Whether the user chose the name; automatic names (`lstm_3`) do not identify a layer."""
        name = re.sub(r"^(forward|backward)_", "", self.name)
        name = re.sub(r"_\d+$", "", name)
        return name not in {"", snake_case(self.kind)} and name not in _automatic_names()


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One array of a unit.

    Attributes:
        name: "kernel"; its position in the unit where the file does not tell a name.
        shape: its shape.
        dtype: its dtype's name.
        read: returns the values, or those of some `rows` (a slice of the first axis) alone.
        variable: the variable itself, in a live model.
        key: where it is in its file, empty where it was put together of several.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[..., np.ndarray]
    variable: Any = None
    key: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerWeights:
    """A layer with weights of its own.

    Attributes:
        steps: the layers from below the model down to this one; none for weights of the model itself.
        weights: its own, in Keras' order.
        config: its layer's configuration, empty if it is not known.
        layer: the layer itself, in a live model.
    """

    steps: tuple[PathEntry, ...]
    weights: tuple[Weight, ...]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    layer: Any = None

    @functools.cached_property
    def path(self) -> str:
        """The names from the model down; the address where a name is not known."""
        return "/".join(step.name or step.attribute for step in self.steps)

    @functools.cached_property
    def file_path(self) -> str:
        """Where Keras' files keep it: "layers/lstm_1/cell"."""
        return "/".join(step.attribute for step in self.steps)

    @functools.cached_property
    def user_names(self) -> tuple[str, ...]:
        """The names on the path that the user chose."""
        return tuple(step.name for step in self.steps if step.is_named)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The numbers of the automatic names on the path: {"time_distributed": 0, "dense": 3}."""
        names = [step.name for step in self.steps if step.name and not step.is_named]
        parts = [re.fullmatch(r"(.*?)(?:_(\d+))?", name) for name in names]
        return {part[1]: int(part[2] or 0) for part in parts if part}

    @property
    def is_setting(self) -> bool:
        """Whether it is a scalar that sets something (a probability of teacher forcing) and nothing learnt."""
        return all(weight.shape == () and not getattr(weight.variable, "trainable", False) for weight in self.weights)

    @functools.cached_property
    def direction(self) -> str:
        """Which half of a Bidirectional it lies in: forward units never pair with backward ones."""
        return "/".join(part for part in self.file_path.split("/") if part in ("forward_layer", "backward_layer"))

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(weight.shape for weight in self.weights)

    @functools.cached_property
    def signature(self) -> tuple:
        """Equal for units that could take each other's weights.

        The biases of a GRU, (3 units,) or (2, 3 units) by its `reset_after`, count as one: who may become whom is
        decided by the values.
        """
        shapes = list(self.shapes)
        if self.is_gru and len(shapes) == 3:
            shapes[2] = (2, shapes[0][-1])
        return (self.direction, tuple(shapes))

    @functools.cached_property
    def is_gru(self) -> bool:
        if len(self.weights) not in (2, 3) or any(len(weight.shape) != 2 for weight in self.weights[:2]):
            return False
        (_, gates), (units, recurrent) = self.shapes[:2]
        return gates == recurrent == 3 * units and self.shapes[2:] in ((), ((gates,),), ((2, gates),))
