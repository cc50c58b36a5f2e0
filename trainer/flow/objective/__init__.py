"""What is minimised: the protocol, its implementations, their configuration and `build`."""

from trainer.flow.objective.protocol import LossTerms, Model, Objective
from trainer.flow.objective.regression import Regression, RegressionConfig
from trainer.flow.target.protocol import Target

Config = RegressionConfig


def build(config: Config, *, target: Target | None = None) -> Objective:
    """Returns the objective that `config.kind` names; `target` is what the network predicts, None the velocity."""
    match config:
        case RegressionConfig():
            return Regression(target)


__all__ = ["Config", "LossTerms", "Model", "Objective", "Regression", "RegressionConfig", "build"]
