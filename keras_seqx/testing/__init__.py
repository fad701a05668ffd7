"""The laws of sequence layers, and strategies that draw what they are tested on.

The laws need Keras alone. `strategies` needs Hypothesis, and is imported when it is first asked for.
"""

import importlib
from typing import Any

from keras_seqx.testing import checks as checks
from keras_seqx.testing.checks import check_backends_agree as check_backends_agree
from keras_seqx.testing.checks import check_batch_independence as check_batch_independence
from keras_seqx.testing.checks import check_layer as check_layer
from keras_seqx.testing.checks import check_padding_invariance as check_padding_invariance
from keras_seqx.testing.checks import check_serialization as check_serialization
from keras_seqx.testing.checks import modes as modes


def __getattr__(name: str) -> Any:
    if name == "strategies":
        return importlib.import_module("keras_seqx.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
