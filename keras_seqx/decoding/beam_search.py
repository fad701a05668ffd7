"""Beam search."""

from typing import Any

import keras
from keras import ops, tree

from keras_seqx import _checks
from keras_seqx.decoding import options
from keras_seqx.decoding.generation import Carry, Generation, flat_rows, take, write, write_alignments
from keras_seqx.decoding.search import Search

NEVER = -float("inf")


@keras.saving.register_keras_serializable(package="keras_seqx")
class BeamSearch(Search):
    """Keeps the most likely beginnings of every row side by side.

        score = sum of log-probabilities / length ** length_penalty,   the end token counted

    At each step the `num_beams` best continuations of the beams are looked at; those that end, or are `max_steps`
    long, go to a set of finished sequences, of which the best are kept and none is ever extended, and the best of the
    others go on. A row stops when no beam can still come among the finished sequences that are returned: a bound on
    the score reachable, not a guess. With one beam and no penalty it is the greedy search.

    Args:
        num_beams: integer of at least 1.
        length_penalty: number; above 0 it favours long sequences, 1 compares the mean log-probability of a token.
            Defaults to 0, the likelihood itself.
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
        - Wu et al., 2016, Google's neural machine translation system, arXiv:1609.08144 (length normalisation).
        - Vijayakumar et al., 2018, Diverse beam search, arXiv:1610.02424.
        - Meister et al., 2020, Best-first beam search, arXiv:2007.03909 (when to stop).
    """

    def __init__(
        self,
        num_beams: int,
        *,
        length_penalty: float = 0.0,
        early_stopping: bool = False,
        num_groups: int = 1,
        diversity_penalty: float = 0.0,
    ):
        fix = 'Use 4 for example; a single beam is the "greedy" search'
        self.beams = _checks.positive_integer(self, "num_beams", num_beams, fix)
        fix = "0 compares likelihoods, 1 mean log-probabilities"
        finite = "a finite number"
        self.length_penalty = options.number(self, "length_penalty", length_penalty, finite, lambda x: x == x, fix)
        if not isinstance(early_stopping, bool):
            fix = "True stops at `num_beams` finished sequences, False when no better one can come"
            raise TypeError(_checks.message(self, "early_stopping", "True or False", early_stopping, fix))
        self.early_stopping = early_stopping
        fix = "Each group gets `num_beams / num_groups` beams"
        self.num_groups = _checks.positive_integer(self, "num_groups", num_groups, fix)
        if self.beams % self.num_groups:
            what = f"a divisor of `num_beams`, {self.beams}"
            raise ValueError(_checks.message(self, "num_groups", what, num_groups, fix))
        what, fix = "a finite number of at least 0", "Start with 0.5"
        self.diversity_penalty = options.number(
            self, "diversity_penalty", diversity_penalty, what, lambda x: x >= 0, fix
        )
        if self.diversity_penalty and self.num_groups == 1:
            what = "0 with a single group, which has no group before it to differ from"
            fix = f"Add for example `num_groups={self.beams}`"
            raise ValueError(_checks.message(self, "diversity_penalty", what, diversity_penalty, fix))

    def start(self, generation: Generation, noise: Any) -> Carry:
        carry = generation.start()
        lengths = ops.reshape(generation.prompt_lengths, (-1, self.beams))
        score = ops.cast(ops.zeros_like(lengths), generation.score_dtype)
        # The beams of a group begin as one: the others join when it has continuations to give them.
        first = ops.arange(self.beams) % (self.beams // self.num_groups) == 0
        carry |= {
            "done": ops.zeros_like(lengths[:, 0]) > 0,
            "scores": ops.where(first, score, score + NEVER),
            "finished": {
                "history": self._by_beam(carry["history"]),
                "lengths": ops.zeros_like(lengths),
                "scores": score + NEVER,
            },
        }
        if "alignments" in carry:
            carry["finished"]["alignments"] = self._by_beam(carry["alignments"])
        return carry

    def advance(self, generation: Generation, carry: Carry) -> Carry:
        t = carry["t"]
        logits, states, alignments = generation.advance(carry)
        logp = self._by_beam(logits - _total(logits))
        count = self._by_beam(generation.generated(t))[:, 0]
        choosing = ops.logical_and(
            t + 1 >= self._by_beam(generation.prompt_lengths)[:, 0], ops.logical_not(carry["done"])
        )
        tables = {"history": carry["history"]}
        if alignments is not None:
            tables["alignments"] = write_alignments(carry["alignments"], t + 1, alignments)
        tables = {key: self._by_beam(table) for key, table in tables.items()}
        last = count + 1 >= generation.max_steps
        live, finished, done = [], [], []
        used = ops.zeros_like(logp[:, 0])
        for group in range(self.num_groups):
            beams = slice(group * self.beams // self.num_groups, (group + 1) * self.beams // self.num_groups)
            found = self._candidates(carry["scores"][:, beams], logp[:, beams], used, beams.start)
            ends = ops.broadcast_to(last[:, None], ops.shape(found["token"]))
            if generation.end_token is not None:
                ends = ops.logical_or(ends, found["token"] == generation.end_token)
            # A mask, not a slice: XLA would merge that into `top_k`, and sort everything.
            ending = ops.logical_and(ends, ops.arange(ends.shape[1]) < beams.stop - beams.start)
            live.append(self._going_on(found, ends))
            old = {key: value[:, beams] for key, value in carry["finished"].items()}
            finished.append(self._finished(old, found, ending, tables, t, count + 1))
            if self.diversity_penalty:
                used = used + self.diversity_penalty * self._chosen(live[-1], found, ending, logp.shape[-1])
            done.append(self._settled(generation, live[-1]["score"], finished[-1]["scores"], count + 1))
        done = ops.logical_or(last, ops.all(ops.stack(done, axis=1), axis=1))
        return self._moved(carry, tables, states, choosing, _joined(live), _joined(finished), done)

    def _candidates(self, scores: Any, logp: Any, used: Any, offset: int) -> Carry:
        """The best continuations (B, n) of the beams of one group, best first.

        n is twice the beams, so that at least as many go on where every beam ends with one.
        """
        beams, vocabulary = logp.shape[1:]
        total = scores[:, :, None] + logp
        wanted = min(2 * beams, beams * vocabulary)
        flat = ops.reshape(total, (-1, beams * vocabulary))
        if self.diversity_penalty:
            guided = ops.reshape(total - used[:, None, :], (-1, beams * vocabulary))
            guide, index = ops.top_k(guided, wanted)
            score = ops.take_along_axis(flat, index, axis=1)
        else:
            score, index = ops.top_k(flat, wanted)
            guide = score
        index = ops.cast(index, "int32")
        return {
            "score": score,
            "guide": guide,
            "parent": index // vocabulary + offset,
            "token": index % vocabulary,
        }

    def _going_on(self, found: Carry, ends: Any) -> Carry:
        """The best candidates (B, beams) that do not end."""
        beams = self.beams // self.num_groups
        _, best = ops.top_k(ops.where(ends, NEVER, found["guide"]), beams)
        live = {key: take(found[key], best) for key in ("score", "parent", "token")}
        live["score"] = ops.where(take(ends, best), NEVER, live["score"])
        return live

    def _chosen(self, live: Carry, found: Carry, ending: Any, vocabulary: int) -> Any:
        """How many beams of a group, those that end included, chose each token, (B, V)."""
        token = ops.concatenate([live["token"], found["token"]], axis=1)
        score = ops.concatenate([live["score"], ops.where(ending, found["score"], NEVER)], axis=1)
        counts = ops.where(score[:, :, None] > NEVER, ops.one_hot(token, vocabulary, dtype=score.dtype), 0.0)
        return ops.sum(counts, axis=1)

    def _finished(self, old: Carry, found: Carry, ending: Any, tables: Carry, t: Any, length: Any) -> Carry:
        """The best of the sequences finished before and of the candidates that are `ending`."""
        beams = self.beams // self.num_groups
        score = ops.where(ending, self._normalized(found["score"], length[:, None]), NEVER)
        scores = ops.concatenate([old["scores"], score], axis=1)
        _, best = ops.top_k(scores, beams)
        new = best >= beams
        before, candidate = ops.minimum(best, beams - 1), ops.maximum(best - beams, 0)
        parent, token = (take(found[key], candidate) for key in ("parent", "token"))
        source = ops.where(new, parent + beams, before)
        kept = {key: take(ops.concatenate([old[key], table], axis=1), source) for key, table in tables.items()}
        column = ops.where(new, token, ops.take(kept["history"], t + 1, axis=2))
        return {
            **kept,
            "history": write(kept["history"], t + 1, column),
            "lengths": ops.where(new, length[:, None], take(old["lengths"], before)),
            "scores": take(scores, best),
        }

    def _settled(self, generation: Generation, live: Any, finished: Any, length: Any) -> Any:
        """Whether no beam of a group can come among the sequences that are returned any more, (B,)."""
        best = ops.max(live, axis=1)
        if self.early_stopping:
            return ops.logical_or(finished[:, -1] > NEVER, best == NEVER)
        # Log-probabilities only fall, so a beam's score is bounded by what it has over one of the two extreme lengths
        # that it can come to: the longest where length is favoured, the next one where it is not.
        longest = self._normalized(best, generation.max_steps)
        reachable = ops.maximum(self._normalized(best, length + 1), longest)
        return finished[:, min(generation.returned or 1, finished.shape[1]) - 1] >= reachable

    def _normalized(self, score: Any, length: Any) -> Any:
        if not self.length_penalty:
            return score
        return score / ops.power(ops.cast(length, score.dtype), ops.cast(self.length_penalty, score.dtype))

    def _moved(
        self, carry: Carry, tables: Carry, states: Any, choosing: Any, live: Carry, finished: Carry, done: Any
    ) -> Carry:
        """The next state: rows that choose go where their beams went, all others stay as they are."""
        t = carry["t"]
        here = choosing[:, None]
        own = ops.broadcast_to(ops.arange(self.beams, dtype="int32"), ops.shape(live["parent"]))
        parent = ops.where(here, live["parent"], own)
        tables = {key: take(table, parent) for key, table in tables.items()}
        history = tables["history"]
        tables["history"] = write(history, t + 1, ops.where(here, live["token"], ops.take(history, t + 1, axis=2)))
        rows = flat_rows(parent, self.beams)

        def where_choosing(new, old):
            return ops.where(ops.reshape(choosing, (-1, *[1] * (len(new.shape) - 1))), new, old)

        return {
            "t": t + 1,
            "states": [ops.take(state, rows, axis=0) for state in states],
            "done": ops.logical_or(carry["done"], ops.logical_and(choosing, done)),
            "scores": ops.where(here, live["score"], carry["scores"]),
            "finished": {key: where_choosing(finished[key], old) for key, old in carry["finished"].items()},
            **{key: ops.reshape(table, (-1, *ops.shape(table)[2:])) for key, table in tables.items()},
        }

    def finish(self, generation: Generation, carry: Carry) -> Carry:
        finished = carry["finished"]
        _, best = ops.top_k(finished["scores"], generation.returned or 1)
        found = {key: take(value, best) for key, value in finished.items()}
        # What has no score was never found: fewer sequences exist than were asked for.
        lengths = ops.where(found["scores"] > NEVER, found["lengths"], 0)
        prompt_lengths = self._by_beam(generation.prompt_lengths)[:, :1] + ops.zeros_like(lengths)
        answer = generation.answer(found["history"], lengths, found["scores"], found.get("alignments"), prompt_lengths)
        return answer if generation.returned else tree.map_structure(lambda x: x[:, 0], answer)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_beams": self.beams,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "num_groups": self.num_groups,
            "diversity_penalty": self.diversity_penalty,
        }

    def _by_beam(self, rows: Any) -> Any:
        """Rows (R, ...) as (B, beams, ...)."""
        return ops.reshape(rows, (-1, self.beams, *ops.shape(rows)[1:]))


def _total(logits: Any) -> Any:
    """The logarithm of the sum of all weights (R, 1); 0 where no token is left, which keeps the rest at -inf."""
    total = ops.logsumexp(logits, axis=-1, keepdims=True)
    return ops.where(total == NEVER, 0.0, total)


def _joined(groups: list[Carry]) -> Carry:
    if len(groups) == 1:
        return groups[0]
    return {key: ops.concatenate([group[key] for group in groups], axis=1) for key in groups[0]}
