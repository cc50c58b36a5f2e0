"""The list of every kind of stage."""

from trainer.experiment.stage.fit_path import FitPathStage
from trainer.experiment.stage.measure import MeasureStage
from trainer.experiment.stage.pairs import PairsStage
from trainer.experiment.stage.protocol import Stage
from trainer.experiment.stage.steps import StepsStage
from trainer.experiment.stage.train import TrainStage

_ALL: tuple[type[Stage], ...] = (TrainStage, PairsStage, FitPathStage, StepsStage, MeasureStage)
KINDS: dict[str, type[Stage]] = {kind.verb: kind for kind in _ALL}
"""By what a file calls them."""
