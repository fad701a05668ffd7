"""What the tensors handed to a decoder must look like, told as soon as their shapes are known."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import tree

from keras_seqx._core import errors, keras_internals, tensors
from keras_seqx.generation import samplers

INPUTS_FIX = "Pass one start frame, a prompt, or the whole shifted target"
IDS_FIX = "Pass one start token, a prompt, or the whole shifted target, as integers below the embedding's `input_dim`"
COVARIATES_FIX = "Give one covariate vector for each output, as wide as when the layer was built"
MEMORY_FIX = "Pass an encoder's outputs with their time axis"
STATES_FIX = "States fill the cells in order; leave out the last ones to have them start at the cells' own"


def layer_or_none(owner: Any, argument: str, layer: Any, example: str) -> Any:
    """Returns `layer`, a Keras layer or None."""
    if layer is not None and not isinstance(layer, keras.layers.Layer):
        fix = f"Pass for example `keras.layers.{example}`"
        raise TypeError(errors.message(owner, argument, "a Keras layer or None", layer, fix))
    return layer


def sampler_for(owner: Any, sampler: Any, embedding: Any) -> samplers.Sampler:
    """Returns the sampler, by default the one that fits; checks that it makes what the decoder reads."""
    default = "identity" if embedding is None else "greedy"
    found = samplers.get(default if sampler is None else sampler, owner)
    if found.samples_tokens and embedding is None:
        what = "one of continuous values, as there is no `embedding` for tokens"
        fix = 'Give an `embedding` that the sampled ids go through, or use "identity" or `Gaussian()`'
        raise ValueError(errors.message(owner, "sampler", what, sampler, fix))
    if not found.samples_tokens and embedding is not None:
        fix = 'Use "greedy" or `Categorical()`, or leave `embedding` out'
        raise ValueError(errors.message(owner, "sampler", "one of tokens, for the `embedding`", sampler, fix))
    return found


def embedding_width(owner: Any, embedding: Any) -> int:
    """Builds the embedding of ids (B, n); returns how wide its vectors (B, n, E) are."""
    output = keras_internals.call_symbolically(embedding, keras.KerasTensor((None, None), dtype="int32"))
    if len(output.shape) != 3 or output.shape[-1] is None:
        fix = "Pass for example `keras.layers.Embedding(vocabulary, features)`"
        context = f"its output has shape {output.shape}"
        raise ValueError(
            errors.message(owner, "embedding", "a layer from ids (B, n) to (B, n, E)", embedding, fix, context)
        )
    return output.shape[-1]


def check_reverses(owner: Any, output_layer: Any, hidden: Any) -> None:
    """Checks that an embedding takes hidden (B, H) back to logits."""
    width = getattr(output_layer, "output_dim", hidden.shape[-1])
    if hidden.shape[-1] != width:
        what = f"an embedding with `output_dim={hidden.shape[-1]}`, the width of the cells' output"
        fix = f"End the cells with one of {width} units, or project to logits by `keras.layers.Dense`"
        context = f"its `output_dim` is {width}"
        raise ValueError(errors.message(owner, "output_layer", what, output_layer, fix, context))


def check_logits(owner: Any, output: Any, output_layer: Any, embedding: Any) -> None:
    """Checks that every token that can be sampled from logits (B, V) has an embedding."""
    size = getattr(embedding, "input_dim", None)
    if size is not None and output.shape[-1] > size:
        what = f"of output width {size} at most, the `input_dim` of the embedding that its tokens go through"
        fix = f"End it with `keras.layers.Dense({size})`, or widen the embedding"
        context = f"its output width is {output.shape[-1]}"
        raise ValueError(errors.message(owner, "output_layer", what, output_layer, fix, context))


def check_inputs(owner: Any, shape: Any, width: int | None = None) -> None:
    """Checks the forced inputs: (B, T0, D), T0 >= 1, D known and equal to `width`."""
    errors.shape(owner, "inputs", shape, "(B, T0, D)", (None, None, width), INPUTS_FIX)
    if shape[1] == 0:
        what = "at least one step long, as the first step has nothing else to read"
        raise ValueError(errors.message(owner, "inputs", what, tuple(shape), INPUTS_FIX, "its shape"))
    if shape[2] is None:
        what = "of shape (B, T0, D) with a known D"
        raise ValueError(errors.message(owner, "inputs", what, tuple(shape), INPUTS_FIX, "its shape"))


def check_ids(owner: Any, inputs: Any) -> None:
    """Checks the forced inputs of a decoder with an `embedding`: integers (B, T0), T0 >= 1."""
    errors.shape(owner, "inputs", inputs.shape, "(B, T0)", (None, None), IDS_FIX)
    if inputs.shape[1] == 0:
        what = "at least one step long, as the first step has nothing else to read"
        raise ValueError(errors.message(owner, "inputs", what, tuple(inputs.shape), IDS_FIX, "its shape"))
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if "int" not in dtype:
        fix = 'Give `keras.Input` the option dtype="int32", or cast the ids'
        raise TypeError(errors.message(owner, "inputs", "ids of an integer dtype", dtype, fix, "its dtype"))


def check_vocabulary(owner: Any, inputs: Any, mask: Any, embedding: Any) -> None:
    """Checks ids whose values are known, at unmasked steps, against an embedding that tells its `input_dim`."""
    size = getattr(embedding, "input_dim", None)
    ids = None if size is None else tensors.static_value(inputs)
    read = None if mask is None else tensors.static_value(mask)
    if ids is not None and (mask is None or read is not None):
        wrong = ids[((ids < 0) | (ids >= size)) & (True if read is None else read.astype(bool))]
        if wrong.size:
            what = f"ids within [0, {size}), the embedding's vocabulary"
            shape = f"in ids of shape {tuple(ids.shape)}"
            raise ValueError(errors.message(owner, "inputs", what, int(wrong.flat[0]), IDS_FIX, shape))


def check_max_length(owner: Any, argument: str, steps: int, read: int | None, max_length: int | None) -> None:
    """Checks that the cells remember as much as is asked for, `steps` behind the inputs `read` before."""
    if read is not None and max_length is not None and read + steps > max_length:
        what = f"at most {max_length - read}, by the `max_length` of its cells, {max_length}"
        fix = "Ask for fewer steps, or make cells with a larger `max_length`"
        raise ValueError(errors.message(owner, argument, what, steps, fix))


def check_mask(owner: Any, mask: Any, inputs: Any) -> None:
    """Checks a mask: (B, T0), as the inputs."""
    if mask is not None:
        fix = "Pass one boolean for each input"
        errors.shape(owner, "mask", mask.shape, "(B, T0)", tuple(inputs.shape[:2]), fix)


def check_covariates(owner: Any, covariates: Any, batch_size: int | None, steps: int | None, width: int) -> None:
    """Checks the covariates: (B, steps, C), or None where the layer was built without."""
    if covariates is not None:
        sizes = (batch_size, steps, width)
        errors.shape(owner, "covariates", covariates.shape, "(B, steps, C)", sizes, COVARIATES_FIX)
    elif width:
        what = f"of shape (B, steps, C) with C = {width}, as the layer was built"
        raise ValueError(errors.message(owner, "covariates", what, None, COVARIATES_FIX))


def check_memory(owner: Any, memory: Any, batch_size: int | None, cells: Any) -> None:
    """Checks the memory: (B, S, M), that some cell takes it, and that it is there for one that needs it."""
    if memory is None:
        if cells.needs_memory:
            what = "of shape (B, S, M), as there is a cell that attends to it"
            raise ValueError(errors.message(owner, "memory", what, None, MEMORY_FIX))
    else:
        errors.shape(owner, "memory", memory.shape, "(B, S, M)", (batch_size, None, None), MEMORY_FIX)
        if not cells.takes_memory:
            fix = "Use a cell whose `call` takes `memory`, or leave it out"
            what = "None, as no cell takes it"
            raise ValueError(errors.message(owner, "memory", what, tuple(memory.shape), fix, "its shape"))


def check_states(owner: Any, initial_state: Any, specs: Sequence[Any], batch_size: int | None) -> None:
    """Checks initial states: no more than the cells have, of their shapes, in their order."""
    if initial_state is None:
        return
    shapes = [None if state is None else tuple(state.shape) for state in tree.flatten(initial_state)]
    expected = [(batch_size, *spec.shape[1:]) for spec in specs]
    if len(shapes) > len(expected):
        what = f"at most {len(expected)} tensors, of shapes {expected}"
        raise ValueError(errors.message(owner, "initial_state", what, shapes, STATES_FIX, "their shapes"))
    for shape, sizes in zip(shapes, expected, strict=False):
        if shape is not None:
            errors.shape(owner, "initial_state", shape, "(B, units)", sizes, STATES_FIX)


def check_adds_no_loss(owner: Any, argument: str, layer: Any) -> None:
    """Checks that no layer called in the loop regularizes its activity: a loss cannot leave a compiled loop."""
    for part in [] if layer is None else keras_internals.sublayers(layer):
        if part.activity_regularizer is not None:
            fix = "Regularize the decoder's outputs, for example by `keras.layers.ActivityRegularization` behind it"
            what = "without `activity_regularizer`, as it is called once a step"
            raise ValueError(errors.message(owner, argument, what, part, fix))


def check_width(owner: Any, output_layer: Any, output: Any, sampler: Any, width: int, reason: str) -> None:
    """Checks that samples of an output (B, D) fit the inputs' width, where they are fed back for the `reason` given."""
    got, made = output.shape[-1], sampler.sample_width(output.shape[-1])
    if made == width:
        return
    context, name = f"its output width is {got}", type(sampler).__name__
    needed = next((n for n in (width, 2 * width) if sampler.sample_width(n) == width), None)
    if needed is not None:
        what = f"of output width {needed}, for the inputs' {width} features, as outputs are fed back where {reason}"
        fix = f"End it with `keras.layers.Dense({needed})`, or force every input"
    else:
        what = f"such that samples have the inputs' {width} features, as they are fed back where {reason}"
        fix = "Change the output width, or force every input"
        context += f", its samples' {made} by `{name}.sample_width({got})`"
    if not isinstance(sampler, (samplers.Identity, samplers.Gaussian)):
        fix += f". If samples are of another width, define `{name}.sample_width(output_width)`"
    raise ValueError(errors.message(owner, "output_layer", what, output_layer, fix, context))


def check_draws(owner: Any, argument: str, value: Any, noise: Any) -> Any:
    """Returns the random numbers of a loop, None for none; ONNX and LiteRT have none, nor a seed that moves on."""
    if noise is not None and keras_internals.export_format() in ("onnx", "litert"):
        fix = "Export to a SavedModel, or export what takes the most likely"
        raise RuntimeError(
            errors.message(owner, argument, "one that draws no numbers in an export to ONNX or LiteRT", value, fix)
        )
    return noise


def check_sample(sampler: Any, sample: Any, output: Any, like: Any) -> None:
    """Checks that a sample of an `output` has the shape of the sample `like`, as its sampler says."""
    if tuple(sample.shape)[1:] != tuple(like.shape)[1:]:
        what = f"the width of what the sampler returns, as inputs of shape {tuple(like.shape)} are read"
        fix = f"Define `{type(sampler).__name__}.sample_width(output_width)`, or return samples of that width"
        width = None if sampler.samples_tokens else sampler.sample_width(output.shape[-1])
        context = f"samples of shape {tuple(sample.shape)} from outputs {tuple(output.shape)}"
        raise ValueError(errors.message(sampler, "sample_width", what, width, fix, context))
