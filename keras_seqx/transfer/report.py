"""What a transfer did, as a table."""

import collections
import dataclasses


@dataclasses.dataclass(frozen=True)
class TransferRow:
    """One variable of the target.

    Attributes:
        target: its path, behind "optimizer/" where it is the optimizer's.
        source: the path of what it was given, None if it was given nothing.
        target_shape: its shape.
        source_shape: the shape of what it was given.
        action: "copied", "cast" (to another dtype), "converted" (to the other layout of a GRU's biases), "truncated"
            and "interpolated" (a table along time), or "kept" (it has its old value).
    """

    target: str
    source: str | None
    target_shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    action: str


@dataclasses.dataclass(frozen=True)
class TransferReport:
    """What `transfer_weights` did; `str()` is the table.

    Attributes:
        rows: a row for every variable of the target, in its order.
        unused: the paths of the source's variables that went nowhere.
        notes: what the weights alone do not tell: settings of the layers that differ.
        dry_run: whether nothing was changed.
    """

    rows: tuple[TransferRow, ...]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """How many variables each action was taken for."""
        return dict(collections.Counter(row.action for row in self.rows))

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [("target", "shape", "source", "action")]
        for row in self.rows:
            source = "the same path" if row.source == row.target else row.source or "-"
            if row.source_shape not in (None, row.target_shape):
                source += f" {row.source_shape}"
            table.append((row.target, str(row.target_shape), source, row.action))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
        lines.insert(1, "-" * max(map(len, lines)))
        counts = ", ".join(f"{count} {action}" for action, count in self.counts.items())
        lines += ["", f"variables: {counts}" + (" (a dry run: nothing was changed)" if self.dry_run else "")]
        lines.append("unused: " + (", ".join(self.unused) or "none"))
        return "\n".join([*lines, *(f"note: {note}." for note in self.notes)])
