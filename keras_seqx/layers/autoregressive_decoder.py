"""AutoregressiveDecoder: a cell stack that reads its own output."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core import control_flow, errors, mask_metadata, masks, sharing
from keras_seqx._decoder import checks
from keras_seqx._decoder.core import DecoderCore
from keras_seqx._decoder.rollout import Rollout
from keras_seqx.generation import stopping
from keras_seqx.generation.samplers import Sampler
from keras_seqx.generation.stopping import StopCondition

# What the configuration holds as objects.
PARTS = ("cell", "output_layer", "embedding", "sampler", "stop")
STEPS_FIX = "Give the number of outputs as an int, or None for as many as there are inputs"


@keras.saving.register_keras_serializable(package="keras_seqx")
class AutoregressiveDecoder(keras.layers.Layer):
    """Writes a sequence step by step; each step reads the output of the step before.

    At step t, with T0 inputs given,

        x[t] = inputs[t]                          while t < T0 and its mask is true
        x[t] = sampler(y[t - 1])                  otherwise
        h[t], state = cell([x[t], covariates[t]], state)
        y[t] = output_layer(h[t])

    So one start frame is continued freely, a prompt is read first, and a whole shifted target is teacher forcing. There
    are no modes to choose. A row whose first step is masked starts from zeros. With an `embedding`, the decoder maps
    token ids to logits: inputs and samples are ids, which the embedding maps to the cell's inputs. Unlike with layers
    unrolled by hand, the graph does not grow with the steps, and `steps` may change from call to call.

    Args:
        cell: an RNN cell (`LSTMCell(40)`, `AttentionCell`, your own), a list of cells (stacked), `StackedRNNCells`,
            nested as you like, or RNN layers (`LSTM(40)`, or a list), whose cells and weights are used. This layer and
            the two below may be used elsewhere in the model too: each stays one layer in files, in
            `keras.models.clone_model` and in `change_timesteps`.
        output_layer: layer from (B, H) to (B, D), or to logits (B, V), applied at every step. One whose `call` takes
            `reverse`, such as the embedding itself if it is a `keras.layers.ReversibleEmbedding`, is called with
            `reverse=True`. Defaults to None: the identity.
        embedding: layer from ids (B, n) to (B, n, E), such as `Embedding(vocabulary, features)`. One with `mask_zero`
            masks ids of 0. Defaults to None: inputs are continuous.
        stop: a `StopCondition` such as `StopThreshold(0.5)`, which tells from an output of a continuous decoder whether
            it is the last one of its row. It counts in inference, where more outputs than inputs are asked for, once
            a row has read its own inputs. Defaults to None: every row has `steps` outputs.
        sampler: "identity" (default without `embedding`), "greedy" (default with it), or a `Sampler` such as
            `Categorical(temperature=0.7)` or `Gaussian()`: takes an output to what is read next.
        steps: integer of at least 1, the number of outputs. Defaults to None: as many as there are inputs. It is
            read when a function is traced: after changing the attribute of a model that has already predicted,
            call `model.make_predict_function(force=True)`.
        teacher_forcing: number within [0, 1]; in training each forced input after the first is kept with this
            probability, drawn for each row and step, and a sample read in its place otherwise. Defaults to 1. The
            attribute is a saved, non-trainable scalar variable: `decoder.teacher_forcing.assign(0.5)` moves it,
            `TeacherForcingSchedule` does so from epoch to epoch.
        return_state: whether to return the last states too. Defaults to False.
        seed: integer, seed of the draws. Defaults to None.
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: the forced inputs, float tensor (B, T0, D), or with `embedding` integer ids (B, T0); T0 >= 1.
        initial_state: tensor, or list of tensors (B, units), that fill the states of the cells in order; a state
            not given starts at the cell's `get_initial_state`. The `[h, c]` of an encoder fills the first LSTM.
        memory: tensor (B, S, M), handed at every step to the cells whose `call` takes a `memory`.
        covariates: float tensor (B, steps, C), inputs known for every step, concatenated to each step's input.
        steps: as the constructor's, for this call.
        training: whether teacher forcing draws and dropout are active.
        mask: boolean tensor (B, T0), true where an input is given. Keras fills it from the inputs' own mask.
        inputs_mask, memory_mask: filled by Keras where several tensors are passed.

    Returns:
        A float tensor (B, steps, D or V); with `return_state`, a tuple of it and of every state (B, units), flat and in
        order, so that `outputs, *states = decoder(...)` and
        `decoder(outputs[:, -1:], initial_state=states, steps=m)` go on for m steps.

    Raises:
        ValueError: shapes, states or sizes that do not fit; steps below 1; a probability outside [0, 1]; ids outside
            the vocabulary, where their values are known; memory missing for a cell that needs it, or given to cells
            that take none.
        TypeError: a cell that is no cell; steps that are no integer; a probability that is no number; float ids.

    Masking:
        With as many outputs as inputs, the outputs carry the inputs' mask; with more, every output is valid; with
        fewer, the outputs carry the mask of the first inputs. With `stop`, the outputs after the one that ends a row
        repeat it and are masked, and its states stay as they are; the loop ends with the last row. Where an output is
        too wide or too narrow to be fed back, a masked step reads zeros. A `BatchNormalization` among the cells or in
        the output layer is the exception to the law: in training it takes its statistics from whatever rows are
        computed at once, padded ones too. Use `LayerNormalization` instead.

    Export:
        `model.export` writes a SavedModel on TensorFlow and JAX, and ONNX on TensorFlow; on torch, with an
        `input_signature` of fixed shapes, ONNX and ExportedProgram files. To LiteRT a loop over time raises an error,
        and so do a random sampler to ONNX, and `stop` from torch. From JAX, inputs before more `steps` must have a
        fixed length.

    Randomness:
        Teacher forcing draws a number for each row and step before the loop, and so does a sampler that is random. A
        cell's dropout masks are drawn once a call and held through the steps, as in `keras.layers.RNN`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import AutoregressiveDecoder
    >>> cells = [keras.layers.LSTMCell(40) for _ in range(4)]
    >>> decoder = AutoregressiveDecoder(cells, keras.layers.Dense(5), steps=150)
    >>> start = np.zeros((32, 1, 5), "float32")
    >>> tuple(decoder(start).shape)
    (32, 150, 5)
    >>> tuple(decoder(start, steps=300).shape)
    (32, 300, 5)
    >>> embedding, logits = keras.layers.Embedding(1000, 64), keras.layers.Dense(1000)
    >>> speaker = AutoregressiveDecoder(keras.layers.GRUCell(40), logits, embedding=embedding)
    >>> tuple(speaker(np.ones((32, 1), "int32"), steps=20).shape)
    (32, 20, 1000)

    References:
        - Graves, 2013, Generating sequences with recurrent neural networks, arXiv:1308.0850.
        - Bengio et al., 2015, Scheduled sampling, arXiv:1506.03099.
    """

    def __init__(
        self,
        cell: Any,
        output_layer: keras.layers.Layer | None = None,
        *,
        embedding: keras.layers.Layer | None = None,
        sampler: str | Sampler | None = None,
        stop: StopCondition | None = None,
        steps: int | None = None,
        teacher_forcing: float = 1.0,
        return_state: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self._core = DecoderCore(self, cell, output_layer, embedding, sampler)
        self.supports_jit = self._core.supports_jit
        self.cell, self.output_layer, self.embedding = cell, output_layer, embedding
        self.sampler = self._core.sampler
        self.stop = stopping.stop_or_none(self, stop, embedding)
        self._called_steps = self.steps = steps
        self.return_state = bool(return_state)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        fix = "1 forces every given input, 0 none after the first"
        self._initial_teacher_forcing = errors.probability(self, "teacher_forcing", teacher_forcing, fix)
        self.teacher_forcing = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self._initial_teacher_forcing),
            dtype="float32",
            trainable=False,
            autocast=False,
            name="teacher_forcing",
        )

    @property
    def steps(self) -> int | None:
        """The number of outputs where a call gives none; None for as many as there are inputs."""
        return self._steps

    @steps.setter
    def steps(self, value: int | None) -> None:
        self._steps = value if value is None else errors.positive_integer(self, "steps", value, STEPS_FIX)

    def build(self, inputs_shape: Any, memory_shape: Any = None, covariates_shape: Any = None) -> None:
        self._core.build(inputs_shape, memory_shape, covariates_shape)
        if self.stop is not None:
            self.stop.check(self, self._core.output.shape[-1])
        if self._initial_teacher_forcing < 1:
            self._core.check_feeds_back("`teacher_forcing` is below 1")

    def call(
        self,
        inputs: Any,
        initial_state: Any = None,
        memory: Any = None,
        covariates: Any = None,
        steps: int | None = None,
        training: bool | None = None,
        mask: Any = None,
        inputs_mask: Any = None,
        memory_mask: Any = None,
    ) -> Any:
        mask = self._core.mask_of(inputs, inputs_mask if mask is None else mask)
        steps = self._check_call(inputs, initial_state, memory, covariates, steps, mask)
        memories = self._core.cells.prepare_memory(memory, memory_mask)
        covariates = self._without_padding(covariates, inputs, steps, mask)
        all_inputs, inputs = inputs, self._core.standardize(inputs, mask)[:, :steps]
        rollout = self._core.rollout(memories, covariates, bool(training), self._stop(inputs, steps, training))
        # How many inputs are read: an int, but where a TensorFlow graph leaves the time axis open.
        given, known = ops.shape(inputs)[1], control_flow.known_size(inputs.shape[1])
        use = None if mask is None else ops.cast(mask, "bool")[:, :steps]
        states, rows = self._core.initial_states(initial_state, ops.shape(inputs)[0], memory), None
        with rollout.hold_dropout_masks(inputs, states):
            if known == 1 and steps not in (None, 1):
                rows = rollout.start(ops.shape(inputs)[0])
                outputs, states, rows = rollout.run_free(inputs[:, 0], states, 0, steps, rows)
            elif rollout.stop is not None and use is not None:
                rows = rollout.start(ops.shape(inputs)[0])
                outputs, states, rows = rollout.run_stepwise(inputs, use, states, rows)
            else:
                outputs, states = self._read(rollout, inputs, use, states, is_initial_state=initial_state is None)
                rows = rollout.after_whole(outputs)
            if steps is not None and known not in (1, steps):
                sample = rollout.sample(outputs[:, -1], inputs)
                more, states, rows = rollout.run_free(sample, states, given, steps - given, rows)
                outputs = ops.concatenate([outputs, more], axis=1)
                outputs = ops.reshape(outputs, (ops.shape(inputs)[0], steps, outputs.shape[-1]))
        if rows is not None:
            outputs = self._keep_last(outputs, steps, rows, mask, all_inputs)
        self._called_steps = steps
        return (outputs, *states) if self.return_state else outputs

    def _stop(self, inputs: Any, steps: int | None, training: Any) -> Callable | None:
        """Returns what ends rows in a call, a function of outputs (B, D) to booleans (B,), or None."""
        stop = self.stop
        if stop is None or training or steps is None or control_flow.known_size(inputs.shape[1]) == steps:
            return None
        # Where a TensorFlow graph leaves the time axis open, it turns out then whether any row runs free.
        more = ops.shape(inputs)[1] < steps
        return lambda outputs: ops.logical_and(stopping.ended(self, stop, outputs), more)

    def _keep_last(self, outputs: Any, steps: Any, rows: Any, mask: Any, inputs: Any) -> Any:
        """Returns outputs (B, steps, D) that stay as they are where their row has ended, and are masked there."""
        valid = ops.arange(steps, dtype="int32") < rows["length"][:, None]
        outputs = ops.where(valid[:, :, None], outputs, rows["last"][:, None])
        given = None if mask is None else masks.mask_of_outputs(mask, inputs, steps)
        return mask_metadata.write(outputs, valid if given is None else ops.logical_and(valid, given))

    def _without_padding(self, covariates: Any, inputs: Any, steps: int | None, mask: Any) -> Any:
        """Returns the covariates, zero after the last valid output of each row.

        A loss takes the outputs there too, times 0, which stays NaN where padding makes them so. At a masked step
        before a valid one the covariates count: a sample is read in place of the missing input.
        """
        valid = mask if mask is None or steps is None else masks.mask_of_outputs(mask, inputs, steps)
        if covariates is None or valid is None:
            return covariates
        follows = ops.flip(ops.cumsum(ops.cast(ops.flip(valid, axis=1), "int32"), axis=1), axis=1) > 0
        return ops.where(follows[:, :, None], covariates, ops.zeros_like(covariates))

    def _read(self, rollout: Rollout, inputs: Any, use: Any, states: list, is_initial_state: bool) -> tuple[Any, list]:
        """Outputs and states over the given inputs, layer by layer if it turns out that all are forced."""
        if not self._core.can_feed_back or control_flow.known_size(inputs.shape[1]) == 1:
            return rollout.run_sequence(inputs, states, is_initial_state)
        if rollout.training:
            draws = keras.random.uniform(ops.shape(inputs)[:2], dtype="float32", seed=self.seed_generator)
            first = ops.cumsum(ops.ones_like(draws), axis=1) < 2
            kept = ops.logical_or(first, ops.less(draws, self.teacher_forcing))
            use = kept if use is None else ops.logical_and(use, kept)
        if use is None:
            return rollout.run_sequence(inputs, states, is_initial_state)
        if control_flow.exporting() or (self.supports_jit and not control_flow.XLA_DIFFERENTIATES_LOOPS_IN_BRANCHES):
            return rollout.run_stepwise(inputs, use, states)[:2]
        return control_flow.cond(
            ops.all(use),
            lambda: rollout.run_sequence(inputs, states, is_initial_state),
            lambda: rollout.run_stepwise(inputs, use, states)[:2],
            variables=rollout.variables,
        )

    def compute_output_spec(
        self,
        inputs: Any,
        initial_state: Any = None,
        memory: Any = None,
        covariates: Any = None,
        steps: int | None = None,
        training: bool | None = None,
        mask: Any = None,
        inputs_mask: Any = None,
        memory_mask: Any = None,
    ) -> Any:
        mask = inputs_mask if mask is None else mask
        steps = self._check_call(inputs, initial_state, memory, covariates, steps, mask)
        self._called_steps = steps
        batch, forced = inputs.shape[:2]
        length = forced if steps is None else steps
        outputs = keras.KerasTensor((batch, length, self._core.output.shape[-1]), dtype=self._core.output.dtype)
        states = [keras.KerasTensor((batch, *s.shape[1:]), dtype=s.dtype) for s in self._core.cells.state_specs]
        return (outputs, *states) if self.return_state else outputs

    def compute_output_shape(self, inputs_shape: Any, memory_shape: Any = None, covariates_shape: Any = None) -> Any:
        if not self.built:
            self.build(inputs_shape, memory_shape, covariates_shape)
        dtype = self.compute_dtype if self.embedding is None else "int32"
        memory = None if memory_shape is None else keras.KerasTensor(memory_shape, dtype=self.compute_dtype)
        covariates = None if covariates_shape is None else keras.KerasTensor(covariates_shape, dtype=self.compute_dtype)
        spec = self.compute_output_spec(keras.KerasTensor(inputs_shape, dtype=dtype), None, memory, covariates)
        return tree.map_structure(lambda s: tuple(s.shape), spec)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        mask = self._core.mask_of(inputs, previous_mask)
        if self.stop is not None and self._called_steps is not None and isinstance(inputs, keras.KerasTensor):
            # A symbolic mask would become part of the graph, in place of the one that `call` knows.
            mask = mask if inputs.shape[1] == self._called_steps else None
        if mask is not None and self._called_steps is not None:
            mask = masks.mask_of_outputs(mask, inputs, self._called_steps)
        return [mask] + [None] * self._core.cells.state_count if self.return_state else mask

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **sharing.serialize({name: getattr(self, name) for name in PARTS}),
            "steps": self.steps,
            "teacher_forcing": self._initial_teacher_forcing,
            "return_state": self.return_state,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AutoregressiveDecoder":
        return cls(**sharing.deserialize(config, *PARTS))

    def _check_call(
        self, inputs: Any, initial_state: Any, memory: Any, covariates: Any, steps: Any, mask: Any
    ) -> int | None:
        """Checks what is known of a call's arguments; returns the steps, None for as many as inputs."""
        steps = self.steps if steps is None else errors.positive_integer(self, "steps", steps, STEPS_FIX)
        given = control_flow.known_size(inputs.shape[1]) if len(inputs.shape) > 1 else None
        length = given if steps is None else steps
        if steps is not None and given is None and len(inputs.shape) > 1 and inputs.shape[1] is not None:
            control_flow.exporting()  # which refuses TorchScript, where a size is a tensor
            what = "of a known length where `steps` are given, in an export from JAX"
            fix = "Export with an `input_signature` of that length, or leave `steps` out"
            raise ValueError(errors.message(self, "inputs", what, tuple(inputs.shape), fix, "its shape"))
        self._core.check(self, inputs, initial_state, memory, covariates, length, mask)
        checks.check_max_length(self, "steps", length or 1, 0, self._core.cells.max_length)
        if None not in (steps, given) and steps > given:
            self._core.check_feeds_back(f"{steps} steps are asked for and {given} inputs given")
        elif mask is not None and self.return_state:
            self._core.check_feeds_back("states behind masked inputs are asked for")
        return steps
