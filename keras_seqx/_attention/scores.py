"""How well a place in a memory answers a query: the scores of attention, with their trainable parameters.

Axis letters as in `attention`: B batch, T queries, S places, H width of a query, M of the memory. A single query has no
axis T.
"""

import math
from typing import Any

import keras

from keras_seqx._attention import functions
from keras_seqx._core import errors


class Score:
    """The scalar product of query and memory, which are equally wide; the base of the other scores.

    Args:
        owner: the layer whose weights the parameters are.
        query_width: H.
        memory_width: M.
        units: width of the hidden layer of a score that has one; None for H.
    """

    # Whether there is a hidden layer, whose width may be chosen.
    has_units = False

    def __init__(self, owner: keras.layers.Layer, query_width: int, memory_width: int, units: int | None):
        self.owner = owner
        self.add_weights(query_width, memory_width, units or query_width)

    def add_weights(self, query_width: int, memory_width: int, units: int) -> None:
        """Adds the parameters to the owner's weights."""
        if query_width != memory_width:
            what = f"{query_width} wide, as the inner cell's output, for 'luong_dot'"
            shape, fix = (None, None, memory_width), "Use 'luong', which projects the memory, or another cell"
            raise ValueError(errors.message(self.owner, "memory", what, shape, fix, "its shape"))

    def keys(self, memory: Any) -> Any:
        """Returns what the score needs of a memory (B, S, M), once and for all: (B, S, U)."""
        return memory

    def __call__(self, query: Any, keys: Any) -> Any:
        """Returns the scores (B, [T,] S) of queries (B, [T,] H) and keys."""
        return functions.dot_scores(query, keys)


class General(Score):
    """The scalar product of the query and the projected memory."""

    def add_weights(self, query_width: int, memory_width: int, units: int) -> None:
        self.memory_kernel = self.owner.add_weight(shape=(memory_width, units), name="memory_kernel")

    def keys(self, memory: Any) -> Any:
        # Cast, as a decoder calls this outside the scope of the owner's dtype.
        return functions.project(memory, keras.ops.cast(self.memory_kernel.value, memory.dtype))


class Scaled(General):
    """The same with a trainable gain."""

    def add_weights(self, query_width: int, memory_width: int, units: int) -> None:
        super().add_weights(query_width, memory_width, units)
        self.gain = self.owner.add_weight(shape=(), initializer="ones", name="gain")

    def __call__(self, query: Any, keys: Any) -> Any:
        return super().__call__(query, keys) * self.gain.value


class Additive(General):
    """A network of one hidden layer that reads query and memory."""

    has_units = True

    def add_weights(self, query_width: int, memory_width: int, units: int) -> None:
        super().add_weights(query_width, memory_width, units)
        self.query_kernel = self.owner.add_weight(shape=(query_width, units), name="query_kernel")
        self.vector = self.owner.add_weight(shape=(units,), name="vector")

    def __call__(self, query: Any, keys: Any) -> Any:
        return functions.additive_scores(functions.project(query, self.query_kernel.value), keys, self.vector.value)


class Normalized(Additive):
    """The same with a bias, and a vector whose length is a parameter of its own."""

    def add_weights(self, query_width: int, memory_width: int, units: int) -> None:
        super().add_weights(query_width, memory_width, units)
        self.bias = self.owner.add_weight(shape=(units,), initializer="zeros", name="bias")
        gain = keras.initializers.Constant(math.sqrt(1 / units))
        self.gain = self.owner.add_weight(shape=(), initializer=gain, name="gain")

    def __call__(self, query: Any, keys: Any) -> Any:
        query = functions.project(query, self.query_kernel.value) + self.bias.value
        vector = self.vector.value
        length = keras.ops.sqrt(keras.ops.sum(keras.ops.square(vector)))
        return functions.additive_scores(query, keys, vector * (self.gain.value / length))


SCORES: dict[str, type[Score]] = {
    "bahdanau": Additive,
    "bahdanau_normalized": Normalized,
    "luong": General,
    "luong_scaled": Scaled,
    "luong_dot": Score,
}
