"""A search step by step, so that its tokens can be handed out as they come."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import control_flow
from keras_seqx.generation.search import Search
from keras_seqx.generation.search_state import SearchProblem


class _Scope(keras.layers.Layer):
    """Calls a function where, as inside any layer, variables are read in the layer's compute dtype."""

    def call(self, inputs: Any, function: Callable) -> Any:
        return function()


class Stream:
    """The parts of a generator's program, each compiled when it is first asked for.

    A plain object, which Keras does not track and an export does not trace.

    Args:
        layer: whose variables are read.
        search: one that treats every row for itself.
        search_inputs: takes the tensors of a call to a dictionary of those that `generation` needs.
        generation: takes these to a `SearchProblem`.
    """

    def __init__(self, layer: keras.layers.Layer, search: Search, search_inputs: Callable, generation: Callable):
        self.layer, self.search = layer, search
        self._ask, self._generation = search_inputs, generation
        self._scope = _Scope(name="stream", dtype=layer.dtype_policy)

    def tokens(self, inputs: Any, noise: Any, *args: Any) -> Iterator[np.ndarray]:
        """Yields int32 arrays (B,), the first tokens behind the prompts, the second, ..., until all rows have ended."""
        search_inputs = self._search_inputs(inputs, *args)
        generation: SearchProblem = self._generation(search_inputs)
        carry = self._start(search_inputs, noise)
        first = ops.convert_to_numpy(search_inputs["prompt_lengths"])
        yielded = 0
        for t in range(inputs.shape[1] + generation.max_steps - 1):
            carry = self._advance(search_inputs, carry)
            history, lengths, done = (ops.convert_to_numpy(carry[key]) for key in ("history", "lengths", "done"))
            # A token is handed out when the row of the longest prompt has come as far.
            known = lengths.max() if done.all() else t + 2 - first.max()
            for i in range(yielded, known):
                column = np.minimum(first + i, history.shape[1] - 1)
                token = history[np.arange(len(first)), column]
                yield np.where(i < lengths, token, generation.pad_token).astype("int32")
            yielded = max(known, yielded)
            if done.all():
                return

    @functools.cached_property
    def _search_inputs(self) -> Callable:
        return self._compiled(self._ask)

    @functools.cached_property
    def _start(self) -> Callable:
        return self._compiled(lambda search_inputs, noise: self.search.start(self._generation(search_inputs), noise))

    @functools.cached_property
    def _advance(self) -> Callable:
        return self._compiled(lambda search_inputs, carry: self.search.advance(self._generation(search_inputs), carry))

    def _compiled(self, function: Callable) -> Callable:
        def scoped(*args):
            return self._scope(tree.flatten(args)[0], function=lambda: function(*args))

        return control_flow.compiled(scoped, self.layer)
