"""Who becomes whom: a pairing is right, checked by what the models compute, or it is refused."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from keras_seqx import transfer_weights
from tests.transfer.models import assert_same, outputs, randomize, values

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")


def chain(*names):
    return keras.Sequential([keras.Input((3, 4)), *(layers.Dense(4, name=name) for name in names)])


def parallel(*names):
    x = keras.Input((3, 4))
    return keras.Model(x, layers.Concatenate()([layers.Dense(4, name=name)(x) for name in names]))


@pytest.mark.parametrize("build", [chain, parallel])
def test_names_that_differ_are_not_paired_by_position(build):
    source, target = randomize(build("a", "b")), build("c", "d")
    before = values(target)
    with pytest.raises(ValueError, match=r"'c', 'd' of the target: 'a', 'b' of the source") as caught:
        transfer_weights(source, target)
    assert "`mapping={'a': 'c', 'b': 'd'}`" in str(caught.value)
    assert_same(before, values(target))
    with pytest.raises(ValueError, match="'c', 'd' of the target"):  # skipping is for what does not fit
        transfer_weights(source, target, on_mismatch="skip")
    transfer_weights(source, target, mapping={"a": "c", "b": "d"})
    assert_same(outputs(source, X), outputs(target, X), 1e-6)


def test_the_last_of_a_class_is_paired_where_its_place_agrees():
    source = randomize(chain("a", "b", "c"))
    target = chain("a", "b", "z")
    transfer_weights(source, target)
    assert_same(outputs(source, X), outputs(target, X), 1e-6)
    with pytest.raises(ValueError, match="'z' of the target: 'c' of the source"):
        transfer_weights(source, chain("z", "a", "b"))


def test_files_without_a_graph(tmp_path):
    source = randomize(chain(None, None))
    source.save_weights(path := tmp_path / "model.weights.h5")
    target = chain(None, None)
    transfer_weights(path, target)
    assert_same(outputs(source, X), outputs(target, X), 1e-6)
    with pytest.raises(ValueError, match="can be told apart"):
        transfer_weights(path, chain(None, None, None))
    randomize(chain("a", "b")).save_weights(path)
    with pytest.raises(ValueError, match="can be told apart"):  # it has names, and they are others
        transfer_weights(path, chain("c", "d"))
    transfer_weights(path, target := chain("b", "a"))
    assert_same(target.get_layer("a").get_weights(), chain_weights(path, "a"))


def chain_weights(path, name):
    model = chain("a", "b")
    model.load_weights(path)
    return model.get_layer(name).get_weights()


def test_shared_layers_and_unused_ones():
    def network(shared):
        x = keras.Input((3, 4))
        dense = layers.Dense(4)
        return keras.Model(x, dense(dense(x)) if shared else layers.Dense(4)(dense(x)))

    source, target = randomize(network(True)), network(True)
    transfer_weights(source, target)
    assert_same(outputs(source, X), outputs(target, X), 1e-6)
    with pytest.raises(ValueError, match=r"nothing in the source fits; it has 'dense'"):
        transfer_weights(source, network(False))


# What a random model is made of. Each is called on (B, 3, 4) and returns that.
BLOCKS = {
    "dense": lambda: layers.Dense(4),
    "tanh": lambda: layers.Dense(4, "tanh"),
    "lstm": lambda: layers.LSTM(4, return_sequences=True),
    "gru": lambda: layers.GRU(4, return_sequences=True),
    "norm": lambda: layers.LayerNormalization(),
    "wrapped": lambda: layers.TimeDistributed(layers.Dense(4)),
    "none": lambda: layers.Dropout(0.5),
}
DISGUISES = {
    "lstm": lambda: layers.RNN(layers.LSTMCell(4), return_sequences=True),
    "gru": lambda: layers.RNN(layers.GRUCell(4), return_sequences=True),
    "dense": lambda: layers.TimeDistributed(layers.Dense(4)),
    "wrapped": lambda: layers.Dense(4),
    "none": lambda: layers.Identity(),
}
plans = st.recursive(
    st.sampled_from(sorted(BLOCKS)),
    lambda inner: st.tuples(
        st.sampled_from(["chain", "add", "nested", "joined"]), st.lists(inner, min_size=2, max_size=3)
    ),
    max_leaves=6,
)


class Maker:
    """Makes a plan a model: the same plan, the same function, whatever the layers are called and made of.

    `order` draws the order in which layers are created, which automatic names follow.
    """

    def __init__(self, names, disguised, reverse):
        self.names, self.disguised, self.reverse, self.count = iter(names), disguised, reverse, 0

    def block(self, plan, path):
        if isinstance(plan, str):
            make = DISGUISES.get(plan, BLOCKS[plan]) if self.disguised else BLOCKS[plan]
            layer = make()
            name = next(self.names)
            if name is not None:
                layer = type(layer).from_config({**layer.get_config(), "name": f"{name}_{path}"})
            return layer
        kind, parts = plan
        numbered = list(enumerate(parts))
        blocks = {i: self.block(part, f"{path}{i}") for i, part in (numbered[::-1] if self.reverse else numbered)}
        ordered = [blocks[i] for i in range(len(parts))]

        def call(x):
            if kind in ("chain", "nested"):
                for block in ordered:
                    x = block(x)
                return x
            results = [block(x) for block in ordered]
            return layers.Add()(results) if kind == "add" else layers.Concatenate()(results)[..., :: len(results)]

        if kind == "nested":
            inner = keras.Input((3, 4))
            return keras.Model(inner, call(inner))
        return call

    def model(self, plan):
        x = keras.Input((3, 4))
        return keras.Model(x, self.block(plan, "n")(x))


@given(
    plan=plans,
    names=st.lists(st.sampled_from([None, None, "mine"]), min_size=6, max_size=6),
    other=st.lists(st.sampled_from([None, None, "mine", "yours"]), min_size=6, max_size=6),
    disguised=st.booleans(),
    reverse=st.booleans(),
    through_file=st.sampled_from([None, ".keras", ".weights.h5"]),
)
def test_right_or_refused(tmp_path_factory, plan, names, other, disguised, reverse, through_file):
    keras.utils.clear_session()
    source = randomize(Maker(names, False, False).model(plan))
    if not source.weights:
        return
    target = Maker(other, disguised, reverse).model(plan)
    expected, before = outputs(source, X), values(target)
    origin = source
    if through_file:
        origin = tmp_path_factory.mktemp("models") / f"model{through_file}"
        (source.save if through_file == ".keras" else source.save_weights)(origin)
    error = None
    try:
        transfer_weights(origin, target)
    except ValueError as cannot_resize:
        error = str(cannot_resize)
    if error is None:
        assert_same(expected, outputs(target, X), 1e-5)
    else:
        assert error.startswith("transfer_weights: `source` must be of ")
        assert_same(before, values(target))


@given(first=plans, second=plans)
def test_other_models(first, second):
    """Two models that have nothing to do with each other: whatever is paired has the shapes, and an error no effect."""
    keras.utils.clear_session()
    source, target = (Maker([None] * 6, False, False).model(plan) for plan in (first, second))
    if not (source.weights and target.weights):
        return
    randomize(source)
    before = values(target)
    try:
        report = transfer_weights(source, target)
    except ValueError:
        assert_same(before, values(target))
    else:
        assert len({row.source for row in report.rows}) == len(report.rows)
        assert all(row.source_shape == row.target_shape for row in report.rows)
