"""The compiled state of one model for another: optimizer, losses and metrics."""

from typing import Any

import keras
from keras import tree

from keras_seqx._core import errors, keras_internals


def compile_like(old: keras.Model, new: keras.Model, variables: dict[int, Any]) -> None:
    """Compiles a model as another one was, with an optimizer of its own that has not stepped yet.

    Losses and functions are the same objects; metrics have a state, so new ones are made.

    Args:
        old: the model to compile like; one that is not compiled has no effect.
        new: the model to compile, with the same layers.
        variables: the new model's variables, by the id of the old one's.
    """
    if not old.compiled:
        return
    if type(old).compile is not keras.Model.compile:
        own = {type(old).get_compile_config, type(old).compile_from_config}
        if own & {keras.Model.get_compile_config, keras.Model.compile_from_config}:
            fix = "Implement `get_compile_config` and `compile_from_config` in its class"
            what = "compiled by Keras' own `compile`, or able to tell how it was"
            raise ValueError(errors.message("change_timesteps", "model", what, old.name, fix))
        new.compile_from_config(old.get_compile_config())
        return
    settings = keras_internals.compile_arguments(old)
    settings["metrics"] = _anew(settings["metrics"])
    settings["weighted_metrics"] = _anew(settings["weighted_metrics"])
    scaled = isinstance(old.optimizer, keras.optimizers.LossScaleOptimizer)
    optimizer = old.optimizer and _revive(old.optimizer)
    if optimizer is not None:
        _keep_exclusions(old, optimizer, variables)
    new.compile(**{**settings, "optimizer": optimizer}, auto_scale_loss=scaled)
    if optimizer is not None and old.optimizer.built:
        new.optimizer.build(new.trainable_variables)


def _anew(metrics: Any) -> Any:
    return tree.map_structure(lambda m: _revive(m) if isinstance(m, keras.metrics.Metric) else m, metrics)


def _revive(part: Any) -> Any:
    """Returns an object of the same class and config."""
    try:
        return type(part).from_config(part.get_config())
    except Exception as error:
        fix = "Implement `get_config` and `from_config` in its class"
        context = f"{type(part).__name__} '{part.name}': {str(error).strip().splitlines()[0]}"
        what = "compiled with an optimizer and metrics that have a config"
        raise ValueError(errors.message("change_timesteps", "model", what, part.name, fix, context)) from error


def _keep_exclusions(old: keras.Model, optimizer: Any, variables: dict[int, Any]) -> None:
    """Excludes from weight decay what was excluded; configs do not say it."""
    if not getattr(optimizer, "weight_decay", None):
        return
    excluded = [variables[id(v)] for v in old.trainable_variables if not keras_internals.decays(old.optimizer, v)]
    if excluded:
        optimizer.exclude_from_weight_decay(var_list=excluded)
