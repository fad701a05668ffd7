"""TokenGenerator: tokens out of a trained decoder."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import control_flow, errors, keras_internals, sharing, tensors, validation
from keras_seqx._decoder import checks as decoder_checks
from keras_seqx.generation import checks
from keras_seqx.generation.beam_search import BeamSearch
from keras_seqx.generation.search import SamplingSearch, Search
from keras_seqx.generation.search_state import SearchProblem, expand_to_beams
from keras_seqx.generation.streaming import Stream
from keras_seqx.layers.autoregressive_decoder import AutoregressiveDecoder

# What the configuration holds as objects.
PARTS = ("decoder", "search", "processors")


@keras.saving.register_keras_serializable(package="keras_seqx")
class TokenGenerator(keras.layers.Layer):
    """Generates tokens by a decoder, until every row has ended.

    It shares the decoder's weights and reads a prompt as the decoder does: one start token, or prompts of different
    lengths, padded on the right. Behind its own prompt each row goes on alone, for at most `max_steps` tokens. It is a
    layer: the same program for any content, inside any functional model, and saved with it. Differs from
    calling the decoder for a fixed number of steps in that it looks for sequences, not for one step at a time, and
    stops as soon as all rows are finished.

    Args:
        decoder: an `AutoregressiveDecoder` with an `embedding`. Its weights are shared, its sampler, `steps` and
            `teacher_forcing` are not used.
        end_token: the token that ends a sequence, a list of them if any of several does, or None: then all have
            `max_steps` tokens.
        max_steps: integer of at least 1, the most tokens that are generated for a row, the end token counted.
        search: "greedy" (default), `Sampling(...)`, or `BeamSearch(...)`.
        processors: processors of logits, such as `RepetitionPenalty(1.2)`, applied in order at every step.
        pad_token: what stands behind the end of a sequence, possibly the end token itself: "lengths" tell how many
            tokens count. Defaults to 0.
        force_end: whether a sequence that has not ended before takes an end token as its last one, the `max_steps`-th.
            The score counts its log-probability, as of any other token. Defaults to False: a sequence may be cut off.
            For an end that costs nothing use `ForcedTokens({max_steps - 1: end_token})`.
        num_return_sequences: integer N, at most the beams or samples: the N best are returned, best first. Defaults
            to None: the best beam, or every sample in the order drawn.
        return_alignments: whether to return where the decoder's cells looked. Defaults to False.
        seed: integer, seed of the draws. Defaults to None.
        **kwargs: those of every Keras layer; `dtype` defaults to the decoder's.

    Call arguments:
        inputs: integer tensor (B, T0), the prompts, T0 >= 1.
        initial_state, memory, covariates: as the decoder's; covariates (B, T0 + max_steps - 1, C).
        mask: boolean tensor (B, T0), true at the prompts' tokens, which come first in their rows. Keras fills it where
            the inputs have one; an embedding with `mask_zero` makes one.
        inputs_mask, memory_mask: filled by Keras where several tensors are passed.

    Returns:
        A dict. "tokens", int32 (B, max_steps), what comes behind the prompts, the end token included; "lengths",
        int32 (B,), how many of them are valid, the end token counted; "scores", float (B,), the sum of the
        log-probabilities of the processed logits, for a `BeamSearch` normalized by its length penalty. With
        `num_return_sequences`, or several samples, there is an axis more: (B, N, max_steps), (B, N), (B, N). A sequence
        that was never found has length 0 and score -inf. With `return_alignments`, "alignments" too,
        float32 (B, [N,] max_steps, S), the mean over the cells that attend; row i tells where the decoder looked for
        token i.

    Raises:
        ValueError: an end token that the vocabulary lacks; `force_end` without an end token; more sequences to return
            than beams; processors that leave no token; ids out of the vocabulary; memory missing or not taken.
        TypeError: a decoder without embedding; float ids; options of other kinds.

    Masking:
        Neither padding behind a prompt nor padding of the memory changes a result, nor does any other row. The mask
        alone tells the padding of a prompt: prompts that are padded with the end token need one.

    Gradients:
        What it returns is a constant to a gradient. For the gradient of a score, read the tokens by the decoder.

    Export:
        `model.export` writes a SavedModel on TensorFlow and JAX, and ONNX and LiteRT files on TensorFlow.
        `Sampling` to ONNX or LiteRT raises an error, and so does every export from torch.

    Randomness:
        `Sampling` draws one number for each sequence and token, before the loop.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx import AutoregressiveDecoder, BeamSearch, TokenGenerator
    >>> embedding, logits = keras.layers.Embedding(12, 8), keras.layers.Dense(12)
    >>> decoder = AutoregressiveDecoder(keras.layers.LSTMCell(16), logits, embedding=embedding)
    >>> generator = TokenGenerator(decoder, end_token=2, max_steps=20, search=BeamSearch(4), num_return_sequences=3)
    >>> found = generator(np.ones((5, 1), "int32"))
    >>> {key: tuple(value.shape) for key, value in found.items()}
    {'tokens': (5, 3, 20), 'lengths': (5, 3), 'scores': (5, 3)}
    """

    def __init__(
        self,
        decoder: AutoregressiveDecoder,
        *,
        end_token: int | Sequence[int] | None,
        max_steps: int,
        search: str | Search = "greedy",
        processors: Sequence[Any] = (),
        pad_token: int = 0,
        force_end: bool = False,
        num_return_sequences: int | None = None,
        return_alignments: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        if not isinstance(decoder, AutoregressiveDecoder) or decoder.embedding is None:
            fix = "Pass the trained decoder itself, made with `embedding=keras.layers.Embedding(...)`"
            what = "an AutoregressiveDecoder with an `embedding`"
            raise TypeError(errors.message(self, "decoder", what, decoder, fix))
        super().__init__(**{"dtype": decoder.dtype_policy, **kwargs})
        self.decoder = decoder
        self.supports_jit = decoder.supports_jit
        self.force_end = bool(force_end)
        self.end_token = checks.end_token_of(self, end_token, self.force_end)
        self.pad_token = validation.token(self, "pad_token", pad_token, "0 is what Keras' embeddings mask")
        fix = "It bounds the tokens behind a prompt"
        self.max_steps = errors.positive_integer(self, "max_steps", max_steps, fix)
        self.search = checks.search_of(self, search)
        self.processors = checks.processors_of(self, processors)
        self.num_return_sequences = checks.returned(self, num_return_sequences, self.search)
        self.return_alignments = bool(return_alignments)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._stream = Stream(self, self.search, self._search_inputs, self._generation)

    def build(self, inputs_shape: Any, memory_shape: Any = None, covariates_shape: Any = None) -> None:
        if not self.decoder.built:
            self.decoder.build(inputs_shape, memory_shape, covariates_shape)
        core = self.decoder._core
        if self.return_alignments and not core.cells.gives_alignments:
            fix = "Use an `AttentionCell`, or leave it out"
            what = "False, as no cell of the decoder attends to a memory"
            raise ValueError(errors.message(self, "return_alignments", what, True, fix))
        vocabulary = core.output.shape[-1]
        checks.check_vocabulary(self, vocabulary, self.end_token, self.force_end, self.max_steps, self.processors)

    def call(
        self,
        inputs: Any,
        initial_state: Any = None,
        memory: Any = None,
        covariates: Any = None,
        mask: Any = None,
        inputs_mask: Any = None,
        memory_mask: Any = None,
    ) -> dict[str, Any]:
        control_flow.refuse_torch_export()
        mask = self.decoder._core.mask_of(inputs, inputs_mask if mask is None else mask)
        self._check(inputs, initial_state, memory, covariates, mask)
        search_inputs = self._search_inputs(inputs, initial_state, memory, covariates, mask, memory_mask)
        return self.search.run(self._generation(search_inputs), self._noise(inputs))

    def stream(
        self,
        inputs: Any,
        initial_state: Any = None,
        memory: Any = None,
        covariates: Any = None,
        mask: Any = None,
        memory_mask: Any = None,
    ) -> Iterator[np.ndarray]:
        """Yields tokens as they come.

        The arguments are those of a call.

        Returns:
            An iterator over int32 arrays (B,), the first tokens behind the prompts, the second, ...: where a row has
            ended, the pad token. It ends when all rows have. Its steps are the ones of a call, compiled one by one.

        Raises:
            ValueError: a search that does not know its tokens before its end, a beam search or several samples.
        """
        if not isinstance(self.search, SamplingSearch) or self.search.beams > 1:
            fix = 'Use "greedy" or `Sampling()` with one sample, or call the generator'
            what = "one that knows a token as it comes"
            raise ValueError(errors.message(self, "search", what, self.search, fix))
        if not self.built:
            shapes = [None if x is None else np.shape(x) for x in (memory, covariates)]
            self.build(np.shape(inputs), *shapes)
        mask, memory_mask = (
            keras_internals.get_mask(x) if own is None else own for x, own in ((inputs, mask), (memory, memory_mask))
        )
        inputs, memory, covariates = (self._own(x) for x in (inputs, memory, covariates))
        initial_state = tree.map_structure(self._own, initial_state)
        mask = self.decoder._core.mask_of(inputs, mask)
        self._check(inputs, initial_state, memory, covariates, mask)
        noise = self._noise(inputs)
        return self._stream.tokens(inputs, noise, initial_state, memory, covariates, mask, memory_mask)

    def compute_output_spec(
        self,
        inputs: Any,
        initial_state: Any = None,
        memory: Any = None,
        covariates: Any = None,
        mask: Any = None,
        inputs_mask: Any = None,
        memory_mask: Any = None,
    ) -> dict[str, Any]:
        self._check(inputs, initial_state, memory, covariates, inputs_mask if mask is None else mask)
        rows: tuple[Any, ...] = (inputs.shape[0],)
        sequences = self.num_return_sequences or (1 if isinstance(self.search, BeamSearch) else self.search.beams)
        if self.num_return_sequences or sequences > 1:
            rows += (sequences,)
        spec = {
            "tokens": keras.KerasTensor((*rows, self.max_steps), dtype="int32"),
            "lengths": keras.KerasTensor(rows, dtype="int32"),
            "scores": keras.KerasTensor(rows, dtype=self._score_dtype()),
        }
        if self.return_alignments:
            spec["alignments"] = keras.KerasTensor((*rows, self.max_steps, memory.shape[1]), dtype="float32")
        return spec

    def compute_output_shape(self, inputs_shape: Any, memory_shape: Any = None, covariates_shape: Any = None) -> Any:
        if not self.built:
            self.build(inputs_shape, memory_shape, covariates_shape)
        memory, covariates = (
            None if shape is None else keras.KerasTensor(shape) for shape in (memory_shape, covariates_shape)
        )
        spec = self.compute_output_spec(keras.KerasTensor(inputs_shape, dtype="int32"), None, memory, covariates)
        return {key: tuple(value.shape) for key, value in spec.items()}

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **sharing.serialize({name: getattr(self, name) for name in PARTS}),
            # A plain list: Keras makes the attribute one that refers to the layer.
            "end_token": list(self.end_token) if isinstance(self.end_token, list) else self.end_token,
            "max_steps": self.max_steps,
            "pad_token": self.pad_token,
            "force_end": self.force_end,
            "num_return_sequences": self.num_return_sequences,
            "return_alignments": self.return_alignments,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TokenGenerator":
        return cls(**sharing.deserialize(config, *PARTS))

    def _check(self, inputs: Any, initial_state: Any, memory: Any, covariates: Any, mask: Any) -> None:
        core, given = self.decoder._core, inputs.shape[1] if len(inputs.shape) > 1 else None
        steps = None if given is None else given - 1 + self.max_steps
        core.check(self, inputs, initial_state, memory, covariates, steps, mask)
        read = None if given is None else given - 1
        decoder_checks.check_max_length(self, "max_steps", self.max_steps, read, core.cells.max_length)
        known = None if mask is None else tensors.static_value(mask)
        if known is not None and np.any(known[:, 1:] > known[:, :-1]):
            fix = "Pad prompts on the right"
            what = "true at the first tokens of a row and false behind them"
            raise ValueError(errors.message(self, "mask", what, known.tolist(), fix))

    def _own(self, x: Any) -> Any:
        """Returns an argument as a tensor of the dtype that a call would give it."""
        if x is None:
            return None
        return self.dtype_policy.convert_input(ops.convert_to_tensor(x), self.autocast, self.compute_dtype)

    def _noise(self, inputs: Any) -> Any:
        rows = ops.shape(inputs)[0] * self.search.beams
        width = self.decoder._core.output.shape[-1]
        noise = self.search.noise(rows, self.max_steps, width, self.seed_generator)
        return decoder_checks.check_draws(self, "search", self.search, noise)

    def _search_inputs(
        self, inputs: Any, initial_state: Any, memory: Any, covariates: Any, mask: Any, memory_mask: Any
    ) -> dict[str, Any]:
        """Everything that does not change through the steps, as tensors, each row as often as it has beams."""
        core, beams = self.decoder._core, self.search.beams
        prompt = core.standardize(inputs, mask)
        valid = ops.ones_like(prompt) if mask is None else ops.cast(mask, "int32")
        tensors = {
            "prompt": prompt,
            "prompt_lengths": ops.maximum(ops.cast(ops.sum(valid, axis=1), "int32"), 1),
            "states": core.initial_states(initial_state, ops.shape(inputs)[0], memory),
            "memories": core.cells.prepare_memory(memory, memory_mask),
            "covariates": covariates,
        }
        return {**expand_to_beams(tensors, beams), "source": memory}

    def _generation(self, search_inputs: dict[str, Any]) -> SearchProblem:
        rollout = self.decoder._core.rollout(search_inputs["memories"], search_inputs["covariates"], training=False)
        return SearchProblem(
            step=lambda token, states, t: rollout.step(token, states, t, self.return_alignments),
            prompt=search_inputs["prompt"],
            prompt_lengths=search_inputs["prompt_lengths"],
            states=search_inputs["states"],
            processors=self.processors,
            end_tokens=validation.as_list(self.end_token),
            pad_token=self.pad_token,
            max_steps=self.max_steps,
            score_dtype=self._score_dtype(),
            returned=self.num_return_sequences,
            force_end=self.force_end,
            memory_length=ops.shape(search_inputs["source"])[1] if self.return_alignments else None,
        )

    def _score_dtype(self) -> str:
        # Half precision is too coarse to sum in.
        dtype = self.decoder._core.output.dtype
        return dtype if dtype == "float64" else "float32"
