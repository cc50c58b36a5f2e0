"""The check verb: what a configuration means, before anything is started."""

from collections.abc import Sequence
from pathlib import Path

from trainer.experiment.stage import check_stages, load_stages


def run(path: Path, overrides: Sequence[str], world_size: int) -> int:
    """Checks a configuration and prints what each of its stages, or its only run, will do.

    Args:
        path: configuration file.
        overrides: ``dotted.key=value``.
        world_size: ranks of the run.

    Returns:
        0.

    Raises:
        ValueError: the configuration is wrong, or does not fit that many ranks; the run folder holds checkpoints that
            the run cannot go on from; or a finished stage was made by other settings.
    """
    if world_size < 1:
        raise ValueError(f"--world-size: {world_size} ranks cannot run anything; use 1 or more")
    stages = load_stages(path, overrides)
    if stages[0].name:
        check_stages(stages, world_size)
    for stage in stages:
        if stage.name:
            print(f"stage {stage.name} ({stage.verb}) in {stage.folder}")
        stage.describe(world_size, stages)
    return 0
