"""The three ways to run through time: the whole sequence, step by step, and free running."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_seqx._core import control_flow
from keras_seqx._decoder import checks
from keras_seqx._decoder.cell_stack import CellStack
from keras_seqx.generation.samplers import Sampler

States = list[Any]

# How far each row has come: whether it has "ended" (B,), its "last" output (B, D), and its "length" (B,), the number of
# outputs up to the one that ended it. None where no row can end.
Rows = dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Rollout:
    """What stays the same through the steps of one call.

    What is fed back is a *sample*: (B, D) where the decoder is continuous, ids (B,) where it has an embedding. What the
    cells read are *features* (B, E): the sample itself, or its embedding.

    Attributes:
        cells: the built cell stack.
        embed: takes ids (B, n) to features (B, n, E); None where the decoder is continuous.
        output_layer: takes hidden (B, H) to an output (B, D) or (B, V).
        output: `keras.KerasTensor` of one step's output.
        sampler: takes an output to the next sample.
        covariates: tensor (B, steps, C), or None.
        memories: the loop constants of each cell.
        training: whether dropout is active.
        variables: the Keras variables that a step may read or assign.
        seed: `keras.random.SeedGenerator` of the sampler's draws.
        stop: takes outputs (B, D) to booleans (B,), which rows end with them, or None.
    """

    cells: CellStack
    embed: Callable | None
    output_layer: Callable
    output: keras.KerasTensor
    sampler: Sampler
    covariates: Any
    memories: Sequence[dict]
    training: bool
    variables: Sequence[Any]
    seed: keras.random.SeedGenerator
    stop: Callable | None = None

    def start(self, batch_size: Any) -> Rows:
        """Returns how far rows have come before the first step."""
        if self.stop is None:
            return None
        length = ops.zeros((batch_size,), dtype="int32")
        last = ops.zeros((batch_size, self.output.shape[-1]), dtype=self.output.dtype)
        return {"ended": length > 0, "last": last, "length": length}

    def run_sequence(self, inputs: Any, states: States, is_initial_state: bool = False) -> tuple[Any, States]:
        """Reads all of `inputs` (B, n, ...), cell by cell; returns outputs (B, n, D) and the last states."""
        features = self._features(inputs)
        length = ops.shape(features)[1]
        if self.covariates is not None:
            features = ops.concatenate([features, self.covariates[:, :length]], axis=-1)
        hidden, states = self.cells.sequence(
            features, states, self.training, self.memories, length, self.variables, is_initial_state
        )
        flat = self.output_layer(ops.reshape(hidden, (-1, hidden.shape[-1])))
        return ops.reshape(flat, (ops.shape(features)[0], length, flat.shape[-1])), states

    def after_whole(self, outputs: Any) -> Rows:
        """Returns how far rows have come after `outputs` (B, n, D) of inputs that were all given."""
        if self.stop is None:
            return None
        last = outputs[:, -1]
        length = ops.zeros((ops.shape(outputs)[0],), dtype="int32") + ops.shape(outputs)[1]
        return {"ended": self.stop(last), "last": last, "length": length}

    def run_stepwise(self, inputs: Any, use: Any, states: States, rows: Rows = None) -> tuple[Any, States, Rows]:
        """Reads `inputs` (B, n, ...) where `use` (B, n) is true, and the last sample elsewhere."""
        features, length = self._features(inputs), ops.shape(inputs)[1]
        xs = {"features": features, "use": use, **self._by_step(inputs, 0, length)}
        if self.stop is not None:
            # Where none of a row's inputs are left, it runs free.
            given = ops.cumsum(ops.cast(use, "int32"), axis=1)
            xs["free"] = given == ops.max(given, axis=1, keepdims=True)
        return self._scan(ops.zeros_like(inputs[:, 0]), states, xs, length, rows)

    def run_free(self, sample: Any, states: States, start: Any, length: Any, rows: Rows) -> tuple[Any, States, Rows]:
        """Reads `sample` (B, ...), and then `length` - 1 times its own; `start` steps went before."""
        return self._scan(sample, states, self._by_step(sample, start, length), length, rows)

    def step(self, sample: Any, states: States, t: Any, return_alignments: bool = False) -> tuple[Any, States, Any]:
        """Reads one sample (B, ...) at time t; returns the output (B, D), new states, alignments (B, S) or None."""
        x = sample if self.embed is None else self.embed(sample[:, None])[:, 0]
        if self.covariates is not None:
            x = ops.concatenate([x, ops.take(self.covariates, t, axis=1)], axis=-1)
        if return_alignments:
            hidden, states, alignments = self.cells.step_with_alignments(x, states, self.memories)
            return self.output_layer(hidden), states, alignments
        hidden, states = self.cells.step(x, states, self.training, self.memories)
        return self.output_layer(hidden), states, None

    def sample(self, output: Any, inputs: Any) -> Any:
        """Returns what is fed back after one `output` (B, D): samples like `inputs`."""
        noise = self._noise(ops.shape(output)[0], 1)
        return self._sample(output, noise if noise is None else noise[:, 0], inputs[:, 0])

    def hold_dropout_masks(self, inputs: Any, states: States) -> Any:
        """Context manager: dropout masks drawn before the loops, and dropped after them."""
        x = self._features(inputs[:, :1])[:, 0]
        if self.covariates is not None:
            x = ops.concatenate([x, self.covariates[:, 0]], axis=-1)
        return self.cells.dropout_masks(x, states, self.training, self.memories)

    def _features(self, samples: Any) -> Any:
        return samples if self.embed is None else self.embed(samples)

    def _by_step(self, like: Any, start: Any, length: Any) -> dict[str, Any]:
        """What each of `length` steps after the first `start` gets: its covariates, and its share of the noise."""
        xs = {}
        if self.covariates is not None:
            xs["covariate"] = self.covariates[:, start : start + length]
        noise = self._noise(ops.shape(like)[0], length)
        return xs if noise is None else {**xs, "noise": noise}

    def _noise(self, batch_size: Any, steps: Any) -> Any:
        noise = self.sampler.noise(batch_size, steps, self.output.shape[-1], self.seed)
        return checks.check_draws("AutoregressiveDecoder", "sampler", self.sampler, noise)

    def _sample(self, output: Any, noise: Any, like: Any) -> Any:
        """Returns the sample of an output, of the dtype and shape of the sample `like`."""
        sample = self.sampler(output, noise)
        checks.check_sample(self.sampler, sample, output, like)
        return ops.cast(sample, like.dtype)

    def _ended(self, output: Any) -> Any:
        assert self.stop is not None
        return self.stop(output)

    def _scan(
        self, sample: Any, states: States, xs: dict[str, Any], length: Any, rows: Rows
    ) -> tuple[Any, States, Rows]:
        def step(carry, x):
            sample, states, *row = carry
            features = sample if self.embed is None else self.embed(sample[:, None])[:, 0]
            if "use" in x:
                features = ops.where(x["use"][:, None], x["features"], features)
            if "covariate" in x:
                features = ops.concatenate([features, x["covariate"]], axis=-1)
            hidden, new_states = self.cells.step(features, states, self.training, self.memories)
            output = self.output_layer(hidden)
            sample = self._sample(output, x.get("noise"), sample)
            if not row:
                return (sample, new_states), output
            return (sample, *self._advance(row[0], output, x.get("free"), states, new_states)), output

        carry = (sample, list(states), *([] if rows is None else [rows]))
        until = None if rows is None else lambda carry: ops.all(carry[2]["ended"])
        (_, states, *row), outputs = control_flow.scan(
            step, carry, xs, length, output=self.output, variables=self.variables, until=until
        )
        return outputs, states, row[0] if row else None

    def _advance(self, row: Any, output: Any, free: Any, states: States, new: States) -> tuple[States, Rows]:
        """A row that has ended keeps its states and its last output."""
        going, ends = ~row["ended"], self._ended(output)
        ends = ends if free is None else ends & free

        def choose(new: Any, old: Any) -> Any:
            return ops.where(ops.reshape(going, (-1,) + (1,) * (len(new.shape) - 1)), new, old)

        return [choose(n, s) for n, s in zip(new, states, strict=True)], {
            "ended": row["ended"] | ends,
            "last": choose(output, row["last"]),
            "length": row["length"] + ops.cast(going, "int32"),
        }
