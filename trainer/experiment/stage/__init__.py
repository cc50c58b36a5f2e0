"""Runs that follow one another: a teacher, the pairs that it draws, the student that learns from them.

Or a path that is fitted to data, and the run along it; or the times at which few steps of a teacher are best; or
objects that a policy builds, whose measured objectives the next policy learns from. A
configuration with a list ``stages`` stands for several runs in folders below its ``run.dir``. What a stage does not say
itself is in the other sections of the file, and ``{run.dir}`` in a string is the folder of all stages together. Each
kind of stage is a file of its own, listed in ``kinds``; ``reading`` makes them of a file, ``running`` runs them one
after the other.
"""

from trainer.experiment.stage.fit_path import FitPathStage
from trainer.experiment.stage.measure import MeasureStage
from trainer.experiment.stage.pairs import PairsStage
from trainer.experiment.stage.protocol import ConfiguredStage, Stage
from trainer.experiment.stage.reading import chosen, load_stages, stages_of
from trainer.experiment.stage.running import check_read, check_stages, difference, of_stages, run_stages
from trainer.experiment.stage.steps import StepsStage
from trainer.experiment.stage.train import TrainStage

__all__ = [
    "ConfiguredStage",
    "FitPathStage",
    "MeasureStage",
    "PairsStage",
    "Stage",
    "StepsStage",
    "TrainStage",
    "check_read",
    "check_stages",
    "chosen",
    "difference",
    "load_stages",
    "of_stages",
    "run_stages",
    "stages_of",
]
