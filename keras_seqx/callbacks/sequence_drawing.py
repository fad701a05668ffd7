"""The pictures of `SequencePlot`, as figures of their own: neither pyplot nor its backend is touched."""

import dataclasses
import math
import unicodedata
from typing import Any

import numpy as np

from keras_seqx.callbacks.sequence_samples import Written

# Two of the colours of Okabe and Ito, told apart whatever the kind of colour blindness. The truth has that of the text.
PREDICTED, QUIET = "#D55E00", "#0072B2"
CHANNELS = 3  # panels beside each other

WIDTH = 9.0  # of a figure of tokens, in inches
SIZE = 9  # of its letters, in points
LETTER = 0.602 * SIZE / 72  # width and height of a letter of a typewriter face, in inches
LINE = 1.7 * SIZE / 72
MARGIN = 11  # letters before the tokens
LETTERS = int(WIDTH / LETTER) - MARGIN - 3
LINES = 12  # of a sequence; what is longer is cut
NOTHING = "·"  # in place of a token that has no counterpart
LABEL = 9.0  # points from a label of a map to the next


def draw_values(truths: np.ndarray, predictions: np.ndarray, lengths: np.ndarray, title: str) -> Any:
    """Returns a figure with a panel for each sequence, downwards, and channel, to the right.

    Args:
        truths: (B, T) or (B, T, D).
        predictions: of the same shape.
        lengths: (B,) valid steps.
        title: what the title begins with.
    """
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    truths, predictions = (np.asarray(a, "float64").reshape(*a.shape[:2], -1) for a in (truths, predictions))
    rows, steps, channels = truths.shape
    shown = min(channels, CHANNELS)
    valid = np.arange(steps) < lengths[:, None]
    error = np.mean((truths - predictions)[valid] ** 2) if valid.any() else math.nan
    figure = Figure((max(7, 4 * shown), 0.9 + 1.7 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, shown, sharex=True, sharey="col", squeeze=False)
    for i, j in np.ndindex(rows, shown):
        ax, t = axes[i, j], np.arange(int(lengths[i]))
        # A single step is no line.
        marker = "o" if lengths[i] == 1 else None
        ax.plot(t, truths[i, t, j], color=rcParams["text.color"], lw=2.4, alpha=0.55, marker=marker, label="truth")
        ax.plot(t, predictions[i, t, j], color=PREDICTED, lw=1.4, marker=marker, label="prediction")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, lw=0.6)
        ax.margins(x=0.01)
        ax.xaxis.get_major_locator().set_params(integer=True)
    for i in range(rows):
        axes[i, 0].set_ylabel(f"sequence {i + 1}")
    for j in range(shown):
        axes[-1, j].set_xlabel("step")
        if channels > 1:
            axes[0, j].set_title(f"channel {j + 1} of {channels}", fontsize="medium")
    figure.suptitle(_title(title, f"mean squared error {error:.3g}"), fontweight="bold")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_tokens(rows: list[Written], title: str) -> Any:
    """Returns a figure of sequences of tokens: the table, and below it the maps of the alignments."""
    from matplotlib.figure import Figure

    wrapped = [_wrapped(row) for row in rows]
    lines = 2.5 + sum(len(source) + 2 * len(pairs) + 1.8 for source, pairs, _ in wrapped)
    layout = _Layout([part for number, row in enumerate(rows, 1) for part in _maps(row, f"sequence {number}")])
    figure: Any = Figure((WIDTH, lines * LINE + layout.height), layout="constrained" if layout.maps else None)
    top = figure
    if layout.maps:
        top, bottom = figure.subfigures(2, 1, height_ratios=[lines * LINE, layout.height])
        layout.draw(bottom)
    left = -MARGIN - 1.5
    ax = top.add_axes((0, 0, 1, 1), xlim=(left, left + WIDTH / LETTER), ylim=(lines, 0), label="table")
    ax.axis("off")
    errors, count = sum(row.errors for row in rows), sum(true is not None for row in rows for true, _ in row.pairs)
    text = f"token error rate {errors / count if count else math.nan:.1%}, {errors} in {count} tokens"
    _put(ax, -MARGIN, 1, _title(title, text), fontweight="bold", fontsize=SIZE + 2, family="sans-serif")
    y = 2.5
    for number, (row, parts) in enumerate(zip(rows, wrapped, strict=True), 1):
        y = _write(ax, y, f"sequence {number}", row, *parts)
    return figure


def _title(title: str, score: str) -> str:
    return f"{title}: {score}" if title else score


def _shown(token: str) -> str:
    """A token on one line: a blank can be seen, and what does not print is escaped."""
    token = token.replace(" ", "␣")
    return token if token and token.isprintable() else repr(token)[1:-1] or "''"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _wrapped(row: Written) -> tuple[list, list, int]:
    """The lines of source tokens and of pairs, each item with its column, and how many items are left out."""
    source = _lines([(_shown(token),) for token in row.source or []])
    pairs = _lines([tuple(NOTHING if token is None else _shown(token) for token in pair) for pair in row.pairs])
    return source[:LINES], pairs[:LINES], sum(map(len, source[LINES:] + pairs[LINES:]))


