"""The three ways to run through time: whole, step by step, and free."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_seqx.decoding import loop
from keras_seqx.decoding.cells import CellStack

States = list[Any]


@dataclasses.dataclass(frozen=True)
class Passes:
    """What stays the same through the steps of one call.

    Attributes:
        cells: the built cell stack.
        output_layer: takes hidden (B, H) to an output (B, D).
        output: `keras.KerasTensor` of one step's output.
        covariates: tensor (B, steps, C), or None.
        memories: the loop constants of each cell.
        training: whether dropout is active.
        variables: the Keras variables that a step may read or assign.
    """

    cells: CellStack
    output_layer: Callable
    output: keras.KerasTensor
    covariates: Any
    memories: Sequence[dict]
    training: bool
    variables: Sequence[Any]

    def whole(self, inputs: Any, states: States) -> tuple[Any, States]:
        """Reads all of `inputs` (B, n, D), cell by cell; returns outputs (B, n, D) and the last states."""
        length = ops.shape(inputs)[1]
        if self.covariates is not None:
            inputs = ops.concatenate([inputs, self.covariates[:, :length]], axis=-1)
        hidden, states = self.cells.sequence(
            inputs, states, self.training, self.memories, length, variables=self.variables
        )
        flat = self.output_layer(ops.reshape(hidden, (-1, hidden.shape[-1])))
        return ops.reshape(flat, (ops.shape(inputs)[0], length, flat.shape[-1])), states

    def stepwise(self, inputs: Any, use: Any, states: States) -> tuple[Any, States]:
        """Reads `inputs` (B, n, D) where `use` (B, n) is true, and the last output elsewhere."""
        xs = {"input": inputs, "use": use, **self._covariates(0, ops.shape(inputs)[1])}
        return self._scan(ops.zeros_like(inputs[:, 0]), states, xs, ops.shape(inputs)[1])

    def free(self, sample: Any, states: States, start: Any, length: Any) -> tuple[Any, States]:
        """Reads `sample` (B, D), and then `length` - 1 times its own output; `start` steps went before."""
        return self._scan(sample, states, self._covariates(start, length), length)

    def prime(self, x: Any, states: States) -> Any:
        """Context manager: dropout masks drawn before the loops, and dropped after them."""
        if self.covariates is not None:
            x = ops.concatenate([x, self.covariates[:, 0]], axis=-1)
        return self.cells.dropout_masks(x, states, self.training, self.memories)

    def _covariates(self, start: Any, length: Any) -> dict[str, Any]:
        return {} if self.covariates is None else {"covariate": self.covariates[:, start : start + length]}

    def _scan(self, sample: Any, states: States, xs: dict[str, Any], length: Any) -> tuple[Any, States]:
        def step(carry, x):
            sample, states = carry
            if "input" in x:
                sample = ops.where(x["use"][:, None], x["input"], sample)
            features = ops.concatenate([sample, x["covariate"]], axis=-1) if "covariate" in x else sample
            hidden, states = self.cells.step(features, states, self.training, self.memories)
            output = self.output_layer(hidden)
            return (ops.cast(output, sample.dtype), states), output

        (_, states), outputs = loop.scan(
            step, (sample, list(states)), xs, length, output=self.output, variables=self.variables
        )
        return outputs, states
