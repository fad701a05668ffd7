"""What the package takes from Keras without a promise of Keras."""

import contextlib
import threading

import keras
import numpy as np
import pytest

from keras_seqx._core import keras_internals
from keras_seqx._core.keras_internals import class_weight_of_fit, patched_call
from tests.cases import BACKEND, WindowCell


def test_rnn_calls_a_dropout_rnn_cell_before_and_after_its_loop():
    calls = []

    class Cell(keras_internals.dropout_rnn_cell(), keras.layers.Layer):
        state_size = 3

        def call(self, inputs, states):
            calls.append("call")
            return states[0], states

        def get_dropout_mask(self, step_input):
            calls.append(("inputs", tuple(step_input.shape)))

        def get_recurrent_dropout_mask(self, step_input):
            calls.append(("state", tuple(step_input.shape)))

        def reset_dropout_mask(self):
            calls.append("reset")

        def reset_recurrent_dropout_mask(self):
            calls.append("reset recurrent")

    assert isinstance(keras.layers.GRUCell(2), keras_internals.dropout_rnn_cell())
    keras.layers.RNN(Cell())(np.zeros((2, 4, 5), "float32"))
    steps = calls[2:-2]
    assert calls == [("inputs", (2, 5)), ("state", (2, 3)), *steps, "reset", "reset recurrent"]
    assert set(steps) == {"call"}


class Asks(keras.layers.Layer):
    answers: list = []  # noqa: RUF012

    def call(self, inputs):
        self.answers.append(keras_internals.export_format())
        return 2 * inputs


@pytest.mark.skipif(BACKEND == "jax", reason="Keras exports to ONNX from JAX by a package of its own")
def test_a_layer_knows_that_it_is_exported_to_onnx(tmp_path):
    x = keras.Input((2,))
    model = keras.Model(x, Asks()(x))
    model.predict(keras.ops.ones((1, 2)), verbose=0)
    assert not any(Asks.answers)
    with contextlib.suppress(ImportError):  # after the trace, where a package is not installed
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert Asks.answers[-1] == "onnx"
    Asks.answers.clear()
    if BACKEND == "tensorflow":
        model.export(tmp_path / "model", verbose=False)
        assert Asks.answers[-1] == "saved_model"


class Data(keras.utils.PyDataset):
    """Notes the class weights that it finds where Keras reads `workers`."""

    found: list

    @property
    def workers(self):
        self.found.append(class_weight_of_fit())
        return 1

    use_multiprocessing = property(lambda self: False)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros((2, 1), "float32"), np.zeros(2, "int32")


def test_class_weight_of_fit():
    data = Data()
    data.found = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data, class_weight={0: 2.0}, verbose=0)
    assert {0: 2.0} in data.found
    data.found.clear()
    model.fit(data, verbose=0)
    model.evaluate(data, verbose=0)
    assert data.workers == 1
    assert data.found
    assert not any(data.found)


X = np.ones((1, 2), "float32")


def plus(amount):
    return lambda call, inputs: call(inputs) + amount


def value(layer):
    return float(keras.ops.convert_to_numpy(layer(X))[0, 0])


def layer_of(kind):
    if kind == "layer":
        return keras.layers.Rescaling(3.0)
    inputs = keras.Input((2,))
    return keras.Model(inputs, inputs * 3.0)


@pytest.mark.parametrize("kind", ["layer", "model"])
def test_call_is_replaced_and_put_back(kind):
    layer = layer_of(kind)
    attributes = set(vars(layer))
    with patched_call(layer, plus(1)):
        assert value(layer) == 4
        with patched_call(layer, plus(10)):
            assert value(layer) == 13
        assert value(layer) == 4
    assert value(layer) == 3
    assert set(vars(layer)) == attributes


def test_call_is_put_back_after_an_exception():
    layer = layer_of("layer")
    with pytest.raises(ZeroDivisionError), patched_call(layer, plus(1)), patched_call(layer, plus(2)):
        raise ZeroDivisionError
    assert value(layer) == 3
    assert "call" not in vars(layer)


def test_a_call_set_by_the_user_is_kept():
    layer = layer_of("layer")
    own = lambda inputs: inputs * 5.0  # noqa: E731
    object.__setattr__(layer, "call", own)
    with patched_call(layer, plus(1)):
        assert value(layer) == 6
    assert layer.call is own


