"""What `keras_internals` relies on, on every Keras that the package supports."""

import keras
import pytest

from keras_seqx._core import keras_internals
from tests.cases import WindowCell


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
