"""The core of a decoder: its cells, output layer, embedding and sampler."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core import errors, keras_internals
from keras_seqx._decoder import checks
from keras_seqx._decoder.cell_stack import CellStack, fast_call, takes
from keras_seqx._decoder.rollout import Rollout


class DecoderCore:
    """Cells, output layer, embedding and sampler of a decoder: built, checked and called as one.

    A plain object, invisible to Keras' tracking: the layers belong to the decoder.

    Args:
        owner: the decoder; named in errors, its dtype policy is the default.
        cell: an RNN cell, a list of cells, or RNN layers.
        output_layer: layer from (B, H) to (B, D), or None.
        embedding: layer from ids (B, n) to (B, n, E), or None where the decoder is continuous.
        sampler: takes outputs to the next sample.
    """

    def __init__(self, owner: keras.layers.Layer, cell: Any, output_layer: Any, embedding: Any, sampler: Any):
        self.owner = owner
        self.cells = CellStack(cell, owner)
        self.output_layer = checks.layer_or_none(owner, "output_layer", output_layer, "Dense(features)")
        self.embedding = checks.layer_or_none(owner, "embedding", embedding, "Embedding(vocabulary, features)")
        self.sampler = checks.sampler_for(owner, sampler, embedding)
        # `keras.layers.ReversibleEmbedding`, as an output layer, goes from features to logits.
        self._output_options = {"reverse": True} if output_layer is not None and takes(output_layer, "reverse") else {}
        # A fused kernel that XLA cannot compile rules out `jit_compile` for the model around it.
        self.supports_jit = all(c.fused is None or c.fused.supports_jit for c in self.cells.cells)

    def build(self, inputs_shape: Any, memory_shape: Any, covariates_shape: Any) -> None:
        """Builds every part for inputs (B, T0, D) or ids (B, T0), memory (B, S, M) and covariates (B, steps, C)."""
        if self.embedding is None:
            checks.check_inputs(self.owner, inputs_shape)
            self.width = inputs_shape[-1]
        else:
            self.width = checks.embedding_width(self.owner, self.embedding)
        self.covariate_width = 0
        if covariates_shape is not None:
            fix = checks.COVARIATES_FIX
            errors.shape(self.owner, "covariates", covariates_shape, "(B, steps, C)", (None, None, None), fix)
            self.covariate_width = covariates_shape[-1]
        memory = None
        if memory_shape is not None:
            memory = keras.KerasTensor((None, *memory_shape[1:]), dtype=self.owner.compute_dtype)
        checks.check_memory(self.owner, memory, None, self.cells)
        cells = [("cell", c.layer) for c in self.cells.cells]
        for argument, layer in [*cells, ("output_layer", self.output_layer), ("embedding", self.embedding)]:
            checks.check_adds_no_loss(self.owner, argument, layer)
        hidden = self.cells.build(self.width + self.covariate_width, memory)
        output = hidden
        if self.output_layer is not None:
            if self._output_options:
                checks.check_reverses(self.owner, self.output_layer, hidden)
            output = keras_internals.call_symbolically(self.output_layer, hidden, **self._output_options)
        # `ReversibleEmbedding.compute_output_spec` does not know the layer's own `reverse_dtype`.
        dtype = getattr(self.output_layer, "reverse_dtype", None) if self._output_options else None
        self.output = keras.KerasTensor(output.shape, dtype=dtype or output.dtype)
        if len(output.shape) != 2:
            fix = "It is called on one step at a time"
            what = f"a layer from {hidden.shape} to (None, D)"
            shape = f"its output has shape {output.shape}"
            raise ValueError(errors.message(self.owner, "output_layer", what, self.output_layer, fix, shape))
        if self.embedding is not None:
            checks.check_logits(self.owner, output, self.output_layer, self.embedding)

    @property
    def can_feed_back(self) -> bool:
        """Whether samples can be read as inputs."""
        return self.embedding is not None or self.sampler.sample_width(self.output.shape[-1]) == self.width

    def check_feeds_back(self, reason: str) -> None:
        """Raises unless samples can be read as inputs, for the `reason` given."""
        if not self.can_feed_back:
            checks.check_width(self.owner, self.output_layer, self.output, self.sampler, self.width, reason)

    def check(
        self, owner: Any, inputs: Any, initial_state: Any, memory: Any, covariates: Any, length: Any, mask: Any
    ) -> None:
        """Checks what is known of the tensors of a call of `length` steps, in the name of `owner`."""
        if self.embedding is None:
            checks.check_inputs(owner, inputs.shape, self.width)
        else:
            checks.check_ids(owner, inputs)
        checks.check_mask(owner, mask, inputs)
        if self.embedding is not None:
            checks.check_vocabulary(owner, inputs, mask, self.embedding)
        batch_size = inputs.shape[0]
        checks.check_states(owner, initial_state, self.cells.state_specs, batch_size)
        checks.check_memory(owner, memory, batch_size, self.cells)
        checks.check_covariates(owner, covariates, batch_size, length, self.covariate_width)

    def mask_of(self, inputs: Any, mask: Any) -> Any:
        """Returns the mask given, or else the one that the embedding computes from ids."""
        if mask is not None or self.embedding is None:
            return mask
        mask = self.embedding.compute_mask(inputs)
        if mask is None and getattr(self.embedding, "mask_zero", False):  # `ReversibleEmbedding` masks its output only
            return ops.not_equal(inputs, 0)
        return mask

    def standardize(self, inputs: Any, mask: Any) -> Any:
        """Returns inputs of the dtype of samples, zero where they are masked."""
        inputs = ops.cast(inputs, self.owner.compute_dtype if self.embedding is None else "int32")
        if mask is None:
            return inputs
        mask = ops.cast(mask, "bool")
        return ops.where(mask[:, :, None] if self.embedding is None else mask, inputs, ops.zeros_like(inputs))

    def initial_states(self, initial_state: Any, batch_size: Any, memory: Any) -> list[Any]:
        """Returns the given states in the cells' order, the cells' own where none is given."""
        states = self.cells.initial_states(batch_size, memory)
        given = [] if initial_state is None else tree.flatten(initial_state)
        for i, state in enumerate(given):
            if state is not None:
                states[i] = ops.cast(state, self.cells.state_specs[i].dtype)
        return states

    def rollout(self, memories: Any, covariates: Any, training: bool, stop: Callable | None = None) -> Rollout:
        """Returns what stays the same through the steps of one call; `memories` are prepared."""
        return Rollout(
            cells=self.cells,
            embed=None if self.embedding is None else fast_call(self.embedding, self.owner, training),
            output_layer=self._call_output_layer(training),
            output=self.output,
            sampler=self.sampler,
            covariates=None if covariates is None else ops.cast(covariates, self.owner.compute_dtype),
            memories=memories,
            training=training,
            variables=self.owner.variables,
            seed=self.owner.seed_generator,
            stop=stop,
        )

    def _call_output_layer(self, training: bool) -> Any:
        if self.output_layer is None:
            return lambda hidden: hidden
        call = fast_call(self.output_layer, self.owner, training)
        return functools.partial(call, **self._output_options) if self._output_options else call