def test_each_thread_has_its_own_replacement():
    layer = layer_of("layer")
    found, both = {}, threading.Barrier(3, timeout=60)

    def work(amount):
        with patched_call(layer, plus(amount)):
            both.wait()  # All are inside.
            found[amount] = value(layer)
            both.wait()
        found[-amount] = value(layer)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (1, 2)]
    for thread in threads:
        thread.start()
    both.wait()
    found[0] = value(layer)
    both.wait()
    for thread in threads:
        thread.join()
    assert found == {0: 3, 1: 4, 2: 5, -1: 3, -2: 3}
    assert "call" not in vars(layer)


@pytest.mark.parametrize("make", [lambda: keras.layers.Dense(3), lambda: WindowCell(3)], ids=["dense", "lazy cell"])
def test_a_symbolic_call_builds_and_leaves_no_node(make):
    layer = make()
    states = [] if isinstance(layer, keras.layers.Dense) else [[keras.KerasTensor((None, 3, 3))]]
    output = keras_internals.call_symbolically(layer, keras.KerasTensor((None, 2)), *states)
    assert keras.tree.flatten(output)[0].shape == (None, 3)
    assert layer.built
    assert layer.weights
    with pytest.raises(AttributeError, match="output"):
        _ = layer.output
    if not states:  # calls of the user's own stay
        x = keras.Input((2,))
        y = layer(x)
        keras_internals.call_symbolically(layer, keras.KerasTensor((None, 2)))
        assert layer.output is y
        assert keras.Model(x, y).count_params() == 9


def test_objects_are_shared_within_the_scope_alone():
    layer = keras.layers.Dense(3)
    assert not keras_internals.shares_objects()
    with keras_internals.object_sharing():
        assert keras_internals.shares_objects()
        assert not keras_internals.ids_met()
        first, second = (keras.saving.serialize_keras_object(layer) for _ in range(2))
        assert id(layer) in keras_internals.ids_met()
        assert first[keras_internals.ID] == second[keras_internals.ID] == id(layer)
        with keras_internals.object_sharing({id(layer): layer}):
            assert not keras_internals.ids_met()
            assert keras.saving.deserialize_keras_object(first) is layer
        assert id(layer) in keras_internals.ids_met()
        copies = [keras.saving.deserialize_keras_object(config) for config in (first, second)]
    assert copies[0] is copies[1] is not layer
    assert not keras_internals.shares_objects()


def test_the_scope_is_that_of_files(tmp_path):
    met = []

    @keras.saving.register_keras_serializable(package="keras_seqx_tests")
    class Probe(keras.layers.Identity):
        def get_config(self):
            met.append(keras_internals.shares_objects())
            return super().get_config()

        @classmethod
        def from_config(cls, config):
            met.append(keras_internals.shares_objects())
            return cls(**config)

    model = keras.Sequential([keras.Input((2,)), Probe()])
    model.save(tmp_path / "model.keras")
    keras.saving.load_model(tmp_path / "model.keras")
    assert met
    assert all(met)


@pytest.mark.parametrize("twin", [False, True], ids=["alone", "with a twin"])
def test_ids_are_written_where_an_object_was_met_first(twin):
    layer = keras.layers.Dense(3, name="shared")
    others = [keras.layers.TimeDistributed(keras.layers.Dense(3, name="shared"))] * twin
    with keras_internals.object_sharing():
        first, *_ = (keras.saving.serialize_keras_object(x) for x in [keras.layers.TimeDistributed(layer), *others])
        assert keras_internals.ID not in first["config"]["layer"]
        keras_internals.mark_where_first_met({id(layer)})
    assert first["config"]["layer"].get(keras_internals.ID) == (None if twin else id(layer))


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_the_copies_of_a_clone(kind):
    calls = []

    class Probe(keras.layers.Identity):
        @classmethod
        def from_config(cls, config):
            calls.append(keras_internals.cloning())
            return cls(**config)

    x, dense, probe = keras.Input((2,)), keras.layers.Dense(2), Probe()
    model = keras.Sequential([x, dense, probe]) if kind == "sequential" else keras.Model(x, probe(dense(x)))
    clone = keras.models.clone_model(model)
    assert calls[0].copies[id(dense)] is clone.layers[-2]
    assert calls[0].copies[id(probe)] is clone.layers[-1]
    assert (calls[0].layer, calls[0].model, calls[0].by_config) == (probe, model, True)
    keras.models.clone_model(model, clone_function=lambda layer: type(layer).from_config(layer.get_config()))
    assert not calls[1].by_config
    Probe.from_config({})
    assert calls[2] is None
    assert keras_internals.cloning() is None


