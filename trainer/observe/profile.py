"""A window of steps in which every operation is timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from netsim.foundation.files import replacing
from trainer.config.sections import ProfileConfig

if TYPE_CHECKING:
    from torch.profiler import profile


class ProfileWindow:
    """Profiles the steps from the first to the last of a window and writes what it saw, one file a rank.

    A run that resumes before the end of the window drops what is there of it and profiles the steps that are left;
    one that resumes later keeps the files. Outside the window nothing is done.
    """

    def __init__(self, config: ProfileConfig | None, folder: Path, rank: int, started: int) -> None:
        """Removes the files of a window that an earlier process left and this one writes anew."""
        self._config, self._path = config, folder / f"rank_{rank:05d}.json"
        self._steps = range(0)
        self._running: profile | None = None
        if config is not None and started < config.steps[1]:
            self._steps = range(max(config.steps[0], started + 1), config.steps[1] + 1)
            if rank == 0:
                for stale in folder.glob("rank_*.json"):
                    stale.unlink()

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Profiles what runs inside, if the step is in the window."""
        if step not in self._steps:
            yield
            return
        if self._running is None:
            self._running = self._begun()
        with torch.profiler.record_function(f"step {step}"):
            yield
        if step == self._steps[-1]:
            self._running.stop()
            with replacing(self._path) as temporary:
                self._running.export_chrome_trace(str(temporary))
            self._running = None

    def _begun(self) -> profile:
        from torch.profiler import profile  # not before it is needed

        assert self._config is not None
        running = profile(record_shapes=self._config.shapes, profile_memory=self._config.memory)
        running.start()
        return running
