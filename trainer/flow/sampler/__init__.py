"""Samplers: the protocol, its implementations, their configuration and `build`."""

from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import torch
from torch import Tensor

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.path import Path as FlowPath
from trainer.flow.sampler.causal_transition import CausalTransitionConfig, CausalTransitionSampler, TokenField
from trainer.flow.sampler.grid import GridConfig, grid_times, searched_grids
from trainer.flow.sampler.ode import (
    Dopri5,
    Dopri5Config,
    Euler,
    EulerConfig,
    FirstOrder,
    FirstOrderConfig,
    Heun,
    HeunConfig,
    first_order_times,
)
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, VelocityField
from trainer.flow.sampler.renoise import GaussianStep, Renoise, RenoiseConfig, mean_log_density
from trainer.flow.sampler.sde import (
    Ancestral,
    EulerMaruyama,
    EulerMaruyamaConfig,
    FlowGRPODiffusion,
    Memoryless,
    MemorylessDiffusion,
    StochasticHeun,
    StochasticHeunConfig,
    build_diffusion,
    flow_grpo_diffusion,
    linear_diffusion,
)
from trainer.flow.sampler.segmented import Segmented, SegmentedConfig, Within
from trainer.flow.sampler.transition import Transition, TransitionConfig


class OwnSampler(OwnClass, frozen=True):
    """A class that keeps `Sampler`; its constructor may take ``path``.

    A setting ``steps`` is the number of equal steps from source to data; a class without it chooses its steps itself.
    """

    protocol: ClassVar[str] = "trainer.flow.sampler.Sampler"
    passed: ClassVar[tuple[str, ...]] = ("path",)


AnyConfig = Within | RenoiseConfig | SegmentedConfig | TransitionConfig | CausalTransitionConfig | OwnSampler
Config = Annotated[AnyConfig, KindOrClass()]
C = TypeVar("C", bound=AnyConfig)
G = TypeVar("G", bound=GridConfig)


def build(config: AnyConfig, *, path: FlowPath) -> Sampler:
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
        case EulerMaruyamaConfig(diffusion=MemorylessDiffusion(step="ancestral")):
            return Ancestral()
        case EulerMaruyamaConfig(diffusion=MemorylessDiffusion(floor=floor)):
            return Memoryless(floor)
        case EulerMaruyamaConfig():
            return EulerMaruyama(build_diffusion(config.diffusion))
        case StochasticHeunConfig():
            return StochasticHeun(linear_diffusion(*config.diffusion))
        case RenoiseConfig():
            return Renoise(path)
        case SegmentedConfig():
            return Segmented(build(config.within, path=path), config.segments)
        case CausalTransitionConfig():
            return CausalTransitionSampler(build(config.head, path=path), times(config.head))
        case TransitionConfig(head=head):
            solver = build(head, path=path)
            assert isinstance(solver, Euler | Heun | Dopri5)
            return Transition(solver, times(head))
        case OwnSampler():
            return build_own(config, path=path)


def times(config: AnyConfig) -> Tensor:
    """The configured grid [T] from source (0) to data (1), float32 on the CPU.

    Raises:
        Refusal: it is in a file that cannot be read, or that has none for this sampler and number of steps.
    """
    match config:
        case Dopri5Config() | CausalTransitionConfig():
            return _equal(1)
        case FirstOrderConfig(times=None):
            return first_order_times(config.steps, config.trained_times)
        case SegmentedConfig(segments=segments, within=within):
            if isinstance(within, Dopri5Config) or within.times is None:
                return _equal(segments * (len(times(within)) - 1))
            over_all = within.model_copy(update={"steps": segments * within.steps})
            return grid_times(over_all, evaluations_per_step=_evaluations_per_step(within), segments=segments)
        case OwnSampler():
            return _equal(config.setting("steps", 1))
        case _:
            return grid_times(config, evaluations_per_step=_evaluations_per_step(config))


