"""Figures in TensorBoard and in Weights & Biases; the only place that knows their packages."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from netsim.foundation.extra import require
from netsim.foundation.files import write_text, writing
from trainer.config.sections import WandbConfig
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


class Wandb(Sink):
    """Sends every figure under its name, over the optimiser step.

    A resumed run continues the same run in the service: its id is kept in `wandb.id`. The steps since the checkpoint
    are sent again, with the same figures.
    """

    def __init__(self, config: WandbConfig, folder: Path, settings: Mapping[str, Any], *, last_step: int) -> None:
        """Opens the run in the service, or raises ValueError; a `last_step` of 0 gets a new id."""
        require("wandb", field="observe.wandb", otherwise="observe.wandb=null")
        wandb: Any = importlib.import_module("wandb")
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                name=config.name or folder.name,
                mode=config.mode,
                id=_identifier(folder / "wandb.id", anew=last_step == 0),
                resume="allow",
                dir=str(folder),
                config=dict(settings),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"observe.wandb: {config.project} cannot be opened ({reason}); "
                "sign in with `wandb login`, or set observe.wandb.mode=offline"
            ) from error
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """`time.step_s` appears as `time/step_s`."""
        self._run.log({"step": step, **{name.replace(".", "/"): value for name, value in values.items()}})

    def close(self) -> None:
        self._run.finish()


def _identifier(path: Path, *, anew: bool) -> str:
    """The run's id in the service, kept in a file; `anew` makes a new one."""
    if anew or not path.exists():
        write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text(encoding="ascii").strip()
