"""Which unit of the source becomes which of the target: by path, name, structure and shape, never by position.

Every rule narrows the candidates down to a scope and asks the same question there, `_pair`: is there exactly one unit
on either side with these shapes, or does their place in the graph of layers tell them apart? Where neither holds,
nothing is paired.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_seqx._core import errors
from keras_seqx.transfer.layer_graph import LayerGraph, isomorphic, wl_labels
from keras_seqx.transfer.layer_weights import LayerWeights

Units = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Ambiguity:
    """Units of equal shapes among which nothing decides."""

    sources: tuple[LayerWeights, ...]
    targets: tuple[LayerWeights, ...]


@dataclasses.dataclass
class Match:
    """What was found.

    Attributes:
        pairs: the source's unit for units of the target, both by number.
        clashes: the same for pairs whose shapes differ; the caller decides about them.
        ambiguities: where several would do.
    """

    pairs: dict[int, int]
    clashes: dict[int, int]
    ambiguities: list[Ambiguity]


class Matcher:
    """Pairs the units of two models.

    Args:
        sources: the units of the source.
        targets: those of the target.
        graphs: the graphs of both, fewer where one is not known.
    """

    def __init__(self, sources: Sequence[LayerWeights], targets: Sequence[LayerWeights], graphs: Sequence[LayerGraph]):
        self.sources, self.targets = sources, targets
        self.pairs: dict[int, int] = {}
        self.clashes: dict[int, int] = {}
        self.used: set[int] = set()
        self.undecided: set[int] = set()
        self.counts: dict[Any, list[collections.Counter]] = {
            similar: [collections.Counter(map(similar, side)) for side in (sources, targets)]
            for similar in (exact, roughly)
        }
        self.places: list[tuple[list[Any], list[Any]]] = []
        if len(graphs) == 2:
            found = (wl_labels(graphs[0], graphs[1], consumers=consumers) for consumers in (True, False))
            self.places = [place for place in found if place is not None]
        ours, theirs = ({unit.file_path: i for i, unit in enumerate(side)} for side in (sources, targets))
        self.isomorphic = len(graphs) == 2 and ours.keys() == theirs.keys()
        self.isomorphic = self.isomorphic and isomorphic(
            graphs[0], graphs[1], {i: ours[file_path] for file_path, i in theirs.items()}
        )

    def match(self, scopes: Iterable[tuple[Units, Units]]) -> Match:
        """Returns the pairs, those of the `scopes` that the user asked for first."""
        for sources, targets in scopes:
            self._pair(sources, targets, exact, asked=True)
            self._pair(sources, targets, roughly, asked=True)
        everything = range(len(self.sources)), range(len(self.targets))
        for similar in (exact, roughly):
            for label in (lambda unit: [unit.user_names], lambda unit: [(n,) for n in reversed(unit.user_names)]):
                self._pair_by(label, similar)
            paired = -1
            while paired != len(self.pairs) + len(self.clashes):  # what is paired leaves fewer to choose among
                paired = len(self.pairs) + len(self.clashes)
                self._pair(*everything, similar)
            if similar is exact:
                left = self._classes(*everything, exact).values()
                self.undecided = {i for _, targets in left for i in targets}
        return Match(self.pairs, self.clashes, [a for both in left if (a := self._ambiguity(*both))])

    def _pair_by(self, label: Callable[[LayerWeights], list], similar: Callable) -> None:
        """Pairs within the units of one label, the given names of a path or one of them, after the other."""
        ours: dict[Any, list[int]] = {}
        theirs: dict[Any, list[int]] = {}
        for labelled, units in ((ours, self.sources), (theirs, self.targets)):
            for i, unit in enumerate(units):
                for name in label(unit):
                    labelled.setdefault(name, []).append(i)
        for name, targets in theirs.items():
            if name:
                self._pair(ours.get(name, []), targets, similar)

    def _pair(
        self, sources: Units, targets: Units, similar: Callable[[LayerWeights], Any], asked: bool = False
    ) -> None:
        """Pairs what is not yet paired of two lists of units, class of similar ones by class."""
        for key, (some, others) in self._classes(sources, targets, similar).items():
            alone = len(some) == len(others) == 1
            for t, s in self._decide(some, others).items():
                # Names that people gave and that differ outweigh a place in the graph, but for the last of a class.
                differ = self._names_differ(s, t) and max(count[key] for count in self.counts[similar]) > 1
                if asked or not differ or (alone and any(ours[s] == theirs[t] for ours, theirs in self.places)):
                    (self.pairs if similar is exact else self.clashes)[t] = s
                    self.used.add(s)

    def _classes(self, sources: Units, targets: Units, similar: Callable) -> dict[Any, tuple[list[int], list[int]]]:
        """Returns the units not yet paired, those of the source and of the target, in classes of similar ones."""
        classes: dict[Any, tuple[list[int], list[int]]] = {}
        for i in targets:
            if not (i in self.pairs or i in self.clashes or i in self.undecided):
                classes.setdefault(similar(self.targets[i]), ([], []))[1].append(i)
        for i in sources:
            if i not in self.used and similar(self.sources[i]) in classes:
                classes[similar(self.sources[i])][0].append(i)
        return {key: both for key, both in classes.items() if both[0]}

    def _decide(self, sources: list[int], targets: list[int]) -> dict[int, int]:
        """Returns pairs {target: source} within one class: the only two, or those that one evidence tells apart."""
        if len(sources) == len(targets) == 1:
            return {targets[0]: sources[0]}
        pairs: dict[int, int] = {}
        for of_sources, of_targets in self.places:
            taken = set(pairs.values())
            ours = _unique([i for i in sources if i not in taken], of_sources)
            theirs = _unique([i for i in targets if i not in pairs], of_targets)
            pairs |= {t: ours[place] for place, t in theirs.items() if place in ours}
        return pairs or self._by_address(sources, targets)

    def _by_address(self, sources: list[int], targets: list[int]) -> dict[int, int]:
        """Pairs by where Keras' files keep them, if the whole class is kept in the same places.

        That is Keras' own rule for its files. It is right where it makes the two graphs one, twins and all; where a
        graph is not known it is all that there is; elsewhere the automatic names have to agree as well.
        """
        by_path = bool(self.places) and not self.isomorphic
        of = (lambda unit: unit.path + ":" + unit.file_path) if by_path else (lambda unit: unit.file_path)
        ours = {of(self.sources[i]): i for i in sources}
        theirs = {of(self.targets[i]): i for i in targets}
        if ours.keys() != theirs.keys():
            return {}
        pairs = {i: ours[file_path] for file_path, i in theirs.items()}
        return pairs if self.isomorphic or self._names_agree(pairs) else {}

    def _names_agree(self, pairs: dict[int, int]) -> bool:
        """Whether the user named the same layers, and the others were made in the same order.

        The numbers of automatic names tell that order. A file that knows no names contradicts nothing.
        """
        numbers: dict[str, list[tuple[int, int]]] = {}
        for t, s in pairs.items():
            source, target = self.sources[s], self.targets[t]
            if source.user_names != target.user_names and any(step.name for step in source.steps):
                return False
            for stem in source.numbers.keys() & target.numbers.keys():
                numbers.setdefault(stem, []).append((source.numbers[stem], target.numbers[stem]))
        return all(
            (a[0] - b[0]) * (a[1] - b[1]) >= 0 for both in numbers.values() for a, b in itertools.pairwise(sorted(both))
        )

    def _names_differ(self, source: int, target: int) -> bool:
        """Whether the user gave the two different names, which counts for more than their place."""
        ours, theirs = self.sources[source].user_names, self.targets[target].user_names
        return bool(ours) and bool(theirs) and not set(ours) & set(theirs)

    def _ambiguity(self, sources: list[int], targets: list[int]) -> Ambiguity | None:
        units = tuple(self.targets[i] for i in targets)
        return None if all(u.is_setting for u in units) else Ambiguity(tuple(self.sources[i] for i in sources), units)


def _unique(units: list[int], values: Sequence[Any]) -> dict[Any, int]:
    """Returns {value: unit} of those whose value no other has."""
    counts = collections.Counter(values[i] for i in units)
    return {values[i]: i for i in units if counts[values[i]] == 1}


def exact(unit: LayerWeights) -> Any:
    """Equal for units of the same shapes."""
    return unit.signature


def roughly(unit: LayerWeights) -> Any:
    """Equal for units whose shapes could differ by a length, a width, a number of classes."""
    return (unit.direction, unit.is_gru, tuple(len(shape) for shape in unit.shapes))


def scopes_of(
    mapping: Any, sources: Sequence[LayerWeights], targets: Sequence[LayerWeights], roots: tuple[str, str]
) -> list:
    """Returns what a user's mapping asks to pair: lists of units of the source and of the target.

    Args:
        mapping: {source: target}: names or paths of layers, of which everything below is meant, or a regular
            expression for the source's path and its replacement.
        sources: the units of the source.
        targets: those of the target.
        roots: the names of both models, which may lead a path.
    """
    fix = "Give {source: target}, names or paths as in the report, or a regular expression and its replacement"
    if not isinstance(mapping, dict) or not all(isinstance(text, str) for item in mapping.items() for text in item):
        raise TypeError(errors.message("transfer_weights", "mapping", "a dict of str to str", mapping, fix))
    scopes = []
    for key, value in mapping.items():
        some = _select(key, sources, roots[0])
        groups = {value: some} if some else _by_expression(key, value, sources)
        if not groups:
            where = "name, path or expression of layers of the source"
            known = f"the source has {listed(sources)}"
            if _select(key, targets, roots[1]):
                known = f"{key!r} is of the target, and a mapping goes from source to target; {known}"
            raise ValueError(errors.message("transfer_weights", "mapping", where, key, fix, known))
        for to, some in groups.items():
            others = _select(to, targets, roots[1])
            if not others:
                where, known = "to layers of the target", f"the target has {listed(targets)}"
                raise ValueError(errors.message("transfer_weights", "mapping", where, {key: to}, fix, known))
            scopes.append((some, others))
    return scopes


def _select(text: str, units: Sequence[LayerWeights], root: str) -> list[int]:
    """Returns the units at a path, below it, or below a layer of that name."""
    text = text.strip("/").removeprefix(root + "/")
    for fits in (
        lambda unit: unit.path == text or unit.path.startswith(text + "/") or unit.file_path == text,
        lambda unit: any(step.name == text for step in unit.steps),
    ):
        found = [i for i, unit in enumerate(units) if fits(unit)]
        if found:
            return found
    return []


def _by_expression(key: str, value: str, units: Sequence[LayerWeights]) -> dict[str, list[int]]:
    """Returns {where to: units} of those whose path, or the front part of it, the expression matches as a whole."""
    groups: dict[str, list[int]] = {}
    try:
        for i, unit in enumerate(units):
            names = unit.path.split("/")
            for depth in range(len(names), 0, -1):
                matched = re.fullmatch(key, "/".join(names[:depth]))
                if matched:
                    groups.setdefault(matched.expand(value), []).append(i)
                    break
    except (re.error, IndexError) as error:
        fix = "Write it as for `re.sub`"
        what = "a valid regular expression and replacement"
        raise ValueError(errors.message("transfer_weights", "mapping", what, {key: value}, fix, str(error))) from error
    return groups


def is_meant(key: str, unit: LayerWeights) -> bool:
    """Whether a name, a path or an expression means a unit, or a layer that it lies in."""
    names = unit.path.split("/")
    paths = ["/".join(names[:depth]) for depth in range(1, len(names) + 1)]
    return key in names or any(key == path or re.fullmatch(key, path) for path in paths)


def listed(units: Sequence[LayerWeights], most: int = 20) -> str:
    """Returns the paths of units, for an error."""
    paths = list(dict.fromkeys(unit.path for unit in units))
    return ", ".join(map(repr, paths[:most])) + (f" and {len(paths) - most} more" if len(paths) > most else "")
