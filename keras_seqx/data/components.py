"""What a batch is made of: the parts of `x`, `y` and `sample_weight`, and the lengths that they share."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_seqx import _checks
from keras_seqx.data.options import OWNER
from keras_seqx.data.ragged import RaggedArray, check_padding, read

MISMATCH = "Check how the two were made"


@dataclasses.dataclass(frozen=True)
class Component:
    """One array of a batch: sequences, padded along an axis of lengths, or rows that have no time.

    Attributes:
        data: the sequences, or an array (R, ...) with a row for each.
        axis: which of the C lengths its sequences have; None for rows.
        padding: the value of padded steps.
    """

    data: Any
    axis: int | None
    padding: Any

    def batch(self, rows: np.ndarray, real: int, padded: list[int], floatx: str) -> np.ndarray:
        """Returns the rows, (B, T, ...) or (B, ...); of sequences behind the `real` rows one step stays."""
        kind = self.data.dtype
        if kind.kind == "f":
            kind = floatx
        if self.axis is None:
            return self.data[rows].astype(kind, copy=False)
        array = self.data.gather(rows, padded[self.axis], self.padding, kind)
        if real < len(rows):
            array[real:, 1:] = self.padding
        return array


@dataclasses.dataclass(frozen=True)
class Part:
    """The components of `x`, `y` or `sample_weight`, and the structure they came in.

    Attributes:
        name: the argument's name.
        keys: None for a single component, the keys of a dict, 0, 1, ... for a tuple.
        is_dict: whether the structure is a dict.
        components: in the order of the keys.
    """

    name: str
    keys: tuple | None
    is_dict: bool
    components: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, source: Any) -> "Part":
        """Returns the argument, taken apart."""
        if isinstance(source, dict):
            return cls(name, tuple(source), True, tuple(source.values()))
        if isinstance(source, tuple) and not _is_values_and_lengths(source):
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
class Components:
    """All parts of the data, and the C lengths of each sequence.

    Attributes:
        parts: `x`, and of `y` and `sample_weight` what was given, by name.
        lengths: (R, C) integers.
        inputs: names of the inputs that bring lengths to the model, and the axis of each.
    """

    parts: dict[str, Part]
    lengths: np.ndarray
    inputs: dict[str, int]

    def change(self, function: Callable[[Any, int | None], Any], lengths: np.ndarray) -> "Components":
        """Returns components with other lengths, whose data are `function(data, axis)`."""
        parts = {}
        for name, part in self.parts.items():
            changed = tuple(dataclasses.replace(c, data=function(c.data, c.axis)) for c in part.components)
            parts[name] = dataclasses.replace(part, components=changed)
        return Components(parts, lengths, self.inputs)

    def take(self, rows: np.ndarray) -> "Components":
        """Returns the components of some rows, which share the values."""
        return self.change(lambda data, axis: data[rows], self.lengths[rows])

    def cut(self, lengths: np.ndarray) -> "Components":
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

    def batch(self, rows: np.ndarray, fillers: int, padded: list[int], floatx: str, weighted: bool) -> tuple:
        """Returns `(x,)`, `(x, y)` or `(x, y, sample_weight)` of some rows.

        Args:
            rows: (B,) sequences, of dtype intp.
            fillers: how many of them, the last ones, only fill the batch: they keep one step, and have weight 0.
            padded: the C lengths to pad to.
            floatx: the dtype that floating arrays leave with.
            weighted: whether there are weights though none were given.

        Returns:
            The batch.
        """
        real = len(rows) - fillers
        arrays = {
            name: [c.batch(rows, real, padded, floatx) for c in part.components] for name, part in self.parts.items()
        }
        x = self.parts["x"].pack(arrays["x"])
        if self.inputs:
            x = dict(x) if self.parts["x"].is_dict else {"inputs": x}
            lengths = self.lengths[rows].astype("int32")
            lengths[real:] = 1
            x.update({name: lengths[:, axis] for name, axis in self.inputs.items()})
        if "y" not in self.parts:
            return (x,)
        targets = self.parts["y"]
        y = targets.pack(arrays["y"])
        if not weighted and "sample_weight" not in self.parts:
            return x, y
        given = arrays.get("sample_weight", [np.ones(len(rows), floatx)])
        weights = []
        for component, weight in zip(targets.components, given * (len(arrays["y"]) // len(given)), strict=True):
            if component.axis is not None and weight.ndim == 1:
                # Keras takes (B,) for (T,) where the loss has steps and a mask, so every step gets its own weight.
                valid = np.arange(padded[component.axis]) < self.lengths[rows, component.axis][:, None]
                weight = weight[:, None] * valid
            weight = weight.astype(floatx)
            weight[real:] = 0
            weights.append(weight)
        return x, y, targets.pack(weights)


def read_components(x: Any, y: Any, sample_weight: Any, padding: Any, lengths_as_input: Any) -> Components:
    """Reads what `LengthBucketing` is given.

    Sequences of the same lengths share an axis of lengths; the first sequences of `x` have the first.
    """
    if y is None and sample_weight is not None:
        fix = "Give `y` too, or leave the weights out"
        raise ValueError(_checks.message(OWNER, "sample_weight", "None where `y` is", "sample weights", fix))
    given = {"x": x, "y": y, "sample_weight": sample_weight}
    parts = {name: Part.of(name, source) for name, source in given.items() if source is not None or name == "x"}
    if "sample_weight" in parts and parts["sample_weight"].keys not in (None, parts["y"].keys):
        keys = parts["sample_weight"].keys
        raise ValueError(_checks.message(OWNER, "sample_weight", "of the structure of `y`", keys, MISMATCH, "its keys"))
    for name, part in parts.items():
        if not part.components:
            raise ValueError(_checks.message(OWNER, name, "a structure with something in it", given[name], "Fill it"))
        single = part.keys is None and name == "x"
        data = tuple(_read(c, label, single) for c, label in zip(part.components, part.labels(), strict=True))
        parts[name] = dataclasses.replace(part, components=data)
    first = next((data for data in parts["x"].components if isinstance(data, RaggedArray)), None)
    if first is None:
        fix = "Wrap the array of sequences in a `RaggedArray`"
        raise ValueError(_checks.message(OWNER, "x", "sequences, in one of its parts at least", "arrays alone", fix))
    axes = [first.lengths]
    for name, part in parts.items():
        placed = []
        for data, label in zip(part.components, part.labels(), strict=True):
            if len(data) != len(first):
                text = f"of {len(first)} rows, as many as the first sequences of `x`"
                raise ValueError(_checks.message(OWNER, label, text, len(data), MISMATCH, "its rows"))
            placed.append(_place(data, label, name, axes, 0 if name == "sample_weight" else padding))
        parts[name] = dataclasses.replace(part, components=tuple(placed))
    lengths = axes[0][:, None] if len(axes) == 1 else np.stack(axes, axis=1)
    return Components(parts, lengths, _read_inputs(lengths_as_input, parts["x"]))


def _read(source: Any, label: str, always_sequences: bool) -> RaggedArray | np.ndarray:
    """Returns sequences, or an array where the rows are numbers or lie in an array already."""
    if always_sequences or not _is_rows(source):
        return read(source, OWNER, label)
    array = np.asarray(source)
    if array.dtype.kind not in "biufc" or not array.ndim:
        raise TypeError(_checks.message(OWNER, label, "numbers", array.dtype, "Turn them into numbers first", "dtype"))
    if label.startswith("sample_weight") and not np.isfinite(array).all():
        raise ValueError(_checks.message(OWNER, label, "finite", array[~np.isfinite(array)][0], "Mend the weights"))
    return array


def _is_rows(source: Any) -> bool:
    """Whether each row is a number, or all of them lie in one array already."""
    if isinstance(source, RaggedArray) or hasattr(source, "row_splits"):
        return False
    if isinstance(source, tuple) and _is_values_and_lengths(source):
        return False
    if getattr(getattr(source, "dtype", None), "kind", "O") in "biufc":
        return True
    if type(source).__module__.split(".")[0] in ("tensorflow", "torch", "jax", "jaxlib"):
        return True
    try:
        first = next(iter(source))
    except (TypeError, StopIteration):
        return False
    return np.ndim(first.as_py() if hasattr(first, "as_py") else first) == 0


def _is_values_and_lengths(source: tuple) -> bool:
    """Whether a tuple is flat values and lengths that add up to them, rather than two components."""
    if len(source) != 2 or not all(isinstance(part, np.ndarray) for part in source):
        return False
    values, lengths = source
    if lengths.ndim != 1 or not values.ndim:
        return False
    # Two components have as many rows as each other.
    return len(lengths) != len(values) or lengths.sum() == len(values)


def _place(data: Any, label: str, name: str, axes: list[np.ndarray], padding: Any) -> Component:
    """Returns the component on the axis of its lengths, which joins `axes` if it is new."""
    if isinstance(data, np.ndarray):
        return Component(data, None, padding)
    check_padding(padding, data.dtype, OWNER)
    for axis, known in enumerate(axes):
        if np.array_equal(known, data.lengths):
            return Component(data, axis, padding)
    differs = axes[0] != data.lengths
    row = int(np.argmax(differs))
    where = f"row {row} has {data.lengths[row]} steps, in `x` {axes[0][row]}"
    if name == "sample_weight":
        text = "one number for each sequence, or as long as `x` or `y`"
        raise ValueError(_checks.message(OWNER, label, text, data, MISMATCH, where))
    if name == "y" and (data.lengths == data.lengths[0]).all():
        # Rows of one size, one-hot labels say: no length varies, so there is nothing to pad.
        return Component(data.pad(), None, padding)
    if name == "y" and len(data) >= 10 and differs.mean() <= 0.1:
        warnings.warn(
            f"{OWNER}: `{label}` is as long as `x` in all but {differs.sum()} of {len(data)} rows ({where}). It is "
            "taken as sequences of their own length. Were they meant to be as long as `x`, mend them.",
            stacklevel=4,
        )
    axes.append(data.lengths)
    return Component(data, len(axes) - 1, padding)


def _read_inputs(lengths_as_input: Any, x: Part) -> dict[str, int]:
    """Returns the names of inputs that bring lengths, and the axis of each."""
    if lengths_as_input is None:
        return {}
    axes = dict(zip(x.keys or ["inputs"], (c.axis for c in x.components), strict=True))
    varied = {key: axis for key, axis in axes.items() if axis is not None}
    fix = "Name an input, or give a dict `{component: input name}` of " + ", ".join(repr(key) for key in varied)
    if isinstance(lengths_as_input, str):
        if len(set(varied.values())) > 1:
            text = "a dict where the components of `x` differ in length"
            raise ValueError(_checks.message(OWNER, "lengths_as_input", text, lengths_as_input, fix))
        names = {lengths_as_input: next(iter(varied.values()))}
    elif isinstance(lengths_as_input, dict) and lengths_as_input and all(key in varied for key in lengths_as_input):
        names = {name: varied[key] for key, name in lengths_as_input.items()}
    else:
        text = "an input's name, or a dict of them for components that are sequences"
        raise ValueError(_checks.message(OWNER, "lengths_as_input", text, lengths_as_input, fix))
    taken = [name for name in names if (x.is_dict and name in axes) or (not x.is_dict and name == "inputs")]
    if taken or not all(isinstance(name, str) for name in names):
        raise ValueError(_checks.message(OWNER, "lengths_as_input", "a name of its own", lengths_as_input, fix))
    return names
