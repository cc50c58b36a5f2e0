"""The pull of a flow towards given states, along the path that leads to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field as Setting
from pydantic import model_validator
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.control.protocol import Control, Controlled
from trainer.flow.path import End, Path
from trainer.flow.sampler.grid import SAME_TIME
from trainer.flow.sampler.protocol import Field
from trainer.flow.target import Quantity
from trainer.flow.target.conversion import convert, determines


class PullConfig(Section):
    """A share of the velocity is that of the path to a picture, or back to a noise, as in RF-Inversion."""

    kind: Literal["pull"] = "pull"
    strength: float = Setting(default=0.9, ge=0, le=1)
    """Share of the pull in the velocity; 0: none, 1: the velocity of the flow has no part in it."""
    start: float = Setting(default=0.0, ge=0, lt=1)
    """When it begins, as a share of the way to the end that it pulls to."""
    stop: float = Setting(default=0.25, gt=0, le=1)
    """When it is over, as a share of that way; a step that begins there is free of it."""
    decay: float = Setting(default=0.0, ge=0)
    """Power of the share of the way still ahead, which the strength is multiplied by; 0: it stays as it is."""
    end: Literal["data", "source"] = "data"
    """What it pulls to: `data`, a picture, on the way to the data; `source`, a noise, on the way back."""

    @model_validator(mode="after")
    def _stops_after_it_starts(self) -> PullConfig:
        if self.stop <= self.start:
            raise ValueError(f"stop: {self.stop} is not after start {self.start}; use a later one")
        return self


class Pull(Control):
    """v + s(t) (c - v), where c is the velocity of the path through a state and a given end.

    On the straight path c = (y - x) / (1 - t) towards data y, and (x - y) / t towards a source y.

    With strength 1 the last step of Euler's method, or of any other that asks for no velocity at the end itself, ends
    at the given states. At the end no velocity is that of the path, and the pull is over there. The divisor is at least
    1e-3, see `trainer.flow.target.conversion.convert`.

    Source: Rout et al., "Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations",
    arXiv 2410.10792, algorithms 1 (towards a noise) and 2 (towards a picture).
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
        gone = t if config.end == "data" else 1 - t
        acts = (gone >= config.start - SAME_TIME) & (gone < config.stop - SAME_TIME)
        return config.strength * (1 - gone).clamp(min=0) ** config.decay * acts


@dataclass(frozen=True)
class Pulled(Controlled):
    """The field of `Pull`."""

    pull: Pull

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        velocity, pull = self.field(x, t), self.pull
        towards = velocity_through(pull.given, x, t, self.path, end=pull.config.end)
        share = per_value(pull.strength(t), x, pull.mask)
        return torch.lerp(velocity, towards.to(velocity), share.to(velocity))


def velocity_through(given: Tensor, x: Tensor, t: Tensor, path: Path, *, end: End) -> Tensor:
    """The velocity of the path through states and one given end y: (y - x) / (1 - t) or (x - y) / t if straight."""
    return convert(given.to(x), x, t, path, source=_named(end), to="velocity")


def check_leads_through(end: End, path: Path, *, kind: str) -> None:
    """Refuses, by a ValueError, a path on which a state and one end leave the velocity open."""
    if not determines(_named(end), "velocity", path):
        raise ValueError(
            f"{kind}: a state and its {end} alone give no velocity on this path, which adds noise of its own; "
            "use a run whose path does not"
        )


def per_value(strength: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Strengths [B] as factors that broadcast to states [B, *D], times a mask where there is one."""
    factor = strength.reshape(-1, *[1] * (x.ndim - 1))
    return factor if mask is None else factor * mask


def _named(end: End) -> Quantity:
    return "data" if end == "data" else "noise"
