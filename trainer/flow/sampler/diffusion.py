"""How much noise the steps of a random sampler add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section

Diffusion = Callable[[Tensor, Tensor], Tensor]
"""From the time where a step begins and the time where it ends to e of the step, 0 or more."""

Rate = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class FlowGRPODiffusion(Section):
    """e = a^2 (1 - t) / (2 t), where the step from t = 0 has a^2 / (2 t') with the time t' where it ends.

    Source: Liu et al., "Flow-GRPO", arXiv 2505.05470, section 4.2, where sigma^2 = 2 e and noise is at t = 1.
    """

    kind: Literal["flow_grpo"] = "flow_grpo"
    a: float = Field(default=0.7, gt=0.0, allow_inf_nan=False)
    """Scale of the noise."""


class MemorylessDiffusion(Section):
    """e = (1 - t + floor) / (t + floor), under which a state at the data is independent of that at the source.

    Fine-tuning by adjoint matching needs it. The path has to be straight. The step from t = 0, where e has no bound, is
    that of `step` ancestral.

    Source: Domingo-Enrich, Drozdzal, Karrer and Chen, "Adjoint Matching", arXiv 2409.08861, section 4.3, where
    sigma^2 = 2 e.
    """

    kind: Literal["memoryless"] = "memoryless"
    floor: float = Field(default=1e-3, gt=0.0, le=1.0)
    """Keeps e small near t = 0; samples get wider with it, at 1 / steps by some 3 %."""
    step: Literal["euler", "ancestral"] = "euler"
    """How all other steps are taken. ancestral: as if the state at t and the present estimate of the data were all that
    is known, whatever the floor; samples are too narrow, at 40 steps by some 7 %."""


DiffusionConfig = tuple[Rate, Rate] | FlowGRPODiffusion | MemorylessDiffusion
"""e at the source and at the data, linear in between; or a section with a kind."""


def build_diffusion(config: DiffusionConfig) -> Diffusion:
    """The diffusion that a configuration names.

    Args:
        config: two rates, or a section with a kind.
    """
    match config:
        case FlowGRPODiffusion(a=a):
            return flow_grpo_diffusion(a)
        case MemorylessDiffusion(floor=floor):
            return memoryless_diffusion(floor)
        case (source, data):
            return linear_diffusion(source, data)


def linear_diffusion(source: float, data: float) -> Diffusion:
    """The diffusion e = (1 - t) source + t data, of the time t where a step begins."""
    return lambda t, _: (1 - t) * source + t * data


def flow_grpo_diffusion(a: float) -> Diffusion:
    """See :class:`FlowGRPODiffusion`."""

    def e(t: Tensor, t_next: Tensor) -> Tensor:
        return a**2 / 2 * (1 - t) / torch.where(t > 0, t, t_next)

    return e


def memoryless_diffusion(floor: float) -> Diffusion:
    """See :class:`MemorylessDiffusion`."""

    def e(t: Tensor, t_next: Tensor) -> Tensor:
        return torch.where(t > 0, (1 - t + floor) / (t + floor), (1 - t_next).square() / (2 * t_next))

    return e
