"""Two-dimensional sets to look at: points drawn from closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from moe.seeds import derive_seed, fold_in, uniform
from netsim.foundation.settings import Section
from trainer.data.protocol import Batch, Dataset, Split

FIRST_HELD_OUT = 2**62
SPREAD = 0.08
BLOB_SPREAD = 0.2

PARTS: dict[str, int] = {
    "moons": 2,
    "rings": 2,
    "spirals": 2,
    "checkerboard": 8,
    "eight_gaussians": 8,
    "swiss_roll": 1,
}
"""Of how many parts, all equally likely, each set is made."""


class ToyConfig(Section):
    """Points in the plane, within about [-2, 2] each way."""

    kind: Literal["toy"] = "toy"
    name: Literal["moons", "rings", "spirals", "checkerboard", "eight_gaussians", "swiss_roll"] = "moons"
    """Which of the sets."""
    num_examples: PositiveInt | None = None
    """Points to train on; null: a new one each time."""
    held_out: PositiveInt = 1000
    """Points that are kept out of training."""
    classes: bool = False
    """Label each point with the part that it belongs to: moon, ring, arm, square or blob."""
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    """Of the points; they are the same for every seed of the run."""

    @property
    def shape(self) -> tuple[int]:
        """(2,), a point."""
        return (2,)

    @property
    def endless(self) -> bool:
        """Whether no training point comes twice."""
        return self.num_examples is None

    @property
    def num_classes(self) -> int:
        """The parts, if points are labelled."""
        return PARTS[self.name] if self.classes else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Parts have no names."""
        return ()


class Toy(Dataset):
    """Points that are a function of (name, seed, id): part, place on the part, and Gaussian spread around it.

    Training points are numbered from 0, held-out ones from 2**62.
    """

    shape = (2,)

    def __init__(self, config: ToyConfig) -> None:
        self.num_classes = config.num_classes
        self.endless = config.num_examples is None
        self._name, self._parts = config.name, PARTS[config.name]
        self._key = torch.tensor(derive_seed("toy", config.name, config.seed))
        self._splits: dict[Split, Tensor] = {
            "train": torch.arange(config.num_examples or 0),
            "held_out": torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + config.held_out),
        }

    def indices(self, split: Split) -> Tensor:
        return self._splits[split]

    def get(self, indices: Tensor) -> Batch:
        keys = fold_in(self._key, indices)
        which, along, across, *normal = (uniform(fold_in(keys, counter)) for counter in range(5))
        part = (which * self._parts).long()
        clean = CURVES[self._name](part.double(), along, across)
        radius = (-2 * torch.log1p(-normal[0])).sqrt()  # Box and Muller, 1958
        gaussian = torch.stack([radius * (math.tau * normal[1]).cos(), radius * (math.tau * normal[1]).sin()], dim=1)
        points = (clean + _SPREADS.get(self._name, SPREAD) * gaussian).float()
        return Batch(points, part if self.num_classes else None, indices)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def _moons(part: Tensor, along: Tensor, _: Tensor) -> Tensor:
    """Two half circles of radius 1.5, each reaching into the other, symmetric about the origin."""
    upper = 1.5 * (_polar(torch.ones_like(along), math.pi * along) - torch.tensor([0.5, 0.25]))
    return upper * (1 - 2 * part)[:, None]


def _rings(part: Tensor, along: Tensor, _: Tensor) -> Tensor:
    """Circles of radius 1 and 2."""
    return _polar(1 + part, math.tau * along)


def _spirals(part: Tensor, along: Tensor, _: Tensor) -> Tensor:
    """Two arms of r = 2 angle / (3 pi), a turn and a half each, evenly filled by area."""
    angle = 3 * math.pi * along.sqrt()
    return _polar(2 * along.sqrt(), angle + math.pi * part)


def _checkerboard(part: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """The dark squares of a board of 4 x 4 on [-2, 2] x [-2, 2]."""
    row = (part / 2).floor()
    column = 2 * (part % 2) + row % 2
    return torch.stack([column + along, row + across], dim=1) - 2


def _eight_gaussians(part: Tensor, *_: Tensor) -> Tensor:
    """Blobs on a circle of radius 2."""
    return _polar(torch.full_like(part, 2.0), part * math.pi / 4)


def _swiss_roll(_: Tensor, along: Tensor, __: Tensor) -> Tensor:
    """One arm of r = angle / (2.25 pi), from angle 1.5 pi to 4.5 pi."""
    angle = 1.5 * math.pi * (1 + 2 * along)
    return _polar(angle / (2.25 * math.pi), angle)


CURVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "moons": _moons,
    "rings": _rings,
    "spirals": _spirals,
    "checkerboard": _checkerboard,
    "eight_gaussians": _eight_gaussians,
    "swiss_roll": _swiss_roll,
}
"""From part and two numbers in [0, 1), each float64 [B], to the points before spread [B, 2]."""

_SPREADS: dict[str, float] = {"checkerboard": 0.0, "eight_gaussians": BLOB_SPREAD}
