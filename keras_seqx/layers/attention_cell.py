"""AttentionCell: an RNN cell that looks into a memory."""

from typing import Any

import keras
from keras import ops

from keras_seqx._attention import checks as arguments
from keras_seqx._attention import functions as attending
from keras_seqx._attention.scores import SCORES
from keras_seqx._core import errors, sharing
from keras_seqx._decoder.cell_stack import CellStack
from keras_seqx._decoder.random_cell import RandomCell

MONOTONIC = (None, "soft", "hard")


@keras.saving.register_keras_serializable(package="keras_seqx")
class AttentionCell(RandomCell, keras.layers.Layer):
    """Looks, at every step of an RNN cell, into a memory for what the step needs.

    With m[s] the memory, such as an encoder's outputs, and h[t] the inner cell's output, step t computes

        h[t], state = cell([x[t], attention[t - 1]], state)
        alignments[t] = softmax over s of score(h[t], m[s])
        context[t] = sum over s of alignments[t, s] m[s]
        attention[t] = tanh(W [h[t], context[t]])

    and returns attention[t]. The score is one of

        "bahdanau"              v . tanh(W_q h + W_m m)
        "bahdanau_normalized"   g v / |v| . tanh(W_q h + W_m m + b), g = sqrt(1 / units) at first
        "luong"                 h . W_m m
        "luong_scaled"          g h . W_m m, g = 1 at first
        "luong_dot"             h . m, for a memory as wide as h

    Differs from `AttentionWrapper` of TensorFlow Addons, whose scores these are, in the tanh around W, as published.

    A decoder attends at any of its layers: `[AttentionCell(LSTMCell(8)), LSTMCell(8)]` in its first,
    `AttentionCell([LSTMCell(8), LSTMCell(8)])` behind the last.

    Args:
        cell: an RNN cell, a list of cells (stacked), `StackedRNNCells`, or RNN layers, whose cells are used.
        attention: name of the score. Defaults to "bahdanau".
        units: integer of at least 1, the width of Bahdanau's hidden layer. Defaults to None: as wide as h.
        output_units: integer of at least 1, the width of the output. Defaults to None: as wide as h.
        input_feeding: whether the cell reads the last attention too. Without, it never sees what was found, and a whole
            sequence is read at once where every input is known. Defaults to True.
        monotonic: "soft" or "hard" to have attention move forwards only: at each place from the last on, the reader
            stops with probability sigmoid(score). Soft alignments are the expected ones, which may sum to less than
            one as the reader may leave the memory. Hard ones are the same in training; in inference, one at the first
            place whose score is above zero. Defaults to None: a softmax.
        sigmoid_noise: number of at least 0; in training, this times a normal draw is added to each monotonic score,
            which teaches the probabilities to be nearly 0 or 1. Defaults to 0.
        score_bias: number, first value of a trainable bias of monotonic scores; -1 to -4 for a long memory, whose
            end would not be reached otherwise. Defaults to 0.
        seed: integer, seed of the noise. Defaults to None.
        **kwargs: those of every Keras layer.

    Call arguments:
        inputs: float tensor (B, D).
        states: list of tensors: the inner cell's states, flat and in order; with `input_feeding` the last attention
            (B, output_units); with `monotonic` the last alignments (B, S).
        training: whether the inner cell's dropout and the noise are active.
        memory: float tensor (B, S, M), or what `prepare_memory` made of it, which projects the keys once and for all.
        memory_mask: boolean tensor (B, S), true where the memory is valid. Keras fills it from the memory's own mask.
        return_alignments: whether to return the alignments too. Defaults to False.

    Returns:
        The output (B, output_units) and the list of new states; with `return_alignments`, the output is a pair of
        it and of the alignments (B, S), of no less than float32.

    Raises:
        ValueError: an unknown name, an option that does not go with another, no memory or one that does not fit.
        TypeError: a cell that is no cell, an option of the wrong kind.

    Masking:
        A masked memory equals one cut off before, whatever stands behind the mask. Where a row has nothing but mask,
        alignments and context are zero.

    Randomness:
        New noise is drawn at every step. The inner cell's dropout masks are held through the steps.

    In `keras.layers.RNN`, which passes a cell nothing but states, the memory is a state:
    `RNN(cell)(x, initial_state=[output, *inner, memory, memory_mask])`. The last output (B, output_units) comes first,
    as `RNN` repeats it at masked steps; zeros to begin with. After it come the inner cell's states, with `monotonic`
    the last alignments, then the memory, and its mask as floats where there is one. Build the cell by
    `cell.build((None, D), memory_shape=(None, None, M))`. It projects the keys at every step. A mask of the inputs must
    be passed as `mask=`, since Keras fills it for one tensor alone; on JAX, which masks states of rank 2 only, it needs
    the memory as (B, S * M). `AutoregressiveDecoder` has none of these limits.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import AttentionCell, AutoregressiveDecoder
    >>> cells = [AttentionCell(keras.layers.LSTMCell(8)), keras.layers.LSTMCell(8)]
    >>> decoder = AutoregressiveDecoder(cells, keras.layers.Dense(3), steps=7)
    >>> start, encoded = np.zeros((2, 1, 3), "float32"), np.ones((2, 5, 6), "float32")
    >>> tuple(decoder(start, memory=encoded).shape)
    (2, 7, 3)

    References:
        - Bahdanau et al., 2015, Neural machine translation by jointly learning to align and translate, arXiv:1409.0473.
        - Luong et al., 2015, Effective approaches to attention-based neural machine translation, arXiv:1508.04025.
        - Raffel et al., 2017, Online and linear-time attention by enforcing monotonic alignments, arXiv:1704.00784.
    """

    # Tells a decoder that there is no step without a memory.
    takes_memory = True

    def __init__(
        self,
        cell: Any,
        attention: str = "bahdanau",
        *,
        units: int | None = None,
        output_units: int | None = None,
        input_feeding: bool = True,
        monotonic: str | None = None,
        sigmoid_noise: float = 0.0,
        score_bias: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._cells = CellStack(cell, self)
        self.cell = cell
        self.attention = arguments.one_of(self, "attention", attention, tuple(SCORES))
        self.monotonic = arguments.one_of(self, "monotonic", monotonic, MONOTONIC)
        self.input_feeding = bool(input_feeding)
        self.units = arguments.width(self, "units", units)
        if units is not None and not SCORES[attention].has_units:
            fix = "The keys are as wide as the cell's output: leave it out"
            raise ValueError(errors.message(self, "units", f"None where `attention` is {attention!r}", units, fix))
        self.output_units = arguments.width(self, "output_units", output_units)
        self.output_size = self.output_units or _output_size(self._cells.cells[-1])
        what = "a finite number of at least 0"
        self.sigmoid_noise = arguments.of_monotonic(self, "sigmoid_noise", sigmoid_noise, what, lambda x: x >= 0)
        self.score_bias = arguments.of_monotonic(self, "score_bias", score_bias, "a finite number", lambda x: True)
        self.seed = seed
        if self.sigmoid_noise:
            self.seed_generator = keras.random.SeedGenerator(seed)
        inner = [spec.shape[1] if len(spec.shape) == 2 else tuple(spec.shape[1:]) for spec in self._cells.state_specs]
        # The alignments are as long as the memory is.
        self.state_size = inner + [self.output_size] * self.input_feeding + [None] * bool(monotonic)

    def build(self, inputs_shape: Any, states_shape: Any = None, memory_shape: Any = None) -> None:
        arguments.check_memory_shape(self, memory_shape)
        self._width, self._memory_width = inputs_shape[-1], memory_shape[-1]
        memory = keras.KerasTensor((None, None, self._memory_width), dtype=self.compute_dtype)
        width = self._cells.build(self._width + self.output_size * self.input_feeding, memory).shape[-1]
        self._score = SCORES[self.attention](self, width, self._memory_width, self.units)
        if self.monotonic:
            offset = keras.initializers.Constant(self.score_bias)
            self.score_offset = self.add_weight(shape=(), initializer=offset, name="score_offset")
        shape = (width + self._memory_width, self.output_size)
        self.output_kernel = self.add_weight(shape=shape, name="output_kernel")

    def get_initial_state(self, batch_size: Any = None, memory: Any = None) -> list[Any]:
        batch_size = ops.shape(memory)[0] if batch_size is None else batch_size
        states = self._cells.initial_states(batch_size, memory)
        if self.input_feeding:
            states.append(ops.zeros((batch_size, self.output_size), dtype=self.compute_dtype))
        if self.monotonic:  # the reader stands at the beginning
            length = 1 if memory is None else ops.shape(memory)[1]
            # A sum, as on torch the rows of a tensor broadcast or repeated share their storage.
            at_first = ops.cast(ops.arange(length, dtype="int32") < 1, self.compute_dtype)
            states.append(ops.zeros((batch_size, length), dtype=self.compute_dtype) + at_first)
        return states

    def prepare_memory(self, memory: Any, memory_mask: Any = None) -> dict[str, Any]:
        """Returns what every step needs of a memory (B, S, M) and its mask (B, S): a structure of tensors (B, ...)."""
        arguments.check_memory(self, memory, memory_mask, self._memory_width)
        memory, prepared = ops.cast(memory, self.compute_dtype), {}
        if memory_mask is not None:
            prepared["mask"] = ops.cast(memory_mask, "bool")
            memory = attending.hide(memory, prepared["mask"])
        inner = self._cells.prepare_memory(memory, memory_mask)
        return {**prepared, "values": memory, "keys": self._score.keys(memory), "inner": inner}

    def call(
        self,
        inputs: Any,
        states: Any,
        training: bool | None = None,
        memory: Any = None,
        memory_mask: Any = None,
        return_alignments: bool = False,
    ) -> tuple[Any, list[Any]]:
        own: list[Any] = list(states)
        of_memory: list[Any] = []
        if memory is None and len(own) > len(self.state_size):
            own, of_memory = self._in_keras_rnn(own)
            memory, memory_mask = self._as_memory(*of_memory)
        memory = self._prepared(memory, memory_mask)
        inner, own = own[: self._cells.state_count], own[self._cells.state_count :]
        if self.input_feeding:
            inputs = ops.concatenate([inputs, own[0]], axis=-1)
        hidden, new_states = self._cells.step(inputs, inner, bool(training), memory["inner"])
        attention, alignments = self._attend(hidden, memory, own[-1] if self.monotonic else None, training)
        last = [ops.cast(alignments, own[-1].dtype)] if self.monotonic else []
        if of_memory:
            new_states = [attention, *new_states, *last, *of_memory]
        else:
            new_states = [*new_states, *([attention] if self.input_feeding else []), *last]
        return (attention, alignments) if return_alignments else attention, new_states

    def compute_output_spec(
        self,
        inputs: Any,
        states: Any,
        training: bool | None = None,
        memory: Any = None,
        memory_mask: Any = None,
        return_alignments: bool = False,
    ) -> Any:
        if not isinstance(memory, dict) and len(states) == len(self.state_size):
            arguments.check_memory(self, memory, memory_mask, self._memory_width)
        output = keras.KerasTensor((inputs.shape[0], self.output_size), dtype=self.compute_dtype)
        if return_alignments:
            length = (memory["values"] if isinstance(memory, dict) else memory).shape[1]
            dtype = attending.full_precision(self.compute_dtype)
            output = (output, keras.KerasTensor((inputs.shape[0], length), dtype=dtype))
        return output, [keras.KerasTensor(state.shape, dtype=state.dtype) for state in states]

    @property
    def call_sequence(self) -> Any:
        """What reads a whole sequence at once; None where each step needs what the one before found."""
        return None if self.input_feeding or self.monotonic else self._read_sequence

    def _read_sequence(
        self,
        inputs: Any,
        states: Any,
        training: bool | None = None,
        memory: Any = None,
        memory_mask: Any = None,
        is_initial_state: bool = False,
        return_alignments: bool = False,
    ) -> tuple[Any, list[Any]]:
        memory, length = self._prepared(memory, memory_mask), ops.shape(inputs)[1]
        hidden, states = self._cells.sequence(
            inputs, states, bool(training), memory["inner"], length, self.variables, is_initial_state
        )
        attention, alignments = self._attend(hidden, memory, None, training)
        return (attention, alignments) if return_alignments else attention, states

    def _attend(self, hidden: Any, memory: dict[str, Any], previous: Any, training: Any) -> tuple[Any, Any]:
        """Returns attention (B, [T,] output size) and alignments (B, [T,] S) of outputs `hidden` (B, [T,] H).

        Monotonic attention knows one step only, behind the `previous` alignments (B, S).
        """
        hidden, mask = ops.cast(hidden, self.compute_dtype), memory.get("mask")
        scores = self._score(hidden, memory["keys"])
        scores = ops.cast(scores, attending.full_precision(scores.dtype))
        if self.monotonic:
            scores = scores + ops.cast(self.score_offset.value, scores.dtype)
            if training and self.sigmoid_noise:
                seed = self.seed_of(scores, previous)
                noise = keras.random.normal(ops.shape(scores), dtype=scores.dtype, seed=seed)
                scores = scores + self.sigmoid_noise * noise
            hard = self.monotonic == "hard" and not training
            stop = attending.hard_monotonic if hard else attending.soft_monotonic
            alignments = stop(scores, ops.cast(previous, scores.dtype), mask)
        else:
            if mask is not None and len(scores.shape) == 3:
                mask = mask[:, None]
            alignments = attending.softmax(scores, mask)
        context = attending.mix(ops.cast(alignments, hidden.dtype), memory["values"])
        joined = ops.concatenate([hidden, context], axis=-1)
        return attending.tanh(attending.project(joined, self.output_kernel.value)), alignments

    def _prepared(self, memory: Any, memory_mask: Any) -> dict[str, Any]:
        """Returns `memory` as it is if it has been prepared before."""
        return memory if isinstance(memory, dict) else self.prepare_memory(memory, memory_mask)

    def _in_keras_rnn(self, states: list[Any]) -> tuple[list[Any], list[Any]]:
        """Returns the cell's own states, and memory and mask, of those that `keras.layers.RNN` passes."""
        inner = self.state_size[: self._cells.state_count]
        sizes = [self.output_size, *inner, *[None] * bool(self.monotonic)]
        arguments.check_rnn_states(self, states, sizes)
        (output, *own), of_memory = states[: len(sizes)], states[len(sizes) :]
        if self.input_feeding:
            own.insert(self._cells.state_count, output)
        return own, of_memory

    def _as_memory(self, memory: Any, mask: Any = None) -> tuple[Any, Any]:
        """Returns a memory (B, S, M), which may come as (B, S * M), and its mask."""
        if len(memory.shape) == 2:
            memory = ops.reshape(memory, (ops.shape(memory)[0], -1, self._memory_width))
        return memory, mask

    def get_dropout_mask(self, step_input: Any) -> None:
        """Called by `keras.layers.RNN` before its loop: the inner cells draw what they hold through it."""
        super().get_dropout_mask(step_input)
        self._cells.forget_dropout_masks()  # a loop that ended in an error may have left some
        if self._cells.has_dropout:
            memory = ops.zeros((ops.shape(step_input)[0], 2, self._memory_width), dtype=self.compute_dtype)
            self(step_input, self.get_initial_state(memory=memory), training=True, memory=memory)
        self._cells.derive_seeds()

    def reset_dropout_mask(self) -> None:
        super().reset_dropout_mask()
        self._cells.forget_dropout_masks()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **sharing.serialize({"cell": self.cell}),
            "attention": self.attention,
            "units": self.units,
            "output_units": self.output_units,
            "input_feeding": self.input_feeding,
            "monotonic": self.monotonic,
            "sigmoid_noise": self.sigmoid_noise,
            "score_bias": self.score_bias,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AttentionCell":
        return cls(**sharing.deserialize(config, "cell"))

    def get_build_config(self) -> dict[str, Any] | None:
        if not self.built:
            return None
        return {"inputs_shape": (None, self._width), "memory_shape": (None, None, self._memory_width)}

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.build(config["inputs_shape"], memory_shape=config["memory_shape"])


def _output_size(cell: Any) -> int:
    """Returns how wide a cell's output is, by Keras' rule: as it declares, or else as its first state."""
    declared = getattr(cell.layer, "output_size", None)
    return cell.state_specs[0].shape[-1] if declared is None else declared
