"""What a cell that attends may be made of, and what its memory must look like."""

from collections.abc import Callable
from typing import Any

import keras

from keras_seqx._core import errors, validation

MEMORY_FIX = (
    "Pass an encoder's outputs: `decoder(inputs, memory=outputs)`. Within `keras.layers.RNN`, build the cell by "
    "`cell.build((None, D), memory_shape=(None, None, M))` and append the memory to `initial_state`"
)

# The last of the integers from 0 on that all are numbers of a short floating-point type.
LARGEST_COUNT = {"bfloat16": 256, "float16": 2048}


def check_memory_shape(owner: Any, shape: Any, width: int | None = None) -> None:
    """Checks that there is a memory, of shape (B, S, M), M known and equal to `width`."""
    if shape is None:
        raise ValueError(errors.message(owner, "memory", "of shape (B, S, M)", None, MEMORY_FIX))
    errors.shape(owner, "memory", shape, "(B, S, M)", (None, None, width), MEMORY_FIX)
    if shape[2] is None:
        what = "of shape (B, S, M) with a known M"
        raise ValueError(errors.message(owner, "memory", what, tuple(shape), MEMORY_FIX, "its shape"))


def check_memory(owner: Any, memory: Any, mask: Any, width: int | None) -> None:
    """Checks a memory (B, S, M), M equal to `width`, and its mask (B, S)."""
    check_memory_shape(owner, None if memory is None else memory.shape, width)
    if mask is not None:
        fix = "Pass one boolean for each step of the memory"
        errors.shape(owner, "memory_mask", mask.shape, "(B, S)", tuple(memory.shape[:2]), fix)


def check_rnn_states(owner: Any, states: Any, sizes: list[Any]) -> None:
    """Checks the states that `keras.layers.RNN` passes: of the `sizes`, None for any, and one or two of a memory."""
    shapes = [tuple(state.shape) for state in states]
    wanted = [size if isinstance(size, tuple) else (size,) for size in sizes]
    fit = [
        len(shape) == len(own) + 1
        and all(n is None or length in (None, n) for length, n in zip(shape[1:], own, strict=True))
        for shape, own in zip(shapes, wanted, strict=False)
    ]
    if not all(fit) or len(states) - len(sizes) not in (1, 2):
        names = "[output, *inner, " + "alignments, " * bool(owner.monotonic) + "memory, memory_mask]"
        what = f"{names} within `keras.layers.RNN`, the states before the memory of sizes {sizes}"
        fix = "The last output comes first, zeros to begin with; the mask may be left out"
        raise ValueError(errors.message(owner, "initial_state", what, shapes, fix, "the shapes"))


def check_counts(owner: Any, dtype: Any) -> None:
    """Checks that the number of steps read, which `keras.layers.RNN` casts, can be counted in `dtype`."""
    dtype = keras.backend.standardize_dtype(dtype)
    limit = LARGEST_COUNT.get(dtype)
    if limit is not None and owner.max_length > limit:
        what = f"at most {limit} within `keras.layers.RNN` in {dtype}, which does not count further"
        fix = "Use `AutoregressiveDecoder`, or give the cell `dtype='float32'`"
        raise ValueError(errors.message(owner, "max_length", what, owner.max_length, fix))


def one_of(owner: Any, argument: str, value: Any, names: tuple) -> Any:
    """Returns `value` if it is one of the `names`."""
    if value in names:
        return value
    error = ValueError if isinstance(value, str) else TypeError
    raise error(errors.message(owner, argument, "one of " + ", ".join(map(repr, names)), value, "Choose by name"))


def width(owner: Any, argument: str, value: Any) -> int | None:
    """Returns a width, None for the inner cell's."""
    fix = "Leave it out to have it as wide as the inner cell's output"
    return None if value is None else errors.positive_integer(owner, argument, value, fix)


def of_monotonic(owner: Any, argument: str, value: Any, constraint: str, holds: Callable[[Any], Any]) -> float:
    """Returns a number that means something for monotonic attention alone."""
    number = float(validation.number(owner, argument, value, constraint, holds, "Leave it out for 0"))
    if number and owner.monotonic is None:
        fix = "Set `monotonic`, or leave it out"
        raise ValueError(errors.message(owner, argument, "0 without `monotonic`", value, fix))
    return number
