"""The list of every kind of stage."""

from typing import TypeAlias

from trainer.experiment.stage.fit_path import FitPathStage
from trainer.experiment.stage.pairs import PairsStage
from trainer.experiment.stage.train import TrainStage

Stage: TypeAlias = TrainStage | PairsStage | FitPathStage
"""One run of a configuration."""
