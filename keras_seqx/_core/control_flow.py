"""The one time loop and the one branch, each on the backend's own differentiable primitive.

`keras.ops.scan` wants each output shaped like the carry and has no gradient under XLA on TensorFlow,
`keras.ops.while_loop` has none at all there nor on JAX. This file is the only place that names a backend.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_seqx._core import keras_internals

# Torch runs each step eagerly; the other backends trace one step and compile it.
RUNS_EVERY_STEP_EAGERLY = keras.backend.backend() == "torch"

# TensorFlow cannot: there a branch with a loop in it trains only without `jit_compile`.
XLA_DIFFERENTIATES_LOOPS_IN_BRANCHES = keras.backend.backend() != "tensorflow"

# Where Keras' own loops run as `lax.scan`, in which a variable must not be assigned. `scan` carries them.
SCANS_ASSIGN_NO_VARIABLE = keras.backend.backend() == "jax"


ENDS_EARLY = (
    "keras_seqx: a loop that ends when all rows have cannot be exported from torch, which runs it in Python. Load the "
    "model on another backend, and export it there."
)

Step = Callable[[Any, Any], tuple[Any, Any]]


def scan(
    step: Step,
    carry: Any,
    xs: Any,
    length: Any,
    *,
    output: Any,
    variables: Sequence[Any] = (),
    until: Callable[[Any], Any] | None = None,
) -> tuple[Any, Any]:
    """Runs `carry, y = step(carry, x)` over the time axis of `xs`.

    Args:
        step: takes the carry and a slice of `xs` without its time axis; returns the new carry, of the same
            structure, shapes and dtypes, and the step's output.
        carry: nested structure of tensors.
        xs: nested structure of tensors (B, T, ...); may be empty.
        length: T, an integer, or on TensorFlow a scalar tensor.
        output: `keras.KerasTensor` of one step's output, (B, ...); TensorFlow sizes its buffer by it.
        variables: the Keras variables that `step` reads or assigns. Assignments inside the loop (random
            seeds, moving statistics) are carried from step to step and take effect after it.
        until: takes the carry to a boolean scalar; where it is true, no more steps are run. The first one always is.

    Returns:
        The last carry, and the outputs stacked to (B, T, ...), with any finite values at steps that were not run.
    """
    if RUNS_EVERY_STEP_EAGERLY:
        if exporting() and until is not None:
            refuse_torch_export()
        ys: list[Any] = []
        for t in range(length):
            if ys and until is not None and bool(until(carry)):
                ys += [ys[-1]] * (length - t)
                break
            carry, y = step(carry, tree.map_structure(lambda x, t=t: x[:, t], xs))
            ys.append(y)
        return carry, ops.stack(ys, axis=1)
    carried = _Carried(variables)
    pure_step = carried.pure(step)

    def body(state, x):
        values, (carry, y) = pure_step(state[0], state[1], x)
        return (values, carry), y

    scan_on_backend = _scan_jax if keras.backend.backend() == "jax" else _scan_tensorflow
    ends = until and (lambda state: until(state[1]))
    (values, carry), ys = scan_on_backend(body, (carried.values(), carry), xs, length, output, ends)
    carried.assign(values)
    return carry, ys


def cond(predicate: Any, true_fn: Callable, false_fn: Callable, *, variables: Sequence[Any] = ()) -> Any:
    """Returns `true_fn()` or `false_fn()` by a boolean scalar tensor; `variables` as in `scan`."""
    if RUNS_EVERY_STEP_EAGERLY:
        return ops.cond(predicate, true_fn, false_fn)
    carried = _Carried(variables)
    pure_true, pure_false = carried.pure(true_fn), carried.pure(false_fn)
    values = carried.values()
    values, result = ops.cond(predicate, lambda: pure_true(values), lambda: pure_false(values))
    carried.assign(values)
    return result


def while_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any, limit: Any) -> Any:
    """Runs `carry = body(carry)` while `condition(carry)`, a boolean scalar, holds; at most `limit` times.

    It stops early. Its result is a constant to a gradient, and `body` must assign no
    variable. The carry keeps structure, shapes and dtypes.
    """
    if RUNS_EVERY_STEP_EAGERLY:
        import torch

        refuse_torch_export()
        with torch.no_grad():
            while limit > 0 and bool(condition(carry)):
                carry, limit = body(carry), limit - 1
        return carry
    if keras.backend.backend() == "jax":
        import jax

        # An export differentiates what it writes, and JAX cannot differentiate this loop: whatever the body reads,
        # weights included, is handed to it as a constant.
        start = jax.lax.stop_gradient((ops.cast(limit, "int32"), carry))
        step, read = jax.closure_convert(lambda s: (s[0] - 1, body(s[1])), start)
        read = jax.lax.stop_gradient(read)
        return jax.lax.while_loop(lambda s: (s[0] > 0) & condition(s[1]), lambda s: step(s, *read), start)[1]
    import tensorflow as tf

    flat = tree.flatten(carry)

    def flat_body(*state):
        new = tree.flatten(body(tree.pack_sequence_as(carry, list(state))))
        for n, old in zip(new, flat, strict=True):
            n.set_shape(old.shape)
        return new

    flat = tf.while_loop(
        lambda *state: condition(tree.pack_sequence_as(carry, list(state))), flat_body, flat, maximum_iterations=limit
    )
    return tree.pack_sequence_as(carry, [tf.stop_gradient(x) for x in flat])


def where(condition: Any, x: Any, y: Any) -> Any:
    """Returns `ops.where(condition, x, y)`, for floats of which the ones that are not taken may be infinite.

    The converter of TensorFlow graphs to ONNX writes `where` as c * x + (1 - c) * y, which is NaN there, unless the
    condition is an `IsNaN` (or x or y a constant that is infinite).
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        condition = tf.math.is_nan(tf.where(condition, math.nan, 0.0))
    return ops.where(condition, x, y)


