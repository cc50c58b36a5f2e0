"""The train verb: one run, or all stages of a configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.distributed.groups import Launch
from trainer.distributed.process.launcher import end_with_launcher
from trainer.experiment.stage import FitPathStage, PairsStage, TrainStage, check_read, chosen, load_stages, run_stages
from trainer.task.teacher import check_teacher
from trainer.training.run import train_run
from trainer.training.task import Task


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
    asked = chosen(stages, only)
    check_read(asked, stages)
    match asked:
        case TrainStage() as stage:
            config = stage.config()
            check_teacher(config)

            def task() -> Task[Any]:
                import trainer.task  # Megatron takes seconds: not before the input is known to be good

                return trainer.task.build(config)

            return train_run(config, launch, task)
        case PairsStage() as stage:
            from trainer.sampling.pairs.run import run as draw_pairs

            return draw_pairs(stage.request(), stage.folder)
        case FitPathStage() as stage:
            from trainer.training.path_fit.run import run as fit_path

            return fit_path(stage.config(), stage.request(), stage.table)
