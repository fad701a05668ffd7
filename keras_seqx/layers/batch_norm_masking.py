"""What the layers inside a MaskedTimeDistributed are told about its steps while it calls them."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_seqx._core import errors, keras_internals
from keras_seqx.layers import time_folding

_valid: contextvars.ContextVar[Any] = contextvars.ContextVar("valid", default=None)


def outer_valid(rows: int | None) -> Any:
    """Returns which of its `rows` an enclosing MaskedTimeDistributed holds valid, (rows,), or None."""
    valid = _valid.get()
    fits = (valid is not None and None in (rows, valid.shape[0])) or (valid is not None and rows == valid.shape[0])
    return valid if fits else None


@contextlib.contextmanager
def of_steps(layer: Any, valid: Any) -> Iterator[None]:
    """Has batch normalizations anywhere in `layer` count the `valid` rows (N,) alone, and nested wrappers know them.

    Keras hands a mask to a BatchNormalization only while every layer before it passes one on, which a convolution does
    not. So here their `call` is replaced while the context lasts.
    """
    if valid is None:
        yield
        return
    token = _valid.set(valid)
    try:
        with contextlib.ExitStack() as stack:
            for part in keras_internals.sublayers(layer):
                if isinstance(part, keras.layers.BatchNormalization):
                    stack.enter_context(keras_internals.patched_call(part, _counting(part, valid)))
            yield
    finally:
        _valid.reset(token)


def _counting(layer: Any, valid: Any) -> Any:
    def call(original: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if None not in (inputs.shape[0], valid.shape[0]) and inputs.shape[0] != valid.shape[0]:
            what = f"one that keeps the {valid.shape[0]} steps of the batch along the first axis up to {layer.name!r}"
            fix = "Leave the first axis alone before a batch normalization"
            raise ValueError(errors.message("MaskedTimeDistributed", "layer", what, tuple(inputs.shape), fix, "shape"))
        rows = time_folding.expand(valid, inputs[..., 0])
        mask = rows if mask is None else ops.logical_and(mask, time_folding.expand(valid, mask))
        return original(inputs, training=training, mask=mask)

    return call
