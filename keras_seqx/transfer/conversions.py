"""Values of one unit for the variables of another: as they are where they fit, converted where that is exact."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_seqx.transfer.layer_weights import LayerWeights, Weight

LENGTHS = ("truncate", "interpolate")
LONGEST = 64  # times the target's length


@dataclasses.dataclass(frozen=True, eq=False)
class Move:
    """One variable and what it is to be given.

    Attributes:
        target: the variable.
        source: where its value comes from, None if it keeps its own.
        action: as in `TransferRow`.
        value: returns the value, in the target's shape.
    """

    target: Weight
    source: Weight | None
    action: str
    value: Callable[[], np.ndarray] | None = None


class Inexact(Exception):
    """The weights of one layer cannot be turned into those of another without changing what it computes."""


def moves(source: LayerWeights, target: LayerWeights) -> list[Move]:
    """Returns what to do for units of one signature.

    Raises:
        Inexact: the two are GRUs of another `reset_after`, and the values do not allow the step from one to the other.
    """
    orders = _reset_after(source), _reset_after(target)
    if target.is_gru and None not in orders and orders[0] != orders[1]:
        return _gru_moves(source, target)
    return [copy(ours, theirs) for ours, theirs in zip(source.weights, target.weights, strict=True)]


def copy(source: Weight, target: Weight) -> Move:
    """Returns the move of a value as it is, but for its dtype."""
    kinds = (kind_of(source.dtype), kind_of(target.dtype))
    if kinds[0] != kinds[1]:
        raise Inexact(f"a value of dtype {source.dtype} is no {target.dtype}")
    return Move(target, source, "copied" if source.dtype == target.dtype else "cast", source.read)


def kind_of(dtype: str) -> str:
    """Returns "float", "int" and so on, of whatever width."""
    return dtype.rstrip("0123456789").removeprefix("b" if dtype.startswith("bfloat") else "")


def resized(source: Weight, target: Weight, how: str) -> Move | None:
    """Returns the move of a table of positions to another length, None where it is no such table.

    A table has its positions on one axis that is not the last, and nothing else about it changes. `truncate` keeps the
    first positions; `interpolate` puts new ones linearly between the old ones, the first and the last staying put.
    """
    axes = [i for i, sizes in enumerate(zip(source.shape, target.shape, strict=False)) if sizes[0] != sizes[1]]
    same_rank = len(source.shape) == len(target.shape) > 1
    if not same_rank or len(axes) != 1 or axes[0] == len(source.shape) - 1 or "kernel" in target.name:
        return None
    axis, new, old = axes[0], target.shape[axes[0]], source.shape[axes[0]]
    if kind_of(source.dtype) != "float" or 0 in (new, old) or (how == "truncate" and new > old):
        return None
    if old > LONGEST * new:  # no model is shortened that far, and a hostile file might want it all to be read
        return None

    def truncated() -> np.ndarray:
        return source.read(slice(0, new)) if axis == 0 else source.read()[(slice(None),) * axis + (slice(0, new),)]

    def interpolated() -> np.ndarray:
        table = np.moveaxis(np.asarray(source.read(), "float64"), axis, 0)
        at = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
        below = np.clip(np.floor(at).astype(int), 0, max(old - 2, 0))
        above = np.minimum(below + 1, old - 1)
        share = (at - below).reshape((-1,) + (1,) * (table.ndim - 1))
        return np.moveaxis(table[below] * (1 - share) + table[above] * share, 0, axis)

    return Move(
        target,
        source,
        f"{how}d",
        {"truncate": truncated, "interpolate": interpolated}[how],
    )


def _reset_after(unit: LayerWeights) -> bool | None:
    if len(unit.weights) == 3:
        return len(unit.shapes[2]) == 2
    value: Any = unit.config.get("reset_after")
    return value if isinstance(value, bool) else None


def _gru_moves(source: LayerWeights, target: LayerWeights) -> list[Move]:
    """GRUs that apply the reset gate before or after the product with the recurrent kernel, h U.

    (r * h) U equals r * (h U) for every r and h only where the candidate's part of U is diagonal; and a bias behind
    that product, which r would scale too, has to be zero.
    """
    units = source.shapes[1][0]
    candidate = np.array(source.weights[1].read()[:, 2 * units :])
    if np.any(candidate - np.diag(np.diag(candidate))):
        raise Inexact(
            "the reset gate works before the recurrent product in one GRU and after it in the other, which is the "
            "same only where the candidate's recurrent kernel is diagonal: build the target with "
            f"`reset_after={_reset_after(source)}`"
        )
    found = [copy(ours, theirs) for ours, theirs in zip(source.weights[:2], target.weights[:2], strict=True)]
    if len(source.weights) == 2:
        return found
    bias = source.weights[2]
    if _reset_after(source):
        if np.any(bias.read()[1, 2 * units :]):
            raise Inexact("the source's GRU adds a bias behind its reset gate, and the target's has none there")
        value = lambda: bias.read().sum(axis=0)  # noqa: E731
    else:
        value = lambda: np.stack([bias.read(), np.zeros_like(bias.read())])  # noqa: E731
    return [*found, Move(target.weights[2], bias, "converted", value)]
