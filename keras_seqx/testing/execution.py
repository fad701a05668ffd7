"""How a backend runs and differentiates a function. This file is the only one here that names a backend."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core import errors

# Torch has eager execution alone.
_MODES = {"tensorflow": ("eager", "graph", "xla"), "jax": ("eager", "jit"), "torch": ("eager",)}


def modes() -> tuple[str, ...]:
    """Returns the names of the ways in which the backend runs a function.

    Returns:
        `("eager", "graph", "xla")` on TensorFlow: as it stands, as a `tf.function` and as one compiled by XLA;
        `("eager", "jit")` on JAX; `("eager",)` on torch.

    Example:

    >>> from keras_seqx.testing import modes
    >>> modes()[0]
    'eager'
    """
    return _MODES[keras.backend.backend()]


def choose_mode(owner: str, mode: str | None) -> str:
    """Returns a mode that the backend has; for None the one that costs least, as JAX compiles each loop anyway."""
    if mode is None:
        return "jit" if keras.backend.backend() == "jax" else "eager"
    if mode not in modes():
        text = "one of " + ", ".join(map(repr, modes()))
        fix = f"These are the modes of the {keras.backend.backend()} backend, which `modes()` lists"
        raise ValueError(errors.message(owner, "mode", text, mode, fix))
    return mode


def compiled(function: Callable, mode: str) -> Callable:
    """Returns a function of tensors as it runs in one of the `modes`."""
    if mode in ("graph", "xla"):
        import tensorflow as tf

        return tf.function(function, jit_compile=mode == "xla")
    if mode == "jit":
        import jax

        return jax.jit(function)
    return function


def gradients(function: Callable) -> Callable:
    """Returns the function of the same arguments that differentiates by the first.

    Args:
        function: takes a list of float tensors and any others, returns a scalar and a structure of tensors.

    Returns:
        A function of the same arguments that returns the gradients, zero where the scalar does not depend on a
        tensor, and the structure.
    """

    def on_tensorflow(values: list, *others: Any) -> tuple[list, Any]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(values)
            scalar, rest = function(values, *others)
        slopes = tape.gradient(scalar, values, unconnected_gradients="zero")
        return list(map(tf.convert_to_tensor, slopes)), rest

    def on_jax(values: list, *others: Any) -> tuple[list, Any]:
        import jax

        return jax.grad(function, has_aux=True)(values, *others)

    def on_torch(values: list, *others: Any) -> tuple[list, Any]:
        import torch

        values = [v.detach().requires_grad_() for v in values]
        with torch.enable_grad():
            # Copies, as a layer may work in place, which torch does not allow on what is differentiated by.
            scalar, rest = function([v.clone() for v in values], *others)
        if not scalar.requires_grad:
            return list(map(torch.zeros_like, values)), rest
        return list(torch.autograd.grad(scalar, values, allow_unused=True, materialize_grads=True)), rest

    return {"tensorflow": on_tensorflow, "jax": on_jax, "torch": on_torch}[keras.backend.backend()]


def to_numpy(tensors: Any) -> Any:
    """Returns a structure of tensors as arrays; None stays None."""
    return tree.map_structure(lambda x: None if x is None else ops.convert_to_numpy(x), tensors)
