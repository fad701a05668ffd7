"""The private and undocumented attributes of Keras that the package uses, each behind one named function.

Each function says why no public attribute does. `tests/core/test_keras_internals.py` checks it on every supported
version of Keras.
"""

import sys
import types
from types import FrameType
from typing import Any

import keras


def dropout_rnn_cell() -> type:
    """Returns `DropoutRNNCell`, the base class by which `keras.layers.RNN` knows a cell that draws random numbers.

    `RNN.call` calls `get_dropout_mask` and `get_recurrent_dropout_mask` of such a cell before its loop, and
    `reset_dropout_mask` and `reset_recurrent_dropout_mask` after it, and gives no other notice of a loop to a cell. The
    class is not exported; it is a base of the cells that are. Checked on Keras 3.12.4, 3.15.1 and 3.16.0.dev.
    """
    return next(base for base in keras.layers.LSTMCell.__mro__ if base.__name__ == "DropoutRNNCell")


def exports_to_onnx() -> bool:
    """Returns whether Keras traces the program for `model.export(format="onnx")`.

    Nothing public tells a layer the format of an export; the frames on the stack do. Checked on Keras 3.12.4, 3.15.1
    and 3.16.0.dev2026102704.
    """
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "keras.src.export.onnx":
            return True
        frame = frame.f_back
    return False


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
