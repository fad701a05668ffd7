"""What an audit found, as a table."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One call of a layer, or the loss, or a metric.

    Attributes:
        layer: its name, behind those of the models that it lies in.
        kind: its class.
        mask_in: whether a mask came with an input.
        mask_out: whether one went with an output.
        change: the largest change of its valid outputs by padding, its inputs being right, relative to their largest
            magnitude; for the loss and the metrics relative to themselves.
        verdict: "ok", or one of these. At fault are "leak" (valid outputs change), "mask lost" (somebody behind it
            needed the mask), "wrong mask", "no mask" (it would be right with a mask, and there never was one), "mixes
            rows" and "statistics leak" (as in training BatchNormalization). Not at fault are "misled" (it would be
            right with the mask that another one lost), "mask ends" (nobody needed it) and "not seen" (its outputs do
            not come row by row).
        remedy: how it is mended, empty if it is not at fault.
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
        """Returns the audit itself if nothing leaks.

        Raises:
            AssertionError: something does; the message is the table.
        """
        if self.leaks:
            raise AssertionError(f"padding changes what it must not change\n\n{self}")
        return self

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [("layer", "kind", "mask in", "mask out", "change", "verdict")]
        for row in self.rows:
            masks = [("yes" if mask else "-") for mask in (row.mask_in, row.mask_out)]
            table.append((row.layer, row.kind, *masks, f"{row.change:.1e}" if row.change else "0", row.verdict))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
        lines.insert(1, "-" * max(map(len, lines)))
        lines += ["", "leaks: " + (", ".join(self.leaks) or "none")]
        lines += dict.fromkeys(f"  {row.layer}: {row.remedy}." for row in self.rows if row.remedy)
        lines += [f"note: {note}." for note in self.notes]
        return "\n".join(lines)
