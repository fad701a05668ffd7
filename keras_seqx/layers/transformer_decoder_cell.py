"""TransformerDecoderCell: one block of a Transformer decoder, run step by step like an RNN cell."""

from typing import Any

import keras
from keras import ops

from keras_seqx._attention import checks as arguments
from keras_seqx._attention import functions, multi_head
from keras_seqx._core import control_flow, errors, keras_internals, validation
from keras_seqx._decoder.random_cell import RandomCell


@keras.saving.register_keras_serializable(package="keras_seqx")
class TransformerDecoderCell(RandomCell, keras.layers.Layer):
    """Reads one more step of a sequence with a block of a Transformer decoder.

    With normalization first, where n[i] are layer normalizations,

        x = x + self_attention(n[0](x)), over this step and all before it
        x = x + cross_attention(n[1](x), memory), with `cross_attention`
        x = x + W_2 activation(W_1 n[2](x))

    otherwise x = n[i](x + sublayer(x)) each time. Queries and keys of the self-attention are rotated by their
    positions, so that no block has to be the first; in a stack each cell is a block. Differs from KerasHub's
    `TransformerDecoder` in that: positions lie in the block, not in an embedding.

    The states are the last output, the keys and values of the steps read so far, and how many those are. The output
    comes first, as in Keras' own cells: `keras.layers.RNN` repeats it at masked steps.

    Args:
        units: integer of at least 1, the width D of inputs and outputs.
        num_heads: integer of at least 1, into which `units` divides evenly, with an even width for each.
        max_length: integer of at least 1, how many steps the cell remembers. Outputs of steps beyond are NaN.
        intermediate_dim: integer of at least 1, width of the feed-forward layer. Defaults to None: `4 * units`.
        cross_attention: whether the block attends to a memory, which must then be given. Defaults to False.
        dropout: number within [0, 1], of what each sublayer adds. Defaults to 0.
        activation: of the feed-forward layer, name or function. Defaults to "gelu".
        layer_norm_epsilon: number above 0. Defaults to 1e-5.
        kernel_initializer: initializer of the kernels. Defaults to "glorot_uniform".
        bias_initializer: initializer of the biases. Defaults to "zeros".
        normalize_first: whether a sublayer's input is normalized, and not its sum. Defaults to True.
        seed: integer, seed of the dropout. Defaults to None.
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: float tensor (B, D).
        states: list of the last output (B, D), the keys and the values (B, max_length * D), and the number of steps
            read, an integer tensor (B, 1), which may differ from row to row.
        training: whether dropout is active.
        memory: float tensor (B, S, M), or what `prepare_memory` made of it, which projects it once and for all.
        memory_mask: boolean tensor (B, S), true where the memory is valid. Keras fills it from the memory's own mask.
        return_alignments: whether to return the weights of the cross-attention too. Defaults to False.

    Returns:
        The output (B, D) and the list of new states; with `return_alignments`, the output is a pair of it and of the
        weights (B, S), averaged over the heads, of no less than float32.

    Raises:
        ValueError: sizes that do not divide, a memory or inputs that do not fit, a memory where there is no
            cross-attention, none where there is; in `keras.layers.RNN` under mixed precision, which casts the number
            of steps read to the compute dtype, a `max_length` that this dtype cannot count to: 256 of bfloat16, 2048
            of float16.
        TypeError: an option of the wrong kind.

    Masking:
        A masked memory equals one cut off before, whatever stands behind the mask. Where a row has nothing but mask,
        the cross-attention adds its output bias alone.

    Randomness:
        Dropout draws new masks at every step, as between the positions of a Transformer, and not once for all steps.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import AutoregressiveDecoder, TransformerDecoderCell
    >>> cells = [TransformerDecoderCell(16, num_heads=4, max_length=30) for _ in range(2)]
    >>> decoder = AutoregressiveDecoder(cells, keras.layers.Dense(16), steps=20)
    >>> tuple(decoder(np.zeros((2, 1, 16), "float32")).shape)
    (2, 20, 16)

    References:
        - Vaswani et al., 2017, Attention is all you need, arXiv:1706.03762.
        - Xiong et al., 2020, On layer normalization in the Transformer architecture, arXiv:2002.04745.
        - Su et al., 2021, RoFormer: enhanced Transformer with rotary position embedding, arXiv:2104.09864.
    """

    def __init__(
        self,
        units: int,
        num_heads: int,
        *,
        max_length: int,
        intermediate_dim: int | None = None,
        cross_attention: bool = False,
        dropout: float = 0.0,
        activation: Any = "gelu",
        layer_norm_epsilon: float = 1e-5,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        normalize_first: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = errors.positive_integer(self, "units", units, "It is the width of inputs and outputs")
        self.num_heads = errors.positive_integer(self, "num_heads", num_heads, "Each reads a part of the units")
        if self.units % (2 * self.num_heads):
            what = f"a number of heads that divides `units`={units} into even parts, as features turn in pairs"
            fix = "Choose `units` as a multiple of `2 * num_heads`"
            raise ValueError(errors.message(self, "num_heads", what, num_heads, fix))
        self.max_length = errors.positive_integer(self, "max_length", max_length, "It is the size of the cache")
        self.intermediate_dim = intermediate_dim
        if intermediate_dim is not None:
            fix = "Leave it out for `4 * units`"
            self.intermediate_dim = errors.positive_integer(self, "intermediate_dim", intermediate_dim, fix)
        self.cross_attention = bool(cross_attention)
        self.dropout = errors.probability(self, "dropout", dropout, "Leave it out for none")
        self.activation = keras.activations.get(activation)
        fix = "It keeps a row of equal features from a division by zero"
        self.layer_norm_epsilon = validation.number(
            self, "layer_norm_epsilon", layer_norm_epsilon, "a finite number above 0", lambda x: x > 0, fix
        )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.normalize_first = bool(normalize_first)
        self.seed = seed
        if self.dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)
        # All of rank 2: on JAX, Keras' RNN cannot mask a state of another rank.
        self.state_size = [self.units, self.max_length * self.units, self.max_length * self.units, 1]
        self.output_size = self.units

    @property
    def takes_memory(self) -> bool:
        """Whether there is no step without a memory."""
        return self.cross_attention

    def build(self, inputs_shape: Any, states_shape: Any = None, memory_shape: Any = None) -> None:
        fix = "The block adds to what it reads: project the inputs to its width before, by `keras.layers.Dense`"
        errors.shape(self, "inputs", inputs_shape, "(B, D)", (None, self.units), fix)
        self._memory_width = None
        self._self_kernels = self._dense("self_attention", self.units, 3 * self.units)
        self._self_output = self._dense("self_attention_output", self.units, self.units)
        self._self_norm = self._norm("self_attention_norm")
        if self.cross_attention:
            arguments.check_memory_shape(self, memory_shape)
            self._memory_width = memory_shape[-1]
            self._cross_query = self._dense("cross_attention_query", self.units, self.units)
            self._cross_kernels = self._dense("cross_attention_memory", self._memory_width, 2 * self.units)
            self._cross_output = self._dense("cross_attention_output", self.units, self.units)
            self._cross_norm = self._norm("cross_attention_norm")
        width = self.intermediate_dim or 4 * self.units
        self._intermediate = self._dense("intermediate", self.units, width)
        self._output = self._dense("output", width, self.units)
        self._feedforward_norm = self._norm("feedforward_norm")

    def _dense(self, name: str, width: int, units: int) -> tuple[Any, Any]:
        # A copy of the initializer, as one that is asked twice gives the same numbers twice.
        initializer = self.kernel_initializer
        if isinstance(initializer, keras.initializers.Initializer):
            initializer = type(initializer).from_config(initializer.get_config())
        kernel = self.add_weight(shape=(width, units), initializer=initializer, name=f"{name}_kernel")
        return kernel, self.add_weight(shape=(units,), initializer=self.bias_initializer, name=f"{name}_bias")

    def _norm(self, name: str) -> tuple[Any, Any]:
        gamma = self.add_weight(shape=(self.units,), initializer="ones", name=f"{name}_gamma")
        return gamma, self.add_weight(shape=(self.units,), initializer="zeros", name=f"{name}_beta")

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        # Each its own tensor: torch variables made of one tensor would share its storage.
        floats = [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size[:3]]
        return [*floats, ops.zeros((batch_size, 1), dtype="int32")]

    def prepare_memory(self, memory: Any, memory_mask: Any = None) -> dict[str, Any]:
        """Returns what every step needs of a memory (B, S, M) and its mask (B, S): tensors (B, ...)."""
        arguments.check_memory(self, memory, memory_mask, self._memory_width)
        memory, prepared = ops.cast(memory, self.compute_dtype), {}
        if memory_mask is not None:
            mask = ops.cast(memory_mask, "bool")
            memory, prepared["mask"] = functions.hide(memory, mask), mask[:, None, None]
        # Cast, as a decoder calls this outside the scope of the owner's dtype.
        kernel, bias = (ops.cast(v.value, self.compute_dtype) for v in self._cross_kernels)
        keys, values = multi_head.split(functions.project(memory, kernel) + bias, 2, self.num_heads)
        return {**prepared, "keys": keys, "values": values}

    def call(
        self,
        inputs: Any,
        states: Any,
        training: bool | None = None,
        memory: Any = None,
        memory_mask: Any = None,
        return_alignments: bool = False,
    ) -> tuple[Any, list[Any]]:
        output, states, alignments = self._read(inputs[:, None], states, training, memory, memory_mask, False)
        if return_alignments:
            return (output[:, 0], self._averaged(alignments)[:, 0]), states
        return output[:, 0], states

    def call_sequence(
        self,
        inputs: Any,
        states: Any,
        training: bool | None = None,
        memory: Any = None,
        memory_mask: Any = None,
        is_initial_state: bool = False,
        return_alignments: bool = False,
    ) -> tuple[Any, list[Any]]:
        """Reads a whole sequence (B, T, D) at once: outputs (B, T, D) and states as after T calls.

        `is_initial_state` tells that the states are the initial ones, and no cache has to be looked through.
        """
        outputs, states, alignments = self._read(inputs, states, training, memory, memory_mask, is_initial_state)
        return (outputs, self._averaged(alignments)) if return_alignments else outputs, states

    def _averaged(self, weights: Any) -> Any:
        """Returns the mean over the heads of weights (B, N, T, S)."""
        if weights is None:
            fix = "Make the cell with `cross_attention=True`"
            raise ValueError(errors.message(self, "return_alignments", "False without a memory", True, fix))
        return ops.sum(weights, axis=1) / self.num_heads

    def _read(
        self, x: Any, states: Any, training: Any, memory: Any, memory_mask: Any, is_initial_state: bool
    ) -> tuple[Any, list[Any], Any]:
        """Returns outputs (B, T, D), new states, and the weights of the cross-attention (B, N, T, S) or None."""
        self._check_memory(memory)
        _, keys, values, read = states
        arguments.check_counts(self, read.dtype)
        cache = (-1, self.num_heads, self.max_length, self.units // self.num_heads)
        keys, values = ops.reshape(keys, cache), ops.reshape(values, cache)
        position = ops.cast(read, "int32")
        steps = position + ops.arange(ops.shape(x)[1], dtype="int32")[None]
        alignments = None

        def self_attention(x):
            nonlocal keys, values
            query, key, value = multi_head.split(_affine(x, self._self_kernels), 3, self.num_heads)
            query, key = self._rotated([query, key], steps)
            keys, values = multi_head.write(keys, key, position), multi_head.write(values, value, position)
            if is_initial_state:
                places = ops.arange(ops.shape(x)[1], dtype="int32")
                context, _ = multi_head.attend(query, key, value, (places[None] <= places[:, None])[None, None])
            else:
                seen = ops.arange(self.max_length, dtype="int32")[None, None] <= steps[:, :, None]
                context, _ = multi_head.attend(query, keys, values, seen[:, None])
            return _affine(multi_head.merge(context), self._self_output)

        def cross_attention(x):
            nonlocal alignments
            of_memory = memory if isinstance(memory, dict) else self.prepare_memory(memory, memory_mask)
            (query,) = multi_head.split(_affine(x, self._cross_query), 1, self.num_heads)
            context, alignments = multi_head.attend(
                query, of_memory["keys"], of_memory["values"], of_memory.get("mask")
            )
            return _affine(multi_head.merge(context), self._cross_output)

        def feedforward(x):
            self._check_export()
            return _affine(self.activation(_affine(x, self._intermediate)), self._output)

        sublayers = [(self_attention, self._self_norm), (feedforward, self._feedforward_norm)]
        if self.cross_attention:
            sublayers.insert(1, (cross_attention, self._cross_norm))
        for place, (sublayer, norm) in enumerate(sublayers):
            x = self._add(x, sublayer, norm, training, place, position)
        # Rather no number than a wrong one.
        x = control_flow.where((steps < self.max_length)[:, :, None], x, ops.full_like(x, float("nan")))
        keys, values = (ops.reshape(cache, (-1, self.max_length * self.units)) for cache in (keys, values))
        return x, [x[:, -1], keys, values, ops.cast(position + ops.shape(x)[1], read.dtype)], alignments

    def _add(self, x: Any, sublayer: Any, norm: tuple[Any, Any], training: Any, place: int, position: Any) -> Any:
        def normalized(x):
            return multi_head.layer_norm(x, norm[0].value, norm[1].value, self.layer_norm_epsilon)

        y = sublayer(normalized(x) if self.normalize_first else x)
        if training and self.dropout:
            y = keras.random.dropout(y, self.dropout, seed=self.seed_of(position, place))
        return x + y if self.normalize_first else normalized(x + y)

    def _rotated(self, tensors: list[Any], steps: Any) -> list[Any]:
        """Returns tensors (B, N, T, E) turned by their positions `steps` (B, T)."""
        tables = multi_head.rotations(self.max_length, self.units // self.num_heads)
        steps = ops.minimum(steps, self.max_length - 1)
        cosines, sines = (
            ops.take(ops.convert_to_tensor(t, dtype=self.compute_dtype), steps, axis=0)[:, None] for t in tables
        )
        return [multi_head.rotate(x, cosines, sines) for x in tensors]

    def _check_memory(self, memory: Any) -> None:
        if self.cross_attention and memory is None:
            arguments.check_memory_shape(self, None)
        if memory is not None and not self.cross_attention:
            fix = "Make the cell with `cross_attention=True`, or leave it out"
            raise ValueError(errors.message(self, "memory", "None without `cross_attention`", memory, fix))

    def _check_export(self) -> None:
        """Raises where a file would not load: TensorFlow's "gelu" has no ONNX operation."""
        gelu = keras.backend.backend() == "tensorflow" and self.activation is keras.activations.gelu
        if gelu and keras_internals.export_format() == "onnx":
            fix = 'Train it with "relu" or "silu", or export to a SavedModel'
            what = 'another than "gelu" in an export to ONNX from TensorFlow'
            raise RuntimeError(errors.message(self, "activation", what, "gelu", fix))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "num_heads": self.num_heads,
            "max_length": self.max_length,
            "intermediate_dim": self.intermediate_dim,
            "cross_attention": self.cross_attention,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "normalize_first": self.normalize_first,
            "seed": self.seed,
        }

    def get_build_config(self) -> dict[str, Any] | None:
        if not self.built:
            return None
        memory = None if self._memory_width is None else (None, None, self._memory_width)
        return {"inputs_shape": (None, self.units), "memory_shape": memory}

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.build(config["inputs_shape"], memory_shape=config["memory_shape"])


def _affine(x: Any, weights: tuple[Any, Any]) -> Any:
    kernel, bias = weights
    return functions.project(x, kernel.value) + bias.value
