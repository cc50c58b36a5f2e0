"""Reading ahead of the training loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import fmean

from trainer.data.loader import Loader
from trainer.data.loading import DataLoadingConfig
from trainer.data.protocol import Batch


class Prefetcher:
    """Hands out the loader's micro batches, read and completed ahead by threads.

    A batch is a function of its place alone, so reading ahead changes nothing but the time. An error while a batch is
    read is raised when it is its turn.
    """

    def __init__(
        self, loader: Loader, config: DataLoadingConfig, complete: Callable[[int, int, Batch], Batch] | None = None
    ) -> None:
        """`complete` adds to a batch what its place alone decides; it gets :meth:`batch`'s arguments and a batch."""
        self._loader, self._ahead, self._complete = loader, config.prefetch, complete
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="data") if config.prefetch else None
        self._coming: deque[tuple[int, Future[Batch]]] = deque()
        self._waits_s: list[float] = []

    def batch(self, step: int, local: int) -> Batch:
        """Returns what `Loader.batch` returns for the same arguments, completed."""
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
        step, local = divmod(place, self._loader.accumulation)
        batch = self._loader.batch(step, local)
        return batch if self._complete is None else self._complete(step, local, batch)

    def _next(self, place: int, threads: ThreadPoolExecutor) -> Batch:
        while self._coming and self._coming[0][0] != place:
            self._coming.popleft()[1].cancel()
        following = self._coming[-1][0] + 1 if self._coming else place
        for coming in range(following, place + self._ahead + 1):
            self._coming.append((coming, threads.submit(self._read, coming)))
        return self._coming.popleft()[1].result()
