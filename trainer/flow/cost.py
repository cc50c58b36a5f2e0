"""Running costs of a flow, which controls descend: attention of tokens, separation of subjects, or a custom class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor
from torch.nn import functional

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.question import WithAttention


class RunningCost(Protocol):
    """The cost of a state at a time."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """Costs [B], differentiable in x, at states [B, *D] and times [B] in [0, 1]; each depends on its row alone."""
        ...


def differentiable_values(cost: RunningCost, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Values [B] of a cost at states that require a gradient; a ValueError for another shape, or without gradient."""
    values, name = cost(x, t, condition), type(cost).__name__
    if values.shape != (len(x),):
        raise ValueError(
            f"cost: {name} returns the shape {tuple(values.shape)} for {len(x)} examples; return one value for each, "
            f"({len(x)},)"
        )
    if not values.requires_grad:
        raise ValueError(
            f"cost: {name} does not depend on the state by operations that torch differentiates; compute it from x "
            "without detach, numpy or no_grad"
        )
    return values


LEAST = 1e-10
"""Least denominator and argument of a logarithm."""


def separation_cost(subjects: Sequence[Tensor], *, gather: bool = False) -> Tensor:
    """Scores maps of subjects: 0 where those of one subject agree and those of different subjects do not meet.

    cost [B] = (within + between) / 2, from 0 to 1, float32 or wider. `within` is the mean `divergence` between the maps
    of a subject, over those with several; `between` is 1 - the divergence between the mean maps of the subjects. A term
    without maps to compare is 0. No order has an effect. Bill, Simsar and Hofmann, FOCUS, arXiv 2510.02315.

    Args:
        subjects: for each subject its maps [B, T, H, W], 0 or more; T >= 1 may differ, the cells may not.
        gather: score whether the subjects meet instead: `between` is the divergence itself.
    """
    several = [divergence(maps) for maps in subjects if maps.shape[1] > 1]
    apart = []
    if len(subjects) > 1:
        means = torch.stack([maps.mean(1) for maps in subjects], dim=1)
        apart = [divergence(means) if gather else 1 - divergence(means)]
    terms = [sum(several[1:], several[0]) / len(several)] if several else []
    terms += apart
    if not terms:
        raise ValueError("subjects: one map alone has nothing to be compared with; give several subjects, or maps")
    return sum(terms[1:], terms[0]) / 2


def divergence(maps: Tensor) -> Tensor:
    """The Jensen-Shannon divergence [B] of T >= 2 maps [B, T, H, W], cubed and scaled to sum 1, over log T.

    The maps have values of 0 or more. The result is 0 if they are equal up to their scales, 1 if they share no cell.
    """
    values = maps.flatten(2)
    values = values if values.dtype == torch.float64 else values.float()
    # Cubes of small values would be 0 in float32: the largest value of a map is brought to 1 first.
    sharp = (values / values.amax(-1, keepdim=True).clamp_min(LEAST)) ** 3
    shares = sharp / sharp.sum(-1, keepdim=True).clamp_min(LEAST)
    middle = shares.mean(1, keepdim=True)
    ratio = shares.clamp_min(LEAST).log() - middle.clamp_min(LEAST).log()
    return (shares * ratio).sum(-1).mean(1) / math.log(maps.shape[1])


Patches = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class AttentionConfig(Section):
    """A cost on the network's own attention: where it looks from the patches of each subject."""

    kind: Literal["attention"] = "attention"
    subjects: tuple[Patches, ...] = Field(min_length=1)
    """Numbers of the patches of each subject, row by row from 0 at the top left."""
    goal: Literal["separate", "gather"] = "separate"
    """separate: different subjects should look at different places; gather: at the same places. The patches of one
    subject should look at the same places in both cases."""
    blocks: Patches | None = None
    """The blocks of the network whose attention is averaged, from 0; null: all of them."""

    @model_validator(mode="after")
    def _each_patch_once(self) -> Self:
        patches = [patch for subject in self.subjects for patch in subject]
        if len(patches) == 1:
            raise ValueError(
                f"subjects: patch {patches[0]} alone has nothing to be compared with; add its neighbours or a subject"
            )
        for name, numbers in (("subjects: patch", patches), ("blocks: block", self.blocks or ())):
            twice = next((number for number in numbers if numbers.count(number) > 1), None)
            if twice is not None:
                raise ValueError(f"{name} {twice} is listed twice; list it once")
        return self

    def build(self, network: Callable[..., Any]) -> AttentionCost:
        return AttentionCost(self, network)


class AttentionCost(RunningCost):
    """`separation_cost` of the attention maps of patch groups, blurred over 3 x 3 cells; takes one forward pass."""

    def __init__(self, config: AttentionConfig, network: Callable[..., Any]) -> None:
        self._network, self._blocks, self._gather = network, config.blocks, config.goal == "gather"
        self._sizes = [len(subject) for subject in config.subjects]
        self._patches = torch.tensor([patch for subject in config.subjects for patch in subject])

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        if self._patches.device != x.device:
            self._patches = self._patches.to(x.device)
        _, attention_BTN = self._network(x, t, condition, WithAttention(self._patches, self._blocks))
        height, width = x.shape[-2:]
        side = math.isqrt(height * width // attention_BTN.shape[2])
        maps_BTHW = blurred(attention_BTN.unflatten(2, (height // side, width // side)))
        return separation_cost(maps_BTHW.split(self._sizes, dim=1), gather=self._gather)


def blurred(maps_BTHW: Tensor) -> Tensor:
    """Maps [B, T, H, W] averaged over 3 x 3 cells by a Gaussian of deviation 1 cell; edges are repeated."""
    side = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    padded = functional.pad(maps_BTHW, (1, 1, 1, 1), mode="replicate")
    rows = (1 - 2 * side) * padded[..., 1:-1, :] + side * (padded[..., :-2, :] + padded[..., 2:, :])
    return (1 - 2 * side) * rows[..., 1:-1] + side * (rows[..., :-2] + rows[..., 2:])


class OwnCost(OwnClass, frozen=True):
    """A class that keeps `RunningCost`; its constructor may take ``network``.

    The network is called with states, times and conditions. It returns its prediction unless a question of
    :mod:`trainer.flow.question` follows them.
    """

    protocol: ClassVar[str] = "trainer.flow.cost.RunningCost"
    passed: ClassVar[tuple[str, ...]] = ("network",)

    def build(self, network: Callable[..., Any]) -> RunningCost:
        return build_own(self, network=network)


AnyConfig = AttentionConfig | OwnCost
Config = Annotated[AnyConfig, KindOrClass()]
