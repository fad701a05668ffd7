"""Argument checks, and the only home of the package's error wording.

Every message has one form::

    {Class}: `{argument}` must be {constraint}. Received: {argument}={value!r} ({shapes}). {fix}.
"""

import math
import numbers
from typing import Any


def message(owner: Any, argument: str, constraint: str, value: Any, fix: str, shapes: str = "") -> str:
    """Returns the text of an error about one argument of `owner` (an object or a class name)."""
    name = owner if isinstance(owner, str) else type(owner).__name__
    received = f"Received: `{argument}`={value!r}" + (f" ({shapes})" if shapes else "")
    return f"{name}: `{argument}` must be {constraint}. {received}. {fix}."


def positive_integer(owner: Any, argument: str, value: Any, fix: str) -> int:
    """Returns `value` as an `int` of at least 1; NumPy integers pass, bools and floats do not."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(message(owner, argument, "an integer of at least 1", value, fix))
    if value < 1:
        raise ValueError(message(owner, argument, "an integer of at least 1", value, fix))
    return int(value)


def probability(owner: Any, argument: str, value: Any, fix: str) -> float:
    """Returns `value` as a `float` within [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(message(owner, argument, "a number within [0, 1]", value, fix))
    if math.isnan(value) or not 0 <= value <= 1:
        raise ValueError(message(owner, argument, "a number within [0, 1]", value, fix))
    return float(value)


def rank(owner: Any, argument: str, shape: tuple, axes: str, fix: str) -> None:
    """Raises unless `shape` has one entry for each of the comma-separated `axes`."""
    if len(shape) != len(axes.split(",")):
        raise ValueError(message(owner, argument, f"a tensor of shape ({axes})", tuple(shape), fix))


def size(
    owner: Any, argument: str, axis: str, received: int | None, expected: int | None, fix: str, shapes: str
) -> None:
    """Raises where two static sizes are both known and differ."""
    if received is not None and expected is not None and received != expected:
        raise ValueError(message(owner, argument, f"of {axis} {expected}", received, fix, shapes))
