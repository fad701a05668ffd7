"""Ragged data into few, static, nearly full shapes."""

from keras_seqx.data.length_bucketing import LengthBucketing as LengthBucketing
from keras_seqx.data.planning.boundaries import optimal_boundaries as optimal_boundaries
from keras_seqx.data.report import BucketingReport as BucketingReport
from keras_seqx.data.sequences.ragged_array import RaggedArray as RaggedArray
