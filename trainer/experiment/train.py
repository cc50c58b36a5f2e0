"""The train verb: one run, or all stages of a configuration."""

from collections.abc import Sequence
from pathlib import Path

from trainer.distributed.first_rank import first_rank_looks
from trainer.distributed.groups import Launch
from trainer.distributed.process.launcher import end_with_launcher
from trainer.experiment.stage import check_read, chosen, load_stages, run_stages


def run(path: Path, overrides: Sequence[str], only: str | None = None) -> int:
    """Trains one rank, or runs all stages of a configuration that has some.

    Args:
        path: configuration file.
        overrides: ``dotted.key=value``.
        only: name of one stage; None: all.

    Returns:
        0 if the run is done, 75 if it was told to stop, has saved and wants to be started again.

    Raises:
        ValueError: the configuration, the run folder or a port cannot be used; nothing has been joined or written.
        RunFailed: the run cannot go on.
    """
    end_with_launcher()
    launch = Launch.from_environment()
    stages = load_stages(path, overrides)
    if stages[0].name and only is None:
        return run_stages(stages, path, overrides, launch)
    stage = chosen(stages, only)
    with first_rank_looks(launch):
        check_read(stage, stages)
        return stage.run(launch)
