"""keras_seqx: the sequence toolkit for Keras 3."""

from keras_seqx import layers as layers
from keras_seqx.layers import AutoregressiveDecoder as AutoregressiveDecoder
from keras_seqx.layers import SequenceMask as SequenceMask

__version__ = "0.1.0"

__all__ = ["AutoregressiveDecoder", "SequenceMask", "__version__", "layers"]
