"""Curves in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from netsim.foundation.files import writing
from trainer.observe.protocol import Sink


class TensorBoard(Sink):
    """Writes every figure as a scalar, `time.step_s` as `time/step_s`.

    Args:
        folder: where the event files go, made if missing.
        last_step: the step the run resumes from, 0 for a new one; older event files in the folder are kept and
            TensorBoard drops what they hold beyond it.
    """

    def __init__(self, folder: Path, *, last_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, needed only on rank 0

        self._folder = folder
        with writing(folder):
            self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink.write`."""
        with writing(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name.replace(".", "/"), value, step)
            self._writer.flush()

    def close(self) -> None:
        """See `Sink.close`."""
        with suppress(OSError):  # it has been raised already, and is raised again
            self._writer.close()
