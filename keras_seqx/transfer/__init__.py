"""A trained model at another length, and another model's or file's weights in this one."""

from keras_seqx.transfer.report import TransferReport as TransferReport
from keras_seqx.transfer.report import TransferRow as TransferRow
from keras_seqx.transfer.timesteps.change_timesteps import change_timesteps as change_timesteps
from keras_seqx.transfer.transfer_weights import transfer_weights as transfer_weights
