"""Whether padding changes what a model computes, and who lets it."""

from keras_seqx.audit.masking_audit import audit_masking as audit_masking
from keras_seqx.audit.report import MaskingAudit as MaskingAudit
