"""Whether a model's loss and metrics change with padding."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors
from keras_seqx.audit.attribution import arguments
from keras_seqx.audit.inputs import to_array
from keras_seqx.audit.remedies import COUNTED, ENTRANCE, VERDICTS
from keras_seqx.audit.report import NOT_COMPARED, NOT_FINITE, AuditRow
from keras_seqx.audit.trace import Recording

MOVED = 1e-4  # relative: losses are sums of very many terms


def measure_padded(
    model: keras.Model, padded_run: Recording, y: Any, weights: Any
) -> tuple[tuple, list[dict[str, float]], str]:
    """Returns targets and weights for a padded run, and what `measure` returns for them.

    Where the loss takes no made-up targets, the second is empty, and the third is the last error.
    """
    why = ""
    made: Iterator[tuple]
    if y is None:
        made = ((targets, None) for targets in _targets(padded_run))
    else:
        made = iter([(_padded(y, padded_run), None if weights is None else _padded(weights, padded_run))])
    for targets in made:
        try:
            return targets, measure(model, padded_run, targets), ""
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            if y is not None:
                what, fix = (
                    "targets that the loss accepts",
                    "Pass what `model.evaluate` takes, or no `y`",
                )
                context = f"its shapes; they raised {why}"
                shapes = [np.shape(own) for own in tree.flatten(y)]
                raise ValueError(errors.message("audit_masking", "y", what, shapes, fix, context)) from error
    return (), [], why


def measure(model: keras.Model, run: Recording, targets: tuple) -> list[dict[str, float]]:
    """Returns the loss and the metrics of a run: as they are, and with the masks that the outputs should have had."""
    y, weights = (_cut(part, run) for part in targets)
    measured = []
    for restored in (False, True):
        outputs = arguments(run.calls[-1], restored)
        model.reset_metrics()
        values = {"loss": model.compute_loss(x=run.x, y=y, y_pred=outputs, sample_weight=weights)}
        values = {**model.compute_metrics(run.x, y, outputs, weights), **values}
        measured.append({name: float(np.mean(ops.convert_to_numpy(value))) for name, value in values.items()})
    return measured


def _cut(part: Any, run: Recording) -> Any:
    """Returns targets or weights for as many steps as the outputs have."""
    if part is None:
        return None
    flat = zip(tree.flatten(part), tree.flatten(run.outputs), strict=True)
    cut = [own if own.ndim < 2 or len(out.shape) < 2 else own[:, : out.shape[1]] for own, out in flat]
    return tree.pack_sequence_as(part, list(map(ops.convert_to_tensor, cut)))


def _padded(y: Any, padded_run: Recording) -> Any:
    """Returns targets padded by zeros, where they have the time axis of their output."""
    outputs, matches = tree.flatten(padded_run.outputs), padded_run.calls[-1].input_matches
    flat = [to_array(own) for own in tree.flatten(y)]
    if [len(own) for own in flat] != [len(out) for out in outputs]:
        shapes, fix = [own.shape for own in flat], "Pass what `model.evaluate` takes, or no `y`"
        what = "an array of targets for each output of the model, as many rows as there are in `x`"
        context = f"its shapes, beside outputs of shapes {[tuple(out.shape) for out in outputs]}"
        raise ValueError(errors.message("audit_masking", "y", what, shapes, fix, context))
    for n, (own, out, match) in enumerate(zip(flat, outputs, matches, strict=True)):
        if own.ndim > 1 and match is not None and match.steps is not None:
            more = max(0, out.shape[1] - own.shape[1])
            flat[n] = np.pad(own, [(0, 0), (0, more), *[(0, 0)] * (own.ndim - 2)])
    return tree.pack_sequence_as(y, flat)


def _targets(padded_run: Recording) -> Iterator[Any]:
    """Yields made-up targets, of all the kinds that losses ask for."""
    rng = np.random.default_rng(0)
    shapes = [tuple(out.shape) for out in tree.flatten(padded_run.outputs)]
    for kinds in itertools.product(("dense", "sparse"), repeat=len(shapes)):
        made = [
            rng.uniform(size=shape).astype("float32") if kind == "dense" else np.zeros(shape[:-1], "int32")
            for shape, kind in zip(shapes, kinds, strict=True)
        ]
        yield tree.pack_sequence_as(padded_run.outputs, made)


def rows(
    short: list[dict[str, float]], long: list[dict[str, float]], masked: bool, has_culprit: bool, seen: bool
) -> Iterator[AuditRow]:
    """Yields a row for the loss and one for each metric.

    Args:
        short: what `measure` returned of a run.
        long: the same with more padding.
        masked: whether a mask came with the outputs.
        has_culprit: whether another one lost it.
        seen: whether there are finite values in every output.
    """
    for name in ("loss", *(name for name in short[0] if name != "loss")):
        as_is, mended = (_change(a[name], b[name]) for a, b in zip(short, long, strict=True))
        verdict = "ok" if as_is < MOVED else "leak" if mended >= MOVED else "misled" if has_culprit else "no mask"
        if not any(np.isfinite(run[0][name]) for run in (short, long)):
            verdict = NOT_FINITE if seen else NOT_COMPARED
        remedy = {"leak": COUNTED, "no mask": ENTRANCE, NOT_FINITE: VERDICTS[NOT_FINITE]}.get(verdict, "")
        yield AuditRow(name, "loss" if name == "loss" else "metric", masked, False, as_is, verdict, remedy)


def _change(a: float, b: float) -> float:
    if not (np.isfinite(a) and np.isfinite(b)):
        return 0.0 if a == b or (np.isnan(a) and np.isnan(b)) else np.inf
    return abs(a - b) / (max(abs(a), abs(b)) or 1.0)
