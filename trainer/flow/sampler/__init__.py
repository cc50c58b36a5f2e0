"""How a sample is drawn: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated

import torch
from pydantic import Field as Setting
from torch import Tensor

from trainer.flow.path import Path
from trainer.flow.sampler.ode import Dopri5, Dopri5Config, Euler, EulerConfig, Heun, HeunConfig
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, VelocityField

Config = Annotated[EulerConfig | HeunConfig | Dopri5Config, Setting(discriminator="kind")]


def build(config: Config, *, path: Path) -> Sampler:  # noqa: ARG001
    """Returns the sampler that `config.kind` names, for fields that were trained on `path`."""
    match config:
        case EulerConfig():
            return Euler()
        case HeunConfig():
            return Heun()
        case Dopri5Config():
            return Dopri5(config.rtol, config.atol)


def times(config: Config) -> Tensor:
    """Returns the grid [T] from source (0) to data (1) that the configuration asks for, float32 on the CPU."""
    steps = 1 if isinstance(config, Dopri5Config) else config.steps
    return torch.linspace(0.0, 1.0, steps + 1)


__all__ = [
    "Config",
    "Dopri5",
    "Dopri5Config",
    "Euler",
    "EulerConfig",
    "Field",
    "Heun",
    "HeunConfig",
    "Sampler",
    "Trajectory",
    "VelocityField",
    "build",
    "times",
]
