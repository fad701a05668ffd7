"""The sequences that `SequencePlot` shows: checked, cut to their lengths, and beside what was predicted."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from keras import ops, tree

from keras_seqx._core import errors as checks

TOKENS = "logits (B, T, V), ids (B, L), or a dict with integer `tokens` (B, [N,] L)"


@dataclasses.dataclass(frozen=True)
class Written:
    """One sequence of tokens, by their names.

    Attributes:
        pairs: true tokens beside predicted ones; None where one has no counterpart.
        source: the source tokens, or None.
        score: what the search gave to it, or None.
        alignments: (L, S) where the decoder looked for each predicted token, or None.
    """

    pairs: Sequence[tuple[str | None, str | None]]
    source: list[str] | None
    score: float | None
    alignments: np.ndarray | None

    @property
    def errors(self) -> int:
        """How many of the pairs differ."""
        return sum(true != predicted for true, predicted in self.pairs)


class Samples:
    """The first `count` rows of the arguments of `SequencePlot`, in whose name errors are raised."""

    def __init__(
        self, owner: Any, x: Any, y: Any, lengths: Any, source: Any, tokens: Any, source_tokens: Any, count: int
    ):
        self.owner = owner
        y = self._array("y", y, "iufb")
        self.are_tokens = y.ndim == 2 and y.dtype.kind in "iu"
        if y.ndim not in (2, 3) or not y.size:
            what, fix = "of shape (B, T) or (B, T, D), none of them 0", "A series of one channel may leave out D"
            raise ValueError(checks.message(owner, "y", what, y.shape, fix, "its shape"))
        rows = len(y)
        self.y = y[:count]
        self.x = tree.map_structure(lambda part: self._inputs(part, rows)[:count], x)
        if lengths is not None:
            lengths = self._array("lengths", lengths, "iu")
            checks.shape(owner, "lengths", lengths.shape, "(B,)", (rows,), "Give a length for each row of `y`")
            if lengths.min() < 0 or lengths.max() > y.shape[1]:
                fix = "A length is the number of valid steps of its row"
                what = f"within 0 and {y.shape[1]}, the steps of `y`"
                raise ValueError(checks.message(owner, "lengths", what, lengths.tolist(), fix))
            self.lengths = lengths[:count]
        else:
            self.lengths = written_lengths(self.y) if self.are_tokens else np.full(len(self.y), y.shape[1])
        given = {"source": source, "tokens": tokens, "source_tokens": source_tokens}
        for argument, value in given.items():
            if value is not None and not self.are_tokens:
                fix = "Tokens are integers (B, T)"
                what = f"None where `y` are values, {y.dtype} of shape {y.shape}"
                raise ValueError(checks.message(owner, argument, what, value, fix))
        self.source = None
        if source is not None:
            source = self._array("source", source, "iu")
            checks.shape(owner, "source", source.shape, "(B, S)", (rows, None), "Give ids for each row of `y`")
            self.source = source[:count]
        self.tokens = self._names("tokens", tokens)
        self.source_tokens = self._names("source_tokens", source_tokens)

    def values(self, predictions: Any) -> np.ndarray:
        """Returns predictions of values in the shape of the truths."""
        likes = {self.y.shape, (*self.y.shape, 1)[:3]}
        if not isinstance(predictions, np.ndarray) or predictions.shape not in likes:
            self._refuse(predictions, f"one that returns an array of shape {max(likes, key=len)}, as `y`")
        return np.reshape(predictions, self.y.shape)

    def written(self, predictions: Any) -> list[Written]:
        """Returns predictions of tokens beside the truths."""
        found = predictions if isinstance(predictions, dict) else {"tokens": predictions}
        tokens = found.get("tokens")
        if not isinstance(tokens, np.ndarray) or len(tokens) != len(self.y):
            self._refuse(predictions, f"one that returns {TOKENS}")
        integer = tokens.dtype.kind in "iu"
        per_step = not integer and tokens.ndim == 3 and tokens.shape[1] == self.y.shape[1]
        if per_step:
            tokens = tokens.argmax(axis=-1)
        elif integer and tokens.ndim == 3 and found is predictions:
            found = {key: value[:, 0] for key, value in found.items()}
            tokens = found["tokens"]
        elif not integer or tokens.ndim != 2:
            self._refuse(predictions, f"one that returns {TOKENS}")
        lengths = found.get("lengths", self.lengths if per_step else written_lengths(tokens))
        rows = []
        for i in range(len(tokens)):
            true = self._named(self.y[i, : self.lengths[i]], self.tokens)
            predicted = self._named(tokens[i, : lengths[i]], self.tokens)
            pairs = list(zip(true, predicted, strict=True)) if per_step else matched(true, predicted)
            source = alignments = None
            if self.source is not None:
                ids = self.source[i]
                source = self._named(ids[: written_lengths(ids[None])[0]], self.source_tokens)
            if "alignments" in found:
                alignments = found["alignments"][i, : len(predicted)]
                if source is not None and alignments.shape[1] == len(ids):
                    alignments = alignments[:, : len(source)]
                else:
                    alignments = alignments[:, : written_lengths(alignments).max(initial=0)]
            score = float(found["scores"][i]) if "scores" in found else None
            rows.append(Written(pairs, source, score, alignments))
        return rows

    def _array(self, argument: str, value: Any, kinds: str) -> np.ndarray:
        array = ops.convert_to_numpy(value)
        if array.dtype.kind not in kinds and not ("f" in kinds and "float" in array.dtype.name):
            what = "an array of numbers" if "f" in kinds else "an array of integers"
            raise TypeError(checks.message(self.owner, argument, what, value, "Pad what has different lengths"))
        return array

    def _inputs(self, part: Any, rows: int) -> Any:
        if not hasattr(part, "shape"):
            raise TypeError(checks.message(self.owner, "x", "arrays, in any structure", part, "Use `np.asarray`"))
        if not len(part.shape) or part.shape[0] != rows:
            fix = "Give inputs and truths of the same sequences"
            what = f"of {rows} rows, as many as `y`"
            raise ValueError(checks.message(self.owner, "x", what, tuple(part.shape), fix, "its shape"))
        return part

    def _names(self, argument: str, names: Any) -> list[str] | None:
        if names is None:
            return None
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            fix = 'Name the ids in order, as in ["<pad>", "a", "b"]'
            raise TypeError(checks.message(self.owner, argument, "a sequence of strings", names, fix))
        return list(map(str, names))

    @staticmethod
    def _named(ids: np.ndarray, names: list[str] | None) -> list[str]:
        known = range(len(names or ()))
        return [names[i] if names and i in known else str(i) for i in ids.tolist()]

    def _refuse(self, predictions: Any, what: str) -> NoReturn:
        received = tree.map_structure(lambda part: (tuple(part.shape), part.dtype.name), predictions)
        fix = "Give a model, or a function of `x`, that returns just that"
        what = f"{what}, for `y` of shape {self.y.shape}"
        raise ValueError(checks.message(self.owner, "predict", what, received, fix, "what it returned"))


def written_lengths(tokens: np.ndarray) -> np.ndarray:
    """Returns the steps (B,) of ids (B, T) up to the last that is not 0."""
    return np.max(np.where(tokens != 0, np.arange(1, tokens.shape[1] + 1), 0), axis=1, initial=0)


def matched(true: list[str], predicted: list[str]) -> list[tuple[str | None, str | None]]:
    """Returns two sequences side by side, with as few pairs that differ as possible."""
    steps = np.arange(len(predicted) + 1)
    costs = [steps]  # of turning the first i true tokens into the first j predicted ones
    for token in true:
        last = costs[-1]
        replaced = last[:-1] + np.array([token != other for other in predicted], int)
        best = np.minimum(last + 1, np.concatenate([[last[0] + 1], replaced]))
        costs.append(np.minimum.accumulate(best - steps) + steps)
    pairs: list[tuple[str | None, str | None]] = []
    i, j = len(true), len(predicted)
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (true[i - 1] != predicted[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((true[i], predicted[j]))
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
            pairs.append((true[i], None))
        else:
            j -= 1
            pairs.append((None, predicted[j]))
    return pairs[::-1]
