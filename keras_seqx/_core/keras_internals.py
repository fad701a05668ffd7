"""The private and undocumented attributes of Keras that the package uses, each behind one named function.

Each function says why no public attribute does. `tests/core/test_keras_internals.py` checks it on every supported
version of Keras.
"""

import sys
import types

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
