"""keras_seqx: the sequence toolkit for Keras 3."""

from keras_seqx import callbacks as callbacks
from keras_seqx import data as data
from keras_seqx import layers as layers
from keras_seqx.callbacks import LengthCurriculum as LengthCurriculum
from keras_seqx.callbacks import PaddingMonitor as PaddingMonitor
from keras_seqx.data import BucketingReport as BucketingReport
from keras_seqx.data import LengthBucketing as LengthBucketing
from keras_seqx.data import RaggedArray as RaggedArray
from keras_seqx.layers import AutoregressiveDecoder as AutoregressiveDecoder
from keras_seqx.layers import MaskedTimeDistributed as MaskedTimeDistributed
from keras_seqx.layers import RepeatToLength as RepeatToLength
from keras_seqx.layers import SequenceMask as SequenceMask

__version__ = "0.1.0"

__all__ = [
    "AutoregressiveDecoder",
    "BucketingReport",
    "LengthBucketing",
    "LengthCurriculum",
    "MaskedTimeDistributed",
    "PaddingMonitor",
    "RaggedArray",
    "RepeatToLength",
    "SequenceMask",
    "__version__",
    "callbacks",
    "data",
    "layers",
]
