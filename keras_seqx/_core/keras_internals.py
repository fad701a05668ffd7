"""The private and undocumented attributes of Keras that the package uses, each behind one named function.

Each function says why no public attribute does. `tests/core/test_keras_internals.py` checks it on every supported
version of Keras.
"""

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

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
