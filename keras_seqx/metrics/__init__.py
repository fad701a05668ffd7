"""What tells how good written sequences are, whatever their lengths."""

from keras_seqx.metrics.edit_distance import EditDistance as EditDistance
from keras_seqx.metrics.sequence_accuracy import SequenceAccuracy as SequenceAccuracy
