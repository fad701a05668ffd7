"""Any cell, list of cells, nested stack or RNN layers, behind one stepping interface."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core import control_flow, errors, keras_internals
from keras_seqx._decoder.random_cell import RandomCell

CELL = "an RNN cell, an RNN layer, or a list of those"
HELP = "Pass for example `keras.layers.LSTMCell(40)`, a list of cells, or your own layer with `call` and `state_size`"


class CellStack:
    """The cells of a decoder, flattened into one sequence of cells and one list of states.

    A plain object, invisible to Keras' tracking: the layers belong to its owner.

    Args:
        cell: what the user gave, see `CELL`.
        owner: the layer that the cells serve; named in errors, its dtype policy is the default.
    """

    def __init__(self, cell: Any, owner: keras.layers.Layer):
        self.cells = [Cell(c, owner) for c in _leaves(cell, owner)]
        self.state_count = sum(len(c.state_specs) for c in self.cells)
        self.takes_memory = any(c.takes_memory for c in self.cells)
        self.needs_memory = any(c.needs_memory for c in self.cells)
        # How many steps the cells remember, None for no bound.
        self.max_length = min((c.max_length for c in self.cells if c.max_length is not None), default=None)

    def build(self, width: int, memory: keras.KerasTensor | None) -> keras.KerasTensor:
        """Builds every cell for inputs (B, width); returns the last cell's output spec, (None, H)."""
        output = None
        for cell in self.cells:
            output = cell.build(width, memory)
            width = output.shape[-1]
        return output

    @property
    def state_specs(self) -> list[keras.KerasTensor]:
        """One state spec (None, ...) for each state tensor, in order."""
        return [spec for cell in self.cells for spec in cell.state_specs]

    def initial_states(self, batch_size: Any, memory: Any = None) -> list[Any]:
        """Returns the cells' own initial states as one flat list."""
        return [state for cell in self.cells for state in cell.initial_states(batch_size, memory)]

    def prepare_memory(self, memory: Any, memory_mask: Any) -> list[dict[str, Any]]:
        """Returns the loop constants of each cell, `prepare_memory` called once where a cell has it."""
        return [cell.prepare_memory(memory, memory_mask) for cell in self.cells]

    def step(self, x: Any, states: Sequence[Any], training: bool, memories: Sequence[dict]) -> tuple[Any, list[Any]]:
        """One step through all cells: x (B, width) -> output (B, H), new states."""
        return self._through(
            lambda cell, x, states, memory: cell.step(x, states, training, memory), x, states, memories
        )

    def step_with_alignments(
        self, x: Any, states: Sequence[Any], memories: Sequence[dict]
    ) -> tuple[Any, list[Any], Any]:
        """One step in inference, and where the cells looked: the mean alignments (B, S) of those that attend."""
        alignments = []

        def run(cell, x, states, memory):
            if not cell.gives_alignments:
                return cell.step(x, states, False, memory)
            (x, weights), states = cell.step(x, states, False, {**memory, "return_alignments": True})
            alignments.append(ops.cast(weights, "float32"))
            return x, states

        x, new_states = self._through(run, x, states, memories)
        return x, new_states, sum(alignments[1:], alignments[0]) / len(alignments)

    @property
    def gives_alignments(self) -> bool:
        """Whether any cell attends to the memory and tells where."""
        return any(cell.gives_alignments for cell in self.cells)

    def sequence(
        self,
        x: Any,
        states: Sequence[Any],
        training: bool,
        memories: Sequence[dict],
        length: Any,
        variables: Sequence[Any],
        is_initial_state: bool = False,
    ) -> tuple[Any, list[Any]]:
        """A whole sequence, cell by cell: x (B, T, width) -> outputs (B, T, H), last states.

        `is_initial_state` tells that the states are the cells' own initial ones, which spares some cells work.
        """
        return self._through(
            lambda cell, x, states, memory: cell.sequence(
                x, states, training, memory, length, variables, is_initial_state
            ),
            x,
            states,
            memories,
        )

    def _through(self, run, x, states, memories):
        states, new_states = list(states), []
        for cell, memory in zip(self.cells, memories, strict=True):
            own = [states.pop(0) for _ in cell.state_specs]
            x, own = run(cell, x, own, memory)
            new_states.extend(own)
        return x, new_states

    @contextlib.contextmanager
    def dropout_masks(self, x: Any, states: Sequence[Any], training: bool, memories: Sequence[dict]) -> Iterator[None]:
        """Has every dropout mask of the cells drawn before a loop, held through it, and forgotten after.

        Keras' cells draw a mask at the first step that needs it and keep it. One discarded step outside the
        loop makes them do so where the draw is allowed, whatever cells the user's cells hold inside.
        """
        if not training:  # no cell draws a mask, and the walk through the layers would cost every prediction
            yield
            return
        try:
            self.draw_dropout_masks(x, states, memories)
            yield
        finally:
            self.forget_dropout_masks()

    @property
    def has_dropout(self) -> bool:
        """Whether any cell holds dropout masks through a loop."""
        holders = [sub for cell in self.cells for sub in cell.dropout_holders() if not isinstance(sub, RandomCell)]
        return any(holder.dropout or holder.recurrent_dropout for holder in holders)

    def draw_dropout_masks(self, x: Any, states: Sequence[Any], memories: Sequence[dict]) -> None:
        """Has every cell draw its dropout masks, by one discarded step."""
        self.forget_dropout_masks()  # a loop that ended in an error may have left some
        if self.has_dropout:
            self.step(x, states, True, memories)

    def forget_dropout_masks(self) -> None:
        """Has the cells draw new masks in the next loop."""
        for cell in self.cells:
            cell.forget_dropout_masks()

    def derive_seeds(self) -> None:
        """Prepares the cells that draw at every step for a loop of Keras' RNN."""
        for cell in self.cells:
            for holder in cell.dropout_holders():
                if isinstance(holder, RandomCell):
                    holder.derive_seeds()


