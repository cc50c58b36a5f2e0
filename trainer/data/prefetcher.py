"""Reading ahead of the training loop."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import fmean

from trainer.data.loader import Loader
from trainer.data.loading import DataLoadingConfig
from trainer.data.protocol import Batch


class Prefetcher:
    """Hands out the loader's micro batches, read ahead by threads.

    A batch is a function of its place alone, so reading ahead changes nothing but the time. What goes wrong while a
    batch is read is raised when it is its turn.
    """

    def __init__(self, loader: Loader, config: DataLoadingConfig) -> None:
        """Prepares to read; nothing is read yet.

        Args:
            loader: deals the batches.
            config: how far ahead, and by how many threads.
        """
        self._loader, self._ahead = loader, config.prefetch
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="data") if config.prefetch else None
        self._coming: deque[tuple[int, Future[Batch]]] = deque()
        self._waits_s: list[float] = []

    def batch(self, step: int, local: int) -> Batch:
        """Returns what `Loader.batch` returns for the same arguments."""
        begun = time.perf_counter()
        place = step * self._loader.accumulation + local
        batch = self._read(place) if self._threads is None else self._next(place, self._threads)
        self._waits_s.append(time.perf_counter() - begun)
        return batch

    def waited_s(self) -> float:
        """Mean seconds that a step has waited for its batches since the last call; 0 if none was read."""
        waits, self._waits_s = self._waits_s, []
        return self._loader.accumulation * fmean(waits) if waits else 0.0

    def _read(self, place: int) -> Batch:
        return self._loader.batch(*divmod(place, self._loader.accumulation))

    def _next(self, place: int, threads: ThreadPoolExecutor) -> Batch:
        while self._coming and self._coming[0][0] != place:
            self._coming.popleft()[1].cancel()
        following = self._coming[-1][0] + 1 if self._coming else place
        for coming in range(following, place + self._ahead + 1):
            self._coming.append((coming, threads.submit(self._read, coming)))
        return self._coming.popleft()[1].result()
