"""Times of training: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated

from netsim.foundation.own_class import KindOrClass, build_own
from trainer.flow.own import OwnTime
from trainer.flow.time.clipped import Clipped, ClippedConfig
from trainer.flow.time.grid import Grid, GridConfig
from trainer.flow.time.logit_normal import LogitNormal, LogitNormalConfig
from trainer.flow.time.protocol import TimeSampler
from trainer.flow.time.stratified import Stratified, StratifiedConfig
from trainer.flow.time.uniform import Uniform, UniformConfig

AnyConfig = UniformConfig | LogitNormalConfig | ClippedConfig | GridConfig | StratifiedConfig | OwnTime
Config = Annotated[AnyConfig, KindOrClass()]


def build(config: AnyConfig) -> TimeSampler:
    """Returns the time sampler that `config.kind` or `config.class` names."""
    match config:
        case UniformConfig():
            return Uniform()
        case LogitNormalConfig():
            return LogitNormal(config.mean, config.std)
        case ClippedConfig():
            return Clipped(config.margin, build(config.within))
        case GridConfig():
            return Grid(config.steps)
        case StratifiedConfig():
            return Stratified(config.segments)
        case OwnTime():
            return build_own(config)


__all__ = [
    "AnyConfig",
    "Clipped",
    "ClippedConfig",
    "Config",
    "Grid",
    "GridConfig",
    "LogitNormal",
    "LogitNormalConfig",
    "OwnTime",
    "Stratified",
    "StratifiedConfig",
    "TimeSampler",
    "Uniform",
    "UniformConfig",
    "build",
]
