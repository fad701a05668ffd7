"""What a batch is made of: the parts of `x`, `y` and `sample_weight`, and the lengths that they share."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_seqx._core import errors
from keras_seqx.data.planning.options import OWNER
from keras_seqx.data.sequences.class_weights import ClassWeights, is_one_hot, read_class_weight
from keras_seqx.data.sequences.ragged_array import RaggedArray, check_padding, read
from keras_seqx.data.sequences.tuples import is_packed, is_plain, is_values_and_lengths, rows_of_tuple

MISMATCH = "Check how the two were made"


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a batch: sequences, padded along an axis of lengths, or rows that have no time.

    Attributes:
        data: the sequences, or an array (R, ...) with a row for each.
        axis: which of the C lengths its sequences have; None for rows.
        padding: the value of padded steps.
    """

    data: Any
    axis: int | None
    padding: Any

    def batch(self, rows: np.ndarray, padding_rows: np.ndarray, padded: list[int], floatx: str) -> np.ndarray:
        """Returns the rows, (B, T, ...) or (B, ...); of sequences that only fill the batch one step stays."""
        kind = self.data.dtype
        if kind.kind == "f":
            kind = floatx
        if self.axis is None:
            return self.data[rows].astype(kind, copy=False)
        array = self.data.gather(rows, padded[self.axis], self.padding, kind)
        array[padding_rows, 1:] = self.padding
        return array


