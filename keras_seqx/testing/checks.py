"""Laws that a sequence layer should keep, as functions that raise AssertionError where it does not.

None of them needs anything but Keras. In every message stand the law, the layer, the output, the place and how much.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from keras_seqx._core import errors
from keras_seqx.testing.execution import modes as modes
from keras_seqx.testing.invariance import check_batch_independence as check_batch_independence
from keras_seqx.testing.invariance import check_padding_invariance as check_padding_invariance
from keras_seqx.testing.serialization import check_backends_agree as check_backends_agree
from keras_seqx.testing.serialization import check_serialization as check_serialization
from keras_seqx.testing.serialization import other_backends

LAWS: dict[str, Callable] = {
    "padding_invariance": check_padding_invariance,
    "padding_invariance_in_training": check_padding_invariance,
    "batch_independence": check_batch_independence,
    "serialization": check_serialization,
    "backends_agree": check_backends_agree,
}


def check_layer(
    layer: keras.layers.Layer | Callable[[], keras.layers.Layer],
    inputs: Any,
    *,
    lengths: Any,
    laws: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> dict[str, str]:
    """Raises unless the layer keeps all laws but those that it is expected to break.

    Args:
        layer: a layer or model whose first argument takes the inputs; or a function without arguments that makes one,
            called again for each law.
        inputs: array (B, T, ...), or any structure of them, B >= 2.
        lengths: as in `check_padding_invariance`.
        laws: names of laws, of "padding_invariance", "padding_invariance_in_training", "batch_independence",
            "serialization" and "backends_agree". Defaults to None: all, the last one if another backend is installed.
        expected_failures: for each law that the layer breaks, the reason. A law named here must not hold.
        **options: any other option of the laws' functions, passed to those that have it.

    Returns:
        For each law, "holds" or "fails as expected: " and the reason.

    Raises:
        AssertionError: a law does not hold, or one does that was expected to fail. All of them are told.
        ValueError: there is no such law; else as `check_padding_invariance`.
        TypeError: there is no such option; else as `check_padding_invariance`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_seqx.testing import check_layer
    >>> x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    >>> laws = ["padding_invariance", "serialization"]
    >>> check_layer(keras.layers.LayerNormalization(), x, lengths=[5, 2, 4], laws=laws)
    {'padding_invariance': 'holds', 'serialization': 'holds'}
    >>> reason = {"padding_invariance": "the maximum is taken over padding too"}
    >>> check_layer(keras.layers.GlobalMaxPooling1D(), x, lengths=[5, 2, 4], laws=laws, expected_failures=reason)
    {'padding_invariance': 'fails as expected: the maximum is taken over padding too', 'serialization': 'holds'}
    """
    if laws is None:
        laws = [law for law in LAWS if law != "backends_agree" or other_backends()]
    laws, expected_failures = list(laws), dict(expected_failures or {})
    _check_names("laws", laws, LAWS)
    _check_names("expected_failures", list(expected_failures), laws)
    known = {law: inspect.signature(LAWS[law]).parameters for law in laws}
    for option in options:
        if option in ("training", "layer") or not any(option in parameters for parameters in known.values()):
            fix = "Pass those of the laws' functions; training is a law of its own"
            raise TypeError(errors.message("check_layer", "options", "options of the laws", option, fix))

    report, broken = {}, []
    for law in laws:
        arguments = {name: value for name, value in options.items() if name in known[law]}
        if law == "padding_invariance_in_training":
            arguments["training"] = True
        try:
            made = layer if isinstance(layer, keras.layers.Layer) else layer()
            LAWS[law](made, inputs, lengths=lengths, **arguments)
        except AssertionError as error:
            if law not in expected_failures:
                broken.append(str(error))
            report[law] = f"fails as expected: {expected_failures.get(law)}"
        else:
            if law in expected_failures:
                broken.append(f"{law}: holds, though expected to fail: {expected_failures[law]}")
            report[law] = "holds"
    if broken:
        raise AssertionError("\n".join(broken))
    return report


def _check_names(argument: str, names: list, known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            text, fix = "names of laws: " + ", ".join(known), "Name each as it stands here"
            raise ValueError(errors.message("check_layer", argument, text, name, fix))
