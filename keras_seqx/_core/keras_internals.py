"""The private and undocumented attributes of Keras and TensorFlow that the package uses, a named function for each.

Each function says why no public attribute does. `tests/core/test_keras_internals.py` checks it on every supported
version of Keras.
"""

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
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


def export_format() -> str | None:
    """Returns "onnx", "litert" or "saved_model" while Keras traces a program for `model.export`, and else None.

    Nothing public tells a layer the format of an export; the frames on the stack do. Checked on Keras 3.12.4, 3.15.1
    and 3.16.0.dev2026102704.
    """
    archive = None
    for frame in _callers():
        package, _, name = frame.f_globals.get("__name__", "").rpartition(".")
        if package == "keras.src.export" and name in ("onnx", "litert"):
            return name
        if package.startswith("keras.src.export") or name == "saved_model_export_archive":
            archive = "saved_model"
    return archive


def class_weight_of_fit() -> Any:
    """Returns the `class_weight` of the `fit` that is about to read a PyDataset, None outside of one.

    Call it from a property that the constructor of Keras' adapter reads: it looks for the constructor's argument among
    its callers. No hook of `keras.utils.PyDataset` is given the argument, and Keras does not refuse it: for targets
    (B, T) it makes weights of the wrong shape, or wrong ones. Checked on Keras 3.12.4, 3.15.1 and 3.16.0.dev.
    """
    for frame in itertools.islice(_callers(), 4):
        if frame.f_code.co_name == "__init__" and {"class_weight", "shuffle"} <= set(frame.f_code.co_varnames):
            return frame.f_locals["class_weight"]
    return None


def _callers() -> Iterator[FrameType]:
    """Yields the frames of the functions that called the caller, the nearest first."""
    frame = sys._getframe(1).f_back
    while frame is not None:
        yield frame
        frame = frame.f_back


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


ID = "shared_object_id"
_CLONE_FUNCTIONS = ("_clone_functional_model", "_clone_sequential_model")
_OBJECTS, _CONFIGS = "shared_objects/id_to_obj_map", "shared_objects/id_to_config_map"


def sublayers(layer: keras.layers.Layer, *, include_self: bool = True, recursive: bool = True) -> list[Any]:
    """Returns the layers that `layer` holds in its attributes, each once.

    `keras.Model.layers` does this for models; a layer has no public list of the layers in it. Checked on Keras 3.12.4,
    3.15.1, 3.16.0.dev.

    Args:
        layer: a layer or model.
        include_self: whether `layer` comes first.
        recursive: whether the layers in those layers follow.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def get_mask(tensor: Any) -> Any:
    """Returns the Keras mask that an eager tensor carries, or None.

    The public way is a layer that takes a `mask`, which costs a call and is itself a call that the audit would record.
    Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor: Any, mask: Any) -> None:
    """Makes an eager tensor carry a Keras mask; see `get_mask`."""
    tensor._keras_mask = mask


def producer_of(tensor: keras.KerasTensor) -> Any:
    """Returns the layer or operation that made a symbolic tensor; of a model's input, its `InputLayer`.

    `keras.KerasTensor` documents no way to it. Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return tensor._keras_history.operation


def nodes_of(layer: Any) -> list[Any]:
    """Returns the symbolic calls of a layer or operation, with `input_tensors` and `output_tensors` each.

    `layer.input` and `layer.output` are public, and raise where a layer is called twice. The list is the layer's own.
    Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return layer._inbound_nodes