class Cell:
    """One cell and how to call it."""

    def __init__(self, layer: keras.layers.Layer, owner: keras.layers.Layer):
        self.owner = owner
        self.layer = layer.cell if isinstance(layer, keras.layers.RNN) else layer
        self.use_cudnn = getattr(layer, "use_cudnn", "auto")
        # Keras hands a cell its states as a list, a single one included.
        states = self._own_initial_state(batch_size=1)
        self.state_structure = list(states) if isinstance(states, (list, tuple)) else [states]
        self.states_nest = any(map(tree.is_nested, self.state_structure))
        self.state_specs = self._specs()
        # A cell that may be called without memory has just the argument; one that needs or refuses it declares that.
        self.needs_memory = bool(getattr(self.layer, "takes_memory", False))
        self.takes_memory = getattr(self.layer, "takes_memory", takes(self.layer, "memory"))
        self.gives_alignments = self.takes_memory and takes(self.layer, "return_alignments")
        self.max_length = getattr(self.layer, "max_length", None)
        self.call = {training: fast_call(self.layer, owner, training) for training in (False, True)}
        in_scope = _in_scope_of(self.layer, owner)
        self.fused = self._fused() if in_scope else None
        self.call_sequence = getattr(self.layer, "call_sequence", None) if in_scope else None
        self.output: keras.KerasTensor | None = None

    def _specs(self) -> list[keras.KerasTensor]:
        """The states' specs; a state as long as the memory, which is not known yet, has an open axis."""
        states = [ops.convert_to_tensor(state) for state in tree.flatten(self.state_structure)]
        sizes = tree.flatten(self.layer.state_size)
        sizes = sizes if len(sizes) == len(states) else [0] * len(states)
        return [
            keras.KerasTensor(
                (None, *state.shape[1:-1], None) if size is None else (None, *state.shape[1:]), state.dtype
            )
            for state, size in zip(states, sizes, strict=True)
        ]

    def _fused(self) -> keras.layers.RNN | None:
        """Keras' own layer around this cell, where that is the faster way through a whole sequence."""
        kinds = {keras.layers.LSTMCell: keras.layers.LSTM, keras.layers.GRUCell: keras.layers.GRU}
        kind = kinds.get(type(self.layer))
        if kind is None:
            return None
        fused = kind(
            self.layer.units,
            return_sequences=True,
            use_cudnn=self.use_cudnn,
            dtype=self.layer.dtype_policy,
            name=self.layer.name,
        )
        fused.cell = self.layer
        return fused if control_flow.beats_scan(fused) else None

    def dropout_holders(self) -> list[Any]:
        """Returns the cells in this one, itself included, that Keras' RNN has draw before its loop."""
        return [sub for sub in keras_internals.sublayers(self.layer) if hasattr(sub, "reset_recurrent_dropout_mask")]

    def forget_dropout_masks(self) -> None:
        for holder in self.dropout_holders():
            holder.reset_dropout_mask()
            holder.reset_recurrent_dropout_mask()

    def build(self, width: int, memory: keras.KerasTensor | None) -> keras.KerasTensor:
        x = keras.KerasTensor((None, width), dtype=self.layer.compute_dtype)
        kwargs = {"memory": memory} if self.takes_memory and memory is not None else {}
        # A symbolic call builds what is not yet built, however the cell does it, and tells the output's width.
        try:
            output, _ = keras_internals.call_symbolically(self.layer, x, self._pack(self.state_specs), **kwargs)
        except Exception as error:
            shapes = f"called on x {x.shape} and states {[spec.shape for spec in self.state_specs]}"
            fix = "A cell built before must have been built for that width"
            raise ValueError(errors.message(self.owner, "cell", CELL, self.layer, fix, f"{shapes}: {error}")) from error
        finally:
            self.forget_dropout_masks()
        self.output = keras.KerasTensor(output.shape, dtype=output.dtype)
        return self.output

    def initial_states(self, batch_size: Any, memory: Any = None) -> list[Any]:
        states = tree.flatten(self._own_initial_state(batch_size, memory))
        return [ops.cast(s, spec.dtype) for s, spec in zip(states, self.state_specs, strict=True)]

    def _own_initial_state(self, batch_size: Any, memory: Any = None) -> Any:
        if hasattr(self.layer, "get_initial_state"):
            own = self.layer.get_initial_state
            kwargs = {"memory": memory} if "memory" in inspect.signature(own).parameters else {}
            return own(batch_size=batch_size, **kwargs)
        dtype = self.layer.compute_dtype
        return tree.map_structure(lambda size: ops.zeros((batch_size, size), dtype=dtype), self.layer.state_size)

    def prepare_memory(self, memory: Any, memory_mask: Any) -> dict[str, Any]:
        if not self.takes_memory or memory is None:
            return {}
        if hasattr(self.layer, "prepare_memory"):
            memory = self.layer.prepare_memory(memory, memory_mask)
        return {"memory": memory, "memory_mask": memory_mask}

    def step(self, x: Any, states: Sequence[Any], training: bool, memory: dict) -> tuple[Any, list[Any]]:
        output, new_states = self.call[training](x, self._pack(states), **memory)
        return output, _cast_as(tree.flatten(new_states), states)

    def sequence(
        self,
        x: Any,
        states: Sequence[Any],
        training: bool,
        memory: dict,
        length: Any,
        variables: Sequence[Any],
        is_initial_state: bool,
    ) -> tuple[Any, list[Any]]:
        if self.fused is not None:
            _, outputs, states = self.fused.inner_loop(x, list(states), mask=None, training=training)
            return outputs, list(states)
        if self.call_sequence is not None:
            outputs, new_states = self.call_sequence(
                x, self._pack(states), training=training, is_initial_state=is_initial_state, **memory
            )
            return outputs, _cast_as(tree.flatten(new_states), states)

        def step(states, x):
            output, states = self.step(x, states, training, memory)
            return states, output

        last, outputs = control_flow.scan(step, list(states), x, length, output=self.output, variables=variables)
        return outputs, last

    def _pack(self, states: Sequence[Any]) -> list[Any]:
        # Where each step runs eagerly, packing costs as much as a small product.
        return tree.pack_sequence_as(self.state_structure, list(states)) if self.states_nest else list(states)


