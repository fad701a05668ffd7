"""What an audit found, as a table."""

import collections
import dataclasses

NOT_FINITE, NOT_COMPARED, RANDOM = UNSEEN = ("not finite", "not compared", "random")


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One call of a layer, or the loss, or a metric.

    Attributes:
        layer: its name, after the names of the models that contain it.
        kind: its class.
        mask_in: whether a mask came with an input.
        mask_out: whether one went with an output.
        change: the largest change of its valid outputs by padding, its inputs being right, relative to their largest
            magnitude; for the loss and the metrics relative to themselves.
        verdict: "ok", or one of these. At fault are "leak" (valid outputs change), "mask lost" (a later layer needed
            the mask), "wrong mask", "no mask" (it would be right with a mask, but no mask was made), "mixes rows",
            "statistics leak" (as in training BatchNormalization) and "not finite" (for finite inputs, its outputs,
            statistics or loss have no finite value to compare). Not at fault are "misled" (it would be right with the
            mask that another layer lost), "mask ends" (no later layer needed it), "not seen" (its outputs do not come
            row by row), "not compared" (its inputs had no finite value) and "random" (two calls with the same inputs
            differ); `raise_on_leak` raises for the last two.
        remedy: how to mend it, empty if it is not at fault.
    """

    layer: str
    kind: str
    mask_in: bool
    mask_out: bool
    change: float
    verdict: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class MaskingAudit:
    """What `audit_masking` found; `str()` is the table.

    Attributes:
        rows: a row for every call of a layer, in order, then the loss and the metrics.
        notes: what could not be checked, and what the padding was.
    """

    rows: tuple[AuditRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def leaks(self) -> list[str]:
        """The names of those at fault, in order."""
        return list(dict.fromkeys(row.layer for row in self.rows if row.remedy))

    @property
    def not_compared(self) -> list[str]:
        """The names of those that are random or have no finite value, in order: padding may change them or not."""
        return self._with(*UNSEEN)

    @property
    def first_leak(self) -> str | None:
        """The first of them, or None."""
        return next(iter(self.leaks), None)

    @property
    def loss_change(self) -> float | None:
        """The relative change of the loss, None if it was not measured."""
        return next((row.change for row in self.rows if row.kind == "loss"), None)

    @property
    def metrics_change(self) -> dict[str, float]:
        """The relative change of each metric."""
        return {row.layer: row.change for row in self.rows if row.kind == "metric"}

    def raise_on_leak(self) -> "MaskingAudit":
        """Returns the audit itself if nothing leaks, and everything was seen.

        Raises:
            AssertionError: something leaks, is random, or has no finite value to compare; the message is the table.
        """
        if set(self.leaks) - set(self.not_compared):
            raise AssertionError(f"padding changes what it must not change\n\n{self}")
        if self.not_compared:
            what = "random outputs could not" if self._with(RANDOM) else "nothing finite could"
            raise AssertionError(f"{what} be compared, so that a leak would not be seen\n\n{self}")
        return self

    def _with(self, *verdicts: str) -> list[str]:
        """Returns the names of those with one of the verdicts, in order."""
        return list(dict.fromkeys(row.layer for row in self.rows if row.verdict in verdicts))

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [("layer", "kind", "mask in", "mask out", "change", "verdict")]
        names, seen = [row.layer for row in self.rows], collections.Counter[str]()
        for row in self.rows:
            masks = [("yes" if mask else "-") for mask in (row.mask_in, row.mask_out)]
            seen[row.layer] += 1
            call = f" (call {seen[row.layer]})" if names.count(row.layer) > 1 else ""
            table.append((row.layer + call, row.kind, *masks, f"{row.change:.1e}" if row.change else "0", row.verdict))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
        lines.insert(1, "-" * max(map(len, lines)))
        lines += ["", "leaks: " + (", ".join(self.leaks) or "none")]
        lines += dict.fromkeys(f"  {row.layer}: {row.remedy}." for row in self.rows if row.remedy)
        if names := self._with(NOT_FINITE, NOT_COMPARED):
            lines.append("nothing finite to compare: " + ", ".join(names))
        if names := self._with(RANDOM):
            lines.append(f"random, so not compared: {', '.join(names)}")
            lines.append("  Audit the model with layers that draw no random numbers there, as Greedy for Categorical.")
        lines += [f"note: {note}." for note in self.notes]
        return "\n".join(lines)
