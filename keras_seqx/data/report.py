"""How full the batches are: the numbers, as a table and as a picture."""

import dataclasses
from typing import Any

import numpy as np

from keras_seqx.data.feeding.finite import FiniteSource


@dataclasses.dataclass(frozen=True)
class BucketRow:
    """One bucket: its padded lengths, its sequences, its batches in an epoch, and how full they are."""

    padded: tuple[int, ...]
    sequences: int
    batches: int
    efficiency: float


@dataclasses.dataclass(frozen=True)
class BucketingReport:
    """What an epoch of `LengthBucketing` costs, all shards together.

    Attributes:
        efficiency: valid steps / all steps, padding and filler rows included.
        efficiency_of_padding_to_longest: the same with every sequence padded to the longest.
        valid_steps: steps of sequences.
        padded_steps: all the others that are computed.
        shapes: the distinct shapes (B, T), or (B, S, T) for two lengths, of a shard's batches.
        buckets: a row for each bucket.
        sequences: sequences that an epoch trains on.
        batches: batches of an epoch, for each shard.
        correlation: of the padded lengths of consecutive batches (lag 1); near 0 where they come in random order, and
            NaN where they do not differ.
        dropped: sequences left out for their length, or as a remainder.
        overlong: how many of them for their length.
        truncated: sequences cut.
        duplicated: rows that fill batches, with weight 0.
        lengths: (R, C) the sequences' lengths.
    """

    efficiency: float
    efficiency_of_padding_to_longest: float
    valid_steps: int
    padded_steps: int
    shapes: list[tuple[int, ...]]
    buckets: list[BucketRow]
    sequences: int
    batches: int
    correlation: float
    dropped: int
    overlong: int
    truncated: int
    duplicated: int
    lengths: np.ndarray = dataclasses.field(repr=False)

    @classmethod
    def of(cls, source: FiniteSource, epoch: int) -> "BucketingReport":
        """Returns the report of one epoch."""
        plan, buckets = source.plan(epoch), source.buckets
        valid, total = plan.valid_steps, plan.total_steps
        sequences = int((plan.stop - plan.start).sum())
        longest = np.sum(buckets.lengths.max(axis=0, where=_staying(buckets)[:, None], initial=0))
        steps = plan.padded.sum(axis=1)
        varies = len(steps) > 2 and steps[:-1].std() > 0 and steps[1:].std() > 0
        rows = []
        for number in np.unique(plan.bucket):
            chosen = plan.bucket == number
            padded = tuple(plan.padded[chosen].max(axis=0).tolist())
            count = int((plan.stop - plan.start)[chosen].sum())
            rows.append(BucketRow(padded, count, int(chosen.sum()), float(valid[chosen].sum() / total[chosen].sum())))
        return cls(
            efficiency=float(valid.sum() / total.sum()),
            efficiency_of_padding_to_longest=float(valid.sum() / (sequences * longest)),
            valid_steps=int(valid.sum()),
            padded_steps=int(total.sum() - valid.sum()),
            shapes=plan.shapes,
            buckets=rows,
            sequences=sequences,
            batches=len(plan),
            correlation=float(np.corrcoef(steps[:-1], steps[1:])[0, 1]) if varies else float("nan"),
            dropped=len(buckets.lengths) - sequences,
            overlong=buckets.dropped,
            truncated=buckets.truncated,
            duplicated=plan.filler_rows,
            lengths=buckets.lengths,
        )

    def __str__(self) -> str:
        table = [("padded to", "sequences", "batches", "efficiency")]
        for row in self.buckets:
            padded = " x ".join(map(str, row.padded))
            table.append((padded, f"{row.sequences:,}", f"{row.batches:,}", f"{row.efficiency:.3f}"))
        total = (f"{len(self.shapes)} shapes", f"{self.sequences:,}", f"{self.batches:,}", f"{self.efficiency:.3f}")
        widths = [max(len(row[column]) for row in [*table, total]) for column in range(4)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        rule = "-" * len(lines[0])
        lines = [lines[0], rule, *lines[1:], rule]
        lines.append("  ".join(cell.rjust(width) for cell, width in zip(total, widths, strict=True)))
        lines.append(f"{self.padded_steps:,} padded steps beside {self.valid_steps:,} valid ones")
        lines.append(f"padding to the longest: efficiency {self.efficiency_of_padding_to_longest:.3f}")
        lines.append(f"correlation of consecutive batches' lengths: {self.correlation:.2f}")
        if self.dropped:
            lines.append(f"dropped: {self.dropped:,} sequences, {self.overlong:,} of them for their length")
        if self.truncated:
            lines.append(f"truncated: {self.truncated:,} sequences")
        if self.duplicated:
            lines.append(f"filler rows, of weight 0: {self.duplicated:,}")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draws the histogram of the lengths with the boundaries; for two lengths, each against the other.

        Args:
            ax: matplotlib axes. Default None: new ones.

        Returns:
            The axes.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.figure(figsize=(7, 3.5), layout="constrained").add_subplot()
        if self.lengths.shape[1] == 1:
            self._plot_one(ax)
        else:
            self._plot_two(ax)
        ax.set_title(
            f"{len(self.buckets)} buckets, {self.efficiency:.0%} of the steps valid "
            f"(padded to the longest: {self.efficiency_of_padding_to_longest:.0%})"
        )
        return ax

    def _plot_one(self, ax: Any) -> None:
        lengths = self.lengths[:, 0]
        edges = [row.padded[0] for row in self.buckets]
        bins = np.arange(lengths.min(), lengths.max() + 2) - 0.5
        if len(bins) > 100:
            bins = np.linspace(bins[0], bins[-1], 100)
        ax.hist(lengths, bins, color="tab:blue")
        for number, edge in enumerate(edges):
            ax.axvline(edge + 0.5, color="tab:orange", lw=1.5, label=None if number else "padded length of a bucket")
        ax.set(xlabel="length (steps)", ylabel="sequences")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(facecolor="white", edgecolor="none", framealpha=0.9)

    def _plot_two(self, ax: Any) -> None:
        source, target = self.lengths[:, 0], self.lengths[:, 1]
        bins = [np.linspace(side.min() - 0.5, side.max() + 0.5, min(np.ptp(side) + 2, 80)) for side in (source, target)]
        *_, image = ax.hist2d(source, target, bins, cmap="Blues", norm="log")
        ax.figure.colorbar(image, ax=ax, label="sequences")
        for number, row in enumerate(self.buckets):
            s, t = (size + 0.5 for size in row.padded[:2])
            label = None if number else "padded lengths of a bucket"
            ax.plot([0, s, s], [t, t, 0], color="tab:orange", lw=1, label=label)
        ax.set(xlabel="length of the first (steps)", ylabel="length of the second (steps)")
        ax.set(xlim=(bins[0][0], bins[0][-1] + 1), ylim=(bins[1][0], bins[1][-1] + 1))
        ax.legend(facecolor="white", edgecolor="none", framealpha=0.9, loc="upper left")


def _staying(buckets: Any) -> np.ndarray:
    """Returns which sequences were not dropped for their length, (R,)."""
    staying = np.zeros(len(buckets.lengths), bool)
    staying[buckets.order] = True
    return staying
