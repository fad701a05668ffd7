"""transfer_weights: trained weights into another model."""

import functools
import os
import re
from typing import Any

import keras
import numpy as np

from keras_seqx._core import errors
from keras_seqx.transfer import conversions, optimizer_state
from keras_seqx.transfer.assignment import Transaction
from keras_seqx.transfer.conversions import Inexact, Move
from keras_seqx.transfer.layer_graph import wire
from keras_seqx.transfer.layer_weights import LayerWeights, Weight
from keras_seqx.transfer.matching import Ambiguity, Match, Matcher, is_meant, listed, scopes_of
from keras_seqx.transfer.report import TransferReport, TransferRow
from keras_seqx.transfer.sources import source as sources
from keras_seqx.transfer.sources.source import Source

OWNER = "transfer_weights"
WAYS = ("error", "skip", *conversions.LENGTHS)
MOST = 12  # lines of an error


def transfer_weights(
    source: keras.Model | str | os.PathLike,
    target: keras.Model,
    *,
    mapping: dict[str, str] | None = None,
    on_mismatch: str | dict[str, str] = "error",
    include_optimizer: bool = False,
    dry_run: bool = False,
) -> TransferReport:
    """Gives a model the weights of another model, or of a file of any Keras.

    Layers are paired by path, by name, and by structure and shape, in this order; automatic names (`lstm_3`) count for
    nothing where the graph of layers says more. Where several fit and nothing decides, nothing is paired. Differs from
    `set_weights` and `load_weights` in that the order of the weights means nothing, in what it converts, and in that
    it happens as a whole or not at all.

    What an LSTM or GRU layer, an `RNN` of their cells, of `StackedRNNCells`, and an `AutoregressiveDecoder` of such
    cells learnt are the same arrays, and go from any of these to any other; so do those of `TimeDistributed` and
    `MaskedTimeDistributed`, of CuDNNLSTM and CuDNNGRU in old files, and of stateful models of another batch size. A GRU
    goes to one of another `reset_after` where that is exact.

    Args:
        source: a built model, or the path of a `.keras`, `.weights.h5` or `.h5` file, of Keras 1, 2 or 3, written by
            any backend. Nothing stored in the file is rebuilt, imported or run; a process of its own reads it.
        target: a built model. It is changed in place.
        mapping: dict that pairs layers itself, {source: target}: their names or paths, of which everything below is
            meant, or a regular expression for the source's path and its replacement. Defaults to None.
        on_mismatch: what to do with layers of the target that nothing fits. "error" raises; "skip" leaves them as they
            are; "truncate" and "interpolate" fit tables of positions, which differ in one axis alone, to the target's
            length. A dict of layers, as in `mapping`, to these. Defaults to "error".
        include_optimizer: whether the optimizer's step and slots go along. Both models have to be compiled with the
            same kind of optimizer. Defaults to False.
        dry_run: whether to change nothing and return what would be done. Defaults to False.

    Returns:
        A `TransferReport`, with a row for every variable of the target; `str()` is a table.

    Raises:
        ValueError: a layer of the target that nothing fits, or several; a file that is damaged, hostile or of another
            kind; optimizers that do not agree. The target is as it was, after any error.
        TypeError: a source or a target that is none.
        FileNotFoundError: no such file.

    Example:

    >>> import keras
    >>> from keras_seqx import transfer_weights
    >>> def autoencoder(steps):
    ...     x = keras.Input((steps, 5))
    ...     code = keras.layers.LSTM(8, name="encoder")(x)
    ...     repeated = keras.layers.RepeatVector(steps)(code)
    ...     return keras.Model(x, keras.layers.LSTM(5, return_sequences=True, name="decoder")(repeated))
    >>> report = transfer_weights(autoencoder(60), autoencoder(120))
    >>> report.counts
    {'copied': 6}

    References:
        - Keras, `keras/src/saving/saving_lib.py` and `legacy/saving/legacy_h5_format.py`, the formats.
    """
    _check(target, on_mismatch)
    with sources.opened(source) as opened:
        theirs = sources.of_model(target, "target")
        scopes = []
        if mapping is not None:
            scopes = scopes_of(mapping, opened.units, theirs.units, (opened.label, target.name))
        graphs = [wire(side.config, side.units) for side in (opened, theirs)]
        match = Matcher(opened.units, theirs.units, [graph for graph in graphs if graph is not None]).match(scopes)
        if match.ambiguities:
            raise ValueError(_ambiguous(source, match.ambiguities))
        plan, problems = _plan(opened, theirs, match, _ways(on_mismatch, theirs.units))
        if problems:
            raise ValueError(_mismatch(source, on_mismatch, problems))
        of_weights = [move for moves in plan.values() for move in moves]
        moves = list(of_weights)
        if include_optimizer:
            pairs = [(opened.units[s], theirs.units[t]) for t, s in match.pairs.items()]
            of_optimizer = optimizer_state.moves(opened, target, pairs, of_weights)
            if not (dry_run or target.optimizer.built):
                target.optimizer.build(target.trainable_variables)
                of_optimizer = optimizer_state.moves(opened, target, pairs, of_weights)
            moves += of_optimizer
        _carry_out(moves, theirs, source, dry_run)
        return _report(opened, theirs, match, plan, moves[len(of_weights) :], dry_run)


