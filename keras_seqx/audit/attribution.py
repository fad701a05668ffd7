"""Decides which layers leak padding, and which only lack a mask that an earlier layer lost."""

import dataclasses
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core.keras_internals import get_mask
from keras_seqx.audit.comparison import Reference, compare
from keras_seqx.audit.remedies import VERDICTS
from keras_seqx.audit.report import NOT_COMPARED, NOT_FINITE, RANDOM, UNSEEN
from keras_seqx.audit.trace import Call, Recording, with_mask


@dataclasses.dataclass
class Finding:
    """What was found of one call: the row to be, with what decides on it.

    `culprits` holds the findings that lost the mask of what comes out; `loses` tells whether this one did.
    """

    name: str
    layer: Any
    mask_in: bool = False
    mask_out: bool = False
    change: float = 0.0
    verdict: str = "ok"
    culprits: list["Finding"] = dataclasses.field(default_factory=list)
    loses: bool = False


class Attribution:
    """Judges every call of a run on padded rows.

    Args:
        reference: the rows without padding.
        padded_run: the run with the most padding.
        short: the run with less of it; None if no layer keeps statistics.
        row_swapped_run: the run in which only one row stayed what it was; None for a batch of one.
        repeated_run: `padded_run` once more, in which only what is random differs; None where nothing moved.
    """

    def __init__(
        self,
        reference: Reference,
        padded_run: Recording,
        short: Recording | None,
        row_swapped_run: Recording | None,
        repeated_run: Recording | None,
    ):
        self._reference = reference
        self._padded_run, self._short, self._row_swapped_run, self._repeated_run = (
            padded_run,
            short,
            row_swapped_run,
            repeated_run,
        )
        self._made: list[Finding] = []
        self.findings: list[Finding] = []
        self.random_statistics: list[str] = []
        for number, call in enumerate(padded_run.calls):
            if number not in reference.calls:
                self._made.append(Finding(call.name, call.layer))
                continue
            between = self._between(number, call)
            if between:
                self.findings.append(between)
            culprits = self._culprits(number, call, between)
            if number < len(padded_run.calls) - 1:
                finding = self._judge(number, call, culprits)
                self._made.append(finding)
                if isinstance(call.layer, keras.Layer) or finding.verdict != "ok":
                    self.findings.append(finding)
            else:
                # Behind an output that lost its mask, the loss and the metrics count padding.
                self.output_culprits = culprits
                self._charge(culprits)

    def _charge(self, culprits: list[Finding]) -> None:
        for finding in culprits:
            if finding.verdict not in VERDICTS:
                finding.verdict = "mask lost"

    def _between(self, number: int, call: Call) -> Finding | None:
        """Returns the finding on the operations that a model's own `call` applies before this call."""
        own = [match for match, source in zip(call.input_matches, call.sources, strict=True) if match and source == -1]
        moved = [match.change for match in own if match.moved]
        again = self._repeated_run.again(number) if self._repeated_run else [None] * len(call.sources)
        random = any(match and match.moved for match, source in zip(again, call.sources, strict=True) if source == -1)
        unseen = any(match.unseen for match in own) and number > 0 and self._made[-1].verdict not in UNSEEN
        lost = number > 0 and any(call.sources[n] == -1 for n in call.missing_masks)
        last = self._padded_run.calls[number - 1]
        loses = lost and any(mask is not None for mask in last.output_masks)
        if not moved and not loses and not unseen:
            return None
        verdict = RANDOM if random else "leak" if moved else NOT_FINITE if unseen else "mask ends"
        change = max(moved, default=0.0)
        return Finding(f"{call.owner.name}.call", call.owner, loses, False, change, verdict, loses=loses)

    def _culprits(self, number: int, call: Call, between: Finding | None) -> list[Finding]:
        """Returns who lost the masks that should have come with the inputs."""
        found: list[Finding] = []
        for n in call.missing_masks:
            source = call.sources[n]
            if source is None or number == 0:
                continue
            if source == -1 and between and between.loses:
                found.append(between)
            else:
                maker = self._made[source if source >= 0 else number - 1]
                found += [*maker.culprits, *([maker] if maker.loses else [])]
        return list({id(finding): finding for finding in found}.values())

    def _judge(self, number: int, call: Call, culprits: list[Finding]) -> Finding:
        finding = Finding(call.name, call.layer, any(mask is not None for mask in call.masks), culprits=culprits)
        finding.mask_out = any(mask is not None for mask in call.output_masks)
        finding.change = max([match.change for match in call.output_matches if match is not None], default=0.0)
        moved = any(match.moved and not match.unseen for match in call.output_matches if match is not None)
        statistics, unseen = self._statistics_move(number, restored=False)
        keeps_mask = finding.mask_out
        is_layer = isinstance(call.layer, keras.Layer)
        verdict = "leak" if moved else "statistics leak" if statistics else "ok"
        if is_layer and _right_masks(call) and (culprits or verdict != "ok"):
            # Once more, with the mask that it should have had.
            outputs = tree.flatten(_again(call, restored=True))
            matches = self._reference.match(number, "outputs", outputs)
            still = any(match.moved for match in matches if match is not None)
            if verdict != "ok" and not still and not (statistics and self._statistics_move(number, restored=True)[0]):
                verdict = "misled" if culprits or finding.mask_in else "no mask"
                self._charge(culprits)
            if culprits:
                keeps_mask = any(get_mask(output) is not None for output in outputs)
        padded = any(match.padded for match in call.output_matches if match is not None)
        finding.loses = padded and not keeps_mask and (finding.mask_in or (bool(culprits) and bool(_right_masks(call))))
        finding.loses |= call.drops_input_masks
        if _moves(number, self._repeated_run):
            verdict = RANDOM
        elif _moves(number, self._row_swapped_run):
            verdict = "mixes rows"
        elif verdict == "ok":
            if unseen or any(match.unseen for match in call.output_matches if match is not None):
                input_matches = [match for match in call.input_matches if match is not None]
                verdict = NOT_COMPARED if any(match.unseen for match in input_matches) else NOT_FINITE
            elif not call.missing_masks and any(
                self._reference.wrong(number, "output_masks", call.output_masks, call.returned)
            ):
                verdict = "wrong mask"
                finding.loses = True
            elif finding.loses and not call.drops_input_masks:
                verdict = "mask ends"
            elif call.output_matches and all(match is None or not match.size for match in call.output_matches):
                verdict = "not seen"
        finding.verdict = verdict
        return finding

    def _statistics_move(self, number: int, restored: bool) -> tuple[bool, bool]:
        """Returns whether more padding changes what a training pass leaves in the layer's statistics.

        Also returns whether that cannot be told, because some of them are then not finite anywhere.
        """
        layer = self._padded_run.calls[number].layer
        weights = getattr(layer, "non_trainable_weights", [])
        if not weights or self._short is None:
            return False, False
        before = [ops.convert_to_numpy(weight).copy() for weight in weights]

        def train(run: Recording) -> list:
            try:
                _again(run.calls[number], restored, training=True)
                return [ops.convert_to_numpy(weight).copy() for weight in weights]
            finally:
                for weight, value in zip(weights, before, strict=True):
                    weight.assign(value)

        short = train(self._short)
        moved, unseen = _statistics_differ(before, short, train(self._padded_run))
        if moved and _statistics_differ(before, short, train(self._short))[0]:  # by what dropout drew
            self.random_statistics.append(self._padded_run.calls[number].name)
            return False, False
        return moved, unseen and not moved


