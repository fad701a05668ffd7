"""keras_seqx: the sequence toolkit for Keras 3."""

import importlib
from typing import Any

from keras_seqx import callbacks as callbacks
from keras_seqx import data as data
from keras_seqx import layers as layers
from keras_seqx import transfer as transfer
from keras_seqx.audit import MaskingAudit as MaskingAudit
from keras_seqx.audit import audit_masking as audit_masking
from keras_seqx.callbacks import LengthCurriculum as LengthCurriculum
from keras_seqx.callbacks import PaddingMonitor as PaddingMonitor
from keras_seqx.data import BucketingReport as BucketingReport
from keras_seqx.data import LengthBucketing as LengthBucketing
from keras_seqx.data import RaggedArray as RaggedArray
from keras_seqx.layers import AutoregressiveDecoder as AutoregressiveDecoder
from keras_seqx.layers import MaskedTimeDistributed as MaskedTimeDistributed
from keras_seqx.layers import RepeatToLength as RepeatToLength
from keras_seqx.layers import SequenceMask as SequenceMask
from keras_seqx.transfer import TransferReport as TransferReport
from keras_seqx.transfer import change_timesteps as change_timesteps
from keras_seqx.transfer import transfer_weights as transfer_weights

__version__ = "0.1.0"

__all__ = [
    "AutoregressiveDecoder",
    "BucketingReport",
    "LengthBucketing",
    "LengthCurriculum",
    "MaskedTimeDistributed",
    "MaskingAudit",
    "PaddingMonitor",
    "RaggedArray",
    "RepeatToLength",
    "SequenceMask",
    "TransferReport",
    "__version__",
    "audit_masking",
    "callbacks",
    "change_timesteps",
    "data",
    "layers",
    "testing",
    "transfer",
    "transfer_weights",
]


def __getattr__(name: str) -> Any:
    if name == "testing":  # which is for tests alone, and need not be paid for elsewhere
        return importlib.import_module("keras_seqx.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
