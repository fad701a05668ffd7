"""The package's layers."""

from keras_seqx.layers.autoregressive_decoder import AutoregressiveDecoder as AutoregressiveDecoder
from keras_seqx.layers.sequence_mask import SequenceMask as SequenceMask
