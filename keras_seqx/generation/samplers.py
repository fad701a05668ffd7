"""Samplers: what a decoder feeds back, from what it put out.

A loop draws all its random numbers at once, before it begins: a sampler tells which (`noise`), and turns one step's
outputs and its share of them into samples. It is a pure function of the two, so it works in every compiled loop.
"""

from typing import Any

import keras
from keras import ops

from keras_seqx._core import errors, validation
from keras_seqx.generation import logit_ops


@keras.saving.register_keras_serializable(package="keras_seqx")
class Sampler:
    """Turns the output of a decoding step into what the next step reads.

    The base of all samplers. A subclass defines `__call__`, a pure function of the outputs and the noise: rows do not
    influence each other, and shapes are static. It defines `noise` if it is random, and `sample_width` if its samples
    are of another width than the outputs: the decoder's inputs must be as wide as the samples.

    Returns:
        A sampler; called on `outputs` (..., V or D) and one step's `noise` (...) or (..., D), it returns samples,
        ids (...) of dtype int32 if `samples_tokens` is true, and (..., D) otherwise.

    Example:

    >>> import keras, keras_seqx
    >>> from keras import ops
    >>> from keras_seqx import Sampler
    >>> class Rounded(Sampler):
    ...     def __call__(self, outputs, noise=None):
    ...         return ops.round(outputs)
    >>> tuple(Rounded()(ops.ones((2, 3))).shape)
    (2, 3)
    >>> class LikelierMean(Sampler):  # a mixture of two: their logits and their means, four outputs for one value
    ...     def sample_width(self, output_width):
    ...         return 1
    ...     def __call__(self, outputs, noise=None):
    ...         logits, means = outputs[..., :2], outputs[..., 2:]
    ...         return ops.where(logits[..., :1] >= logits[..., 1:], means[..., :1], means[..., 1:])
    >>> decoder = keras_seqx.AutoregressiveDecoder(
    ...     keras.layers.GRUCell(8), keras.layers.Dense(4), sampler=LikelierMean(), steps=5
    ... )
    >>> tuple(decoder(ops.zeros((2, 1, 1))).shape)
    (2, 5, 4)
    """

    samples_tokens = False

    def sample_width(self, output_width: int) -> int:
        """Returns how wide a continuous sample is.

        Args:
            output_width: integer, the width of the outputs that the sampler is called on.

        Returns:
            An integer, by default the same width.
        """
        return output_width

    def noise(self, batch_size: Any, steps: int, output_width: int, seed: Any) -> Any:
        """Draws the random numbers of a whole loop.

        Args:
            batch_size: integer, or scalar tensor, B.
            steps: integer, the number of steps.
            output_width: integer, V or the width of a continuous output.
            seed: integer or `keras.random.SeedGenerator`.

        Returns:
            A float32 tensor (B, steps, ...), of which each step gets its slice (B, ...); None: nothing is random.
        """
        return None

    def __call__(self, outputs: Any, noise: Any = None) -> Any:
        """Returns the samples."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`.")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sampler":
        """Returns the sampler of a config."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_seqx")
class Identity(Sampler):
    """Feeds the output itself back.

    Returns:
        A sampler from outputs (..., D) to themselves.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import Identity
    >>> tuple(Identity()(ops.ones((2, 3))).shape)
    (2, 3)
    """

    def __call__(self, outputs: Any, noise: Any = None) -> Any:
        return outputs


@keras.saving.register_keras_serializable(package="keras_seqx")
class Greedy(Sampler):
    """Takes the token of the largest logit, the first of equals.

    Returns:
        A sampler from logits (..., V) to ids (...), int32.

    Example:

    >>> from keras import ops
    >>> from keras_seqx import Greedy
    >>> ops.convert_to_numpy(Greedy()(ops.array([[0.0, 2.0, 1.0]]))).tolist()
    [1]
    """

    samples_tokens = True

    def __call__(self, outputs: Any, noise: Any = None) -> Any:
        # Keras' argmax of floats tells zeros of both signs apart, bit by bit, which no ONNX runtime can.
        largest = outputs == ops.max(outputs, axis=-1, keepdims=True)
        return ops.cast(ops.argmax(ops.cast(largest, "int32"), axis=-1), "int32")


