"""A few sequences of a data set that a model can be tried on, with any amount of padding."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class ProbeBatch(NamedTuple):
    """One batch, as `fit` gets it.

    Attributes:
        x: the inputs.
        y: the targets, or None.
        sample_weight: the weights, or None.
        lengths: the structure of `x`, integers (B,) in place of sequences and None in place of everything else.
    """

    x: Any
    y: Any
    sample_weight: Any
    lengths: Any


@dataclasses.dataclass(frozen=True)
class Probe:
    """A few sequences of a data set.

    Attributes:
        lengths: (N, C) the C lengths of the N sequences, which differ as far as possible.
        shapes: (K, C) the padded lengths that the data set uses, the smallest first.
        is_padded: whether the data set pads any of its sequences.
        batch: function of rows (B,), their lengths (B, C) and padded lengths (C,), which returns a `ProbeBatch`.
    """

    lengths: np.ndarray
    shapes: np.ndarray
    is_padded: bool
    batch: Callable[[np.ndarray, np.ndarray, np.ndarray], ProbeBatch]


class Probed(abc.ABC):
    """A data set that can be probed."""

    @abc.abstractmethod
    def probe(self) -> Probe:
        """Returns a few of the sequences."""
