"""Beam search."""

import functools
import operator
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core import control_flow, errors, validation
from keras_seqx.generation.search import Search
from keras_seqx.generation.search_state import (
    Carry,
    SearchProblem,
    flat_beam_index,
    gather_beams,
    set_column,
    write_alignments,
)

NEVER = -float("inf")

# The parts of the state that have a row for each sequence.
TABLES = ("history", "alignments")


@keras.saving.register_keras_serializable(package="keras_seqx")
class BeamSearch(Search):
    """Keeps the most likely beginnings of every row side by side.

        score = sum of log-probabilities / size ** length_penalty
        size  = length, the end token counted, or (5 + length) / 6 with `length_normalization="gnmt"`

    At each step the `num_beams` best continuations of the beams are looked at; those that end, or are `max_steps`
    long, go to a set of finished sequences, of which the best are kept and none is ever extended, and the best of the
    others go on. A row stops when no beam can still come among the finished sequences that are returned: a bound on
    the score reachable, not a guess. With one beam and no penalty it is the greedy search.

    Args:
        num_beams: integer of at least 1.
        length_penalty: number; above 0 it favours long sequences, 1 compares the mean log-probability of a token.
            Defaults to 0, the likelihood itself.
        length_normalization: "length" (default), or "gnmt", the milder one of Google's translation system.
        early_stopping: whether a row stops as soon as it has `num_beams` finished sequences, although better ones may
            still come. Defaults to False.
        num_groups: integer that divides `num_beams`: that many groups of beams are searched one after the other, each
            kept from what the ones before chose at the same step. Defaults to 1.
        diversity_penalty: number of at least 0, taken off the score of a continuation for every beam of the groups
            before that chose its token at this step, to go on or to end; it guides the choice and is not part of a
            reported score. Above 0 it needs two groups. Defaults to 0.

    Returns:
        A search for `TokenGenerator`.

    Raises:
        ValueError: a number outside its range; groups that do not divide the beams.
        TypeError: an argument of another kind.

    Example:

    >>> from keras_seqx import BeamSearch
    >>> BeamSearch(4, length_penalty=0.6).beams
    4

    References:
        - Wu et al., 2016, Google's neural machine translation system, arXiv:1609.08144, equation 14 ("gnmt").
        - Vijayakumar et al., 2018, Diverse beam search, arXiv:1610.02424.
        - Meister et al., 2020, Best-first beam search, arXiv:2007.03909 (when to stop).
    """

    def __init__(
        self,
        num_beams: int,
        *,
        length_penalty: float = 0.0,
        length_normalization: str = "length",
        early_stopping: bool = False,
        num_groups: int = 1,
        diversity_penalty: float = 0.0,
    ):
        fix = 'Use 4 for example; a single beam is the "greedy" search'
        self.beams = errors.positive_integer(self, "num_beams", num_beams, fix)
        fix = "0 compares likelihoods, 1 mean log-probabilities"
        finite = "a finite number"
        self.length_penalty = validation.number(self, "length_penalty", length_penalty, finite, lambda x: x == x, fix)
        if length_normalization not in ("length", "gnmt"):
            fix = 'With "length" a `length_penalty` of 1 compares mean log-probabilities'
            what = '"length" or "gnmt"'
            raise ValueError(errors.message(self, "length_normalization", what, length_normalization, fix))
        self.length_normalization = length_normalization
        if not isinstance(early_stopping, bool):
            fix = "True stops at `num_beams` finished sequences, False when no better one can come"
            raise TypeError(errors.message(self, "early_stopping", "True or False", early_stopping, fix))
        self.early_stopping = early_stopping
        fix = "Each group gets `num_beams / num_groups` beams"
        self.num_groups = errors.positive_integer(self, "num_groups", num_groups, fix)
        if self.beams % self.num_groups:
            what = f"a divisor of `num_beams`, {self.beams}"
            raise ValueError(errors.message(self, "num_groups", what, num_groups, fix))
        what, fix = "a finite number of at least 0", "Start with 0.5"
        self.diversity_penalty = validation.number(
            self, "diversity_penalty", diversity_penalty, what, lambda x: x >= 0, fix
        )
        if self.diversity_penalty and self.num_groups == 1:
            what = "0 with a single group, which has no group before it to differ from"
            fix = f"Add for example `num_groups={self.beams}`"
            raise ValueError(errors.message(self, "diversity_penalty", what, diversity_penalty, fix))

    def start(self, generation: SearchProblem, noise: Any) -> Carry:
        carry = generation.start()
        lengths = ops.zeros_like(self._by_beam(generation.prompt_lengths))
        score = ops.cast(lengths, generation.score_dtype)
        # The beams of a group begin as one: the others join when it has continuations to give them.
        first = ops.arange(self.beams) % (self.beams // self.num_groups) == 0
        # The tables of each row hold its finished sequences first, and then its beams: what moves moves at once.
        tables = {key: self._by_beam(carry[key]) for key in TABLES if key in carry}
        return {
            **carry,
            **{key: ops.concatenate([table, table], axis=1) for key, table in tables.items()},
            "done": lengths[:, 0] > 0,
            "scores": ops.where(first, score, NEVER),
            "finished": {"lengths": lengths, "scores": score + NEVER},
        }

    def advance(self, generation: SearchProblem, carry: Carry) -> Carry:
        history = carry["history"][:, self.beams :]
        logits, states, alignments = generation.advance({**carry, "history": history})
        logp = self._by_beam(generation.allowed(logits, carry["t"]) - _total(logits))
        ahead = carry["t"] + 1 - generation.prompt_lengths[:: self.beams]
        choosing = (ahead >= 0) & ~carry["done"]
        length = ops.maximum(ahead, 0) + 1
        last = generation.is_last(carry["t"])[:: self.beams]
        live, finished, done = [], [], []
        used = ops.zeros_like(logp[:, 0]) if self.diversity_penalty else None
        for group in range(self.num_groups):
            beams = slice(group * self.beams // self.num_groups, (group + 1) * self.beams // self.num_groups)
            found = self._candidates(carry["scores"][:, beams], logp[:, beams], used, beams.start)
            ends = last[:, None] | generation.is_end(found["token"])
            # A mask, not a slice: XLA would merge that into `top_k`, and sort everything.
            ending = ends & (ops.arange(ends.shape[1]) < beams.stop - beams.start)
            live.append(self._going_on(found, ends))
            old = {key: value[:, beams] for key, value in carry["finished"].items()}
            finished.append(self._finished(old, found, ending, length, beams.start))
            if self.diversity_penalty:
                used = used + self.diversity_penalty * self._chosen(live[-1], found, ending, logp.shape[-1])
            done.append(self._settled(generation, live[-1]["scores"], finished[-1]["scores"], length))
        done = last | functools.reduce(operator.and_, done)
        return self._moved(generation, carry, states, alignments, choosing, _joined(live), _joined(finished), done)

    def _candidates(self, scores: Any, logp: Any, used: Any, offset: int) -> Carry:
        """The best continuations (B, n) of the beams of one group, best first, behind rows `parent` of the tables.

        n is twice the beams, so that at least as many go on where every beam ends with one.
        """
        beams, vocabulary = logp.shape[1:]
        total = scores[:, :, None] + logp
        wanted = min(2 * beams, beams * vocabulary)
        flat = ops.reshape(total, (-1, beams * vocabulary))
        if self.diversity_penalty:
            guided = ops.reshape(total - used[:, None, :], (-1, beams * vocabulary))
            guide, index = control_flow.top_k(guided, wanted)
            score = ops.take_along_axis(flat, index, axis=1)
        else:
            score, index = control_flow.top_k(flat, wanted)
            guide = score
        index = ops.cast(index, "int32")
        parent = index // vocabulary + (self.beams + offset)
        return {"score": score, "guide": guide, "parent": parent, "token": index % vocabulary}

    def _going_on(self, found: Carry, ends: Any) -> Carry:
        """The best candidates (B, beams) that do not end."""
        guide, best = control_flow.top_k(ops.where(ends, NEVER, found["guide"]), self.beams // self.num_groups)
        scores = guide
        if self.diversity_penalty:
            scores = gather_beams(ops.where(ends, NEVER, found["score"]), best)
        return {
            "scores": scores,
            "source": gather_beams(found["parent"], best),
            "token": gather_beams(found["token"], best),
        }

    def _chosen(self, live: Carry, found: Carry, ending: Any, vocabulary: int) -> Any:
        """How many beams of a group, those that end included, chose each token, (B, V)."""
        token = ops.concatenate([live["token"], found["token"]], axis=1)
        score = ops.concatenate([live["scores"], ops.where(ending, found["score"], NEVER)], axis=1)
        counts = ops.where(score[:, :, None] > NEVER, ops.one_hot(token, vocabulary, dtype=score.dtype), 0.0)
        return ops.sum(counts, axis=1)

    def _finished(self, old: Carry, found: Carry, ending: Any, length: Any, offset: int) -> Carry:
        """The best (B, beams) of the sequences finished before and of the candidates that are `ending`."""
        beams = self.beams // self.num_groups
        score = ops.where(ending, self._normalized(found["score"], length[:, None]), NEVER)
        scores, best = control_flow.top_k(ops.concatenate([old["scores"], score], axis=1), beams)
        best = ops.cast(best, "int32")
        new = best >= beams
        before, candidate = ops.minimum(best, beams - 1), ops.maximum(best - beams, 0)
        return {
            "scores": scores,
            "lengths": ops.where(new, length[:, None], gather_beams(old["lengths"], before)),
            "new": new,
            "source": ops.where(new, gather_beams(found["parent"], candidate), before + offset),
            "token": gather_beams(found["token"], candidate),
        }

    def _settled(self, generation: SearchProblem, live: Any, finished: Any, length: Any) -> Any:
        """Whether no beam of a group can come among the sequences that are returned any more, (B,)."""
        best = ops.max(live, axis=1)
        if self.early_stopping:
            return (finished[:, -1] > NEVER) | (best == NEVER)
        # Log-probabilities only fall, so a beam's score is bounded by what it has over one of the two extreme lengths
        # that it can come to: the longest where length is favoured, the next one where it is not.
        reachable = best
        if self.length_penalty:
            longest = self._normalized(best, generation.max_steps)
            reachable = ops.maximum(self._normalized(best, length + 1), longest)
        return finished[:, min(generation.returned or 1, finished.shape[1]) - 1] >= reachable

    def _normalized(self, score: Any, length: Any) -> Any:
        if not self.length_penalty:
            return score
        size = ops.cast(length, score.dtype)
        if self.length_normalization == "gnmt":
            size = (size + 5) / 6
        return score / ops.power(size, ops.cast(self.length_penalty, score.dtype))

    def _moved(
        self,
        generation: SearchProblem,
        carry: Carry,
        states: Any,
        alignments: Any,
        choosing: Any,
        live: Carry,
        finished: Carry,
        done: Any,
    ) -> Carry:
        """The next state: rows that choose go where their beams went, all others stay as they are."""
        t, here = carry["t"], choosing[:, None]
        source, token = (ops.concatenate([finished[key], live[key]], axis=1) for key in ("source", "token"))
        source = ops.where(here, source, ops.arange(2 * self.beams, dtype="int32"))
        new = here & ops.concatenate([finished["new"], ops.ones_like(finished["new"])], axis=1)
        tables = {key: gather_beams(carry[key], source) for key in TABLES if key in carry}
        column = ops.where(new, token, generation.upcoming(tables["history"], t))
        tables["history"] = set_column(tables["history"], t + 1, column)
        parent = ops.maximum(source - self.beams, 0)
        if alignments is not None:
            # What follows the end of a finished sequence is never read.
            found = gather_beams(self._by_beam(alignments), parent)
            tables["alignments"] = write_alignments(tables["alignments"], t + 1, found)
        rows = flat_beam_index(parent[:, self.beams :], self.beams)
        return {
            **tables,
            "t": t + 1,
            "token": ops.ravel(column[:, self.beams :]),
            "states": [ops.take(state, rows, axis=0) for state in states],
            "done": carry["done"] | (choosing & done),
            "scores": control_flow.where(here, live["scores"], carry["scores"]),
            "finished": {key: control_flow.where(here, finished[key], old) for key, old in carry["finished"].items()},
        }

    def finish(self, generation: SearchProblem, carry: Carry) -> Carry:
        # The finished sequences stand first in the tables.
        scores, best = control_flow.top_k(carry["finished"]["scores"], generation.returned or 1)
        found = {key: gather_beams(carry[key], best) for key in TABLES if key in carry}
        # What has no score was never found: fewer sequences exist than were asked for.
        lengths = ops.where(scores > NEVER, gather_beams(carry["finished"]["lengths"], best), 0)
        prompt_lengths = self._by_beam(generation.prompt_lengths)[:, :1] + ops.zeros_like(lengths)
        answer = generation.answer(found["history"], lengths, scores, found.get("alignments"), prompt_lengths)
        return answer if generation.returned else tree.map_structure(lambda x: x[:, 0], answer)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_beams": self.beams,
            "length_penalty": self.length_penalty,
            "length_normalization": self.length_normalization,
            "early_stopping": self.early_stopping,
            "num_groups": self.num_groups,
            "diversity_penalty": self.diversity_penalty,
        }

    def _by_beam(self, rows: Any) -> Any:
        """Rows (R, ...) as (B, beams, ...)."""
        return ops.reshape(rows, (-1, self.beams, *ops.shape(rows)[1:]))


def _total(logits: Any) -> Any:
    """The logarithm of the sum of all weights (R, 1), finite where no token is left, which keeps the rest at -inf."""
    none = ops.max(logits, axis=-1, keepdims=True) == NEVER
    return ops.logsumexp(control_flow.where(none, ops.zeros_like(logits), logits), axis=-1, keepdims=True)


def _joined(groups: list[Carry]) -> Carry:
    if len(groups) == 1:
        return groups[0]
    return {key: ops.concatenate([group[key] for group in groups], axis=1) for key in groups[0]}
