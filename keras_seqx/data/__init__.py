"""Ragged data into few, static, nearly full shapes."""

from keras_seqx.data.boundaries import optimal_boundaries as optimal_boundaries
from keras_seqx.data.length_bucketing import LengthBucketing as LengthBucketing
from keras_seqx.data.ragged import RaggedArray as RaggedArray
from keras_seqx.data.report import BucketingReport as BucketingReport
