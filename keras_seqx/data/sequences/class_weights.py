"""Weights of classes: a weight for each sequence, or for each of its steps, from its label."""

import dataclasses
import math
import numbers
import operator
from typing import Any

import numpy as np

from keras_seqx._core import errors
from keras_seqx.data.planning.options import OWNER

FORM = "a dict `{class: weight}`, or for several targets `{target: {class: weight}}`"


@dataclasses.dataclass(frozen=True)
class ClassWeights:
    """The weights of the classes of one target.

    Attributes:
        classes: (K,) int64, sorted.
        weights: (K,) float64. Other classes have weight 1.
    """

    classes: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, given: dict, label: str) -> "ClassWeights":
        """Returns the weights of a dict `{class: weight}`."""
        for number, weight in given.items():
            if isinstance(number, bool) or not hasattr(number, "__index__"):
                fix = "The keys are the labels in `y`, or positions in one-hot labels"
                raise TypeError(errors.message(OWNER, label, "a dict with integers for keys", number, fix, "a key"))
            if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
                fix = "Give a number for each class"
                raise TypeError(errors.message(OWNER, label, FORM, weight, fix, f"the weight of class {number}"))
            if not (math.isfinite(weight) and float(weight) >= 0):
                text, fix = "of finite weights of at least 0", "A weight of 0 leaves a class out"
                raise ValueError(errors.message(OWNER, label, text, weight, fix, f"the weight of class {number}"))
        classes = np.array([operator.index(number) for number in given], "int64")
        order = np.argsort(classes)
        return cls(classes[order], np.array([float(weight) for weight in given.values()])[order])

    def check(self, values: np.ndarray, label: str) -> None:
        """Raises unless values are classes, (N,) or (N, 1), or one-hot (N, C)."""
        if values.ndim > 1 and values.shape[1:] != (1,):
            fits = is_one_hot(values)
            text = "integers, or one-hot (..., C), for `class_weight` to tell its classes"
        else:
            kind = values.dtype.kind
            fits = kind in "biu" or (kind == "f" and bool((values == np.round(values)).all()))
            text = "whole numbers for `class_weight` to tell its classes"
        if not fits:
            fix = "Leave `class_weight` out, or give `sample_weight`, where targets are no classes"
            context = f"its dtype and the shape of a label {values.shape[1:]}"
            raise TypeError(errors.message(OWNER, label, text, values.dtype, fix, context))

    def look_up(self, labels: np.ndarray, axes: int) -> np.ndarray:
        """Returns the weight of each label.

        Args:
            labels: integers of as many axes as `axes`, the same with a last axis of 1, or one-hot (..., C).
            axes: 1 for (B,), 2 for (B, T).

        Returns:
            float64 (B,) or (B, T).
        """
        if labels.ndim > axes:
            labels = labels[..., 0] if labels.shape[-1] == 1 else labels.argmax(axis=-1)
        with np.errstate(invalid="ignore"):  # padded steps may hold NaN
            labels = labels.astype("int64")
        if not len(self.classes):
            return np.ones(labels.shape)
        place = np.searchsorted(self.classes, labels).clip(max=len(self.classes) - 1)
        return np.where(self.classes[place] == labels, self.weights[place], 1.0)


def is_one_hot(values: np.ndarray) -> bool:
    """Whether values (N, C) have a class, or the probabilities of classes, in each row."""
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        return False
    return bool((values >= 0).all() and np.allclose(values.sum(axis=-1), 1, atol=1e-3))


def read_class_weight(class_weight: Any, keys: tuple | None, labels: list[str]) -> tuple[ClassWeights | None, ...]:
    """Returns the class weights of each target.

    Args:
        class_weight: what `LengthBucketing` is given.
        keys: the keys of several targets, or None for a single one.
        labels: what errors call the targets.

    Returns:
        Weights for each target, None for a target that has none.
    """
    if class_weight is None:
        return (None,) * len(labels)
    if not isinstance(class_weight, dict):
        raise TypeError(errors.message(OWNER, "class_weight", FORM, class_weight, "Give such a dict"))
    if keys is None:
        return (ClassWeights.of(class_weight, "class_weight"),)
    unknown = [key for key in class_weight if key not in keys]
    if unknown or not all(isinstance(value, dict) for value in class_weight.values()):
        text = "a dict `{target: {class: weight}}` where `y` has several targets"
        fix = "The targets are " + ", ".join(map(repr, keys))
        raise ValueError(errors.message(OWNER, "class_weight", text, class_weight, fix))
    given = (class_weight.get(key) for key in keys)
    return tuple(None if weights is None else ClassWeights.of(weights, "class_weight") for weights in given)


def to_pairs(class_weight: Any) -> Any:
    """Returns dicts as lists of pairs, of Python's numbers: in JSON the keys of a dict are text."""
    if not isinstance(class_weight, dict):
        return class_weight.item() if isinstance(class_weight, np.generic) else class_weight
    return [[to_pairs(key), to_pairs(value)] for key, value in class_weight.items()]


def from_pairs(class_weight: Any) -> Any:
    """Returns the dict that `to_pairs` took apart, and anything else as it is."""
    if not isinstance(class_weight, list) or not all(
        isinstance(p, (list, tuple)) and len(p) == 2 for p in class_weight
    ):
        return class_weight
    return {key: from_pairs(value) for key, value in class_weight}
