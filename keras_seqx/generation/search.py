"""What a search is, and those that treat every row for itself: greedy and sampling."""

from typing import Any

import keras
from keras import ops

from keras_seqx._core import control_flow, errors
from keras_seqx.generation.samplers import Categorical, Greedy, Sampler
from keras_seqx.generation.search_state import Carry, SearchProblem, gather_beams, set_column, write_alignments


class Search:
    """The base of all searches: pure functions of a `SearchProblem` and the state of the search.

    `beams` rows are searched for each row of the batch; as many sequences can be returned.
    """

    beams = 1

    def noise(self, batch_size: Any, steps: int, output_width: int, seed: Any) -> Any:
        """Draws everything random of a search, (R, max_steps), or None."""
        return None

    def start(self, generation: SearchProblem, noise: Any) -> Carry:
        """Returns the state before the first step."""
        raise NotImplementedError

    def should_continue(self, carry: Carry) -> Any:
        """Returns a boolean scalar: whether any row is unfinished."""
        return ~ops.all(carry["done"])

    def advance(self, generation: SearchProblem, carry: Carry) -> Carry:
        """Returns the state after one more step."""
        raise NotImplementedError

    def finish(self, generation: SearchProblem, carry: Carry) -> Carry:
        """Returns tokens (B, max_steps), or (B, N, max_steps), and what belongs to them."""
        raise NotImplementedError

    def run(self, generation: SearchProblem, noise: Any) -> Carry:
        """Searches until every row is finished."""
        carry = control_flow.while_loop(
            self.should_continue,
            lambda carry: self.advance(generation, carry),
            self.start(generation, noise),
            generation.limit,
        )
        return self.finish(generation, carry)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Returns the search of a config."""
        return cls(**config)


class SamplingSearch(Search):
    """A search in which each row goes its own way, by a sampler."""

    @property
    def sampler(self) -> Sampler:
        """Takes logits (R, V) to tokens (R,)."""
        raise NotImplementedError

    def logit_of(self, token: Any, logits: Any) -> Any:
        """Returns the logits (R,) of the tokens (R,) that were chosen."""
        return ops.take_along_axis(logits, token[:, None], axis=1)[:, 0]

    def start(self, generation: SearchProblem, noise: Any) -> Carry:
        carry = generation.start()
        rows = ops.zeros_like(generation.prompt_lengths)
        carry |= {"done": rows > 0, "lengths": rows, "scores": ops.cast(rows, generation.score_dtype)}
        return carry if noise is None else {**carry, "noise": noise}

    def advance(self, generation: SearchProblem, carry: Carry) -> Carry:
        t, history = carry["t"], carry["history"]
        logits, states, alignments = generation.advance(carry)
        ahead = t + 1 - generation.prompt_lengths
        count = ops.maximum(ahead, 0)
        noise = carry.get("noise")
        if noise is not None:
            noise = ops.take_along_axis(noise, ops.minimum(count, generation.max_steps - 1)[:, None], axis=1)[:, 0]
        allowed = generation.allowed(logits, t)
        token = self.sampler(allowed, noise)
        # Where processors leave no token at all, the row ends as impossible.
        stuck = ops.max(allowed, axis=-1) == -float("inf")
        generating = (ahead >= 0) & ~carry["done"]
        writing = generating & ~stuck
        gain = ops.where(stuck, -float("inf"), self.logit_of(token, allowed) - ops.logsumexp(logits, axis=-1))
        column = ops.where(writing, token, generation.upcoming(history, t))
        ends = stuck | generation.is_last(t) | generation.is_end(token)
        scores = carry["scores"]
        new = {
            "t": t + 1,
            "token": column,
            "history": set_column(history, t + 1, column),
            "states": states,
            "done": carry["done"] | (generating & ends),
            "lengths": ops.where(writing, count + 1, carry["lengths"]),
            "scores": control_flow.where(generating, scores + gain, scores),
        }
        if alignments is not None:
            new["alignments"] = write_alignments(carry["alignments"], t + 1, alignments)
        return new if "noise" not in carry else {**new, "noise": carry["noise"]}

    def finish(self, generation: SearchProblem, carry: Carry) -> Carry:
        answer = generation.answer(
            carry["history"], carry["lengths"], carry["scores"], carry.get("alignments"), generation.prompt_lengths
        )
        if self.beams == 1 and generation.returned is None:
            return answer
        shaped = {key: ops.reshape(value, (-1, self.beams, *ops.shape(value)[1:])) for key, value in answer.items()}
        if generation.returned is None:
            return shaped
        _, best = control_flow.top_k(shaped["scores"], generation.returned)
        return {key: gather_beams(value, best) for key, value in shaped.items()}


@keras.saving.register_keras_serializable(package="keras_seqx")
class GreedySearch(SamplingSearch):
    """Takes the most likely token at every step; called "greedy"."""

    @property
    def sampler(self) -> Sampler:
        return Greedy()

    def logit_of(self, token: Any, logits: Any) -> Any:
        return ops.max(logits, axis=-1)


@keras.saving.register_keras_serializable(package="keras_seqx")
class Sampling(Categorical, SamplingSearch):
    """Draws every token from the decoder's distribution.

        p = softmax(min_p(top_p(top_k(processed logits / temperature))))

    The reported score of a sequence is its log-probability before temperature and filters.

    Args:
        temperature: number above 0; below 1 likely tokens become likelier. Defaults to 1.
        top_k: integer of at least 1: only the k most likely tokens are drawn. Defaults to None.
        top_p: number above 0 and at most 1: only the fewest most likely tokens whose probabilities sum to it.
            Defaults to None.
        min_p: number within [0, 1]: only tokens at least this times as likely as the most likely one. Defaults to
            None.
        num_samples: integer of at least 1, how many sequences are drawn for each row. Defaults to 1.

    Returns:
        A search for `TokenGenerator`.

    Raises:
        ValueError: a number outside its range. A temperature of 0 is spelled "greedy".
        TypeError: an argument that is no number.

    Randomness:
        One uniform number for each sequence and generated token, drawn before the loop.

    Example:

    >>> from keras_seqx import Sampling
    >>> Sampling(temperature=0.7, top_p=0.9, num_samples=5).beams
    5
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        num_samples: int = 1,
    ):
        super().__init__(temperature, top_k, top_p, min_p)
        fix = "1 draws a single sequence for each row"
        self.beams = errors.positive_integer(self, "num_samples", num_samples, fix)

    @property
    def sampler(self) -> Sampler:
        return self

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_samples": self.beams}
