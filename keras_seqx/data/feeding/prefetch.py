"""Batches made ahead of their use, in threads."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Prefetcher:
    """Makes the batches that will be asked for next while the current one is in use.

    Keras' own workers are not used: in Keras 3.15, on JAX and torch, those of the first epoch deliver again the batches
    that were made while the model was built, in place of the epoch's last ones.

    Args:
        make: returns the batch at a position; called by several threads at once.
        workers: the number of threads.
        depth: how many batches are made ahead.
    """

    def __init__(self, make: Callable[[int], Any], workers: int, depth: int):
        self.make, self.workers, self.depth = make, workers, depth
        self.clear()

    def clear(self) -> None:
        """Forgets the batches that were made, and the threads."""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(self.workers, "keras_seqx")
        self._process = os.getpid()
        self._futures: dict[int, Future] = {}

    def get(self, position: int) -> Any:
        """Returns the batch at a position, and has those after it made."""
        if self._process != os.getpid():
            self.clear()  # threads do not survive a fork
        with self._lock:
            future = self._futures.pop(position, None)
            wanted = range(position + 1, position + 1 + self.depth)
            self._futures = {p: f for p, f in self._futures.items() if p in wanted}
            for p in wanted:
                if p not in self._futures:
                    self._futures[p] = self._pool.submit(self.make, p)
        return self.make(position) if future is None else future.result()
