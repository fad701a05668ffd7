"""A quick check of a model before it is trained on padded data, or predicts for it."""

import warnings
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core.probe import Probe, ProbeBatch
from keras_seqx.audit.comparison import compare
from keras_seqx.audit.masking_audit import any_length, audit_batch, untouched

# So few steps are enough to see padding, and so much of it.
STEPS, PADDING = 4, 3
# Relative, and more than lower precision on an accelerator may change; what leaks changes more.
MOVED = {"float16": 2e-2, "bfloat16": 1e-1}
LARGE = 2**20

_checked: dict[bool, weakref.WeakSet] = {True: weakref.WeakSet(), False: weakref.WeakSet()}


def warn_of_padding(owner: str, model: Any, probe: Probe, losses: bool) -> None:
    """Warns if padding changes what a model computes; each model is checked once.

    The model runs on a few steps of one sequence, and on the same steps with padding, with `training=False`: eagerly,
    and on JAX as one program. Only a model that fails is audited, for the name of the layer. The model is left as it
    was. An error becomes a warning, because a check must not end training.

    Args:
        owner: who warns.
        model: the model; anything else is left alone.
        probe: sequences of the data.
        losses: whether to look at the loss and the metrics too, which must have been built.
    """
    if not isinstance(model, keras.Model) or not probe.is_padded or any(model in _checked[c] for c in {True, losses}):
        return
    _checked[losses].add(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of layers that lose a mask
        try:
            text = _check(model, probe, losses)
        except Exception as error:
            text = (
                f"whether padding changes what {model.name!r} computes could not be checked: "
                f"{type(error).__name__}: {error}"
            )
    if text:
        warnings.warn(f"{owner}: {text}", stacklevel=3)


def _check(model: keras.Model, probe: Probe, losses: bool) -> str:
    """Returns what is wrong, empty if nothing is."""
    row = np.argmax(probe.lengths.sum(axis=1))
    first, following = probe.shapes[0], probe.shapes[min(1, len(probe.shapes) - 1)]
    attempts = [(np.minimum(probe.lengths[row], STEPS), None)]
    # A model that needs more steps than a few runs at those of the data.
    attempts += [(np.minimum(probe.lengths[row], first), following)]
    for last, (steps, padded) in enumerate(attempts, 1 - len(attempts)):
        if padded is None:
            padded = steps + PADDING
        short, long = (probe.batch(np.array([row]), steps[None], size) for size in (steps, padded))
        try:
            moved = _difference(*_run(model, (short, long), losses))
        except Exception:
            if last == 0 or (padded == steps).all():
                raise
            continue
        if not moved:
            return ""
        random = bool(_difference(*_run(model, (short, short), losses, same_draws=False)))
        return _describe(model, probe, steps, moved, losses, random)
    return ""


def _difference(outputs: list, measured: list) -> str:
    """Returns what differs between two runs, empty if nothing."""
    compared, noise = False, 0.0
    for a, b in zip(*map(tree.flatten, outputs), strict=True):
        limit = MOVED.get(keras.backend.standardize_dtype(a.dtype), 1e-3)
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        if a.ndim != b.ndim or a.ndim == 0 or np.any(np.array(a.shape) > b.shape):
            continue
        difference, scale, finite, _ = compare(b[tuple(map(slice, a.shape))], a)
        compared |= finite > 0
        noise = max(noise, difference / (scale or 1.0))
        if difference > limit * scale:
            return "valid outputs"
    if not compared:
        raise ValueError("its outputs have no finite values, or do not come row by row")
    for name in measured[0]:
        a, b = (float(np.mean(ops.convert_to_numpy(values[name]))) for values in measured)
        # Where predictions hardly differ between steps, padding changes a mean little, so the limit is low.
        if abs(a - b) > max(1e-4, 3 * noise) * max(abs(a), abs(b)):
            return "loss" if name == "loss" else f"metric {name!r}"
    return ""


def _run(model: keras.Model, batches: tuple, losses: bool, same_draws: bool = True) -> tuple[list, list]:
    """Returns a model's outputs for each batch, and if `losses` is true, its loss and metrics; it stays as it is.

    With `same_draws` its layers draw the same random numbers for each batch, as far as shapes allow.
    """
    if not model.built or (losses and keras.backend.backend() == "tensorflow"):
        # On TensorFlow, Keras builds model, loss and metrics in the first step. A stateless scope must find them built.
        with any_length(model), untouched(model):
            x = _tensors(batches[0].x)
            outputs = model(x, training=False)
            if losses:
                _measure(model, x, batches[0], outputs)
    variables, values = model.variables, _values(model)

    def compute(values: list) -> tuple[list, list]:
        outputs, measured = [], []
        for batch in batches:
            with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
                x = _tensors(batch.x)
                outputs.append(model(x, training=False))
                measured.append(_measure(model, x, batch, outputs[-1]) if losses else {})
            if not same_draws:
                values = [scope.get_current_value(variable) for variable in variables]
        return outputs, measured

    backend = keras.backend.backend()
    with any_length(model):
        if backend == "jax" and model.supports_jit and not model.run_eagerly:
            import jax

            # Eagerly, JAX compiles every loop of a model for itself, which takes longer. Without optimization, a
            # forward pass over a few steps compiles in a small part of the time that the training step takes.
            cpu = jax.default_backend() == "cpu"
            options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True} if cpu else {}
            return jax.jit(compute).lower(values).compile(compiler_options=options)(values)
        if backend == "torch":
            import torch

            with torch.no_grad():
                return compute(values)
        return compute(values)


