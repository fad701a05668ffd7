"""The private and undocumented attributes of Keras that the package uses, each behind one named function.

Each function says why no public attribute does. `tests/core/test_keras_internals.py` checks it on every supported
version of Keras.
"""

import contextlib
import contextvars
import functools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras


def dropout_rnn_cell() -> type:
    """Returns `DropoutRNNCell`, the base class by which `keras.layers.RNN` knows a cell that draws random numbers.

    `RNN.call` calls `get_dropout_mask` and `get_recurrent_dropout_mask` of such a cell before its loop, and
    `reset_dropout_mask` and `reset_recurrent_dropout_mask` after it, and gives no other notice of a loop to a cell. The
    class is not exported; it is a base of the cells that are. Checked on Keras 3.12.4, 3.15.1 and 3.16.0.dev.
    """
    return next(base for base in keras.layers.LSTMCell.__mro__ if base.__name__ == "DropoutRNNCell")


def exports_to_onnx() -> bool:
    """Returns whether Keras traces the program for `model.export(format="onnx")`.

    Nothing public tells a layer the format of an export; the frames on the stack do. Checked on Keras 3.12.4, 3.15.1
    and 3.16.0.dev2026102704.
    """
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "keras.src.export.onnx":
            return True
        frame = frame.f_back
    return False


def class_weight_of_fit() -> Any:
    """Returns the `class_weight` of the `fit` that is about to read a PyDataset, None outside of one.

    Call it from a property that the constructor of Keras' adapter reads: it looks for the constructor's argument among
    its callers. No hook of `keras.utils.PyDataset` is given the argument, and Keras does not refuse it: for targets
    (B, T) it makes weights of the wrong shape, or wrong ones. Checked on Keras 3.12.4, 3.15.1 and 3.16.0.dev.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(4):
        if frame is None:
            return None
        if frame.f_code.co_name == "__init__" and {"class_weight", "shuffle"} <= set(frame.f_code.co_varnames):
            return frame.f_locals["class_weight"]
        frame = frame.f_back
    return None


_lock = threading.Lock()
# For each layer whose `call` is replaced: by how many contexts, and what stood in its `__dict__` before.
_patched: dict[int, tuple[int, Any]] = {}
_replacements: contextvars.ContextVar[dict[int, Callable]] = contextvars.ContextVar("replacements")


@contextlib.contextmanager
def patched_call(layer: Any, replacement: Callable) -> Iterator[None]:
    """Replaces a layer's `call` by `replacement(call, *args, **kwargs)` while the context lasts.

    `call` is the layer's own. The replacement holds in the thread that entered the context. Where contexts of one layer
    lie within each other the innermost holds. Afterwards the layer is as it was, also after an exception.

    Keras has no hook around `call`: `Layer.__call__` looks the attribute up on the instance, and plain `setattr` would
    track what it is given. Checked on Keras 3.12.4, 3.15.1 and 3.16.0.dev2026102704.

    Args:
        layer: a Keras layer, operation or model.
        replacement: gets `call` and what it was called with, and returns what stands for its outputs.
    """
    key = id(layer)
    with _lock:
        contexts, before = _patched.get(key, (0, vars(layer).get("call")))
        if not contexts:
            original = layer.call

            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                current = _replacements.get({}).get(key)
                return original(*args, **kwargs) if current is None else current(original, *args, **kwargs)

            object.__setattr__(layer, "call", call)
        _patched[key] = contexts + 1, before
    token = _replacements.set({**_replacements.get({}), key: replacement})
    try:
        yield
    finally:
        _replacements.reset(token)
        with _lock:
            contexts, before = _patched.pop(key)
            if contexts > 1:
                _patched[key] = contexts - 1, before
            elif before is None:
                object.__delattr__(layer, "call")
            else:
                object.__setattr__(layer, "call", before)