def calls(config: AnyConfig) -> dict[str, int] | None:
    """How often each part of a model is called for an example; None if the sampler chooses its steps itself."""
    match config:
        case Dopri5Config():
            return None
        case SegmentedConfig():
            within = calls(config.within)
            return None if within is None else {part: config.segments * count for part, count in within.items()}
        case CausalTransitionConfig(head=head, tokens=tokens):
            of_head = _evaluations_per_step(head) * head.steps
            return None if tokens is None else {"network": tokens, "head": tokens * of_head}
        case TransitionConfig(steps=steps, head=head):
            of_the_head = calls(head)
            return None if of_the_head is None else {"network": steps, "head": steps * of_the_head["network"]}
        case OwnSampler():
            a_step = getattr(config.imported(), "evaluations_per_step", None)
            steps = config.setting("steps")
            return None if a_step is None or steps is None else {"network": a_step * steps}
        case _:
            return {"network": _evaluations_per_step(config) * config.steps}


def follows_velocity(config: AnyConfig) -> bool:
    """Whether it follows a velocity from source to data, so that solvers of ordinary equations may replace it."""
    return not isinstance(config, CausalTransitionConfig)


def with_evaluations(config: C, evaluations: int) -> C | None:
    """The same sampler with the number of steps that comes to a number of evaluations of the field, 1 or more.

    None if no number of steps has so many, if the file of its grids has none for it, or if it chooses its steps itself.

    Raises:
        Refusal: the file of the grids cannot be read.
    """
    within, segments = (config.within, config.segments) if isinstance(config, SegmentedConfig) else (config, 1)
    if isinstance(within, GridConfig) and isinstance(within.times, Path):
        return _with_steps_of(config, evaluations) if evaluations in searched_grids(within, segments) else None
    return _with_steps_of(config, evaluations)


def steps_file(config: AnyConfig) -> Path | None:
    """The file of searched grids that a sampler takes its times from; None if absent."""
    within = config.within if isinstance(config, SegmentedConfig) else config
    return within.times if isinstance(within, GridConfig) and isinstance(within.times, Path) else None


def _with_steps_of(config: C, evaluations: int) -> C | None:
    match config:
        case Dopri5Config():
            return None
        case FirstOrderConfig(trained_times=int(largest)) if evaluations > largest:
            return None
        case CausalTransitionConfig(tokens=tokens):
            return config if evaluations == tokens else None
        case SegmentedConfig():
            within = _with_steps_of(config.within, evaluations // config.segments)
            exact = within is not None and evaluations % config.segments == 0
            return config.model_copy(update={"within": within}) if exact else None
        case OwnSampler():
            a_step = getattr(config.imported(), "evaluations_per_step", None)
            if a_step is None or config.setting("steps") is None or evaluations % a_step:
                return None
            return config.with_settings(steps=evaluations // a_step)
        case _:
            steps, rest = divmod(evaluations, _evaluations_per_step(config))
            return _with_steps(config, steps) if steps and not rest else None


def _with_steps(config: G, steps: int) -> G | None:
    """The same sampler with another number of steps; None if its times are written out for another number."""
    match config.times:
        case tuple() if steps != config.steps:
            return None
        case _:
            return config.model_copy(update={"steps": steps})


def _evaluations_per_step(config: GridConfig) -> int:
    return 2 if isinstance(config, HeunConfig | StochasticHeunConfig) else 1


def _equal(steps: int) -> Tensor:
    return torch.linspace(0.0, 1.0, steps + 1)


__all__ = [
    "Ancestral",
    "AnyConfig",
    "CausalTransitionConfig",
    "CausalTransitionSampler",
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
    "FlowGRPODiffusion",
    "GaussianStep",
    "Heun",
    "HeunConfig",
    "Memoryless",
    "MemorylessDiffusion",
    "OwnSampler",
    "Renoise",
    "RenoiseConfig",
    "Sampler",
    "Segmented",
    "SegmentedConfig",
    "StochasticHeun",
    "StochasticHeunConfig",
    "TokenField",
    "Trajectory",
    "Transition",
    "TransitionConfig",
    "VelocityField",
    "build",
    "build_diffusion",
    "calls",
    "flow_grpo_diffusion",
    "follows_velocity",
    "linear_diffusion",
    "mean_log_density",
    "steps_file",
    "times",
    "with_evaluations",
]
