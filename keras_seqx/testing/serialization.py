"""The laws of files: a layer comes back as it was, here, in another process and on another backend."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors
from keras_seqx.testing import execution
from keras_seqx.testing.batches import Batch, OutputMasks
from keras_seqx.testing.measuring import Comparison, attempt, build

BACKENDS = ("tensorflow", "jax", "torch")

_WORKER = """
import importlib, json, sys
import numpy as np
import keras

folder, modules = sys.argv[1], json.loads(sys.argv[2])
for module in modules:
    importlib.import_module(module)
model = keras.saving.load_model(f"{folder}/model.keras", safe_mode=True)
with np.load(f"{folder}/inputs.npz") as file:
    outputs = model([file[name] for name in file.files])
np.savez(f"{folder}/outputs.npz", *(keras.ops.convert_to_numpy(y).astype("float64") for y in outputs))
"""


def check_serialization(
    layer: keras.layers.Layer,
    inputs: Any,
    *,
    lengths: Any = None,
    attach_masks: bool = True,
    new_process: bool = False,
    atol: float = 1e-6,
    rtol: float = 1e-6,
) -> None:
    """Raises unless the layer survives its configuration and its files.

    The configuration must be writable as JSON and make a layer with the same configuration, weights and outputs;
    making one must not change it. A functional model of that layer, with other weights, must come back with the same
    outputs and masks from a `.keras` file in safe mode, from `keras.models.clone_model` and from a file of weights.
    The layer itself stays as it is.

    Args:
        layer: a layer or model whose first argument takes the inputs. Its class must be registered or in a
            `keras.saving.custom_object_scope`.
        inputs: array (B, ...) or any structure of them.
        lengths: as in `check_padding_invariance`. Defaults to None: the inputs carry no masks.
        attach_masks: see there.
        new_process: whether the file is loaded in a new process too, which imports the modules that it names. The
            class must then be registered, in a module that can be imported.
        atol: see there.
        rtol: see there.

    Raises:
        AssertionError: something is lost or changed. The message says at which step.
        ValueError: as `check_padding_invariance`.
        TypeError: as `check_padding_invariance`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx.testing import check_serialization
    >>> check_serialization(keras.layers.GRU(4), np.ones((2, 5, 3), "float32"), lengths=[5, 2])
    """
    law = "serialization"
    batch = Batch.of("check_serialization", inputs, lengths, attach_masks)
    compare = Comparison(law, layer, atol, rtol)
    with attempt(law, layer, "on the batch"):
        build(layer, batch)
    with attempt(law, layer, "at writing its configuration"):
        config = layer.get_config()
        text, handed = _text(layer), _json(config)
    with attempt(law, layer, "at `from_config(get_config())`"):
        again = type(layer).from_config(config)
        build(again, batch)
        again.set_weights(layer.get_weights())
    # Many of Keras' own change what they are handed; who inherits them is not to blame.
    if _json(config) != handed and not type(layer).from_config.__module__.startswith("keras."):
        compare.fail("changes the configuration that `from_config` is handed. Copy it first.")
    if _text(again) != text:
        compare.fail(f"comes back from `from_config` with another configuration: {_difference(text, _text(again))}.")
    with attempt(law, layer, "in a functional model"):
        original, model = _model(layer, batch), _model(again, batch)
    _same(compare, original, model, batch, "after `from_config(get_config())`")

    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign_add(rng.normal(0, 0.1, v.shape))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        with attempt(law, layer, "at saving and loading a `.keras` file"):
            model.save(path / "model.keras")
            loaded = keras.saving.load_model(path / "model.keras", safe_mode=True)
        _same(compare, model, loaded, batch, "in a `.keras` file")
        with attempt(law, layer, "at `keras.models.clone_model`"):
            clone = keras.models.clone_model(model)
            clone.set_weights(model.get_weights())
        _same(compare, model, clone, batch, "in `keras.models.clone_model`")
        with attempt(law, layer, "at saving and loading a file of weights"):
            model.save_weights(path / "model.weights.h5")
            clone.set_weights([w + 1 if w.dtype.kind == "f" else w for w in clone.get_weights()])
            clone.load_weights(path / "model.weights.h5")
        _same(compare, model, clone, batch, "in a file of weights")
        if new_process:
            received = _in_new_process(compare, model, batch, path, keras.backend.backend())
            _same_outputs(compare, _call(model, batch), received, "in a new process")


def check_backends_agree(
    layer: keras.layers.Layer,
    inputs: Any,
    *,
    lengths: Any = None,
    attach_masks: bool = True,
    backends: Iterable[str] | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Raises unless the layer's outputs and their masks are the same on other backends.

    A functional model of the layer is saved, and run in a new process for each backend.

    Args:
        layer: a layer or model whose first argument takes the inputs. Its class must be registered, in a module that
            can be imported.
        inputs: array (B, ...) or any structure of them.
        lengths: as in `check_padding_invariance`. Defaults to None: the inputs carry no masks.
        attach_masks: see there.
        backends: of "tensorflow", "jax" and "torch", those to compare with the running one. Defaults to None: all
            others that are installed, of which there must be one.
        atol: see there.
        rtol: see there.

    Raises:
        AssertionError: the outputs differ, or the layer cannot be loaded or run on one of the backends.
        ValueError: there is no other backend; else as `check_padding_invariance`.
        TypeError: as `check_padding_invariance`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx.testing import check_backends_agree
    >>> x = np.ones((2, 5, 3), "float32")
    >>> check_backends_agree(keras.layers.GRU(4), x, lengths=[5, 2])  # doctest: +SKIP
    """
    owner, law = "check_backends_agree", "backends_agree"
    batch = Batch.of(owner, inputs, lengths, attach_masks)
    others = other_backends() if backends is None else [b for b in backends if b != keras.backend.backend()]
    if not others or not set(others) <= set(BACKENDS):
        text = f"one or more of {BACKENDS}, installed and other than {keras.backend.backend()!r}"
        raise ValueError(errors.message(owner, "backends", text, backends, "Install another backend"))
    compare = Comparison(law, layer, atol, rtol)
    with attempt(law, layer, "on the batch"):
        build(layer, batch)
        model = _model(layer, batch)
        expected = _call(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        with attempt(law, layer, "at saving a `.keras` file"):
            model.save(path / "model.keras")
        for backend in others:
            received = _in_new_process(compare, model, batch, path, backend)
            _same_outputs(compare, expected, received, f"from {keras.backend.backend()} to {backend}")


def other_backends() -> list[str]:
    """Returns the installed backends other than the running one."""
    return [b for b in BACKENDS if b != keras.backend.backend() and importlib.util.find_spec(b)]


def _model(layer: keras.layers.Layer, batch: Batch) -> keras.Model:
    """Returns a functional model from the batch's tensors to the layer's outputs, flat, and their masks."""
    inputs = [keras.Input(x.shape[1:], dtype=x.dtype.name) for x in batch.tensors]
    outputs = tree.flatten(layer(batch.inputs(inputs)))
    return keras.Model(inputs, [*outputs, *OutputMasks()(outputs)])


def _call(model: keras.Model, batch: Batch) -> list[np.ndarray]:
    return execution.to_numpy(tree.flatten(model(list(map(ops.convert_to_tensor, batch.tensors)))))


def _same(compare: Comparison, model: keras.Model, again: keras.Model, batch: Batch, when: str) -> None:
    expected = _call(model, batch)
    with attempt(compare.law, compare.layer, when):
        received = _call(again, batch)
    _same_outputs(compare, expected, received, when)


def _same_outputs(compare: Comparison, expected: list, received: list, when: str) -> None:
    count = len(expected) // 2
    for i, (a, b) in enumerate(zip(expected, received, strict=True)):
        compare.same(f"output {i}" if i < count else f"the mask of output {i - count}", a, b, when)


def _in_new_process(
    compare: Comparison, model: keras.Model, batch: Batch, path: pathlib.Path, backend: str
) -> list[np.ndarray]:
    """Returns the outputs of `model.keras`, which lies in the folder, in a new process on a backend."""
    np.savez(path / "inputs.npz", *batch.tensors)
    modules = sorted(_modules(json.loads(_text(model))) - {"builtins"})
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _WORKER, str(path), json.dumps(modules)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        compare.fail(f"fails in a new process on {backend}:\n{result.stderr[-2000:]}")
    with np.load(path / "outputs.npz") as file:
        return [file[name] for name in file.files]


def _json(config: Any) -> str:
    return json.dumps(keras.saving.serialize_keras_object(config), sort_keys=True)


def _text(layer: keras.layers.Layer) -> str:
    """Returns the layer's configuration as a file keeps it, without what `from_config` does not take.

    That are the shapes that it was built with, and how a model was compiled.
    """
    return json.dumps(_settings(json.loads(_json(layer))), sort_keys=True)


def _settings(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _settings(value) for key, value in config.items() if key not in ("build_config", "compile_config")}
    return list(map(_settings, config)) if isinstance(config, list) else config


def _modules(config: Any) -> set[str]:
    """Returns the modules that a configuration names."""
    if isinstance(config, dict):
        own = {config["module"]} if isinstance(config.get("module"), str) else set()
        return own.union(*map(_modules, config.values()))
    return set().union(*map(_modules, config)) if isinstance(config, list) else set()


def _difference(before: str, after: str) -> str:
    """Returns the first entry in which two configurations differ."""
    paths = [dict(tree.flatten_with_path(json.loads(text))) for text in (before, after)]
    path = next(p for p in [*paths[0], *paths[1]] if paths[0].get(p, "nothing") != paths[1].get(p, "nothing"))
    was, became = (p.get(path, "nothing") for p in paths)
    return f"{'.'.join(map(str, path))} was {was!r} and became {became!r}"