def top_k(x: Any, k: int) -> tuple[Any, Any]:
    """Returns `ops.top_k(x, k)`."""
    if keras.backend.backend() == "jax" and keras_internals.export_format() is not None:
        import jax

        # JAX writes `top_k` in a way that TensorFlow's runtime does not know yet (JAX 0.10, TensorFlow 2.21).
        index = jax.lax.broadcasted_iota("int32", x.shape, len(x.shape) - 1)
        smallest, index = jax.lax.sort((-x, index), num_keys=1)
        return -smallest[..., :k], index[..., :k]
    return ops.top_k(x, k)


def compiled(function: Callable, layer: keras.layers.Layer) -> Callable:
    """Returns `function` of tensors, which reads the variables of `layer`, compiled where the backend compiles.

    Without a gradient, as `while_loop`.
    """
    if RUNS_EVERY_STEP_EAGERLY:
        import torch

        return torch.no_grad()(function)
    if keras.backend.backend() == "jax":
        import jax

        def pure(values, args):
            with keras.StatelessScope(list(zip(layer.variables, values, strict=True))):
                return function(*args)

        run = jax.jit(pure)
        return lambda *args: run([v.value for v in layer.variables], args)
    import tensorflow as tf

    return tf.function(function, jit_compile=layer.supports_jit)


def derived_seed(generator: keras.random.SeedGenerator, values: Sequence[Any]) -> Any:
    """Returns a seed that follows from the generator's state and from `values`, numbers and tensors. JAX only.

    Nothing is assigned. Values whose sums differ, of floats the sums of their bits, give different seeds.
    """
    import jax

    seed = generator.state.value
    for value in map(jax.numpy.asarray, values):
        if jax.numpy.issubdtype(value.dtype, jax.numpy.floating):
            value = jax.lax.bitcast_convert_type(value.astype("float32"), "int32")
        seed = jax.random.fold_in(seed, value.sum())
    return seed


def exporting() -> bool:
    """Whether `torch.export` traces the program, which can neither branch nor end a loop by what a tensor holds.

    TorchScript can, and writes down what the example at hand did: it is refused.
    """
    if not RUNS_EVERY_STEP_EAGERLY:
        return False
    import torch

    if torch.jit.is_tracing():
        fix = "Export with an `input_signature` whose shapes, the batch size included, are fixed"
        raise RuntimeError(
            "keras_seqx: a loop over time cannot be traced by TorchScript, which Keras uses for ONNX where a shape is "
            f"open or its first try failed. The file would be right for one example alone. {fix}."
        )
    return torch.compiler.is_exporting()


def refuse_torch_export() -> None:
    """Raises where a program with a loop that ends early is exported from torch."""
    if exporting():
        raise RuntimeError(ENDS_EARLY)


def known_size(size: Any) -> int | None:
    """Returns an axis' size, or None where it is open: None on TensorFlow, a symbol in an export from JAX."""
    return size if isinstance(size, int) else None


def ensure_eager(function: Callable[[], Any]) -> Any:
    """Returns `function()`, computed at once even while a program around it is traced."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():
            return function()
    if keras.backend.backend() == "jax":
        import jax

        with jax.ensure_compile_time_eval():
            return function()
    return function()


def beats_scan(layer: keras.layers.RNN) -> bool:
    """Whether Keras' own `layer`, an LSTM or GRU, runs a whole sequence faster than `scan` runs its cell."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    # On JAX Keras has a kernel for GPUs alone; elsewhere it scans as we do, and stores more for the backward pass.
    return jax.default_backend() == "gpu"


