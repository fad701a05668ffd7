"""The units of a `.keras` or `.weights.h5` file, by the listing of what is in it."""

import functools
import json
import re
from typing import Any

from keras_seqx.transfer.file_reader.reader import Listing, Reader
from keras_seqx.transfer.layer_weights import LayerWeights, PathEntry, Weight
from keras_seqx.transfer.sources import model_config

LISTS = {"layers", "cells"}


def units_of(listing: Listing, reader: Reader, config: dict[str, Any] | None) -> list[LayerWeights]:
    """Returns a unit for every group of variables, in the order of the model where the file tells it."""
    names = {
        group.removesuffix("vars").rstrip("/"): attributes["name"]
        for group, attributes in listing.attributes.items()
        if group.rpartition("/")[2] == "vars" and isinstance(attributes.get("name"), str)
    }
    owners: dict[str, list[str]] = {}
    for array in listing.arrays:
        group, _, key = array.rpartition("/")
        if group.rpartition("/")[2] == "vars" and re.fullmatch(r"\d{1,9}", key):
            owners.setdefault(group.removesuffix("vars").rstrip("/"), []).append(array)
    known = {*owners, *names}
    units = []
    for file_path, arrays in owners.items():
        if file_path.partition("/")[0] in ("optimizer", "metrics", "_metrics"):
            continue
        steps = _steps(file_path, names, known, config)
        arrays.sort(key=lambda array: int(array.rpartition("/")[2]))
        found = model_config.resolve(config, steps)
        own = model_config.settings_of(found[-1]) if found else {}
        units.append(LayerWeights(steps, tuple(weight(listing, reader, array) for array in arrays), own))
    return units


def weight(listing: Listing, reader: Reader, array: str) -> Weight:
    """Returns one array of the file, to be read when asked for."""
    info = listing.arrays[array]
    return Weight(array.rpartition("/")[2], info.shape, info.dtype, functools.partial(reader.read, array), key=array)


def parse(text: Any) -> dict[str, Any] | None:
    """Returns a configuration given as JSON, None if it is none."""
    try:
        config = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _steps(file_path: str, names: dict[str, str], known: set[str], config: Any) -> tuple[PathEntry, ...]:
    """Cuts an address into layers; `layers/lstm`, a place in a list, is one."""
    parts = file_path.split("/") if file_path else []
    places: list[tuple[str, str]] = []
    pending: list[str] = []
    for i, part in enumerate(parts):
        pending.append(part)
        prefix = "/".join(parts[: i + 1])
        if prefix in known or i + 1 == len(parts) or (not names and part not in LISTS):
            places.append(("/".join(pending), prefix))
            pending = []
    steps: list[PathEntry] = []
    current = config or {}
    for attribute, prefix in places:
        current = model_config.child(current, attribute)
        # Within a list, the address is made of the class.
        stem = re.sub(r"_\d+$", "", attribute.rpartition("/")[2]) if "/" in attribute else ""
        kind = model_config.kind_of(current) or stem
        steps.append(PathEntry(attribute, names.get(prefix) or model_config.name_of(current), kind))
    return tuple(steps)
