"""What the tensors handed to a decoder must look like, told as soon as their shapes are known."""

from collections.abc import Sequence
from typing import Any

from keras import tree

from keras_seqx import _checks

INPUTS_FIX = "Pass one start frame, a prompt, or the whole shifted target"
COVARIATES_FIX = "Give one covariate vector for each output, as wide as when the layer was built"
MEMORY_FIX = "Pass an encoder's outputs with their time axis"
STATES_FIX = "States fill the cells in order; leave out the last ones to have them start at the cells' own"


def check_inputs(owner: Any, shape: Any, width: int | None = None) -> None:
    """Checks the forced inputs: (B, T0, D), T0 >= 1, D known and equal to `width`."""
    _checks.shape(owner, "inputs", shape, "(B, T0, D)", (None, None, width), INPUTS_FIX)
    if shape[1] == 0:
        what = "at least one step long, as the first step has nothing else to read"
        raise ValueError(_checks.message(owner, "inputs", what, tuple(shape), INPUTS_FIX, "its shape"))
    if shape[2] is None:
        what = "of shape (B, T0, D) with a known D"
        raise ValueError(_checks.message(owner, "inputs", what, tuple(shape), INPUTS_FIX, "its shape"))


def check_mask(owner: Any, mask: Any, inputs: Any) -> None:
    """Checks a mask: (B, T0), as the inputs."""
    if mask is not None:
        fix = "Pass one boolean for each input"
        _checks.shape(owner, "mask", mask.shape, "(B, T0)", tuple(inputs.shape[:2]), fix)


def check_covariates(owner: Any, covariates: Any, batch_size: int | None, steps: int | None, width: int) -> None:
    """Checks the covariates: (B, steps, C), or None where the layer was built without."""
    if covariates is not None:
        sizes = (batch_size, steps, width)
        _checks.shape(owner, "covariates", covariates.shape, "(B, steps, C)", sizes, COVARIATES_FIX)
    elif width:
        what = f"of shape (B, steps, C) with C = {width}, as the layer was built"
        raise ValueError(_checks.message(owner, "covariates", what, None, COVARIATES_FIX))


def check_memory(owner: Any, memory: Any, batch_size: int | None, taken: bool) -> None:
    """Checks the memory: (B, S, M), and that some cell takes it."""
    if memory is not None:
        _checks.shape(owner, "memory", memory.shape, "(B, S, M)", (batch_size, None, None), MEMORY_FIX)
        if not taken:
            fix = "Use a cell whose `call` takes `memory`, or leave it out"
            what = "None, as no cell takes it"
            raise ValueError(_checks.message(owner, "memory", what, tuple(memory.shape), fix, "its shape"))


def check_states(owner: Any, initial_state: Any, specs: Sequence[Any], batch_size: int | None) -> None:
    """Checks initial states: no more than the cells have, of their shapes, in their order."""
    if initial_state is None:
        return
    shapes = [None if state is None else tuple(state.shape) for state in tree.flatten(initial_state)]
    expected = [(batch_size, *spec.shape[1:]) for spec in specs]
    if len(shapes) > len(expected):
        what = f"at most {len(expected)} tensors, of shapes {expected}"
        raise ValueError(_checks.message(owner, "initial_state", what, shapes, STATES_FIX, "their shapes"))
    for shape, sizes in zip(shapes, expected, strict=False):
        if shape is not None:
            _checks.shape(owner, "initial_state", shape, "(B, units)", sizes, STATES_FIX)


def check_adds_no_loss(owner: Any, argument: str, layer: Any) -> None:
    """Checks that no layer called in the loop regularizes its activity: a loss cannot leave a compiled loop."""
    for part in [] if layer is None else layer._flatten_layers():
        if part.activity_regularizer is not None:
            fix = "Regularize the decoder's outputs, for example by `keras.layers.ActivityRegularization` behind it"
            what = "without `activity_regularizer`, as it is called once a step"
            raise ValueError(_checks.message(owner, argument, what, part, fix))


def check_width(owner: Any, output_layer: Any, output: Any, width: int, reason: str) -> None:
    """Checks that an output (B, D) fits the inputs' width, where it must be fed back for the `reason` given."""
    if output.shape[-1] != width:
        what = f"of output width {width}, the inputs' feature size, as outputs are fed back where {reason}"
        fix = f"End it with `keras.layers.Dense({width})`, or force every input"
        raise ValueError(
            _checks.message(owner, "output_layer", what, output_layer, fix, f"its output width is {output.shape[-1]}")
        )
