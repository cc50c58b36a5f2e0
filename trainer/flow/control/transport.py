"""A pull towards pictures that fades early in the flow, and that never exceeds a length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.control.protocol import Control, Controlled
from trainer.flow.control.pull import check_leads_through, per_value, velocity_through
from trainer.flow.path import Path
from trainer.flow.sampler.protocol import Field, Trajectory

SMALLEST_NORM = 1e-8


class TransportConfig(Section):
    """A share of the velocity, which fades early, is that of the straight transport to a picture, as in OTIP."""

    kind: Literal["transport"] = "transport"
    strength: float = Setting(default=0.3, ge=0, le=1)
    """Largest share of the transport in the velocity; 0: none."""
    stop: float = Setting(default=0.3, gt=0, le=1)
    """Time at which it has faded, along half a cosine; 0 is the noise, 1 the picture."""
    ramp: float = Setting(default=0.05, ge=0, le=1)
    """Time over which it first grows from 0; 0: it begins at its full strength."""
    longest: float = Setting(default=10.0, gt=0)
    """Largest norm of its velocity at one place of a state: over the channels of a pixel, or the values of a point."""
    respect_prompt: bool = False
    """Whether its correction of a place is scaled by the norm of the flow's velocity there over that of its own, so
    that it gives way where the flow moves little."""


class Transport(Control):
    """v + s(t) (d - v), where d is the velocity of the path to a picture, shortened where it is too long.

    s(t) = strength (1 + cos(pi t / stop)) / 2 min(1, t / ramp) before `stop`, and 0 from there on. The map between two
    points that transports one to the other is a straight line; hence the name. Where nothing is shortened and
    `respect_prompt` is off, transport followed by a pull of strength e is a pull of strength 1 - (1 - e) (1 - s).

    With `respect_prompt` the correction s (d - v) is multiplied by |v| / |d|, as the published code does, although it
    holds d already.

    Source: Lupascu and Stupariu, "Transport-Guided Rectified Flow Inversion", arXiv 2508.02363, as its published code
    has it: before the pull of RF-Inversion, see `trainer.flow.control.pull`.
    """

    def __init__(self, config: TransportConfig, picture: Tensor, path: Path, mask: Tensor | None = None) -> None:
        check_leads_through("data", path, kind=config.kind)
        self.config = config
        self.picture = picture
        self.path = path
        self.mask = mask

    def over(self, field: Field) -> Field:
        return Transported(field, self.path, self) if self.config.strength else field

    def strength(self, t: Tensor) -> Tensor:
        """The share [B] of the transport in the velocity at the times `t` [B], without the mask."""
        config = self.config
        faded = (1 + (math.pi * (t / config.stop).clamp(max=1)).cos()) / 2
        return config.strength * faded * ((t / config.ramp).clamp(max=1) if config.ramp else 1)

    def clip_rate(self, trajectory: Trajectory) -> Tensor:
        """The share (scalar) of the places of the states that it acted on where the transport's velocity was too long.

        The trajectory is that of Euler's method, or of another one that asks for velocities at its states alone.
        """
        rates = []
        for x, time in zip(trajectory.x[:-1], trajectory.times[:-1].to(trajectory.x), strict=True):
            t = time.expand(len(x))
            acts = self.strength(t) > 0
            too_long = (self._straight(x, t).norm(dim=1) > self.config.longest).reshape(len(x), -1).double().mean(1)
            rates.append(torch.stack([(too_long * acts).sum(), acts.double().sum()]))
        clipped, acted = torch.stack(rates).sum(0)
        return clipped / acted.clamp(min=1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity d [B, *D] of the transport at states [B, *D] and times [B], not longer than allowed."""
        straight = self._straight(x, t)
        norm = straight.norm(dim=1, keepdim=True)
        return straight * (self.config.longest / norm.clamp(min=self.config.longest))

    def _straight(self, x: Tensor, t: Tensor) -> Tensor:
        return velocity_through(self.picture, x, t, self.path, end="data")


@dataclass(frozen=True)
class Transported(Controlled):
    """The field of `Transport`."""

    transport: Transport

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        velocity, transport = self.field(x, t), self.transport
        towards = transport.velocity(x, t).to(velocity)
        share = per_value(transport.strength(t), x, transport.mask).to(velocity)
        if transport.config.respect_prompt:
            own, other = (value.norm(dim=1, keepdim=True) for value in (velocity, towards))
            share = share * own / (other + SMALLEST_NORM)
        return velocity + share * (towards - velocity)
