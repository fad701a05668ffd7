"""What watches and steers training on sequences."""

from keras_seqx.callbacks.length_curriculum import LengthCurriculum as LengthCurriculum
from keras_seqx.callbacks.padding_monitor import PaddingMonitor as PaddingMonitor
