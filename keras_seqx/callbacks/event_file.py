"""The file that TensorBoard reads, written as `torch.utils.tensorboard` writes it."""

import os
import struct
import time
import uuid
from typing import Any


class EventFile:
    """Writes pictures into a new file of a folder, which is made with the first of them.

    No tensor is made, so tensorflow, which Keras' own callback needs on any backend too, claims no device.
    """

    def __init__(self, folder: str):
        import tensorflow as tf

        self._tf = tf
        self.folder = folder
        self._writer: Any = None

    def add_image(self, tag: str, png: bytes, step: int) -> None:
        """Adds a picture, which TensorBoard sees at once."""
        proto = self._tf.compat.v1
        if self._writer is None:
            os.makedirs(self.folder, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{uuid.uuid4().hex[:8]}"
            self._writer = self._tf.io.TFRecordWriter(os.path.join(self.folder, name))
            self._write(proto.Event(wall_time=time.time(), file_version="brain.Event:2"))
        width, height = struct.unpack(">II", png[16:24])  # where the header of every PNG tells its size
        image = proto.Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        summary = proto.Summary(value=[proto.Summary.Value(tag=tag, image=image)])
        self._write(proto.Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Ends the file; another picture begins a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
