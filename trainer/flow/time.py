"""The times at which a batch is trained, and equal segments of time.

Segment m of M holds the times from m / M up to, but not including, (m + 1) / M; the last one holds t = 1 too.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.settings import Section


class TimeSampler(Protocol):
    """Draws the time of each example of a batch."""

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws times [B] in [0, 1], 0 the source and 1 the data, on the generator's device, and moves them.

        `dtype` is float32 or wider, also where the network computes in a narrower one.
        """
        ...


class BuiltIn(Section):
    """A sampler of times that is its settings: what it draws is moved to the device, and may be spread out there."""

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        return self.spread(to_device(self.drawn(batch_size, generator, dtype), device))

    def drawn(self, num: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draws numbers [num] in [0, 1] on the device of the generator, uniform unless overridden."""
        return torch.rand(num, generator=generator, device=generator.device, dtype=dtype)

    def spread(self, u: Tensor) -> Tensor:
        """Maps drawn numbers [B] to times [B], on the device of the result."""
        return u


class Uniform(BuiltIn):
    """t is uniform on [0, 1); nothing to set."""

    kind: Literal["uniform"] = "uniform"


class LogitNormal(BuiltIn):
    """log(t / (1 - t)) is normal.

    Esser et al., arXiv 2403.03206, section 3.1, where time is 1 - t.

    Attributes:
        mean: mean of the logit; above 0 favours times near the data.
        std: standard deviation of the logit, above 0; a small one concentrates the times around sigmoid(mean).
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(default=0.0, allow_inf_nan=False)
    std: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    def drawn(self, num: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        z = torch.randn(num, generator=generator, device=generator.device, dtype=dtype)
        return torch.sigmoid(self.mean + self.std * z)


class Clipped(BuiltIn):
    """The times of another sampler, scaled from [0, 1] to [margin, 1 - margin].

    Uniform times stay uniform, without a peak. Liu et al., arXiv 2209.03003, whose code trains on U[1e-3, 1].

    Attributes:
        margin: distance from both ends, at least 0 and below 0.5.
        within: the other sampler.
    """

    kind: Literal["clipped"] = "clipped"
    margin: float = Field(default=1e-3, ge=0.0, lt=0.5)
    within: Annotated[Uniform | LogitNormal, Field(discriminator="kind")] = Uniform()

    def drawn(self, num: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return self.within.drawn(num, generator, dtype)

    def spread(self, u: Tensor) -> Tensor:
        return self.margin + (1 - 2 * self.margin) * u


class Grid(BuiltIn):
    """t is one of 0, 1/steps, ..., (steps - 1)/steps, for distillation to a number of steps.

    All are equally likely. Liu et al., arXiv 2209.03003, section 2.2 (distillation).

    Attributes:
        steps: number of steps of the sampler, at least 1; with 1 the only time is 0.
    """

    kind: Literal["grid"] = "grid"
    steps: int = Field(default=4, ge=1)

    def drawn(self, num: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        step = torch.randint(self.steps, (num,), generator=generator, device=generator.device)
        return step.to(dtype) / self.steps


class Stratified(BuiltIn):
    """Every micro batch has the same number of times in each of several equal segments.

    t = (m + u) / M with u ~ U[0, 1): B // M times of each segment m, one more of each of the first B mod M, in the
    order of their segments. Park et al., "Blockwise Flow Matching", arXiv 2510.21167, section 3.

    Attributes:
        segments: number of segments, at least 1.
    """

    kind: Literal["stratified"] = "stratified"
    segments: int = Field(default=6, ge=1)

    def spread(self, u: Tensor) -> Tensor:
        u = u.clamp_max(1 - self.segments * torch.finfo(u.dtype).eps)  # rounding up would move it to the next segment
        segment = (torch.arange(len(u), device=u.device) % self.segments).sort().values
        return (segment + u) / self.segments


class OwnTime(OwnClass, frozen=True):
    """A class that keeps `TimeSampler`."""

    protocol: ClassVar[str] = "trainer.flow.time.TimeSampler"


Config = Annotated[Uniform | LogitNormal | Clipped | Grid | Stratified | OwnTime, KindOrClass()]


def build(config: Config) -> TimeSampler:
    return build_own(config) if isinstance(config, OwnTime) else config


def segment_of(t: Tensor, segments: int) -> Tensor:
    """The segment of each time [B], int64 0 to segments - 1; a time at an edge is in the segment that starts there."""
    edges = torch.arange(1, segments, dtype=t.dtype, device=t.device) / segments  # not t M, which would be rounded
    return torch.bucketize(t, edges, right=True)


def start_of(segment: Tensor, segments: int, like: Tensor) -> Tensor:
    """First times [B] of segments int64 [B], which are numbered from 0, in the type of `like`."""
    return segment.to(like.dtype) / segments


def share_behind(t: Tensor, segment: Tensor | int, segments: int) -> Tensor:
    """The elapsed share of its segment at each time [B]: 0 at the first time of the segment, 1 at its end."""
    return (t * segments - segment).clamp(0, 1)
