"""Rewards: how good a drawn example is, and what one is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.flow.condition import Condition


class Reward(Protocol):
    """Says how good each example is; it need not be differentiable."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        """Computes the reward of every example, which is a function of its own row alone.

        Args:
            examples: [B, *shape] examples as a person sees them: images from -1 to 1, or points; never latents.
            condition: that they were drawn for.

        Returns:
            float [B] rewards, larger where an example is better.
        """
        ...


@dataclass(frozen=True)
class RewardInputs:
    """What a reward may be built from.

    Attributes:
        shape: of an example.
        num_classes: classes of the data; 0: they have none.
        labelled: reads training examples, float32 [N, *shape] on the CPU, and their classes, int64 [N], the same on
            every rank; it is called once, by a reward that learns from them.
        seed: of the run.
    """

    shape: tuple[int, ...]
    num_classes: int
    labelled: Callable[[], tuple[Tensor, Tensor]]
    seed: int
