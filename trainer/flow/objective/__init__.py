"""What is minimised: the protocol, its implementations, their configuration and `build`."""

from trainer.flow.objective.error import PseudoHuberConfig, SquaredConfig
from trainer.flow.objective.protocol import LossTerms, Model, Objective
from trainer.flow.objective.regression import Regression, RegressionConfig
from trainer.flow.target.protocol import Target

Config = RegressionConfig


def build(config: Config, *, target: Target) -> Objective:
    """Returns the objective that `config.kind` names; `target` is what the network predicts."""
    match config:
        case RegressionConfig():
            return Regression(target, config)


__all__ = [
    "Config",
    "LossTerms",
    "Model",
    "Objective",
    "PseudoHuberConfig",
    "Regression",
    "RegressionConfig",
    "SquaredConfig",
    "build",
]
