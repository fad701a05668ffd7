"""All laws at once, those that are expected to fail included; and the face of the namespace."""

import subprocess
import sys

import pytest
from keras import layers

from keras_seqx import testing
from keras_seqx.testing import check_layer
from keras_seqx.testing import checks as laws
from keras_seqx.testing.serialization import other_backends
from tests.testing.faults import LENGTHS, ConsumingFactor, CountingStatistics, X

HERE = [law for law in laws.LAWS if law != "backends_agree"]


def test_report_of_a_layer_that_holds():
    assert check_layer(layers.LayerNormalization(), X, lengths=LENGTHS, laws=HERE) == dict.fromkeys(HERE, "holds")


def test_expected_failures():
    laws = ["padding_invariance", "padding_invariance_in_training", "batch_independence"]
    reason = {"padding_invariance_in_training": "padding counts"}
    made = []

    def make():
        made.append(CountingStatistics())
        return made[-1]

    report = check_layer(make, X, lengths=LENGTHS, laws=laws, expected_failures=reason)
    assert report == dict.fromkeys(laws, "holds") | {
        "padding_invariance_in_training": "fails as expected: padding counts"
    }
    assert len(made) == 3
    with pytest.raises(AssertionError) as caught:
        check_layer(layers.Dense(1), X, lengths=LENGTHS, laws=laws, expected_failures=reason)
    words = "padding_invariance_in_training: holds, though expected to fail: padding counts"
    assert str(caught.value) == words


def test_every_broken_law_is_told():
    with pytest.raises(AssertionError) as caught:
        check_layer(ConsumingFactor(float("inf")), X, lengths=LENGTHS, laws=["serialization"])
    assert str(caught.value).startswith("serialization: ConsumingFactor")
    with pytest.raises(AssertionError) as caught:
        check_layer(layers.GlobalMaxPooling1D(), X, lengths=LENGTHS, laws=HERE)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == HERE[:2]


def test_other_errors_are_no_failures():
    reason = {"padding_invariance": "of course"}
    with pytest.raises(ValueError, match="`lengths` must be integers"):
        check_layer(layers.Dense(1), X, lengths=[9] * 4, laws=["padding_invariance"], expected_failures=reason)


BAD_ARGUMENTS = [
    ({"laws": ["gravity"]}, ValueError, "`laws` must be names of laws: padding_invariance, "),
    ({"expected_failures": {"gravity": ""}}, ValueError, "`expected_failures` must be names of laws: "),
    (
        {"laws": HERE[:1], "expected_failures": {"serialization": ""}},
        ValueError,
        "`expected_failures` must be names of laws: padding_invariance. ",
    ),
    ({"tolerance": 1}, TypeError, "`options` must be options of the laws"),
    ({"training": True}, TypeError, "`options` must be options of the laws"),
    ({"laws": ["serialization"], "mode": "eager"}, TypeError, "`options` must be options of the laws"),
]


def test_bad_arguments():
    for options, error, words in BAD_ARGUMENTS:
        with pytest.raises(error) as caught:
            check_layer(layers.Dense(1), X, lengths=LENGTHS, **options)
        assert f"check_layer: {words}" in str(caught.value)


def test_all_laws_are_run_where_there_is_another_backend(monkeypatch):
    ran = []
    for law in laws.LAWS:
        monkeypatch.setitem(laws.LAWS, law, lambda layer, inputs, *, lengths, training=law: ran.append(training))
    check_layer(layers.Dense(1), X, lengths=LENGTHS)
    assert len(ran) == len(HERE) + bool(other_backends())
    assert True in ran


def test_namespace():
    for name in ("padding_invariance", "batch_independence", "serialization", "backends_agree", "layer"):
        check = getattr(testing, f"check_{name}")
        assert check is getattr(laws, f"check_{name}")
        for section in ("Args:", "Raises:", "Example:"):
            assert section in check.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = testing.nothing


WITHOUT_HYPOTHESIS = """
import sys
sys.modules["hypothesis"] = None
import keras_seqx.testing
keras_seqx.testing.checks.check_layer
try:
    keras_seqx.testing.strategies
except ImportError as error:
    print(error)
"""


def test_laws_need_no_hypothesis():
    command = [sys.executable, "-c", WITHOUT_HYPOTHESIS]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "keras_seqx.testing.strategies needs Hypothesis: `pip install hypothesis`.\n"