@keras.saving.register_keras_serializable(package="keras_seqx")
class Categorical(Sampler):
    """Draws a token from the distribution that the logits stand for.

        p = softmax(min_p(top_p(top_k(logits / temperature))))

    with each filter left out where its argument is None. A token of probability zero is never drawn. Differs from
    `keras.random.categorical` in that it takes one uniform number for each row and step, drawn beforehand.

    Args:
        temperature: number above 0; below 1 likely tokens become likelier. Defaults to 1.
        top_k: integer of at least 1: only the k most likely tokens are drawn. Defaults to None.
        top_p: number above 0 and at most 1: only the fewest most likely tokens whose probabilities sum to it.
            Defaults to None.
        min_p: number within [0, 1]: only tokens at least this times as likely as the most likely one. Defaults to
            None.

    Returns:
        A sampler from logits (..., V) and uniform noise (...) to ids (...), int32.

    Raises:
        ValueError: a number outside its range. A temperature of 0 is spelled `Greedy()`.
        TypeError: an argument that is no number.

    Randomness:
        One uniform float32 number for each row and step, whatever the filters.

    Example:

    >>> import keras
    >>> from keras import ops
    >>> from keras_seqx import Categorical
    >>> sampler = Categorical(temperature=0.7, top_k=2)
    >>> noise = sampler.noise(batch_size=4, steps=5, output_width=3, seed=keras.random.SeedGenerator(0))
    >>> ids = sampler(ops.zeros((4, 3)), noise[:, 0])
    >>> tuple(noise.shape), tuple(ids.shape), keras.backend.standardize_dtype(ids.dtype)
    ((4, 5), (4,), 'int32')

    References:
        - Fan et al., 2018, Hierarchical neural story generation, arXiv:1805.04833 (top-k).
        - Holtzman et al., 2020, The curious case of neural text degeneration, arXiv:1904.09751 (top-p).
        - Nguyen et al., 2024, Turning up the heat: min-p sampling, arXiv:2407.01082.
    """

    samples_tokens = True

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
    ):
        fix = 'For the most likely token at every step use `Greedy()` ("greedy")'
        self.temperature = validation.number(
            self, "temperature", temperature, "a finite number above 0", lambda x: x > 0, fix
        )
        fix = "Leave it at None to keep every token"
        self.top_k = None if top_k is None else errors.positive_integer(self, "top_k", top_k, fix)
        self.top_p, self.min_p = top_p, min_p
        if top_p is not None:
            what = "a number above 0 and at most 1"
            self.top_p = validation.number(self, "top_p", top_p, what, lambda x: (x > 0) & (x <= 1), fix)
        if min_p is not None:
            self.min_p = errors.probability(self, "min_p", min_p, fix)

    def noise(self, batch_size: Any, steps: int, output_width: int, seed: Any) -> Any:
        return keras.random.uniform((batch_size, steps), dtype="float32", seed=seed)

    def __call__(self, outputs: Any, noise: Any = None) -> Any:
        logits = self.filtered(outputs)
        # The inverse of the cumulative distribution. Where a weight is zero the sum counts as zero: sums in blocks, as
        # compiled code has them, may rise a little there, and no such token must come.
        weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
        sums = ops.where(weights > 0, ops.cumsum(weights, axis=-1), ops.zeros_like(weights))
        # As noise < 1, this rounds to less than the largest sum: some token is always beyond it.
        threshold = ops.expand_dims(ops.cast(noise, sums.dtype), -1) * ops.max(sums, axis=-1, keepdims=True)
        return ops.cast(ops.argmax(ops.cast(sums > threshold, "int32"), axis=-1), "int32")

    def filtered(self, logits: Any) -> Any:
        """Returns the logits of the distribution that is drawn from, (..., V), in float32 at least."""
        logits = logit_ops.widen(logits)
        if self.temperature != 1:
            logits = logit_ops.temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = logit_ops.top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = logit_ops.top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = logit_ops.min_p(logits, self.min_p)
        return logits

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}


@keras.saving.register_keras_serializable(package="keras_seqx")
class Gaussian(Sampler):
    """Draws from normal distributions, of which the output holds the means and the logarithms of the deviations.

        mean, log_std = split(outputs, 2)
        sample = mean + temperature * exp(log_std) * noise

    Args:
        temperature: number of at least 0, a factor of the standard deviation; 0 feeds the mean back. Defaults to 1.

    Returns:
        A sampler from outputs (..., 2 D) and normal noise (..., D) to samples (..., D) of the outputs' dtype.

    Raises:
        ValueError: a temperature below 0; outputs of an odd width.
        TypeError: a temperature that is no number.

    Randomness:
        D normal float32 numbers for each row and step.

    Example:

    >>> import keras
    >>> from keras import ops
    >>> from keras_seqx import Gaussian
    >>> sampler = Gaussian()
    >>> noise = sampler.noise(batch_size=4, steps=5, output_width=6, seed=keras.random.SeedGenerator(0))
    >>> tuple(noise.shape), tuple(sampler(ops.zeros((4, 6)), noise[:, 0]).shape)
    ((4, 5, 3), (4, 3))
    """

    def __init__(self, temperature: float = 1.0):
        what, fix = "a finite number of at least 0", "1 draws from the distribution as it is, 0 takes its mean"
        self.temperature = validation.number(self, "temperature", temperature, what, lambda x: x >= 0, fix)

    def sample_width(self, output_width: int) -> int:
        if output_width % 2:
            fix = "The first half are means, the second logarithms of standard deviations"
            what = "an even width"
            raise ValueError(errors.message(self, "outputs", what, output_width, fix, "its width"))
        return output_width // 2

    def noise(self, batch_size: Any, steps: int, output_width: int, seed: Any) -> Any:
        return keras.random.normal((batch_size, steps, self.sample_width(output_width)), dtype="float32", seed=seed)

    def __call__(self, outputs: Any, noise: Any = None) -> Any:
        width = self.sample_width(outputs.shape[-1])
        wide = logit_ops.widen(outputs)
        mean, log_std = wide[..., :width], wide[..., width:]
        sample = mean + self.temperature * ops.exp(log_std) * ops.cast(noise, wide.dtype)
        return ops.cast(sample, outputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


def get(identifier: Any, owner: Any = "get", argument: str = "sampler") -> Sampler:
    """Returns a sampler.

    Args:
        identifier: "identity", "greedy", or a `Sampler`.
        owner: who asks, named in errors.
        argument: whose argument it is, named in errors.

    Returns:
        A `Sampler`.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a sampler.

    Example:

    >>> from keras_seqx.generation.samplers import get
    >>> type(get("greedy")).__name__
    'Greedy'
    """
    names = {"identity": Identity, "greedy": Greedy}
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, str) and identifier in names:
        return names[identifier]()
    error = ValueError if isinstance(identifier, str) else TypeError
    fix = "For a random one pass for example `Categorical(temperature=0.7)`"
    what = '"identity", "greedy" or a Sampler'
    raise error(errors.message(owner, argument, what, identifier, fix))