def _cast_as(new_states: Sequence[Any], states: Sequence[Any]) -> list[Any]:
    return [ops.cast(n, o.dtype) if n.dtype != o.dtype else n for n, o in zip(new_states, states, strict=True)]


def fast_call(layer: keras.layers.Layer, owner: keras.layers.Layer, training: bool) -> Callable:
    """Returns the cheapest faithful way to call a built `layer` at every step from within `owner`.

    Where each step runs eagerly, `Layer.__call__` takes longer than a small layer's work. It may be left out where the
    owner has done all that it would do: the layer is built, and the dtype scope open.
    """
    direct = control_flow.RUNS_EVERY_STEP_EAGERLY and _in_scope_of(layer, owner)
    call = layer.call if direct else layer
    return functools.partial(call, training=training) if takes(layer, "training") else call


def _in_scope_of(layer: keras.layers.Layer, owner: keras.layers.Layer) -> bool:
    same = (layer.compute_dtype, layer.variable_dtype) == (owner.compute_dtype, owner.variable_dtype)
    return same and layer.quantization_mode is None


def takes(layer: keras.layers.Layer, argument: str) -> bool:
    """Returns whether the `call` of a layer has an argument of this name."""
    return argument in inspect.signature(layer.call).parameters


def _leaves(cell: Any, owner: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the cells in `cell`, outermost first in input order."""
    if isinstance(cell, (list, tuple)):
        if not cell:
            raise ValueError(errors.message(owner, "cell", CELL, cell, HELP))
        for c in cell:
            yield from _leaves(c, owner)
    elif type(cell) is keras.layers.StackedRNNCells:
        yield from _leaves(cell.cells, owner)
    elif isinstance(cell, keras.layers.RNN):
        if cell.go_backwards or cell.stateful:
            fix = "A decoder runs forwards and takes its state by `initial_state`: leave both options out"
            raise ValueError(
                errors.message(owner, "cell", "an RNN layer without `go_backwards` and `stateful`", cell, fix)
            )
        if type(cell) in (keras.layers.LSTM, keras.layers.GRU):
            yield cell
        else:
            yield from _leaves(cell.cell, owner)
    elif isinstance(cell, keras.layers.Layer) and hasattr(cell, "state_size"):
        yield cell
    else:
        raise TypeError(errors.message(owner, "cell", CELL, cell, HELP))
