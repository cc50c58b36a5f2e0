"""The check verb: what a configuration means, before anything is started."""

from collections.abc import Sequence
from pathlib import Path

from trainer.experiment.memory.sizes import parse_bytes
from trainer.experiment.stage import check_stages, load_stages


def run(path: Path, overrides: Sequence[str], world_size: int, fit: str | None = None) -> int:
    """Checks a configuration and prints what each of its stages, or its only run, will do.

    Args:
        path: configuration file.
        overrides: ``dotted.key=value``.
        world_size: ranks of the run.
        fit: memory of a rank, such as 80GB, for which settings are proposed; None: none are.

    Returns:
        0.

    Raises:
        ValueError: the configuration is wrong, or does not fit that many ranks; the run folder holds checkpoints that
            the run cannot go on from; a finished stage was made by other settings; or nothing fits the memory.
    """
    if world_size < 1:
        raise ValueError(f"--world-size: {world_size} ranks cannot run anything; use 1 or more")
    limit = None if fit is None else parse_bytes(fit, "--fit")
    stages = load_stages(path, overrides)
    if stages[0].name:
        check_stages(stages, world_size)
    for stage in stages:
        if stage.name:
            print(f"stage {stage.name} ({stage.verb}) in {stage.folder}")
        stage.describe(world_size, stages)
        if limit is not None and not stage.awaited(stages):
            stage.propose(world_size, limit)
    return 0
