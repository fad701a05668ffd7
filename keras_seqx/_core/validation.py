"""Checks of the numbers and token ids that samplers and processors are made of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_seqx._core import errors


def number(
    owner: Any,
    argument: str,
    value: Any,
    constraint: str,
    holds: Callable[[Any], Any],
    fix: str,
    *,
    integer: bool = False,
    per_row: bool = False,
) -> Any:
    """Returns a finite number for which `holds`, as an `int` or `float`; with `per_row`, an array (B,) of them too."""
    array = _numeric(value, "iu" if integer else "iuf")
    if array is None or array.ndim > per_row:
        rows = ", or a 1D array of them, one for each row" if per_row else ""
        raise TypeError(errors.message(owner, argument, constraint + rows, value, fix))
    if array.size == 0 or not np.all(np.isfinite(array) & holds(array)):
        raise ValueError(errors.message(owner, argument, constraint, value, fix))
    array = array.astype("int32" if integer else "float64")
    return array if array.ndim else array.item()


def tokens(owner: Any, argument: str, value: Any, constraint: str, fix: str) -> list[int]:
    """Returns a non-empty list of token ids."""
    array = _numeric(value, "iu")
    empty = isinstance(value, (list, tuple, np.ndarray)) and len(value) == 0
    if not empty and (array is None or array.ndim != 1):
        raise TypeError(errors.message(owner, argument, constraint, value, fix))
    if empty or array is None or np.any((array < 0) | (array >= 2**31)):
        raise ValueError(errors.message(owner, argument, constraint, value, fix))
    return array.tolist()


def token(owner: Any, argument: str, value: Any, fix: str) -> int:
    """Returns one token id."""
    holds = lambda x: (x >= 0) & (x < 2**31)  # noqa: E731
    return number(owner, argument, value, "a token id, an integer of at least 0", holds, fix, integer=True)


def end_tokens(owner: Any, value: Any, fix: str) -> int | list[int]:
    """Returns the argument `end_token`: one token id, or a list of different ones."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return token(owner, "end_token", value, fix)
    what = "a token id or a list of different ones, integers of at least 0"
    ends = tokens(owner, "end_token", value, what, fix)
    if len(set(ends)) < len(ends):
        raise ValueError(errors.message(owner, "end_token", what, value, fix))
    return ends


def as_list(ends: int | list[int] | None) -> list[int]:
    """Returns the ids of an argument `end_token`, none for None."""
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else list(ends)


def _numeric(value: Any, kinds: str) -> np.ndarray | None:
    """The value as an array, None where it is none of the kinds; bools are not integers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # ragged lists, tensors that are not known yet
        return None
    return array if array.dtype.kind in kinds else None
