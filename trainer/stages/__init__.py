"""Runs that follow one another: a teacher, the pairs that it draws, the student that learns from them.

Or a path that is fitted to data, and the run along it. A configuration with a list ``stages`` stands for several runs
in folders below its ``run.dir``. What a stage does not say itself is in the other sections of the file, and
``{run.dir}`` in a string is the folder of all stages together. The stages themselves are in ``stage``; ``reading``
makes them of a file, ``running`` runs them one after the other.
"""

from trainer.stages.provenance import check_read, difference
from trainer.stages.reading import chosen, load_stages, stages_of
from trainer.stages.running import check_stages, run_stages
from trainer.stages.stage import FitPathStage, PairsStage, Stage, TrainStage, awaits

__all__ = [
    "FitPathStage",
    "PairsStage",
    "Stage",
    "TrainStage",
    "awaits",
    "check_read",
    "check_stages",
    "chosen",
    "difference",
    "load_stages",
    "run_stages",
    "stages_of",
]
