"""Argument checks, and the only home of the package's error wording.

Every message has one form::

    {Class}: `{argument}` must be {constraint}. Received: `{argument}`={value!r} ({shapes}). {fix}.
"""

import math
import numbers
import operator
from typing import Any


def message(owner: Any, argument: str, constraint: str, value: Any, fix: str, context: str = "") -> str:
    """Returns the text of an error about one argument of `owner`, an object or the name of a function or class."""
    name = owner if isinstance(owner, str) else type(owner).__name__
    received = f"Received: `{argument}`={value!r}" + (f" ({context})" if context else "")
    return f"{name}: `{argument}` must be {constraint}. {received}. {fix}."


def positive_integer(owner: Any, argument: str, value: Any, fix: str) -> int:
    """Returns `value` as an `int` of at least 1; NumPy integers pass, bools and floats do not."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(message(owner, argument, "an integer of at least 1", value, fix))
    if number < 1:
        raise ValueError(message(owner, argument, "an integer of at least 1", value, fix))
    return number


def probability(owner: Any, argument: str, value: Any, fix: str) -> float:
    """Returns `value` as a `float` within [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(message(owner, argument, "a number within [0, 1]", value, fix))
    number = float(value)
    if math.isnan(number) or not 0 <= number <= 1:
        raise ValueError(message(owner, argument, "a number within [0, 1]", value, fix))
    return number


def shape(owner: Any, argument: str, received: Any, expected: str, sizes: tuple, fix: str) -> None:
    """Raises unless the shape `received` has the rank of `sizes` and agrees with every size known to both.

    `expected` names the axes for the reader, as in "(B, T0, D)"; an unknown size is None.
    """
    received = tuple(received)
    fits = len(received) == len(sizes) and all(
        not all(isinstance(size, int) for size in pair) or pair[0] == pair[1]
        for pair in zip(received, sizes, strict=True)
    )
    if not fits:
        known = f" with {expected} = {sizes}" if any(size is not None for size in sizes) else ""
        raise ValueError(message(owner, argument, f"of shape {expected}{known}", received, fix, "its shape"))