def _lines(items: list[tuple[str, ...]]) -> list[list[tuple[int, tuple[str, ...]]]]:
    lines: list[list[tuple[int, tuple[str, ...]]]] = []
    column = LETTERS
    for item in items:
        width = max(map(_width, item)) + 1
        if column + width > LETTERS:
            lines.append([])
            column = 0
        lines[-1].append((column, item))
        column += width
    return lines


def _put(ax: Any, x: float, y: float, text: str, **style: Any) -> None:
    style = {"family": "monospace", "fontsize": SIZE, "va": "center", **style}
    # A token may be a dollar sign, which is no formula.
    ax.text(x, y, text, parse_math=False, **style)


def _write(ax: Any, y: float, name: str, row: Written, source: list, pairs: list, left: int) -> float:
    """Writes the lines of a sequence from `y` on; returns where the next one goes."""
    errors = f"{row.errors} wrong" if row.errors else "all right"
    score = "" if row.score is None else f", score {row.score:.2f}"
    more = f", {left} more tokens not shown" if left else ""
    _put(ax, -MARGIN, y, f"{name}: {errors}{score}{more}", color=QUIET, fontweight="bold")
    for number, line in enumerate(source):
        y += 1
        if not number:
            _put(ax, -MARGIN, y, "source", color=QUIET)
        for column, (token,) in line:
            _put(ax, column, y, token)
    for number, line in enumerate(pairs):
        for side, label in enumerate(("true", "predicted")):
            y += 1
            if not number:
                _put(ax, -MARGIN, y, label, color=QUIET)
            for column, pair in line:
                style = {}
                if side and pair[0] != pair[1]:
                    box = {"boxstyle": "square,pad=0.12", "facecolor": PREDICTED, "edgecolor": "none"}
                    style = {"color": "white", "fontweight": "bold", "bbox": box}
                _put(ax, column, y, pair[side], **style)
    return y + 1.8


@dataclasses.dataclass(frozen=True)
class _Map:
    """Where the decoder looked for one sequence: alignments (L, S), and what the steps are called."""

    title: str
    alignments: np.ndarray
    source: list[str]
    predicted: list[str]

    @property
    def height(self) -> float:
        return min(max(1.0, len(self.alignments) * LABEL / 72), 6.5)

    def label_height(self, width: float) -> float:
        """The room in inches for labels that stand upright, 0 where they have the room to lie."""
        longest = max(map(_width, self.source), default=0)
        lying = len(self.source) * (longest * 0.6 * LABEL + 3)
        return longest * 0.55 * LABEL / 72 if lying > width * 72 else 0.0

    def draw(self, ax: Any, width: float) -> Any:
        image = ax.imshow(self.alignments, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        _set_labels(ax.yaxis, self.predicted, self.height)
        if self.source:
            _set_labels(ax.xaxis, self.source, width, rotation=90 if self.label_height(width) else 0)
        else:
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(self.title, fontsize="medium", color=QUIET)
        ax.set(xlabel="source", ylabel="predicted")
        return image


def _maps(row: Written, title: str) -> list[_Map]:
    """The map of a sequence, or none where there is nothing to be seen."""
    if row.alignments is None or not row.alignments.size:
        return []
    # The names of the source fit a memory that has a place for each of them.
    source = row.source if row.source is not None and len(row.source) == row.alignments.shape[1] else []
    predicted = [_label(token) for _, token in row.pairs if token is not None]
    return [_Map(title, row.alignments, list(map(_label, source)), predicted)]


class _Layout:
    """Maps, two side by side unless one is so wide that its labels need the room; sizes in inches."""

    def __init__(self, maps: list[_Map]):
        self.maps = maps
        self.columns = 1 if len(maps) < 2 or max(m.alignments.shape[1] for m in maps) > 36 else 2
        self.width = WIDTH / self.columns - 1.6
        lines = [maps[k : k + self.columns] for k in range(0, len(maps), self.columns)]
        self.heights = [max(m.height for m in line) for line in lines]
        self.height = sum(self.heights) + sum(0.9 + max(m.label_height(self.width) for m in line) for line in lines)

    def draw(self, figure: Any) -> None:
        axes = figure.subplots(len(self.heights), self.columns, squeeze=False, height_ratios=self.heights).ravel()
        for ax, part in zip(axes, self.maps, strict=False):
            image = part.draw(ax, self.width)
        for ax in axes[len(self.maps) :]:
            ax.remove()
        figure.colorbar(image, ax=axes[: len(self.maps)], label="alignment", fraction=0.03, aspect=30, pad=0.01)


def _label(token: str) -> str:
    name = _shown(token)
    return name if len(name) <= 12 else f"{name[:11]}…"


def _set_labels(axis: Any, labels: list[str], inches: float, **style: Any) -> None:
    """Names the steps of an axis of a map, of too many every second, third, ..."""
    every = math.ceil(len(labels) * LABEL / (inches * 72) - 1e-6)
    axis.set_ticks(range(0, len(labels), every), labels[::every], fontsize=7.5, parse_math=False, **style)