def _check(target: Any, on_mismatch: Any) -> None:
    if not isinstance(target, keras.Model):
        raise TypeError(errors.message(OWNER, "target", "a Keras model", target, "Pass the model to be changed"))
    fix = f"Choose among {', '.join(map(repr, WAYS))}, or give a dict of layers to these"
    ways = on_mismatch.values() if isinstance(on_mismatch, dict) else [on_mismatch]
    if not all(isinstance(way, str) and way in WAYS for way in ways):
        raise ValueError(errors.message(OWNER, "on_mismatch", f"one of {WAYS}", on_mismatch, fix))


def _ways(on_mismatch: str | dict[str, str], units: list[LayerWeights]) -> list[str]:
    """Returns what to do with each unit of the target, should nothing fit it."""
    if isinstance(on_mismatch, str):
        return [on_mismatch] * len(units)
    ways, fix = ["error"] * len(units), "Name layers of the target, by a path, a name or a regular expression"
    for key, way in on_mismatch.items():
        try:
            named = [i for i, unit in enumerate(units) if is_meant(key, unit)]
        except re.error as error:
            what = "of valid regular expressions"
            raise ValueError(errors.message(OWNER, "on_mismatch", what, {key: way}, fix, str(error))) from error
        if not named:
            known = f"the target has {listed(units)}"
            raise ValueError(errors.message(OWNER, "on_mismatch", "of layers of the target", {key: way}, fix, known))
        for i in named:
            ways[i] = way
    return ways


def _plan(source: Source, target: Source, match: Match, ways: list[str]) -> tuple[dict[int, list[Move]], list[str]]:
    """Returns what to do for each unit of the target, and a line for each that nothing can be done for."""
    plan: dict[int, list[Move]] = {}
    problems: list[str] = []
    for i, unit in enumerate(target.units):
        s = match.pairs.get(i, match.clashes.get(i))
        ours = None if s is None else source.units[s]
        reason = ""
        try:
            if ours is not None:
                plan[i] = conversions.moves(ours, unit) if i in match.pairs else _fitted(ours, unit, ways[i])
        except Inexact as error:
            reason = str(error)
        if i not in plan:
            plan[i] = [Move(weight, None, "kept") for weight in unit.weights]
            if ways[i] != "skip" and not (ours is None and unit.is_setting):
                problems.append(_problem(unit, ours, reason, source.units))
        elif any(move.source is not None and move.target.variable is None for move in plan[i]):
            problems.append(f"{unit.path!r} computes its weights (LoRA or quantization) and cannot be given any")
    return plan, problems


def _fitted(source: LayerWeights, target: LayerWeights, way: str) -> list[Move]:
    """Returns the moves for units of other shapes."""
    moves = []
    for ours, theirs in zip(source.weights, target.weights, strict=True):
        move = conversions.copy(ours, theirs) if ours.shape == theirs.shape else None
        if move is None and way in conversions.LENGTHS:
            move = conversions.resized(ours, theirs, way)
        if move is None:
            asked = f" ({way!r} fits tables of positions alone)" if way in conversions.LENGTHS else ""
            raise Inexact(f"`{theirs.name}` has another shape{asked}")
        moves.append(move)
    return moves


def _carry_out(moves: list[Move], target: Source, source: Any, dry_run: bool) -> None:
    """Reads every value and assigns it, all or none; a dry run assigns none."""
    with Transaction() as transaction:
        for move in moves:
            if move.value is None or move.source is None:
                continue
            read = functools.partial(_value, move.value, move.source.name, move.target.shape, source)
            if dry_run:
                read()
            else:
                transaction.assign(move.target.variable, read)
    if not dry_run:
        for unit in target.units:
            if hasattr(unit.layer, "finalize_state"):  # Normalization keeps what it works with outside its variables
                unit.layer.finalize_state()


def _value(read: Any, name: str, shape: tuple[int, ...], source: Any) -> np.ndarray:
    try:
        value = np.asarray(read())
    except (TypeError, KeyError, IndexError, ValueError) as error:
        if str(error).startswith(f"{OWNER}: "):
            raise
        raise ValueError(_unreadable(source, f"{name!r}: {error}")) from error
    if value.shape != shape:
        raise ValueError(_unreadable(source, f"{name!r} turned out to have shape {value.shape}"))
    return value