def _measure(model: keras.Model, x: Any, batch: ProbeBatch, outputs: Any) -> dict[str, Any]:
    """Returns the loss and the metrics of one batch; nothing where `fit` itself is going to raise."""
    if not model.compiled or batch.y is None:
        return {}
    y, weight = _tensors(batch.y), _tensors(batch.sample_weight)
    try:
        loss = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight, training=False)
        model.reset_metrics()
        values = {**model.compute_metrics(x, y, outputs, weight), "loss": loss}
    except Exception:
        return {}
    return {name: value for name, value in values.items() if value is not None}


def _tensors(part: Any) -> Any:
    return None if part is None else tree.map_structure(ops.convert_to_tensor, part)


def _describe(model: keras.Model, probe: Probe, steps: np.ndarray, moved: str, losses: bool, random: bool) -> str:
    """Returns the warning: what changes, which layer is at fault, and the remedy.

    For a random model in which no layer is at fault, it is empty.
    """
    rows = np.argsort(-probe.lengths.sum(axis=1), kind="stable")[:2]
    lengths = np.maximum(np.minimum(probe.lengths[rows], steps) - np.arange(len(rows))[:, None], 1)
    text = f"padding changes the {moved} of {model.name!r}. "
    try:
        audit = audit_batch(model, probe.batch(rows, lengths, lengths.max(axis=0)), PADDING)
        found = [row for row in audit.rows if row.remedy and (losses or row.kind not in ("loss", "metric"))]
        if random and not found:  # the random numbers made the difference, not padding
            return ""
        text += f"{found[0].layer}: {found[0].remedy}. " if found else ""
    except Exception as error:
        text += f"The layer at fault could not be found ({type(error).__name__}: {error}). "
    return text + "`print(keras_seqx.audit_masking(model, data))` shows every layer."


def _values(model: keras.Model) -> list[Any]:
    """Returns the values of a model's variables; those that are constant, as biases before training, hide padding.

    They get others, where they are trainable.
    """
    rng, values = np.random.default_rng(0), []
    for variable in model.variables:
        values.append(variable.value)
        if variable.trainable and np.prod(variable.shape) <= LARGE:
            value = ops.convert_to_numpy(variable.value)
            if value.size and (value == value.flat[0]).all():
                noise = rng.normal(0.0, 0.5, value.shape)
                values[-1] = ops.convert_to_tensor(value.astype("float32") + noise, variable.dtype)
    return values
