"""Controls, which change the field of a sampler: the protocol, pulls towards given states, and the union `Config`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field as Setting
from pydantic import model_validator
from torch import Tensor

from netsim.foundation.contract import init_parameters
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.settings import Section
from trainer.flow.condition import per_value
from trainer.flow.control.protocol import Control, ControlInputs, Controlled, CostGradientConfig, controlled
from trainer.flow.control.straight_through import StraightThroughConfig
from trainer.flow.path import End, Path
from trainer.flow.sampler.protocol import SAME_TIME, Field, Trajectory
from trainer.flow.target import Quantity
from trainer.flow.target.conversion import convert, determines


class PullConfig(Section):
    """Part of the velocity is that of the path to a picture, or back to a noise, as in RF-Inversion."""

    kind: Literal["pull"] = "pull"
    strength: float = Setting(default=0.9, ge=0, le=1)
    """Share of the pull in the velocity; 0: none, 1: the velocity of the flow has no part in it."""
    start: float = Setting(default=0.0, ge=0, lt=1)
    """When the pull begins, as a share of the path to the end that it pulls to."""
    stop: float = Setting(default=0.25, gt=0, le=1)
    """When the pull is over, as a share of the path to the end that it pulls to; a step that begins there is free of
    it."""
    decay: float = Setting(default=0.0, ge=0)
    """Exponent of the decay: the strength is multiplied by this power of the share of the path still ahead; 0: it stays
    as it is."""
    end: Literal["data", "source"] = "data"
    """End of the path to which the pull leads. data: a picture, towards the data; source: a noise, on the way
    back."""
    needs_picture: ClassVar[bool] = True

    @model_validator(mode="after")
    def _stops_after_it_starts(self) -> PullConfig:
        if self.stop <= self.start:
            raise ValueError(f"stop: {self.stop} is not after start {self.start}; use a later one")
        return self

    def build(self, inputs: ControlInputs) -> Pull:
        if self.end == "source":
            raise ValueError("end: source needs the noise of an inversion, which samples have not; use data")
        return Pull(self, inputs.picture_for(self.kind), inputs.path, inputs.mask)


class Pull(Control):
    """The velocity v + s(t) (c - v), where c is the velocity of the path through a state and a given end.

    Straight: c = (y - x) / (1 - t) towards data y, (x - y) / t towards a source y. At the end itself the pull is off.
    With strength 1, a method that needs no velocity there, such as Euler's, therefore ends at y. Rout et al.,
    RF-Inversion, arXiv 2410.10792, algorithms 1 (towards a noise) and 2 (towards a picture).
    """

    def __init__(self, config: PullConfig, given: Tensor, path: Path, mask: Tensor | None = None) -> None:
        check_leads_through(config.end, path, kind=config.kind)
        self.config = config
        self.given = given
        self.path = path
        self.mask = mask

    def over(self, field: Field) -> Field:
        return Pulled(field, self.path, self) if self.config.strength else field

    def strength(self, t: Tensor) -> Tensor:
        """The share [B] of the pull in the velocity at the times `t` [B], without the mask."""
        config = self.config
        elapsed = t if config.end == "data" else 1 - t
        acts = (elapsed >= config.start - SAME_TIME) & (elapsed < config.stop - SAME_TIME)
        return config.strength * (1 - elapsed).clamp(min=0) ** config.decay * acts


@dataclass(frozen=True)
class Pulled(Controlled):
    """A field whose velocity `Pull` changes."""

    pull: Pull

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        velocity, pull = self.field(x, t), self.pull
        towards = velocity_through(pull.given, x, t, self.path, end=pull.config.end)
        share = share_of_values(pull.strength(t), x, pull.mask)
        return torch.lerp(velocity, towards.to(velocity), share.to(velocity))


def velocity_through(given: Tensor, x: Tensor, t: Tensor, path: Path, *, end: End) -> Tensor:
    """The velocity of the path through states and one given end y: (y - x) / (1 - t) or (x - y) / t if straight."""
    return convert(given.to(x), x, t, path, source=_named(end), to="velocity")


def check_leads_through(end: End, path: Path, *, kind: str) -> None:
    """Raises ValueError for a path on which a state and one end do not determine the velocity."""
    if not determines(_named(end), "velocity", path):
        raise ValueError(
            f"{kind}: a state and its {end} alone give no velocity on this path, which adds noise of its own; "
            "use a run whose path does not"
        )


def share_of_values(strength: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Strengths [B] as factors that broadcast to states [B, *D], times a mask where there is one."""
    factor = per_value(strength, x)
    return factor if mask is None else factor * mask


