"""Which times are trained: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated

from pydantic import Field

from trainer.flow.time.logit_normal import LogitNormal, LogitNormalConfig
from trainer.flow.time.protocol import TimeSampler
from trainer.flow.time.uniform import Uniform, UniformConfig

Config = Annotated[UniformConfig | LogitNormalConfig, Field(discriminator="kind")]


def build(config: Config) -> TimeSampler:
    """Returns the time sampler that `config.kind` names."""
    match config:
        case UniformConfig():
            return Uniform()
        case LogitNormalConfig():
            return LogitNormal(config.mean, config.std)


__all__ = ["Config", "LogitNormal", "LogitNormalConfig", "TimeSampler", "Uniform", "UniformConfig", "build"]
