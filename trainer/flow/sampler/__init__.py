"""Samplers: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated, TypeVar

import torch
from torch import Tensor

from moe.validation.own_class import KindOrClass, build_own
from trainer.flow.own import OwnSampler
from trainer.flow.path import Path
from trainer.flow.sampler.first_order import FirstOrder, FirstOrderConfig, first_order_times
from trainer.flow.sampler.ode import Dopri5, Dopri5Config, Euler, EulerConfig, Heun, HeunConfig
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, VelocityField
from trainer.flow.sampler.sde import (
    EulerMaruyama,
    EulerMaruyamaConfig,
    StochasticHeun,
    StochasticHeunConfig,
    linear_diffusion,
)
from trainer.flow.sampler.segmented import Segmented, SegmentedConfig, Within

AnyConfig = Within | SegmentedConfig | OwnSampler
Config = Annotated[AnyConfig, KindOrClass()]
C = TypeVar("C", bound=AnyConfig)


def build(config: AnyConfig, *, path: Path) -> Sampler:
    """Returns the sampler that `config.kind` or `config.class` names, for fields trained on `path`."""
    match config:
        case EulerConfig():
            return Euler()
        case HeunConfig():
            return Heun()
        case Dopri5Config():
            return Dopri5(config.rtol, config.atol)
        case FirstOrderConfig():
            return FirstOrder(path)
        case EulerMaruyamaConfig():
            return EulerMaruyama(linear_diffusion(*config.diffusion))
        case StochasticHeunConfig():
            return StochasticHeun(linear_diffusion(*config.diffusion))
        case SegmentedConfig():
            return Segmented(build(config.within, path=path), config.segments)
        case OwnSampler():
            return build_own(config, path=path)


def times(config: AnyConfig) -> Tensor:
    """Returns the configured grid [T] from source (0) to data (1), float32 on the CPU."""
    match config:
        case Dopri5Config():
            steps = 1
        case FirstOrderConfig():
            return first_order_times(config.steps, config.trained_times)
        case SegmentedConfig():
            steps = config.segments * (len(times(config.within)) - 1)
        case OwnSampler():
            steps = config.setting("steps", 1)
        case _:
            steps = config.steps
    return torch.linspace(0.0, 1.0, steps + 1)


def with_evaluations(config: C, evaluations: int) -> C | None:
    """Changes the number of steps of a sampler to reach a number of evaluations of the field.

    Args:
        config: any sampler.
        evaluations: of the field in all, 1 or more.

    Returns:
        The same sampler with another number of steps; None if no number of steps has so many evaluations, or if the
        sampler chooses its steps itself.
    """
    match config:
        case Dopri5Config():
            return None
        case FirstOrderConfig(trained_times=int(largest)) if evaluations > largest:
            return None
        case SegmentedConfig():
            within = with_evaluations(config.within, evaluations // config.segments)
            exact = within is not None and evaluations % config.segments == 0
            return config.model_copy(update={"within": within}) if exact else None
        case OwnSampler():
            a_step = getattr(config.imported(), "evaluations_per_step", None)
            if a_step is None or config.setting("steps") is None or evaluations % a_step:
                return None
            return config.with_settings(steps=evaluations // a_step)
        case HeunConfig() | StochasticHeunConfig():
            steps, rest = divmod(evaluations, 2)
        case _:
            steps, rest = evaluations, 0
    return config.model_copy(update={"steps": steps}) if steps and not rest else None


__all__ = [
    "AnyConfig",
    "Config",
    "Dopri5",
    "Dopri5Config",
    "Euler",
    "EulerConfig",
    "EulerMaruyama",
    "EulerMaruyamaConfig",
    "Field",
    "FirstOrder",
    "FirstOrderConfig",
    "Heun",
    "HeunConfig",
    "OwnSampler",
    "Sampler",
    "Segmented",
    "SegmentedConfig",
    "StochasticHeun",
    "StochasticHeunConfig",
    "Trajectory",
    "VelocityField",
    "build",
    "linear_diffusion",
    "times",
    "with_evaluations",
]