def _moves(number: int, run: Recording | None) -> bool:
    """Returns whether the outputs of a call in another run are other than its reference's."""
    output_matches = run.calls[number].output_matches if run else []
    return any(match.moved for match in output_matches if match is not None)


def _statistics_differ(before: list, a: list, b: list) -> tuple[bool, bool]:
    """Returns whether two training passes leave other statistics, and whether any of them has no finite value."""
    differ = unseen = False
    for old, x, y in zip(before, a, b, strict=True):
        if old.size and old.dtype.kind == "f":
            difference, _, finite, _ = compare(y, x)
            differ |= difference > 1e-3 * compare(x, x - old)[1] + 1e-6 * compare(old, old)[1]
            unseen |= not finite
    return differ, unseen


def _right_masks(call: Call) -> dict[int, Any]:
    return {n: mask for n, mask in call.missing_masks.items() if mask is not None}


def arguments(call: Call, restored: bool) -> Any:
    """Returns a call's arguments, where `restored` with the masks that they should have had."""
    masks = dict(enumerate(call.masks)) | (_right_masks(call) if restored else {})
    numbers = iter(range(len(call.inputs)))

    def masked(leaf: Any) -> Any:
        if not ops.is_tensor(leaf):
            return leaf
        mask = masks[next(numbers)]
        return leaf if mask is None else with_mask(leaf, mask)

    return tree.map_structure(masked, call.args)


def _again(call: Call, restored: bool, **context: Any) -> Any:
    args, kwargs = arguments(call, restored)
    if restored:  # What Keras filled in, it fills in again.
        filled = [name for name in kwargs if name.endswith("mask") and name != "attention_mask"]
        kwargs = {name: value for name, value in kwargs.items() if name not in filled}
    return call.layer(*args, **{**kwargs, **context})