def is_functional(layer: Any) -> bool:
    """Returns whether `layer` is a Functional or Sequential model, or a subclass of one.

    `keras.Model` stands for both and for subclassed models, and the class of functional models is not exported. Checked
    on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return isinstance(layer, keras.Sequential) or hasattr(layer, "_operations_by_depth")


def output_shape_of(layer: keras.layers.Lambda) -> Any:
    """Returns the argument `output_shape` of a Lambda as it was given.

    Its `get_config` has it as code. Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return layer._output_shape


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments of `compile` as they were given.

    `get_compile_config` returns them serialized, which fails for functions that are not registered. Checked on Keras
    3.12.4, 3.15.1, 3.16.0.dev.
    """
    return dict(model._compile_config.config)


def trained_by(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Returns the variables that a built optimizer updates, in the order of its own.

    `optimizer.variables` is public and has its own variables alone. Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return optimizer._trainable_variables


def decays(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Returns whether the weight decay of an optimizer applies to `variable`.

    `exclude_from_weight_decay` is public, and what it was told is not. Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return optimizer._use_weight_decay(variable)


def queue_options(data_set: keras.utils.PyDataset) -> dict[str, Any]:
    """Returns `workers`, `use_multiprocessing` and `max_queue_size` as they were given to a PyDataset.

    Its properties of these names are what Keras acts on, and a subclass may override them. Checked on Keras 3.12.4,
    3.15.1, 3.16.0.dev.
    """
    return {name: getattr(data_set, f"_{name}") for name in ("workers", "use_multiprocessing", "max_queue_size")}


def within_xla() -> bool:
    """Returns whether TensorFlow traces a function that XLA compiles, in which shapes may not depend on values.

    No public function of TensorFlow tells. Checked on TensorFlow 2.21.
    """
    from tensorflow.python.framework.ops import get_default_graph
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return GraphOrParentsInXlaContext(get_default_graph())


def call_symbolically(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls `layer` on `keras.KerasTensor`s, and leaves no node of the call in the layer.

    A file of a functional model counts the calls of a layer. A layer that another one calls in its `build` would have
    one call too many when the file is loaded. `Layer.compute_output_spec` adds no node, but it does not build the
    layer, and only `Layer.__call__` knows which arguments `build` takes. Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    nodes = nodes_of(layer)
    count = len(nodes)
    try:
        return layer(*args, **kwargs)
    finally:
        del nodes[count:]


def shares_objects() -> bool:
    """Returns whether an object that Keras serializes or deserializes several times stays one object now.

    It does while `keras.saving` writes or reads a model. No public function tells. Checked on Keras 3.12.4, 3.15.1,
    3.16.0.dev.
    """
    return _serialization().global_state.get_global_attribute(_OBJECTS) is not None


@contextlib.contextmanager
def object_sharing(objects: dict[int, Any] | None = None) -> Iterator[None]:
    """A context in which Keras serializes with ids, and deserializes what has one id to one object.

    Keras opens such a scope in `keras.saving.save_model` and `load_model`, and nowhere else: `get_config` and
    `from_config` lose what a configuration holds twice. The scope is not public. Checked on Keras 3.12.4, 3.15.1,
    3.16.0.dev.

    Args:
        objects: the objects that ids stand for; new ones are added. Defaults to None: none at first.
    """
    library = _serialization()
    state, keys = library.global_state, (_OBJECTS, _CONFIGS)
    outer = [state.get_global_attribute(key) for key in keys]
    try:
        with library.ObjectSharingScope():
            if objects is not None:
                state.set_global_attribute(_OBJECTS, objects)
            yield
    finally:
        for key, value in zip(keys, outer, strict=True):
            state.set_global_attribute(key, value)


def ids_met() -> set[int]:
    """Returns the ids of all objects that Keras has serialized in the scope of `object_sharing`, which is open.

    Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    return set(_serialization().global_state.get_global_attribute(_CONFIGS))


def mark_where_first_met(ids: Iterable[int]) -> None:
    """Writes the ids of objects that are shared where Keras met them first, and did not know that it would again.

    Keras keeps the configuration of every object that it meets in the scope of `object_sharing`, by the object's id,
    and adds the id to the one that it keeps. Of an object within another one, such as a layer of a nested model, that
    is not what is written: a copy is. The copy is found by what it says. Where another object has the same class, name
    and settings, nothing is written.
    Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    known = _serialization().global_state.get_global_attribute(_CONFIGS)
    for own in ids:
        first = _without_ids(known[own])
        if sum(_looks_like(config, known[own]) and _without_ids(config) == first for config in known.values()) == 1:
            for config in _configs_within(list(known.values())):
                if _looks_like(config, known[own]) and _without_ids(config) == first:
                    config[ID] = own


@dataclasses.dataclass(frozen=True)
class Cloning:
    """A running call of `keras.models.clone_model`.

    Attributes:
        copies: the layers made so far, by the ids of those that they copy. A layer added to it is used where its
            original is met.
        layer: the one that is being copied.
        model: the model of that layer.
        by_config: whether layers are copied by `get_config` and `from_config`, and by no function of the user's.
    """

    copies: dict[int, Any]
    layer: keras.layers.Layer
    model: keras.Model
    by_config: bool


def cloning() -> Cloning | None:
    """Returns the call of `keras.models.clone_model` that is running, None where none is.

    `clone_model` copies layer by layer, so that two layers that hold a third one would get two copies of it. It hands
    its table of copies to no layer; it is read from the running functions. Checked on Keras 3.12.4, 3.15.1, 3.16.0.dev.
    """
    module = keras.models.clone_model.__module__
    frames = [frame for frame in _callers() if frame.f_globals.get("__name__") == module]
    inner = next((f.f_locals for f in frames if f.f_code.co_name == "wrapped_clone_function"), None)
    outer = next((f.f_locals for f in frames if f.f_code.co_name in _CLONE_FUNCTIONS), None)
    if inner is None or outer is None:
        return None
    return Cloning(inner["cache"], inner["layer"], outer["model"], inner["clone_function"].__module__ == module)


def _serialization() -> Any:
    return sys.modules[keras.saving.serialize_keras_object.__module__]


def _looks_like(config: dict, other: dict) -> bool:
    """Returns whether two configurations name the same class, and the same layer if they name one."""
    names = [part.get("name") if isinstance(part := c.get("config"), dict) else part for c in (config, other)]
    return config.get("class_name") == other.get("class_name") and names[0] == names[1]


def _configs_within(config: Any) -> Iterator[dict]:
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from _configs_within(part)


def _without_ids(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_ids(value) for key, value in config.items() if key != ID}
    return list(map(_without_ids, config)) if isinstance(config, (list, tuple)) else config
