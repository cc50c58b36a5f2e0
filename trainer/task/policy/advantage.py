"""How much better examples are than others of their group.

Shape suffixes: B prompts, S noises that the examples of a prompt begin at, M examples that begin at the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor

LEAST_DEVIATION = 1e-4
"""Added to the deviation of the rewards of a group."""


@dataclass(frozen=True)
class Compared:
    """Rewards of groups, compared within each.

    Attributes:
        advantage: [B, S, M] rewards less the mean of their group, in standard deviations of the group.
        counts: bool [B, S, M], whether the group of an example has rewards that differ.
        reward: the mean reward.
        spread: the standard deviation within a group, on average.
    """

    advantage: Tensor
    counts: Tensor
    reward: Tensor
    spread: Tensor

    @classmethod
    def of(cls, rewards: Tensor, *, among: Literal["prompt", "seed"], limit: float) -> Self:
        """Compares rewards [B, S, M] among those of a prompt, or of one noise (DeepSeekMath, arXiv 2402.03300, section
        4.1.2).
        """
        group = (1, 2) if among == "prompt" else (2,)
        mean = rewards.mean(group, keepdim=True)
        deviation = (rewards - mean).square().mean(group, keepdim=True).sqrt()
        advantage = (rewards - mean) / (deviation + LEAST_DEVIATION)
        differs = rewards.amax(group, keepdim=True) > rewards.amin(group, keepdim=True)
        return cls(
            advantage=advantage.clamp(-limit, limit),
            counts=differs.expand_as(rewards),
            reward=rewards.mean(),
            spread=deviation.mean(),
        )
