"""The options of `LengthBucketing` that shape its plan, and their checks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_seqx._core import errors

OWNER = "LengthBucketing"


@dataclasses.dataclass(frozen=True)
class Options:
    """What shapes a plan; the arguments of `LengthBucketing` that bear these names."""

    batch_size: int = 32
    max_tokens: int | None = None
    buckets: Any = 8
    length_multiple: int = 1
    remainder: str = "keep"
    overlong: str = "error"
    max_length: int | None = None
    shuffle: bool = True
    num_shards: int = 1

    def rows(self, padded: Any) -> int:
        """Returns how many rows a full batch of these padded lengths has, for each shard."""
        return self.batch_size if self.max_tokens is None else int(self.max_tokens // np.sum(padded))


def check_options(options: Options) -> None:
    """Raises unless the options are sound by themselves."""
    for name, fix in (
        ("batch_size", "It is the number of rows of a batch"),
        ("max_tokens", "It is the most steps of a batch, padding included; None counts rows instead"),
        ("length_multiple", "Padded lengths are multiples of it; 1 leaves them as they are"),
        ("max_length", "It is the most steps of a sequence; None sets no limit"),
        ("num_shards", "It is the number of processes that share the data"),
    ):
        if getattr(options, name) is not None or name not in ("max_tokens", "max_length"):
            errors.positive_integer(OWNER, name, getattr(options, name), fix)
    for name, choices in (("remainder", ("keep", "drop", "fill")), ("overlong", ("error", "drop", "truncate"))):
        if getattr(options, name) not in choices:
            raise ValueError(errors.message(OWNER, name, f"one of {choices}", getattr(options, name), "Choose one"))
    if options.buckets is not None and not isinstance(options.buckets, tuple):
        fix = "It is a number of shapes, a list of padded lengths, or None"
        errors.positive_integer(OWNER, "buckets", options.buckets, fix)


def check_buckets(options: Options, axes: int) -> None:
    """Raises unless `buckets` suits sequences of `axes` lengths."""
    if isinstance(options.buckets, tuple):
        _check_boundaries(options.buckets, options.length_multiple, axes)
    elif options.buckets is not None and axes > 2:
        fix = "Give the padded lengths themselves, a tuple of them for each bucket, or None"
        text = f"a list or None where sequences have {axes} lengths"
        raise ValueError(errors.message(OWNER, "buckets", text, options.buckets, fix))


def _check_boundaries(buckets: Sequence[Any], multiple: int, axes: int) -> None:
    """Raises unless a list of padded lengths is sound."""
    what = "increasing integers of at least 1" if axes == 1 else f"{axes} integers of at least 1 for each bucket"
    fix = "Sort them, without repeats" if axes == 1 else "The first is for the first part of `x`; leave no repeats"
    try:
        boundaries = np.array(buckets)
    except ValueError:
        boundaries = np.array(None)
    if axes == 1 and boundaries.shape == (len(buckets), 1):
        boundaries = boundaries[:, 0]
    expected = (len(buckets),) if axes == 1 else (len(buckets), axes)
    sound = len(buckets) and boundaries.dtype.kind in "iu" and boundaries.shape == expected and boundaries.min() >= 1
    if sound:
        sound = (np.diff(boundaries) > 0).all() if axes == 1 else len(np.unique(boundaries, axis=0)) == len(buckets)
    if not sound:
        raise ValueError(errors.message(OWNER, "buckets", what, list(buckets), fix))
    if (boundaries % multiple).any():
        text = f"multiples of `length_multiple`={multiple}"
        raise ValueError(errors.message(OWNER, "buckets", text, list(buckets), "Round them up"))


def check_seed(options: Options, seed: Any, shard_index: Any) -> int | None:
    """Returns the seed; raises unless it and the shard's index are sound."""
    if (
        isinstance(shard_index, bool)
        or not hasattr(shard_index, "__index__")
        or not 0 <= shard_index < options.num_shards
    ):
        text = f"an integer within [0, `num_shards`={options.num_shards})"
        raise ValueError(errors.message(OWNER, "shard_index", text, shard_index, "Number the processes from 0"))
    if seed is None:
        if options.shuffle and options.num_shards > 1:
            fix = "Give the same to all shards, or say `shuffle=False`"
            raise ValueError(errors.message(OWNER, "seed", "an integer where shards shuffle", seed, fix))
        return None
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise ValueError(errors.message(OWNER, "seed", "an integer of at least 0, or None", seed, "Choose one"))
    return int(seed)
