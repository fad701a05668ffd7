"""Where weights come from: a live model, or a file of any Keras."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_seqx._core import errors
from keras_seqx.transfer.file_reader.reader import Listing, Reader
from keras_seqx.transfer.layer_weights import LayerWeights
from keras_seqx.transfer.sources import keras3_file, legacy_file, live_model

FIX = "Pass a built Keras model, or the path of a `.keras`, `.weights.h5` or `.h5` file"


@dataclasses.dataclass(frozen=True)
class File:
    """A file that weights come from.

    Attributes:
        listing: what is in it.
        reader: who reads it.
        is_legacy: whether it has the layout of Keras 1 and 2.
    """

    listing: Listing
    reader: Reader
    is_legacy: bool


@dataclasses.dataclass(frozen=True)
class Source:
    """What can be taken weights from.

    Attributes:
        label: what it is called, the front of a path that names the model itself.
        units: its layers with weights.
        config: the configuration of the model, as data, if it is known.
        origin: the model or the file.
    """

    label: str
    units: list[LayerWeights]
    config: dict[str, Any] | None
    origin: keras.Model | File


@contextlib.contextmanager
def opened(source: Any) -> Iterator[Source]:
    """Yields `source`, a model or the path of a file, as a `Source`; the file is closed afterwards."""
    if isinstance(source, keras.Model):
        yield of_model(source, "source")
        return
    try:
        path = os.fspath(source)
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise TypeError(errors.message("transfer_weights", "source", "a Keras model or a path", source, FIX))
    with Reader() as reader:
        yield of_file(path, reader)


def of_model(model: keras.Model, argument: str) -> Source:
    """Returns a live model's units; `argument` is what the caller calls it."""
    units = live_model.units_of(model)
    if not units:
        fix = "Build it: call it on data, or give it an Input"
        context = "it has no weights" if model.built else "it is not built"
        raise ValueError(errors.message("transfer_weights", argument, "a model with weights", model, fix, context))
    try:
        config = json.loads(model.to_json())
    except Exception:  # a subclassed model without a configuration, or with objects that have none
        config = None
    return Source(model.name, units, config, model)


def of_file(path: str, reader: Reader) -> Source:
    """Returns the units of a file."""
    listing = reader.open(path)
    text = listing.config or listing.attributes.get("", {}).get("model_config")
    config = keras3_file.parse(text)
    is_legacy = legacy_file.is_legacy(listing)
    units = (legacy_file if is_legacy else keras3_file).units_of(listing, reader, config)
    if not units:
        fix = "Pass a file that `model.save` or `model.save_weights` wrote"
        raise ValueError(
            errors.message("transfer_weights", "source", "a file with weights", path, fix, "there are none in it")
        )
    return Source(os.path.basename(path), units, config, File(listing, reader, is_legacy))
