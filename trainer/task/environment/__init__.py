"""Environments in which objects are built action by action: the protocol, its implementations, and `build`."""

from netsim.foundation.own_class import build_own
from trainer.config.task.environment import AnyEnvironmentConfig, HyperGridConfig, NGramConfig, OwnEnvironment
from trainer.task.environment.built_in import HyperGrid, NGram
from trainer.task.environment.laws import check_laws
from trainer.task.environment.protocol import Environment


def build(config: AnyEnvironmentConfig) -> Environment:
    """The environment that `config.kind` or `config.class` names."""
    match config:
        case HyperGridConfig():
            return HyperGrid(config)
        case NGramConfig():
            return NGram(config)
        case OwnEnvironment():
            return build_own(config)


__all__ = ["Environment", "check_laws"]