def test_the_layers_in_a_layer():
    inner = keras.layers.Dense(2)
    wrapped = keras.layers.TimeDistributed(inner)
    outer = keras.Sequential([wrapped, keras.layers.Identity(name="last")])
    assert keras_internals.sublayers(wrapped) == [wrapped, inner]
    assert keras_internals.sublayers(wrapped, include_self=False) == [inner]
    assert set(keras_internals.sublayers(outer, include_self=False, recursive=False)) == set(outer.layers)
    assert inner in keras_internals.sublayers(outer)


def test_the_mask_of_an_eager_tensor():
    x = keras.ops.convert_to_tensor([[1, 2, 0]])
    assert keras_internals.get_mask(x) is None
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(x)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras_internals.get_mask(embedded)), [[True, True, False]])
    mask = keras.ops.convert_to_tensor([[True, False, False]])
    seen = []

    class Reads(keras.layers.Layer):
        def call(self, inputs, mask=None):
            seen.append(mask)
            return 2 * inputs

    keras_internals.set_mask(embedded, mask)
    Reads()(embedded)
    assert seen[0] is mask


def test_who_made_a_symbolic_tensor_and_who_reads_it():
    x, layer = keras.Input((2,), name="x"), keras.layers.Dense(3)
    y, z = layer(x), layer(2 * x)
    assert keras_internals.producer_of(x).name == "x"
    assert keras_internals.producer_of(y) is keras_internals.producer_of(z) is layer
    first, second = keras_internals.nodes_of(layer)
    assert first.input_tensors[0] is x
    assert first.output_tensors[0] is y
    assert second.output_tensors[0] is z


def test_which_models_are_functional():
    x = keras.Input((2,))

    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    class OfFunctional(keras.Model):
        pass

    functional = [keras.Model(x, 2 * x), keras.Sequential([x]), keras.Sequential(), OfFunctional(x, 2 * x)]
    assert all(map(keras_internals.is_functional, functional))
    assert not any(map(keras_internals.is_functional, [Subclassed(), keras.layers.Dense(2)]))


def test_the_arguments_of_a_lambda_and_of_compile():
    def loss(y, y_pred):
        return keras.ops.mean(y_pred - y)

    shape = lambda shape: shape  # noqa: E731
    assert keras_internals.output_shape_of(keras.layers.Lambda(abs, shape)) is shape
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss, metrics=["mae"], run_eagerly=True)
    given = keras_internals.compile_arguments(model)
    assert given["loss"] is loss
    assert (given["metrics"], given["run_eagerly"]) == (["mae"], True)


def test_what_an_optimizer_trains_and_decays():
    layer, optimizer = keras.layers.Dense(2), keras.optimizers.AdamW()
    layer.build((None, 3))
    optimizer.exclude_from_weight_decay(var_list=[layer.bias])
    optimizer.build(layer.trainable_variables)
    assert all(a is b for a, b in zip(keras_internals.trained_by(optimizer), layer.trainable_variables, strict=True))
    assert keras_internals.decays(optimizer, layer.kernel)
    assert not keras_internals.decays(optimizer, layer.bias)


def test_the_options_of_a_data_set_whose_properties_say_otherwise():
    class Overrides(keras.utils.PyDataset):
        workers = property(lambda self: 1)

    given = {"workers": 3, "use_multiprocessing": True, "max_queue_size": 7}
    assert keras_internals.queue_options(Overrides(**given)) == given


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow asks")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_trace_for_xla(jit_compile):
    import tensorflow as tf

    answers = [keras_internals.within_xla()]

    def body(x):
        answers.append(keras_internals.within_xla())
        return [x + 1]

    @tf.function(jit_compile=jit_compile)
    def traced(x):
        answers.append(keras_internals.within_xla())
        return tf.while_loop(lambda x: x < 1, body, [x])

    traced(tf.constant(0))
    assert answers == [False, jit_compile, jit_compile]
