"""The private and undocumented attributes of Keras that the package uses, each behind one named function.

Each function says why no public attribute does, and `tests/core/test_keras_internals.py` checks it on every Keras
version that the package supports.
"""

import sys
from types import FrameType
from typing import Any


def class_weight_of_fit() -> Any:
    """Returns the `class_weight` of the `fit` that is about to read a PyDataset, None outside of one.

    Call it from a property that the constructor of Keras' adapter reads: it looks for the constructor's argument among
    its callers. No hook of `keras.utils.PyDataset` is given the argument, and Keras does not refuse it: for targets
    (B, T) it makes weights of the wrong shape, or wrong ones. Checked on Keras 3.12.4, 3.15.1 and 3.16.0.dev.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(4):
        if frame is None:
            return None
        if frame.f_code.co_name == "__init__" and {"class_weight", "shuffle"} <= set(frame.f_code.co_varnames):
            return frame.f_locals["class_weight"]
        frame = frame.f_back
    return None
