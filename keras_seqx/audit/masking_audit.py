"""audit_masking: who in a model breaks the law that padding changes nothing."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_seqx._core import errors
from keras_seqx._core.probe import Probe, ProbeBatch, Probed
from keras_seqx.audit.attribution import Attribution, Finding
from keras_seqx.audit.comparison import Reference
from keras_seqx.audit.inputs import Batch, read, read_lengths
from keras_seqx.audit.losses import measure, measure_padded
from keras_seqx.audit.losses import rows as loss_rows
from keras_seqx.audit.mask_sources import Sources, mask_sources, own_lengths, run_padded
from keras_seqx.audit.remedies import VERDICTS, remedy
from keras_seqx.audit.report import AuditRow, MaskingAudit
from keras_seqx.audit.trace import Recording, Refused, data_calls, models


def audit_masking(
    model: keras.Model, x: Any, y: Any = None, *, lengths: Any = None, extra_padding: int = 3
) -> MaskingAudit:
    """Finds the layers of a model that let padding change valid results.

    The law is that padding changes nothing: no valid output, no loss, no metric, no statistic that a layer keeps for
    inference; and no row of a batch changes another. The model runs on the rows as they are, without padding, and on
    the batch with more padding than it came with. Each layer is judged alone: it gets the right inputs even if the
    layer before it spoils them, so that all offenders are found at once. A layer that goes wrong only because another
    one lost the mask is called again with the mask restored, and if that helps, the other one is at fault.

    The padding is noise wherever the model has lengths to go by; else the value of its Masking layer, or 0, and the
    model then runs on the mirror image of `x` too, as a maximum does not see zeros behind larger values. In models
    that were built for one number of steps, the length is opened for the audit. The layers of nested models are
    judged, those inside another layer (the cell of an RNN) are not; of a subclassed model the operations between its
    layers are seen as one, `{name}.call`. The model is left as it was: weights, statistics, metrics, seeds.

    Args:
        model: a Keras model, compiled if its loss and metrics are to be checked.
        x: what `model.predict` takes as one batch: an array (B, T, ...) or a list, tuple or dict of arrays. A few rows
            of two or three lengths say as much as many. Or a `LengthBucketing`, of which a few short sequences are
            taken, with their lengths, targets and weights.
        y: what `model.evaluate` takes with it. Default None: targets are made up.
        lengths: integers (B,), the valid steps of each row; where inputs have lengths of their own, a structure of them
            like `x`, with None for what is no sequence. Default None: those that the masks of the model give to `x`,
            and all steps where it makes none.
        extra_padding: number of steps to add, at least 1. Default 3.

    Returns:
        A `MaskingAudit`. `str()` is the table: a row for every layer, who is at fault, and how to mend it. In a test,
        `audit_masking(model, x).raise_on_leak()` is all it takes.

    Raises:
        TypeError: `model` is no Keras model, or `extra_padding` no integer.
        ValueError: `x`, `y` or `lengths` do not fit, the model fails on them, or it runs at one length only. What the
            model raised is part of the message, and the cause of the error.

    Example:

    >>> import keras, numpy as np
    >>> from keras import layers
    >>> from keras_seqx import audit_masking
    >>> ids = keras.Input((None,), dtype="int32")
    >>> words = layers.Embedding(10, 4, mask_zero=True)(ids)
    >>> louder = layers.GlobalAveragePooling1D()(words * 2)
    >>> audit = audit_masking(keras.Model(ids, louder), np.array([[3, 7, 5, 1], [4, 9, 0, 0]]))
    >>> len(audit.leaks), audit.first_leak.startswith("multiply")
    (1, True)
    >>> [row.verdict for row in audit.rows]
    ['ok', 'mask lost', 'misled']
    >>> better = layers.GlobalAveragePooling1D()(layers.Rescaling(2.0)(words))
    >>> audit_masking(keras.Model(ids, better), np.array([[3, 7, 5, 1], [4, 9, 0, 0]])).leaks
    []
    """
    extra = errors.positive_integer("audit_masking", "extra_padding", extra_padding, "Leave it out for 3 steps")
    if not isinstance(model, keras.Model):
        fix = "Wrap a layer into a model: `keras.Sequential([layer])`"
        raise TypeError(errors.message("audit_masking", "model", "a Keras model", model, fix))
    weights = None
    if isinstance(x, Probed):
        for name, value in (("y", y), ("lengths", lengths)):
            if value is not None:
                fix = "Leave it out: the data set has its own"
                raise ValueError(errors.message("audit_masking", name, "None where `x` is a data set", value, fix))
        x, y, weights, lengths = whole_batch(x.probe())
    return _audit_batch(model, ProbeBatch(x, y, weights, lengths), extra)


def audit_batch(model: keras.Model, batch: ProbeBatch, extra: int) -> MaskingAudit:
    """Returns the audit on a batch of few steps, also of a model that was declared for more."""
    with any_length(model):
        return _audit_batch(model, batch, extra)


def whole_batch(probe: Probe) -> ProbeBatch:
    """Returns the sequences of a probe as one batch."""
    return probe.batch(np.arange(len(probe.lengths)), probe.lengths, probe.lengths.max(axis=0))


def _audit_batch(model: keras.Model, given: ProbeBatch, extra: int) -> MaskingAudit:
    x, leaves, time = read(model, given.x)
    targets = given.y, given.sample_weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of every layer that loses a mask; the table says so too.
        try:
            if not model.built:
                model(x, training=False)
            with untouched(model):
                first_run = Recording(model, x)
        except Exception as error:
            raise _does_not_run(model, leaves, error) from (error.__cause__ if isinstance(error, Refused) else error)
        sources = mask_sources(first_run, leaves, time)
        if given.lengths is None:
            batch = Batch(x, leaves, own_lengths(first_run, sources, leaves, time))
        else:
            batch = Batch(x, leaves, read_lengths(x, leaves, time, given.lengths))
        with untouched(model), any_length(model):
            try:
                audit, fills = _audit(model, batch, targets, extra, first_run, sources)
                mirrored = batch.mirrored(fills)
                if mirrored is not None:
                    other, _ = _audit(model, mirrored, targets, extra, first_run, sources)
                    # What has no finite values there, as a logarithm, was not made for them.
                    if not other.not_compared and len(other.leaks) > len(audit.leaks):
                        audit = other
                return audit
            except Refused as refused:
                name = refused.where or first_run.calls[min(refused.number, len(first_run.calls) - 1)].name
                where = f"{name} refused inputs of shapes {refused.shapes}: {refused.why}"
                what, fix = "able to run at other numbers of steps", "Leave the time axis of its layers open"
                text = errors.message("audit_masking", "model", what, model.name, fix, where)
                raise ValueError(text) from refused.__cause__


def _does_not_run(model: keras.Model, leaves: list, error: Exception) -> ValueError:
    """Returns the error to raise where the model fails on `x` as it was given."""
    shapes, fix = [np.shape(leaf) for leaf in leaves], "Pass what `model.predict` takes"
    if isinstance(error, Refused) and error.where is not None:
        what, context = "able to run on `x`", f"{error.where} raised {error.why}; `x` has shapes {shapes}"
        fix = f"Mend that layer, or {fix[0].lower()}{fix[1:]}"
        return ValueError(errors.message("audit_masking", "model", what, model.name, fix, context))
    why = error.why if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
    what, context = "inputs that the model runs on", f"its shapes; the model raised {why}"
    return ValueError(errors.message("audit_masking", "x", what, shapes, fix, context))


def _audit(
    model: keras.Model, batch: Batch, given: tuple, extra: int, first_run: Recording, sources: Sources
) -> tuple[MaskingAudit, list]:
    """Returns what was found on one batch, and what it was padded with."""
    calls = data_calls(first_run)
    parts = [(rows, Recording(model, x), slice(None)) for rows, x in batch.groups()]
    reference = Reference(batch.size, parts, calls)
    padded_run, fills = run_padded(model, batch, extra, reference, sources)
    # Before any other run, because what layers add to the loss is that of the last one.
    targets, long, why = measure_padded(model, padded_run, *given) if model.compiled else ((), [], "")
    short, measured = None, []
    if long or any(getattr(call.layer, "non_trainable_weights", []) for call in padded_run.calls[:-1]):
        short = Recording(model, batch.unpadded(padded_run.x), reference)
        measured = measure(model, short, targets) if long else []
    row_swapped_run = repeated_run = None
    if any(match and match.moved for call in padded_run.calls for match in (*call.input_matches, *call.output_matches)):
        every = list(range(batch.size))
        repeated_run = Recording(model, padded_run.x, Reference(batch.size, [(every, padded_run, every)], calls))
        if batch.size > 1:
            # Only then, because the rows had other company in the reference already.
            row = batch.size // 2
            x = tree.map_structure(lambda leaf: leaf if leaf is None else leaf[[row] * batch.size], padded_run.x)
            row_swapped_run = Recording(model, x, Reference(batch.size, [([row], padded_run, [row])], calls))
    attribution = Attribution(reference, padded_run, short, row_swapped_run, repeated_run)
    rows = [_row(finding) for finding in attribution.findings]
    if long:
        masked = any(mask is not None for mask in padded_run.calls[-1].masks)
        seen = not any(match.unseen for match in padded_run.calls[-1].input_matches if match is not None)
        rows += loss_rows(measured, long, masked, bool(attribution.output_culprits), seen)
    notes = [
        f"the statistics of {name} are random in training, so they were not compared"
        for name in attribution.random_statistics
    ]
    return MaskingAudit(tuple(rows), (*notes, *_notes(model, batch, sources, padded_run, bool(long), why))), fills


def _notes(
    model: keras.Model, batch: Batch, sources: Sources, padded_run: Recording, measured: bool, why: str
) -> Iterator[str]:
    floats = [leaf for leaf in batch.leaves if leaf is not None and leaf.dtype.kind == "f"]
    strange = sum(leaf.size - int(np.isfinite(leaf).sum()) for leaf in floats)
    if strange:
        yield f"{strange} of {sum(leaf.size for leaf in floats)} values of `x` are not finite"
    for call in padded_run.calls[:-1]:
        input_matches, output_matches = (
            [match for match in side if match is not None] for side in (call.input_matches, call.output_matches)
        )
        finite, size = sum(match.finite for match in output_matches), sum(match.size for match in output_matches)
        if 0 < finite < size and all(match.finite == match.size for match in input_matches):
            yield f"{call.name} gives {size - finite} of {size} values that are not finite; the others were compared"
    if all(match is None for match in padded_run.calls[-1].input_matches):
        yield "the outputs of the model do not come row by row, so they were not compared"
    if not sources:
        yield "no layer of the model makes a mask, so nothing tells padding from sequence"
    if not model.compiled:
        yield "the loss was not checked, because the model is not compiled"
    elif not measured:
        yield f"the loss was not checked, because it took no made-up targets ({why}): pass `y`"
    if batch.size == 1:
        yield "one row cannot show whether rows are independent: pass more"


def _row(finding: Finding) -> AuditRow:
    at_fault = finding.verdict in VERDICTS
    return AuditRow(
        finding.name,
        type(finding.layer).__name__,
        finding.mask_in,
        finding.mask_out,
        finding.change,
        finding.verdict,
        remedy(finding.layer, finding.verdict) if at_fault else "",
    )


@contextlib.contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Puts back what a run changes: statistics, states, seeds and metrics."""
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    saved = [(variable, np.array(ops.convert_to_numpy(variable))) for variable in variables]
    try:
        yield
    finally:
        model.reset_metrics()
        for variable, value in saved:
            variable.assign(value)


@contextlib.contextmanager
def any_length(model: keras.Model) -> Iterator[None]:
    """Lets models that were declared for one number of steps run at another."""
    saved = [(part, part.input_spec, set(vars(part))) for part in models(model)]
    for part, _, _ in saved:
        part.input_spec = None
    try:
        yield
    finally:
        for part, spec, own in saved:
            part.input_spec = spec
            for name in set(vars(part)) - own:
                object.__delattr__(part, name)  # the specification follows from its inputs again