def _scan_jax(body: Step, carry: Any, xs: Any, length: int, output: Any, until: Callable | None) -> tuple[Any, Any]:
    import jax

    del output

    def step(carry, x):
        if until is None:
            return body(carry, x)
        # A loop of a number of steps that is not known has no gradient on JAX; one that skips its steps has.
        run = functools.partial(body, carry, x)
        nothing = jax.tree.map(lambda y: jax.numpy.zeros(y.shape, y.dtype), jax.eval_shape(run)[1])
        return jax.lax.cond(until(carry), lambda: (carry, nothing), run)

    # Of each step only the products are kept for the backward pass, the rest is computed again: writing it all
    # down takes longer, up to half of a training step.
    step = jax.checkpoint(step, prevent_cse=False, policy=jax.checkpoint_policies.dots_saveable)
    xs = tree.map_structure(lambda x: ops.swapaxes(x, 0, 1), xs)
    if known_size(length) is None:
        # In an export, where the length is a symbol, `scan` takes it from what it reads alone.
        index = jax.numpy.arange(length)
        carry, ys = jax.lax.scan(lambda carry, x: step(carry, x[0]), carry, (xs, index))
    else:
        carry, ys = jax.lax.scan(step, carry, xs, length)
    return carry, ops.swapaxes(ys, 0, 1)


class _InnerScope(keras.StatelessScope):
    """A scope that knows the variables it was given, and leaves the others to the scope around it."""

    def get_current_value(self, variable: Any) -> Any:
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value


class _Carried:
    """Variables that a traced function may assign, turned into its arguments and results.

    A value assigned to a Keras variable inside a JAX loop or branch is a tracer that must not outlive it; on
    TensorFlow, a variable assigned in a loop in a branch keeps XLA from compiling their gradient.
    """

    def __init__(self, variables: Sequence[Any]):
        self.variables = [v for v in variables if not v.trainable]
        self.assigned: set[int] = set()

    def values(self) -> list[Any]:
        # `value` is cast to the compute dtype under mixed precision; the loop must give back what it took.
        return [ops.cast(v.value, v.dtype) for v in self.variables]

    def pure(self, function: Callable) -> Callable:
        def pure(values, *args):
            mapping = list(zip(self.variables, values, strict=True))
            with _InnerScope(mapping, collect_losses=True) as scope:
                before = [scope.get_current_value(v) for v in self.variables]
                result = function(*args)
                after = [scope.get_current_value(v) for v in self.variables]
            if scope.losses:
                raise ValueError("`add_loss` cannot be called inside a compiled time loop or branch.")
            self.assigned |= {i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old is not new}
            return after, result

        return pure

    def assign(self, values: Sequence[Any]) -> None:
        for i in self.assigned:
            self.variables[i].assign(values[i])


def _scan_tensorflow(
    step: Step, carry: Any, xs: Any, length: Any, output: Any, until: Callable | None
) -> tuple[Any, Any]:
    import tensorflow as tf

    def time_major(x):
        return tf.transpose(x, [1, 0, *range(2, len(x.shape))])

    def array(x):
        return tf.TensorArray(x.dtype, length, element_shape=x.shape[1:]).unstack(x)

    arrays = [array(time_major(x)) for x in tree.flatten(xs)]
    flat_carry = tree.flatten(carry)
    if keras_internals.export_format() == "litert":
        raise RuntimeError(
            "keras_seqx: a loop over time cannot be exported to LiteRT, whose interpreter lacks the lists that it is "
            "made of. Export to a SavedModel or to ONNX."
        )
    buffer = tf.TensorArray(output.dtype, length, element_shape=output.shape)

    def body(t, buffer, *state):
        x = tree.pack_sequence_as(xs, [a.read(t) for a in arrays])
        new_carry, y = step(tree.pack_sequence_as(carry, list(state)), x)
        new_state = tree.flatten(new_carry)
        for new, old in zip(new_state, flat_carry, strict=True):
            new.set_shape(old.shape)
        return (t + 1, buffer.write(t, y), *new_state)

    def goes_on(t, _, *state):
        if until is None:
            return t < length
        return (t < length) & ((t < 1) | ~until(tree.pack_sequence_as(carry, list(state))))

    # A bound on the iterations is what gives XLA a gradient.
    _, buffer, *flat_carry = tf.while_loop(
        goes_on, body, (0, buffer, *flat_carry), maximum_iterations=length, swap_memory=True
    )
    return tree.pack_sequence_as(carry, flat_carry), time_major(buffer.stack())
