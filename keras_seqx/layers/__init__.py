"""The package's layers."""

from keras_seqx.layers.attention_cell import AttentionCell as AttentionCell
from keras_seqx.layers.autoregressive_decoder import AutoregressiveDecoder as AutoregressiveDecoder
from keras_seqx.layers.keep_mask import KeepMask as KeepMask
from keras_seqx.layers.masked_time_distributed import MaskedTimeDistributed as MaskedTimeDistributed
from keras_seqx.layers.repeat_to_length import RepeatToLength as RepeatToLength
from keras_seqx.layers.sequence_mask import SequenceMask as SequenceMask
from keras_seqx.layers.token_generator import TokenGenerator as TokenGenerator
from keras_seqx.layers.transformer_decoder_cell import TransformerDecoderCell as TransformerDecoderCell
