"""The units of an `.h5` file of Keras 1 and 2, their arrays in the layout of today's layers.

Nothing stored in the file is rebuilt. Sources of the layouts: Keras 1.2.2 and 2.3.1, `engine/topology.py` and
`engine/saving.py`; TensorFlow 2.15, `keras/saving/legacy/hdf5_format.py`.
"""

import re
from functools import partial
from typing import Any

import numpy as np

from keras_seqx._core import errors
from keras_seqx.transfer.file_reader.reader import Listing, Reader
from keras_seqx.transfer.layer_weights import LayerWeights, PathEntry, Weight
from keras_seqx.transfer.sources import model_config

# Keras 1 kept an array for each gate, LSTM in the order i, c, f, o: where today's i, f, c, o are found.
GATES = {12: ((0, 6, 3, 9), (1, 7, 4, 10), (2, 8, 5, 11)), 9: ((0, 3, 6), (1, 4, 7), (2, 5, 8))}
KERAS_1_NAME = re.compile(r"(.+?)_((?:[WUb](?:_[a-z])?)|gamma|beta|running_mean|running_std|alpha)$")
SLOTS = ("m", "v", "vhat", "velocity", "momentum", "rms", "mg", "accumulator")
TOP = "top_level_model_weights"
STEMS = {"time_distributed": "TimeDistributed", "rnn": "RNN"}
KERAS_1_ROLES = {"W": "kernel", "U": "recurrent_kernel", "b": "bias"}


def is_legacy(listing: Listing) -> bool:
    """Whether it has the by-layer layout of Keras 1 and 2."""
    return not {"layer_names", "layer_names0"}.isdisjoint(_group(listing)[1])


def units_of(listing: Listing, reader: Reader, config: dict[str, Any] | None) -> list[LayerWeights]:
    """Returns a unit for every layer that owns weights, in the file's order."""
    root, attributes = _group(listing)
    backend = attributes.get("backend")
    version = str(attributes.get("keras_version", "1"))
    units = []
    used: dict[str, int] = {}
    known = {
        model_config.name_of(c): (f"layers/{place}", c)
        for place, c in model_config.numbered(model_config.layers_of(config))
    }
    for layer in [*_names(attributes, "layer_names"), TOP]:
        group = f"{root}/{layer}".lstrip("/")
        parts: dict[tuple[str, ...], list[Weight]] = {}
        for name in _names(listing.attributes.get(group, {}), "weight_names"):
            array = f"{group}/{name}"
            if array not in listing.arrays:
                raise _damaged(listing, f"its layer {layer!r} lists {name!r}, which is not there")
            place, role = _place(name, layer)
            info = listing.arrays[array]
            read = partial(reader.read, array)
            key = name.removesuffix(":0")
            parts.setdefault(place, []).append(Weight(role, info.shape, info.dtype, read, key=key))
        file_path, top = known.get(layer, (_address(layer, used), {}))
        cells: dict[str, int] | None = {} if len(parts) > 1 else None
        for place, weights in parts.items():
            recurrent = len(weights) in GATES or any("recurrent_kernel" in weight.name for weight in weights)
            steps: list[PathEntry] = []
            own = top
            if layer != TOP:
                steps, own = _below(top, layer, place, recurrent, cells)
                steps.insert(0, PathEntry(file_path, layer, model_config.kind_of(top)))
            modern = _modern(weights, version, backend, listing, layer)
            units.append(LayerWeights(tuple(steps), tuple(modern), model_config.settings_of(own)))
    return units


def _group(listing: Listing) -> tuple[str, dict[str, Any]]:
    """Returns where the weights are: a whole model keeps them in a group of its own."""
    root = "model_weights" if "model_weights" in listing.attributes else ""
    return root, listing.attributes.get(root, {})


def _names(attributes: dict[str, Any], key: str) -> list[str]:
    """Returns a list of names, which Keras cuts in pieces where it is too long for one attribute."""
    names = attributes.get(key)
    if names is None:
        pieces = [attributes[f"{key}{i}"] for i in range(len(attributes)) if f"{key}{i}" in attributes]
        names = [name for piece in pieces for name in (piece if isinstance(piece, list) else [piece])]
    names = names if isinstance(names, list) else [names]
    return [name for name in names if isinstance(name, str)]


def _place(name: str, layer: str) -> tuple[tuple[str, ...], str]:
    """Splits a weight's name into the layers below its own and what it is there."""
    *parts, last = name.removesuffix(":0").split("/")
    old = KERAS_1_NAME.fullmatch(last)
    if old and not parts:
        parts, last = [old[1]], KERAS_1_ROLES.get(old[2], old[2])
    if parts and parts[0] == layer:
        parts = parts[1:]
    return tuple(parts), last


