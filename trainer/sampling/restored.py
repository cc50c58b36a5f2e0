"""The network of one checkpoint on all ranks, while the run that saves them may go on and delete some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError

from trainer.checkpoint.intact import ATTEMPTS, is_pruned, newest_checkpoint
from trainer.checkpoint.pretrained import restore, restored_layout
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch
from trainer.model.network import Network


@dataclass(frozen=True)
class Restored:
    """A network from a checkpoint."""

    folder: Path
    config: RunConfig
    layout: Layout
    model: Network


def restored_together(
    run_dir: Path, launch: Launch, placed: Callable[[Layout], Layout] = lambda layout: layout
) -> Restored:
    """Restores the newest intact checkpoint, the same on every rank; collective, inside joined process groups.

    The first rank chooses. If the run has deleted the checkpoint before all ranks have read it, it chooses again.
    """
    for _ in range(ATTEMPTS):
        chosen: list[Path | str] = [""]
        if launch.rank == 0:
            try:
                chosen = [newest_checkpoint(run_dir)]
            except ValueError as error:
                chosen = [str(error)]
        dist.broadcast_object_list(chosen)
        (folder,) = chosen
        if isinstance(folder, str):
            raise ValueError(folder)
        restored, problem, pruned = None, "", False
        try:
            config = load_run(folder)
            layout = placed(restored_layout(config, folder, launch.world_size))
            restored = Restored(folder, config, layout, restore(config, layout, folder))
        except (OSError, ValueError, SafetensorError) as error:
            problem, pruned = str(error), is_pruned(folder)
        problems: list[tuple[str, bool]] = [("", False)] * launch.world_size
        dist.all_gather_object(problems, (problem, pruned))
        if not any(told for told, _ in problems):
            assert restored is not None
            return restored
        if not any(gone for _, gone in problems):
            raise ValueError(next(told for told, _ in problems if told))
    raise ValueError(f"run_dir: {run_dir} deletes its checkpoints faster than they are read; raise its checkpoint.keep")
