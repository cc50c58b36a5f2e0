"""The cost of where groups of patches look.

Shape suffixes: B batch, T patches of the subjects, N patches of the state, H W rows and columns of patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor
from torch.nn import functional

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.cost.protocol import RunningCost
from trainer.flow.cost.separation import separation_cost
from trainer.flow.question import WithAttention

Patches = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class AttentionConfig(Section):
    """The cost of where groups of patches look, in the attention of the network itself."""

    kind: Literal["attention"] = "attention"
    subjects: tuple[Patches, ...] = Field(min_length=1)
    """For each subject the numbers of its patches, row by row from 0 at the top left."""
    goal: Literal["separate", "gather"] = "separate"
    """Whether different subjects should look at different places, or at the same. The patches of one subject should
    look at the same places in both cases."""
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


class AttentionCost(RunningCost):
    """`separation_cost` of the attention maps of groups of patches, blurred by 3 x 3 cells of a Gaussian.

    The maps are asked of the network by :class:`trainer.flow.question.WithAttention`, so that a cost is a forward pass.

    Args:
        config: groups of patches and blocks.
        network: from states, times, conditions and a question to prediction and maps.
    """

    def __init__(self, config: AttentionConfig, network: Callable[..., Any]) -> None:
        self._network, self._blocks, self._gather = network, config.blocks, config.goal == "gather"
        self._sizes = [len(subject) for subject in config.subjects]
        self._patches = torch.tensor([patch for subject in config.subjects for patch in subject])

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """See `RunningCost`; states are images [B, C, height, width]."""
        if self._patches.device != x.device:
            self._patches = self._patches.to(x.device)
        _, attention_BTN = self._network(x, t, condition, WithAttention(self._patches, self._blocks))
        height, width = x.shape[-2:]
        side = math.isqrt(height * width // attention_BTN.shape[2])
        maps_BTHW = blurred(attention_BTN.unflatten(2, (height // side, width // side)))
        return separation_cost(maps_BTHW.split(self._sizes, dim=1), gather=self._gather)


def blurred(maps_BTHW: Tensor) -> Tensor:
    """Maps [B, T, H, W] averaged over 3 x 3 cells by a Gaussian of deviation 1 cell; the cells at an edge go on."""
    side = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    padded = functional.pad(maps_BTHW, (1, 1, 1, 1), mode="replicate")
    rows = (1 - 2 * side) * padded[..., 1:-1, :] + side * (padded[..., :-2, :] + padded[..., 2:, :])
    return (1 - 2 * side) * rows[..., 1:-1] + side * (rows[..., :-2] + rows[..., 2:])
