"""What watches and steers training on sequences."""

from keras_seqx.callbacks.length_curriculum import LengthCurriculum as LengthCurriculum
from keras_seqx.callbacks.padding_monitor import PaddingMonitor as PaddingMonitor
from keras_seqx.callbacks.sequence_plot import SequencePlot as SequencePlot
from keras_seqx.callbacks.teacher_forcing_schedule import TeacherForcingSchedule as TeacherForcingSchedule