def _below(
    config: model_config.Config, layer: str, place: tuple[str, ...], recurrent: bool, cells: dict[str, int] | None
) -> tuple[list[PathEntry], model_config.Config]:
    """Returns the steps from a layer down to the one that owns the weights named by `place`, and its configuration."""
    kind = model_config.kind_of(config) or STEMS.get(re.sub(r"_\d+$", "", layer), "")
    if kind == "TimeDistributed":
        inner = model_config.child(config, "layer")
        name = model_config.name_of(inner)
        steps, own = _below(inner, name, place[1:] if place[:1] == (name,) else place, recurrent, cells)
        return [PathEntry("layer", name, model_config.kind_of(inner)), *steps], own
    if place and model_config.layers_of(config):
        nested = {
            model_config.name_of(c): (f"layers/{at}", c)
            for at, c in model_config.numbered(model_config.layers_of(config))
        }
        at, inner = nested.get(place[0], (place[0], {}))
        steps, own = _below(inner, place[0], place[1:], recurrent, cells)
        return [PathEntry(at, place[0], model_config.kind_of(inner)), *steps], own
    half = re.match(r"(forward|backward)_", place[0]) if place else None
    if half:
        inner = model_config.child(config, f"{half[1]}_layer")
        steps, own = _below(inner, place[0], place[1:], recurrent, cells)
        return [PathEntry(f"{half[1]}_layer", place[0], model_config.kind_of(inner)), *steps], own
    if kind == "RNN" and place:
        at = "cell"
        if cells is not None:  # they are stacked
            stem = re.sub(r"_\d+$", "", place[-1])
            cells[stem] = cells.get(stem, -1) + 1
            at = f"cell/cells/{stem}_{cells[stem]}" if cells[stem] else f"cell/cells/{stem}"
        return [PathEntry(at, place[-1])], model_config.child(config, at)
    if recurrent:
        return [PathEntry("cell", place[-1] if place else "")], config
    return [PathEntry(part, part) for part in place], config


def _address(layer: str, used: dict[str, int]) -> str:
    """Numbers a layer within those of its automatic name's stem, as today's files would."""
    stem = re.sub(r"_\d+$", "", layer)
    used[stem] = used.get(stem, -1) + 1
    return f"layers/{stem}_{used[stem]}" if used[stem] else f"layers/{stem}"


def _modern(weights: list[Weight], version: str, backend: Any, listing: Listing, layer: str) -> list[Weight]:
    """Returns the arrays of one layer as today's layer keeps them."""
    if backend == "theano" and any(len(weight.shape) > 2 for weight in weights):
        raise _damaged(listing, f"its layer {layer!r} was trained on Theano, whose convolutions run backwards")
    shapes = [weight.shape for weight in weights]
    if len(weights) in GATES and all(len(shape) in (1, 2) for shape in shapes):
        names = ("kernel", "recurrent_kernel", "bias")
        return [
            _joined(name, [weights[i] for i in gates]) for name, gates in zip(names, GATES[len(weights)], strict=True)
        ]
    if version.startswith("1") and shapes and len(shapes[0]) == 4 and shapes[0][1] == 1:
        length, _, width, filters = shapes[0]  # a convolution over time was one over pictures of width 1
        return [_mapped(weights[0], (length, width, filters), lambda x: x[:, 0]), *weights[1:]]
    if len(weights) == 3 and len(shapes[1]) == 2 and len(shapes[2]) == 1:
        units, gates = shapes[1]
        if gates in (3 * units, 4 * units) and shapes[2] == (2 * gates,):
            return _without_cudnn(weights, gates // units)
    return weights


def _without_cudnn(weights: list[Weight], gates: int) -> list[Weight]:
    """Turns the arrays of CuDNNLSTM and CuDNNGRU: transposed gate by gate, two biases end to end."""
    kernel, recurrent, bias = weights

    def transposed(x: np.ndarray) -> np.ndarray:
        parts = np.split(x, gates, axis=1)
        return np.concatenate([part.T.reshape(part.shape, order="F") for part in parts], axis=1)

    def transposed_square(x: np.ndarray) -> np.ndarray:
        return np.concatenate([part.T for part in np.split(x, gates, axis=1)], axis=1)

    total = bias.shape[0] // 2
    if gates == 4:
        biases = _mapped(bias, (total,), lambda x: x[:total] + x[total:])
    else:
        biases = _mapped(bias, (2, total), lambda x: x.reshape(2, total))
    return [
        _mapped(kernel, kernel.shape, transposed),
        _mapped(recurrent, recurrent.shape, transposed_square),
        biases,
    ]


def _mapped(weight: Weight, shape: tuple[int, ...], function: Any) -> Weight:
    def read(rows: slice | None = None) -> np.ndarray:
        values = function(weight.read())
        return values if rows is None else values[rows]

    return Weight(weight.name, shape, weight.dtype, read)


def _joined(name: str, parts: list[Weight]) -> Weight:
    def read(rows: slice | None = None) -> np.ndarray:
        values = np.concatenate([part.read() for part in parts], axis=-1)
        return values if rows is None else values[rows]

    shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
    return Weight(name, shape, parts[0].dtype, read)


def _damaged(listing: Listing, what: str) -> ValueError:
    fix = "Load it with the Keras that wrote it and save the weights again"
    return ValueError(errors.message("transfer_weights", "source", "a readable model file", listing.path, fix, what))


def optimizer_weights(listing: Listing, reader: Reader) -> dict[tuple[str, str], Weight]:
    """Returns the optimizer's arrays by (slot, name of the weight in the file), the step as ("iteration", "")."""
    found: dict[tuple[str, str], Weight] = {}
    for name in _names(listing.attributes.get("optimizer_weights", {}), "weight_names"):
        array = f"optimizer_weights/{name}"
        if array not in listing.arrays:
            raise _damaged(listing, f"its optimizer lists {name!r}, which is not there")
        parts = [part for part in name.removesuffix(":0").split("/") if part != "training"]
        info = listing.arrays[array]
        weight = Weight(name, info.shape, info.dtype, partial(reader.read, array), key=array)
        if parts[-1] in ("iteration", "iter", "iterations"):
            found["iteration", ""] = weight
        elif len(parts) > 2 and parts[1] in SLOTS:  # Adam/m/lstm/lstm_cell/kernel, of TensorFlow 2.11 and later
            found[parts[1], "/".join(parts[2:])] = weight
        elif len(parts) > 2 and parts[-1] in SLOTS:  # Adam/lstm/lstm_cell/kernel/m, before
            found[parts[-1], "/".join(parts[1:-1])] = weight
    return found
