"""keras_seqx: the sequence toolkit for Keras 3."""

import importlib
from typing import Any

from keras_seqx import callbacks as callbacks
from keras_seqx import data as data
from keras_seqx import layers as layers
from keras_seqx import metrics as metrics
from keras_seqx import samplers as samplers
from keras_seqx import transfer as transfer
from keras_seqx._core.keras_versions import warn_of_untested as _warn_of_untested
from keras_seqx.audit import MaskingAudit as MaskingAudit
from keras_seqx.audit import audit_masking as audit_masking
from keras_seqx.callbacks import LengthCurriculum as LengthCurriculum
from keras_seqx.callbacks import PaddingMonitor as PaddingMonitor
from keras_seqx.callbacks import SequencePlot as SequencePlot
from keras_seqx.callbacks import TeacherForcingSchedule as TeacherForcingSchedule
from keras_seqx.data import BucketingReport as BucketingReport
from keras_seqx.data import LengthBucketing as LengthBucketing
from keras_seqx.data import RaggedArray as RaggedArray
from keras_seqx.layers import AttentionCell as AttentionCell
from keras_seqx.layers import AutoregressiveDecoder as AutoregressiveDecoder
from keras_seqx.layers import KeepMask as KeepMask
from keras_seqx.layers import MaskedTimeDistributed as MaskedTimeDistributed
from keras_seqx.layers import RepeatToLength as RepeatToLength
from keras_seqx.layers import SequenceMask as SequenceMask
from keras_seqx.layers import TokenGenerator as TokenGenerator
from keras_seqx.layers import TransformerDecoderCell as TransformerDecoderCell
from keras_seqx.metrics import EditDistance as EditDistance
from keras_seqx.metrics import SequenceAccuracy as SequenceAccuracy
from keras_seqx.samplers import BeamSearch as BeamSearch
from keras_seqx.samplers import Categorical as Categorical
from keras_seqx.samplers import ForcedTokens as ForcedTokens
from keras_seqx.samplers import Gaussian as Gaussian
from keras_seqx.samplers import Greedy as Greedy
from keras_seqx.samplers import Identity as Identity
from keras_seqx.samplers import MinLength as MinLength
from keras_seqx.samplers import MinP as MinP
from keras_seqx.samplers import NoRepeatNGram as NoRepeatNGram
from keras_seqx.samplers import PrefixConstrained as PrefixConstrained
from keras_seqx.samplers import Processor as Processor
from keras_seqx.samplers import RepetitionPenalty as RepetitionPenalty
from keras_seqx.samplers import Sampler as Sampler
from keras_seqx.samplers import Sampling as Sampling
from keras_seqx.samplers import SuppressTokens as SuppressTokens
from keras_seqx.samplers import Temperature as Temperature
from keras_seqx.samplers import TopK as TopK
from keras_seqx.samplers import TopP as TopP
from keras_seqx.transfer import TransferReport as TransferReport
from keras_seqx.transfer import change_timesteps as change_timesteps
from keras_seqx.transfer import transfer_weights as transfer_weights

__version__ = "0.1.0"

_warn_of_untested()

__all__ = [
    "AttentionCell",
    "AutoregressiveDecoder",
    "BeamSearch",
    "BucketingReport",
    "Categorical",
    "EditDistance",
    "ForcedTokens",
    "Gaussian",
    "Greedy",
    "Identity",
    "KeepMask",
    "LengthBucketing",
    "LengthCurriculum",
    "MaskedTimeDistributed",
    "MaskingAudit",
    "MinLength",
    "MinP",
    "NoRepeatNGram",
    "PaddingMonitor",
    "PrefixConstrained",
    "Processor",
    "RaggedArray",
    "RepeatToLength",
    "RepetitionPenalty",
    "Sampler",
    "Sampling",
    "SequenceAccuracy",
    "SequenceMask",
    "SequencePlot",
    "SuppressTokens",
    "TeacherForcingSchedule",
    "Temperature",
    "TokenGenerator",
    "TopK",
    "TopP",
    "TransferReport",
    "TransformerDecoderCell",
    "__version__",
    "audit_masking",
    "callbacks",
    "change_timesteps",
    "data",
    "layers",
    "metrics",
    "samplers",
    "testing",
    "transfer",
    "transfer_weights",
]


def __getattr__(name: str) -> Any:
    if name == "testing":  # which is for tests alone, and need not be paid for elsewhere
        return importlib.import_module("keras_seqx.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
