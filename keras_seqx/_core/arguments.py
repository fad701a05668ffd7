"""Keyword arguments that no parameter takes."""

import difflib
from collections.abc import Iterable
from typing import Any

from keras_seqx._core import errors


def refuse_unknown(owner: Any, arguments: dict[str, Any], known: Iterable[str]) -> None:
    """Raises unless every argument is a known one.

    Args:
        owner: an object, or the name of a class or function, that the error names.
        arguments: the keyword arguments that came.
        known: the names that are allowed.

    Raises:
        TypeError: an argument is unknown. The error names the known argument that is nearest in spelling, or all of
            them where none is near.
    """
    names = sorted(known)
    for name, value in arguments.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            fix = f"Did you mean `{near[0]}`" if near else "The arguments are " + ", ".join(f"`{n}`" for n in names)
            raise TypeError(errors.message(owner, name, "a known argument", value, fix))
