"""Running costs: what a path should avoid on its way."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from trainer.flow.condition import Condition


class RunningCost(Protocol):
    """The cost of a state at a time."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """Computes the cost of every example, which is a function of its own row alone.

        Args:
            x: [B, *D] states.
            t: [B] times in [0, 1].
            condition: of the examples.

        Returns:
            [B] costs, differentiable in `x`.
        """
        ...