@dataclasses.dataclass(frozen=True)
class FieldGroup:
    """The components of `x`, `y` or `sample_weight`, and the structure they came in.

    Attributes:
        name: the argument's name.
        keys: None for a single component, the keys of a dict, 0, 1, ... for a tuple.
        is_dict: whether the structure is a dict.
        fields: in the order of the keys.
    """

    name: str
    keys: tuple | None
    is_dict: bool
    fields: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, source: Any, count: int | None = None, beside_rows: bool = False) -> "FieldGroup":
        """Returns the argument, taken apart.

        Args:
            name: the argument's name.
            source: what it was given.
            count: R, the number of sequences, where `x` tells it.
            beside_rows: whether `x` is a tuple of R sequences.

        Returns:
            Its part.
        """
        if isinstance(source, dict):
            return cls(name, tuple(source), True, tuple(source.values()))
        if isinstance(source, tuple) and not is_packed(source):
            rows = rows_of_tuple(source, count, beside_rows)
            if rows is not None:
                return cls(name, None, False, (rows,))
            if not is_values_and_lengths(source, count):
                return cls(name, tuple(range(len(source))), False, source)
        return cls(name, None, False, (source,))

    def labels(self) -> list[str]:
        """Returns how messages call the components."""
        return [self.name] if self.keys is None else [f"{self.name}[{key!r}]" for key in self.keys]

    def pack(self, arrays: list) -> Any:
        """Returns the arrays in the part's structure."""
        if self.keys is None:
            return arrays[0]
        return dict(zip(self.keys, arrays, strict=True)) if self.is_dict else tuple(arrays)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a batch.

    Attributes:
        rows: (B,) sequences, of dtype intp.
        padding_rows: (B,) whether each only fills the batch: it keeps one step, and has weight 0.
        together: (B',) the sequences that all shards of the batch hold.
    """

    rows: np.ndarray
    padding_rows: np.ndarray
    together: np.ndarray

    @property
    def is_whole(self) -> bool:
        """Whether there are no other shards."""
        return len(self.rows) - self.padding_rows.sum() == len(self.together)


@dataclasses.dataclass(frozen=True)
class Fields:
    """All parts of the data, and the C lengths of each sequence.

    Attributes:
        parts: `x`, and of `y` and `sample_weight` what was given, by name.
        lengths: (R, C) integers.
        inputs: names of the inputs that bring lengths to the model, and the axis of each.
        classes: the weights of the classes of each target, None for a target without.
        normalized: whether the weights of a batch, all its shards together, add up to 1.
    """

    parts: dict[str, FieldGroup]
    lengths: np.ndarray
    inputs: dict[str, int]
    classes: tuple[ClassWeights | None, ...] = ()
    normalized: bool = False

    @property
    def weighted(self) -> bool:
        """Whether batches have weights that `sample_weight` does not give."""
        return self.normalized or any(classes is not None for classes in self.classes)

    def change(self, function: Callable[[Any, int | None], Any], lengths: np.ndarray) -> "Fields":
        """Returns components with other lengths, whose data are `function(data, axis)`."""
        parts = {}
        for name, part in self.parts.items():
            changed = tuple(dataclasses.replace(c, data=function(c.data, c.axis)) for c in part.fields)
            parts[name] = dataclasses.replace(part, fields=changed)
        return dataclasses.replace(self, parts=parts, lengths=lengths)

    def take(self, rows: np.ndarray) -> "Fields":
        """Returns the components of some rows, which share the values."""
        return self.change(lambda data, axis: data[rows], self.lengths[rows])

    def truncate(self, lengths: np.ndarray) -> "Fields":
        """Returns components cut to lengths (R, C), which share the values."""
        if lengths is self.lengths:
            return self

        def shorten(data: Any, axis: int | None) -> Any:
            if axis is None:
                return data
            shortened = data[:]
            shortened.lengths = lengths[:, axis]
            return shortened

        return self.change(shorten, lengths)

    def batch(self, batch: Rows, padded: list[int], floatx: str, weighted: bool) -> tuple:
        """Returns `(x,)`, `(x, y)` or `(x, y, sample_weight)` of some rows.

        Args:
            batch: the rows.
            padded: the C lengths to pad to.
            floatx: the dtype that floating arrays leave with.
            weighted: whether there are weights though none were given.

        Returns:
            The batch.
        """
        padding_rows = batch.padding_rows
        arrays = {
            name: [c.batch(batch.rows, padding_rows, padded, floatx) for c in self.parts[name].fields]
            for name in ("x", "y")
            if name in self.parts
        }
        x = self.parts["x"].pack(arrays["x"])
        if self.inputs:
            x = dict(x) if self.parts["x"].is_dict else {"inputs": x}
            lengths = self.lengths[batch.rows].astype("int32")
            lengths[padding_rows] = 1
            x.update({name: lengths[:, axis] for name, axis in self.inputs.items()})
        if "y" not in self.parts:
            return (x,)
        targets = self.parts["y"]
        y = targets.pack(arrays["y"])
        if not weighted and "sample_weight" not in self.parts:
            return x, y
        weights = self._weights(batch.rows, padded, arrays["y"])
        for weight in weights:
            weight[padding_rows] = 0
        if self.normalized:
            # Of all shards together, each of which holds some of the rows.
            whole = weights if batch.is_whole else self._weights(batch.together, padded)
            totals = [weight.sum() for weight in whole]
            weights = [weight / (total or 1) for weight, total in zip(weights, totals, strict=True)]
        return x, y, targets.pack([weight.astype(floatx, copy=False) for weight in weights])

    def has_one_class_each(self) -> bool:
        """Whether there is one target at most, of a class for each sequence: what Keras has class weights for."""
        if "y" not in self.parts:
            return True
        part = self.parts["y"]
        target = part.fields[0]
        if part.keys is not None or target.axis is not None:
            return False
        return target.data.ndim == 1 or target.data.shape[1:] == (1,) or is_one_hot(target.data)

    def check_classes(self) -> None:
        """Raises unless the targets whose classes have weights are classes."""
        for number, classes in enumerate(self.classes):
            if classes is not None:
                part = self.parts["y"]
                data = part.fields[number].data
                classes.check(getattr(data, "values", data), part.labels()[number])

    def _weights(self, rows: np.ndarray, padded: list[int], y: list | None = None) -> list[np.ndarray]:
        """Returns the weights of some rows for each target, float64 (B,) or (B, T); `y` are their targets, if made."""
        none = np.zeros(len(rows), bool)
        targets = self.parts["y"].fields
        if "sample_weight" in self.parts:
            given = [c.batch(rows, none, padded, "float64") for c in self.parts["sample_weight"].fields]
        else:
            given = [np.ones(len(rows))]
        weights = []
        for number, (component, classes) in enumerate(zip(targets, self.classes, strict=True)):
            weight = given[number % len(given)]
            axes = 1 if component.axis is None else 2
            if classes is not None:
                labels = component.batch(rows, none, padded, "float64") if y is None else y[number]
                of_class = classes.look_up(labels, axes)
                rank = max(weight.ndim, of_class.ndim)
                weight, of_class = (w[:, None] if w.ndim < rank else w for w in (weight, of_class))
                weight = weight * of_class
            if component.axis is not None and (weight.ndim == 1 or classes is not None):
                # Keras takes (B,) for (T,) where the loss has steps and a mask, so every step gets its own weight.
                valid = np.arange(padded[component.axis]) < self.lengths[rows, component.axis][:, None]
                weight = (weight[:, None] if weight.ndim == 1 else weight) * valid
            weights.append(np.array(weight, "float64"))
        return weights


def read_fields(
    x: Any,
    y: Any,
    sample_weight: Any,
    padding: Any = 0,
    lengths_as_input: Any = None,
    class_weight: Any = None,
    normalized: bool = False,
) -> Fields:
    """Reads what `LengthBucketing` is given.

    Sequences of the same lengths share an axis of lengths; the first sequences of `x` have the first.
    """
    for name, value in (("sample_weight", sample_weight), ("class_weight", class_weight)):
        if y is None and value is not None:
            fix = "Give `y` too, or leave the weights out"
            raise ValueError(errors.message(OWNER, name, "None where `y` is", "weights", fix))
    parts = {"x": _read_part(FieldGroup.of("x", x), x)}
    first = next((data for data in parts["x"].fields if isinstance(data, RaggedArray)), None)
    if first is None:
        fix = "Wrap the array of sequences in a `RaggedArray`"
        raise ValueError(errors.message(OWNER, "x", "sequences, in one of its parts at least", "arrays alone", fix))
    beside_rows = isinstance(x, tuple) and rows_of_tuple(x) is not None
    for name, source in (("y", y), ("sample_weight", sample_weight)):
        if source is not None:
            part = FieldGroup.of(name, source, len(first), beside_rows)
            if name == "sample_weight" and part.keys not in (None, parts["y"].keys):
                text = "of the structure of `y`"
                raise ValueError(errors.message(OWNER, name, text, part.keys, MISMATCH, "its keys"))
            parts[name] = _read_part(part, source)
    axes = [first.lengths]
    for name, part in parts.items():
        placed = []
        for data, label in zip(part.fields, part.labels(), strict=True):
            if len(data) != len(first):
                text = f"of {len(first)} rows, as many as the first sequences of `x`"
                raise ValueError(errors.message(OWNER, label, text, len(data), MISMATCH, "its rows"))
            placed.append(_place(data, label, name, axes, 0 if name == "sample_weight" else padding))
        parts[name] = dataclasses.replace(part, fields=tuple(placed))
    lengths = axes[0][:, None] if len(axes) == 1 else np.stack(axes, axis=1)
    classes: tuple = ()
    if "y" in parts:
        classes = read_class_weight(class_weight, parts["y"].keys, parts["y"].labels())
    fields = Fields(parts, lengths, _read_inputs(lengths_as_input, parts["x"]), classes, normalized)
    fields.check_classes()
    return fields


def _read_part(part: FieldGroup, given: Any) -> FieldGroup:
    """Returns a part whose components are sequences or arrays."""
    if not part.fields:
        text = "a structure with something in it"
        raise ValueError(errors.message(OWNER, part.name, text, given, "Fill it"))
    single = part.keys is None and part.name == "x"
    data = tuple(_read(c, label, single) for c, label in zip(part.fields, part.labels(), strict=True))
    return dataclasses.replace(part, fields=data)


def _read(source: Any, label: str, always_sequences: bool) -> RaggedArray | np.ndarray:
    """Returns sequences, or an array where the rows are numbers or lie in an array already."""
    if isinstance(source, tuple) and not (is_packed(source) or is_values_and_lengths(source)):
        source = list(source)
    if always_sequences or not is_plain(source):
        return read(source, OWNER, label)
    array = np.asarray(source)
    if array.dtype.kind not in "biufc" or not array.ndim:
        raise TypeError(errors.message(OWNER, label, "numbers", array.dtype, "Turn them into numbers first", "dtype"))
    if label.startswith("sample_weight") and not np.isfinite(array).all():
        raise ValueError(errors.message(OWNER, label, "finite", array[~np.isfinite(array)][0], "Mend the weights"))
    return array


def _place(data: Any, label: str, name: str, axes: list[np.ndarray], padding: Any) -> Field:
    """Returns the component on the axis of its lengths, which joins `axes` if it is new."""
    if isinstance(data, np.ndarray):
        return Field(data, None, padding)
    check_padding(padding, data.dtype, OWNER)
    for axis, known in enumerate(axes):
        if np.array_equal(known, data.lengths):
            return Field(data, axis, padding)
    differs = axes[0] != data.lengths
    row = int(np.argmax(differs))
    where = f"row {row} has {data.lengths[row]} steps, in `x` {axes[0][row]}"
    if name == "sample_weight":
        text = "one number for each sequence, or as long as `x` or `y`"
        raise ValueError(errors.message(OWNER, label, text, data, MISMATCH, where))
    if name == "y" and (data.lengths == data.lengths[0]).all():
        # Rows of one size, one-hot labels say: no length varies, so there is nothing to pad.
        return Field(data.pad(), None, padding)
    if name == "y" and len(data) >= 10 and differs.mean() <= 0.1:
        warnings.warn(
            f"{OWNER}: `{label}` is as long as `x` in all but {differs.sum()} of {len(data)} rows ({where}). It is "
            "taken as sequences of their own length. Were they meant to be as long as `x`, mend them.",
            stacklevel=4,
        )
    axes.append(data.lengths)
    return Field(data, len(axes) - 1, padding)


def _read_inputs(lengths_as_input: Any, x: FieldGroup) -> dict[str, int]:
    """Returns the names of inputs that bring lengths, and the axis of each."""
    if lengths_as_input is None:
        return {}
    axes = dict(zip(x.keys or ["inputs"], (c.axis for c in x.fields), strict=True))
    varied = {key: axis for key, axis in axes.items() if axis is not None}
    fix = "Name an input, or give a dict `{component: input name}` of " + ", ".join(repr(key) for key in varied)
    if isinstance(lengths_as_input, str):
        if len(set(varied.values())) > 1:
            text = "a dict where the components of `x` differ in length"
            raise ValueError(errors.message(OWNER, "lengths_as_input", text, lengths_as_input, fix))
        names = {lengths_as_input: next(iter(varied.values()))}
    elif isinstance(lengths_as_input, dict) and lengths_as_input and all(key in varied for key in lengths_as_input):
        names = {name: varied[key] for key, name in lengths_as_input.items()}
    else:
        text = "an input's name, or a dict of them for components that are sequences"
        raise ValueError(errors.message(OWNER, "lengths_as_input", text, lengths_as_input, fix))
    taken = [name for name in names if (x.is_dict and name in axes) or (not x.is_dict and name == "inputs")]
    if taken or not all(isinstance(name, str) for name in names):
        raise ValueError(errors.message(OWNER, "lengths_as_input", "a name of its own", lengths_as_input, fix))
    return names
