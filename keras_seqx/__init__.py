"""keras_seqx: the sequence toolkit for Keras 3."""

from keras_seqx import audit as audit
from keras_seqx import callbacks as callbacks
from keras_seqx import data as data
from keras_seqx import generation as generation
from keras_seqx import layers as layers
from keras_seqx import metrics as metrics
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
from keras_seqx.generation import BeamSearch as BeamSearch
from keras_seqx.generation import Categorical as Categorical
from keras_seqx.generation import ForcedTokens as ForcedTokens
from keras_seqx.generation import Gaussian as Gaussian
from keras_seqx.generation import Greedy as Greedy
from keras_seqx.generation import Identity as Identity
from keras_seqx.generation import LogitsProcessor as LogitsProcessor
from keras_seqx.generation import MinLength as MinLength
from keras_seqx.generation import MinP as MinP
from keras_seqx.generation import NoRepeatNGram as NoRepeatNGram
from keras_seqx.generation import PrefixConstrained as PrefixConstrained
from keras_seqx.generation import RepetitionPenalty as RepetitionPenalty
from keras_seqx.generation import Sampler as Sampler
from keras_seqx.generation import Sampling as Sampling
from keras_seqx.generation import StopCondition as StopCondition
from keras_seqx.generation import StopThreshold as StopThreshold
from keras_seqx.generation import SuppressTokens as SuppressTokens
from keras_seqx.generation import Temperature as Temperature
from keras_seqx.generation import TopK as TopK
from keras_seqx.generation import TopP as TopP
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
    "LogitsProcessor",
    "MaskedTimeDistributed",
    "MaskingAudit",
    "MinLength",
    "MinP",
    "NoRepeatNGram",
    "PaddingMonitor",
    "PrefixConstrained",
    "RaggedArray",
    "RepeatToLength",
    "RepetitionPenalty",
    "Sampler",
    "Sampling",
    "SequenceAccuracy",
    "SequenceMask",
    "SequencePlot",
    "StopCondition",
    "StopThreshold",
    "SuppressTokens",
    "TeacherForcingSchedule",
    "Temperature",
    "TokenGenerator",
    "TopK",
    "TopP",
    "TransferReport",
    "TransformerDecoderCell",
    "__version__",
    "audit",
    "audit_masking",
    "callbacks",
    "change_timesteps",
    "data",
    "generation",
    "layers",
    "metrics",
    "testing",
    "transfer",
    "transfer_weights",
]


def __getattr__(name: str) -> object:
    if name == "testing":  # imported on first use, because only tests need it
        import importlib

        return importlib.import_module("keras_seqx.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
