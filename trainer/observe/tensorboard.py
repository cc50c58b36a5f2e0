"""Curves in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from netsim.foundation.files import writing
from trainer.observe.protocol import Sink


class TensorBoard(Sink):
    """Writes figures as scalars, `time.step_s` as `time/step_s`; TensorBoard drops older ones after `last_step`."""

    def __init__(self, folder: Path, *, last_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, needed only on rank 0

        self._folder = folder
        with writing(folder):
            self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with writing(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name.replace(".", "/"), value, step)
            self._writer.flush()

    def close(self) -> None:
        with suppress(OSError):  # it has been raised already, and is raised again
            self._writer.close()