def _unreadable(source: Any, context: str) -> str:
    fix = "Load it with the Keras that wrote it and save the weights again"
    return errors.message(OWNER, "source", "readable", source, fix, context)


def _problem(unit: LayerWeights, ours: LayerWeights | None, reason: str, units: list[LayerWeights]) -> str:
    shapes = ", ".join(f"{weight.name} {weight.shape}" for weight in unit.weights)
    line = f"{unit.path or 'the model itself'!r} ({shapes})"
    if ours is None:
        known = ", ".join(dict.fromkeys(repr(u.path) for u in units[:MOST]))
        return f"{line}: nothing in the source fits; it has {known}{' and more' if len(units) > MOST else ''}"
    shapes = ", ".join(f"{weight.name} {weight.shape}" for weight in ours.weights)
    return f"{line}: from {ours.path!r} ({shapes})" + (f", {reason}" if reason else "")


def _mismatch(source: Any, on_mismatch: Any, problems: list[str]) -> str:
    more = [f"and {len(problems) - MOST} more"] if len(problems) > MOST else []
    lines = "\n  ".join(["these layers of the target were not given weights", *problems[:MOST], *more])
    fix = 'Build the target to fit, pair layers by `mapping`, or leave these as they are by `on_mismatch="skip"`'
    return errors.message(OWNER, "source", "of weights that fit the target", source, fix, lines)


def _ambiguous(source: Any, ambiguities: list[Ambiguity]) -> str:
    lines = ["several would do, and nothing decides"]
    mapping: dict[str, str] = {}
    for ambiguity in ambiguities[:MOST]:
        ours, theirs = ([unit.path for unit in units] for units in (ambiguity.sources, ambiguity.targets))
        lines.append(f"{', '.join(map(repr, theirs))} of the target: {', '.join(map(repr, ours))} of the source")
        mapping |= dict(zip(ours, theirs, strict=False))
    fix = f"Say which is which, if it is so by `mapping={mapping!r}`"
    return errors.message(OWNER, "source", "of layers that can be told apart", source, fix, "\n  ".join(lines))


# What changes the numbers and no shape, and what holds where a configuration is silent.
SETTINGS = {
    "activation": None,
    "recurrent_activation": None,
    "epsilon": None,
    "padding": None,
    "strides": None,
    "go_backwards": None,
    "time_major": False,
}


def _notes(pairs: list[tuple[LayerWeights, LayerWeights]]) -> list[str]:
    """Returns what layers that were paired do differently, though their weights fit."""
    notes = []
    for ours, theirs in pairs:
        for key, default in SETTINGS.items():
            settings = [unit.config.get(key, default) for unit in (theirs, ours) if unit.config]
            settings = [list(value) if isinstance(value, tuple) else value for value in settings]
            if len(settings) == 2 and None not in settings and settings[0] != settings[1]:
                notes.append(f"`{key}` of {theirs.path!r} is {settings[0]!r}, in the source {settings[-1]!r}")
    return notes


def _report(
    source: Source, target: Source, match: Match, plan: dict[int, list[Move]], more: list[Move], dry_run: bool
) -> TransferReport:
    given = {i: source.units[s] for i, s in {**match.clashes, **match.pairs}.items()}
    rows = [_row(move, target.units[i], given.get(i)) for i, moves in plan.items() for move in moves]
    for move in more:
        name, shape = (move.source.name, move.source.shape) if move.source else (None, None)
        rows.append(TransferRow(move.target.name, name, move.target.shape, shape, move.action))
    used = {id(move.source) for moves in plan.values() for move in moves}
    unused = [_path(u, w) for u in source.units for w in u.weights if id(w) not in used]
    pairs = [(source.units[s], target.units[t]) for t, s in match.pairs.items()]
    return TransferReport(tuple(rows), tuple(unused), tuple(_notes(pairs)), dry_run)


def _row(move: Move, unit: LayerWeights, ours: LayerWeights | None) -> TransferRow:
    if move.source is None or ours is None:
        return TransferRow(_path(unit, move.target), None, move.target.shape, None, move.action)
    source = move.source
    name = move.target.name if source.name.isdecimal() else source.name  # today's files number a layer's weights
    return TransferRow(
        _path(unit, move.target), f"{ours.path}/{name}".lstrip("/"), move.target.shape, source.shape, move.action
    )


def _path(unit: LayerWeights, weight: Weight) -> str:
    return f"{unit.path}/{weight.name}".lstrip("/")
