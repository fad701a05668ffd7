"""The private and undocumented attributes of Keras that the package uses, each behind one named function.

Each function says why no public attribute does, and `tests/core/test_keras_internals.py` checks it on every Keras
version that the package supports.
"""

import sys
import types


def export_format() -> str | None:
    """Returns "onnx", "litert" or "saved_model" while Keras traces a program for `model.export`, and else None.

    Nothing public tells a layer the format of an export; the frames on the stack do. Checked on Keras 3.12.4, 3.15.1
    and 3.16.0.dev2026102704.
    """
    frame: types.FrameType | None = sys._getframe()
    archive = False
    while frame is not None:
        package, _, name = frame.f_globals.get("__name__", "").rpartition(".")
        if package == "keras.src.export" and name in ("onnx", "litert"):
            return name
        archive = archive or package.startswith("keras.src.export") or name == "saved_model_export_archive"
        frame = frame.f_back
    return "saved_model" if archive else None
