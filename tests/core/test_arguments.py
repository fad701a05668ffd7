"""Unknown keyword arguments get an error with the nearest name."""

import pytest

from keras_seqx._core.arguments import refuse_unknown
from tests.cases import numpy_alone

pytestmark = numpy_alone


def test_the_nearest_name_is_offered():
    with pytest.raises(TypeError) as raised:
        refuse_unknown("Thing", {"bucket": 8}, ["buckets", "seed"])
    text = "Thing: `bucket` must be a known argument. Received: `bucket`=8. Did you mean `buckets`."
    assert str(raised.value) == text


def test_without_a_near_name_all_are_listed():
    with pytest.raises(TypeError, match="The arguments are `buckets`, `seed`"):
        refuse_unknown("Thing", {"xyz": 1}, ["seed", "buckets"])


def test_known_arguments_pass():
    refuse_unknown("Thing", {"seed": 1}, ["seed"])
    refuse_unknown("Thing", {}, [])
