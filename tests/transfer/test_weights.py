"""Between two models of one architecture: every kind of source, whatever the layers are called."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_seqx import transfer_weights
from keras_seqx.testing.serialization import other_backends
from tests.transfer import models
from tests.transfer.models import MODELS, assert_same, inputs_of, outputs, randomize, values

SOURCES = ("model", "model.keras", "model.weights.h5")


def saved(model, kind, folder):
    if kind == "model":
        return model
    path = str(folder / kind)
    (model.save if kind.endswith(".keras") else model.save_weights)(path)
    return path


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", MODELS)
def test_same_predictions(name, kind, tmp_path):
    source, target = randomize(MODELS[name]()), MODELS[name]()
    x = inputs_of(name)
    expected = outputs(source, x)
    report = transfer_weights(saved(source, kind, tmp_path), target)
    assert_same(expected, outputs(target, x), 1e-6)
    assert report.counts == {"copied": len(report.rows)}
    assert not report.unused
    assert not report.notes
    assert {row.source_shape == row.target_shape for row in report.rows} == {True}


def test_dry_run_changes_nothing_and_says_the_same(tmp_path):
    source, target = randomize(models.repeat_vector()), models.repeat_vector()
    before = values(target)
    planned = transfer_weights(source, target, dry_run=True)
    assert_same(before, values(target))
    done = transfer_weights(source, target)
    assert planned.rows == done.rows
    assert (planned.dry_run, done.dry_run) == (True, False)
    assert ["a dry run" in str(report) for report in (planned, done)] == [True, False]


def test_automatic_names_that_mislead():
    """The source's second layer is called as the target's first: the graph knows better."""

    def stack(count):
        x = keras.Input((4,))
        hidden = x
        for _ in range(count):
            hidden = layers.Dense(4, "tanh")(hidden)
        return keras.Model(x, hidden)

    first = stack(1)
    source, target = randomize(stack(2)), stack(2)
    del first
    ours, theirs = ([layer.name for layer in model.layers[1:]] for model in (source, target))
    keras.utils.clear_session()
    stack(2)
    other = stack(2)
    assert set(theirs).isdisjoint(ours)
    assert [layer.name for layer in other.layers[1:]] == ["dense_2", "dense_3"]
    for model in (target, other):
        transfer_weights(source, model)
        assert_same(outputs(source, np.eye(4)), outputs(model, np.eye(4)))


def test_given_names_go_before_the_order():
    def pair(*names):
        return keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=name) for name in names)])

    source, target = randomize(pair("first", "second")), pair("second", "first")
    transfer_weights(source, target)
    for name in ("first", "second"):
        assert_same(source.get_layer(name).get_weights(), target.get_layer(name).get_weights())


def test_another_head_and_a_smaller_model():
    def network(depth, classes):
        x = keras.Input((6, 4))
        hidden = x
        for _ in range(depth):
            hidden = layers.LSTM(4, return_sequences=True)(hidden)
        return keras.Model(x, layers.Dense(classes, name="head")(hidden))

    source, target = randomize(network(2, 3)), network(2, 5)
    with pytest.raises(ValueError, match=r"'head' \(kernel \(4, 5\), bias \(5,\)\): from 'head' \(kernel \(4, 3\)"):
        transfer_weights(source, target)
    head = target.get_layer("head").get_weights()
    report = transfer_weights(source, target, on_mismatch="skip")
    assert report.counts == {"copied": 6, "kept": 2}
    assert report.unused == ("head/kernel", "head/bias")
    assert_same(head, target.get_layer("head").get_weights())
    assert_same(source.get_weights()[:6], target.get_weights()[:6])
    # The first of two layers: what it reads is the same, and nothing else of its shapes reads that.
    smaller = network(1, 3)
    report = transfer_weights(source, smaller)
    assert_same(source.get_weights()[:3], smaller.get_weights()[:3])
    assert len(report.unused) == 3


def test_other_dtypes():
    def network(policy):
        return keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype=policy), layers.Dense(2, dtype=policy)])

    source = randomize(network("float32"))
    for policy, atol in (("mixed_bfloat16", 0), ("float16", 1e-3)):
        target = network(policy)
        report = transfer_weights(source, target)
        assert report.counts == {"cast" if policy == "float16" else "copied": 4}
        assert_same(source.get_weights(), [w.astype("float32") for w in target.get_weights()], atol)


def test_half_precision_files(tmp_path):
    def network():
        return keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="bfloat16")])

    source, target = randomize(network()), network()
    source.save_weights(tmp_path / "half.weights.h5")
    transfer_weights(tmp_path / "half.weights.h5", target)
    assert_same(*([w.astype("float32") for w in model.get_weights()] for model in (source, target)))


def test_normalization_works_with_what_it_was_given():
    def network():
        return keras.Sequential([keras.Input((4,)), layers.Normalization(), layers.Dense(2)])

    source, target = network(), network()
    source.layers[0].adapt(np.random.default_rng(0).normal(3, 2, (50, 4)))
    randomize(source)
    source.layers[0].finalize_state()
    transfer_weights(source, target)
    assert_same(outputs(source, np.eye(4)), outputs(target, np.eye(4)), 1e-6)


def test_a_mapping_of_names_paths_and_expressions():
    def parallel(*names):
        x = keras.Input((4,))
        outs = [keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)], name=name)(x) for name in names]
        return keras.Model(x, layers.Concatenate()(outs))

    x = np.eye(4)
    source = randomize(parallel("left", "right"))
    left, right = np.split(outputs(source, x)[0], 2, axis=-1)
    for mapping, expected in (
        ({"left": "a", "right": "b"}, (left, right)),
        ({"left": "b", "right": "a"}, (right, left)),
        ({r"(l|r).*": r"net_\1"}, (left, right)),
    ):
        target = parallel(*(("net_l", "net_r") if "(l|r).*" in mapping else ("a", "b")))
        transfer_weights(source, target, mapping=mapping)
        np.testing.assert_allclose(outputs(target, x)[0], np.concatenate(expected, -1), atol=1e-6)


@pytest.mark.skipif(not other_backends(), reason="one backend alone is installed")
def test_files_of_other_backends(tmp_path):
    import os
    import subprocess
    import sys

    names = ["repeat_vector", "decoder", "nested"]
    code = (
        "import sys, keras, numpy as np\n"
        "from tests.transfer.models import *\n"
        "folder, *names = sys.argv[1:]\n"
        "for name in names:\n"
        "    model = randomize(MODELS[name]())\n"
        "    model.save(f'{folder}/{name} model.keras'); model.save_weights(f'{folder}/{name} model.weights.h5')\n"
        "    np.savez(f'{folder}/{name}.npz', *outputs(model, inputs_of(name)))\n"
    )
    for backend in other_backends():
        environment = {**os.environ, "KERAS_BACKEND": backend}
        subprocess.run([sys.executable, "-c", code, str(tmp_path), *names], check=True, env=environment)
        for name in names:
            with np.load(tmp_path / f"{name}.npz") as file:
                expected = [file[key] for key in file.files]
            for kind in SOURCES[1:]:
                target = MODELS[name]()
                transfer_weights(tmp_path / f"{name} {kind}", target)
                assert_same(expected, outputs(target, inputs_of(name)), 1e-6)