def _named(end: End) -> Quantity:
    return "data" if end == "data" else "noise"


SMALLEST_NORM = 1e-8


class TransportConfig(Section):
    """Part of the velocity, early on the path, leads straight to a picture, as in OTIP."""

    kind: Literal["transport"] = "transport"
    strength: float = Setting(default=0.3, ge=0, le=1)
    """Largest share of the transport in the velocity; 0: none."""
    stop: float = Setting(default=0.3, gt=0, le=1)
    """Time at which the transport has faded, along half a cosine; 0 is the noise, 1 the picture."""
    ramp: float = Setting(default=0.05, ge=0, le=1)
    """Time over which the transport first grows from 0; 0: it begins at its full strength."""
    longest: float = Setting(default=10.0, gt=0)
    """Largest norm of the transport's velocity at one place of a state: over the channels of a pixel, or the values of
    a point."""
    respect_prompt: bool = False
    """Whether the correction at a place is scaled by the norm of the flow's velocity over the norm of the transport's,
    so that the transport gives way where the flow moves little."""
    needs_picture: ClassVar[bool] = True

    def build(self, inputs: ControlInputs) -> Transport:
        return Transport(self, inputs.picture_for(self.kind), inputs.path, inputs.mask)


class Transport(Control):
    """The velocity v + s(t) (d - v), where d is the velocity of the path to a picture, shortened where it is too long.

    s(t) = strength (1 + cos(pi t / stop)) / 2 min(1, t / ramp) before `stop`, and 0 after it. Where nothing is
    shortened and `respect_prompt` is off, transport and a pull of strength e after it equal one pull of strength 1 - (1
    - e) (1 - s). `respect_prompt` multiplies s (d - v) by |v| / |d|. Lupascu and Stupariu, OTIP, arXiv 2508.02363, as
    in its code.
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
        config = self.config
        faded = (1 + (math.pi * (t / config.stop).clamp(max=1)).cos()) / 2
        return config.strength * faded * ((t / config.ramp).clamp(max=1) if config.ramp else 1)

    def clip_rate(self, trajectory: Trajectory) -> Tensor:
        """Share (scalar) of the places under transport where d was shortened, on a trajectory of Euler's method."""
        rates = []
        for x, time in zip(trajectory.x[:-1], trajectory.times[:-1].to(trajectory.x), strict=True):
            t = time.expand(len(x))
            acts = self.strength(t) > 0
            too_long = (self._straight(x, t).norm(dim=1) > self.config.longest).reshape(len(x), -1).double().mean(1)
            rates.append(torch.stack([(too_long * acts).sum(), acts.double().sum()]))
        clipped, acted = torch.stack(rates).sum(0)
        return clipped / acted.clamp(min=1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity d [B, *D] at states [B, *D] and times [B], whose norm at each place is at most `longest`."""
        straight = self._straight(x, t)
        norm = straight.norm(dim=1, keepdim=True)
        return straight * (self.config.longest / norm.clamp(min=self.config.longest))

    def _straight(self, x: Tensor, t: Tensor) -> Tensor:
        return velocity_through(self.picture, x, t, self.path, end="data")


@dataclass(frozen=True)
class Transported(Controlled):
    """A field whose velocity `Transport` changes."""

    transport: Transport

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        velocity, transport = self.field(x, t), self.transport
        towards = transport.velocity(x, t).to(velocity)
        share = share_of_values(transport.strength(t), x, transport.mask).to(velocity)
        if transport.config.respect_prompt:
            norm, norm_towards = (value.norm(dim=1, keepdim=True) for value in (velocity, towards))
            share = share * norm / (norm_towards + SMALLEST_NORM)
        return velocity + share * (towards - velocity)


class OwnControl(OwnClass, frozen=True):
    """A class that keeps `Control`; its constructor may take any part of `ControlInputs`.

    A parameter ``picture`` without a default says that the control acts by pictures.
    """

    protocol: ClassVar[str] = "trainer.flow.control.Control"
    passed: ClassVar[tuple[str, ...]] = ("path", "condition", "network", "picture", "mask", "keys", "rewards")

    @property
    def needs_picture(self) -> bool:
        """Whether the class requires a picture, so that it cannot act where examples are drawn from noise alone."""
        picture = init_parameters(self.imported()).get("picture")
        return picture is not None and picture.default is picture.empty

    def build(self, inputs: ControlInputs) -> Control:
        if self.needs_picture:
            inputs.picture_for(self.kind)
        return build_own(self, **vars(inputs))


AnyConfig = CostGradientConfig | PullConfig | TransportConfig | StraightThroughConfig | OwnControl
Config = Annotated[AnyConfig, KindOrClass()]
