"""Times of training: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated

from pydantic import Field

from trainer.flow.time.clipped import Clipped, ClippedConfig
from trainer.flow.time.grid import Grid, GridConfig
from trainer.flow.time.logit_normal import LogitNormal, LogitNormalConfig
from trainer.flow.time.protocol import TimeSampler
from trainer.flow.time.stratified import Stratified, StratifiedConfig
from trainer.flow.time.uniform import Uniform, UniformConfig

AnyConfig = UniformConfig | LogitNormalConfig | ClippedConfig | GridConfig | StratifiedConfig
Config = Annotated[AnyConfig, Field(discriminator="kind")]


def build(config: AnyConfig) -> TimeSampler:
    """Returns the time sampler that `config.kind` names."""
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


__all__ = [
    "AnyConfig",
    "Clipped",
    "ClippedConfig",
    "Config",
    "Grid",
    "GridConfig",
    "LogitNormal",
    "LogitNormalConfig",
    "Stratified",
    "StratifiedConfig",
    "TimeSampler",
    "Uniform",
    "UniformConfig",
    "build",
]
