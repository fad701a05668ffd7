"""How known offenders are mended."""

from typing import Any

import keras

from keras_seqx.audit.report import NOT_FINITE

ENTRANCE = "No mask reaches it: put SequenceMask, Masking or Embedding(mask_zero=True) at the entrance of the model"
COUNTED = (
    "It counts padded steps though the outputs have their mask: let it average over the steps that the mask leaves, as "
    "the losses of Keras do"
)
_ARITHMETIC = (
    "An operation on tensors loses the mask: use the Keras layer (Add, Multiply, Subtract, Rescaling), or a small "
    "layer of your own that sets `self.supports_masking = True`"
)
_KEPT = "It loses the mask: wrap it in keras_seqx.KeepMask, whose output carries the mask of its input"
_RESHAPED = (
    "It loses the mask: wrap a layer that keeps time as the second axis in keras_seqx.KeepMask, or attach a mask again "
    "after it with SequenceMask"
)
_WINDOW = (
    "It loses the mask, and windows that reach over the end take padding in: set masked steps to zero before it, or "
    'use padding="causal", and wrap it in keras_seqx.KeepMask; if it changes the number of steps, attach a mask of the '
    "new lengths after it with SequenceMask"
)
_POOLED = (
    "Windows over the end take padding in, and the mask is lost: downsample inside the valid steps, or attach a mask "
    "of the new lengths after it with SequenceMask"
)

# By the name of the class, for layers.
LAYERS = {
    "Reshape": _RESHAPED,
    "Permute": _RESHAPED,
    "Lambda": (
        "A Lambda loses the mask: wrap it in keras_seqx.KeepMask if it keeps the time axis, or use a layer of your own "
        "that sets `self.supports_masking = True`"
    ),
    "Flatten": "It strings padding together with the sequence: pool over time instead, with GlobalAveragePooling1D",
    "GlobalMaxPooling1D": (
        "It takes the maximum over padding too: set masked steps to minus infinity before it, or use "
        "GlobalAveragePooling1D or attention, which honour the mask"
    ),
    "UnitNormalization": "Normalize the features alone, axis=-1: along axis 1 the norm grows with padding",
    "GroupNormalization": "It takes its statistics over padding too: use LayerNormalization, which sees single steps",
    "Concatenate": (
        "Along time it puts the padding of the first sequence before the second: concatenate features, or the "
        "sequences themselves before they are padded"
    ),
    "RNN": "Read backwards, its outputs are in reverse order and its mask is not: use Bidirectional, which turns them",
    "MultiHeadAttention": (
        "It takes the mask off its inputs, so that a sum with them has none: attach it again after the sum with "
        "SequenceMask"
    ),
    "TimeDistributed": "Use keras_seqx.MaskedTimeDistributed, which hands the right mask on",
    "RepeatVector": "It makes a new time axis, which has no mask: attach one after it with SequenceMask",
} | dict.fromkeys(("Conv1D", "SeparableConv1D", "DepthwiseConv1D", "Conv1DTranspose"), _WINDOW)
LAYERS |= dict.fromkeys(("MaxPooling1D", "AveragePooling1D"), _POOLED)

# The same, for operations of `keras.ops`.
OPERATIONS = {
    "Concatenate": "An operation on tensors loses the mask: use the Keras layer Concatenate",
    "Reshape": _RESHAPED,
    "Transpose": _RESHAPED,
    "Max": LAYERS["GlobalMaxPooling1D"],
    "Mean": "It counts padding too: use GlobalAveragePooling1D, which honours the mask",
    "Sum": "It counts padding too: set masked steps to zero before it",
} | dict.fromkeys(("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Power"), _ARITHMETIC)

# What a layer at fault may be found to be.
VERDICTS = {
    "leak": "Its valid outputs depend on padding: have it take the mask (`call(self, inputs, mask=None)`) and heed it",
    "mask lost": (
        "It loses the mask: set `self.supports_masking = True`, or wrap it in keras_seqx.KeepMask if it keeps the time "
        "axis, or attach the mask again with SequenceMask"
    ),
    "wrong mask": "Its `compute_mask` must return a mask of its output's shape (B, T), false at padded steps",
    "no mask": ENTRANCE,
    "mixes rows": "Its outputs of one row depend on the others: reduce over time or features, never over the batch",
    NOT_FINITE: (
        "None of its values is finite, so that a leak would not be seen: mend what makes NaN or infinity there, or "
        "audit the model on inputs that are finite"
    ),
    "statistics leak": "In training it counts padded steps: have it take the mask and weigh the steps by it",
}


def remedy(layer: Any, verdict: str) -> str:
    """Returns how a layer at fault is mended."""
    if verdict == "mask lost" and _keeps_steps(layer):
        return _KEPT
    if verdict in ("leak", "mask lost", "wrong mask"):
        known = LAYERS if isinstance(layer, keras.Layer) else OPERATIONS
        kinds = [kind.__name__ for kind in type(layer).__mro__]
        if isinstance(layer, keras.layers.Wrapper):
            kinds += [kind.__name__ for kind in type(layer.layer).__mro__]
        for kind in kinds:
            if kind in known:
                return known[kind]
        if not isinstance(layer, keras.Layer) and verdict == "mask lost":
            return _ARITHMETIC
    return VERDICTS[verdict]


def _keeps_steps(layer: Any) -> bool:
    """Returns whether KeepMask is right for a layer of Keras: its output at a step belongs to the input at that step.

    From Keras 3.16 on, layers of the kind of RNN end the mask.
    """
    if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        return bool(layer.return_sequences) and not getattr(layer, "go_backwards", False)
    return getattr(layer, "padding", None) == "causal" and tuple(layer.strides) == (1,)
