"""The reward that a policy builds objects in proportion to.

Shape suffixes: B objects, S integers of a state, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from trainer.task.preference import Preferences

Scalarisation = Literal["weighted_sum", "weighted_log_sum", "tchebycheff"]


class Valued(NamedTuple):
    """Finite logarithms float64 [B] of what probabilities are in proportion to, and figures [B, *] by name."""

    log_reward: Tensor
    figures: dict[str, Tensor]


class LogReward(Protocol):
    """Says what objects are worth; one call for each object is what a reward call is."""

    def __call__(self, objects_BS: Tensor, asked: Preferences) -> Valued:
        """Values objects [B, S], states that the stop ended in, for the preference and exponent of each."""
        ...


class ScalarisedReward(LogReward):
    """Rewards [B, K] of objects [B, S], weighed by a preference and raised to an exponent."""

    def __init__(
        self, rewards: Callable[[Tensor], Tensor], names: Sequence[str], scalarisation: Scalarisation, least: float
    ) -> None:
        self._rewards, self._names, self._least = rewards, names, least
        self._scalarisation: Scalarisation = scalarisation

    def __call__(self, objects_BS: Tensor, asked: Preferences) -> Valued:
        """Figures are each objective and the reward, not raised."""
        rewards_BK = self._rewards(objects_BS)
        log_scalar_B = log_scalar(rewards_BK, asked.weights, self._scalarisation, self._least)
        by_name = dict(zip(self._names, rewards_BK.unbind(1), strict=True))
        figures = {"reward": log_scalar_B.exp(), **{f"reward_{name}": values for name, values in by_name.items()}}
        return Valued(asked.exponent * log_scalar_B, figures)


def log_scalar(rewards_BK: Tensor, weights_BK: Tensor, scalarisation: Scalarisation, least: float) -> Tensor:
    """The logarithm of one reward made of rewards [B, K] from 0 to 1: float64 [B], at least that of `least`.

    ``weighted_sum``: sum of w r; ``weighted_log_sum``: sum of w log r, the logarithm of their weighted geometric mean;
    ``tchebycheff``: 1 - max of w (1 - r), the published distance to the best of all objectives turned round, since a
    reward has to grow with them. Rewards below `least` count as it.
    """
    rewards_BK = rewards_BK.double()
    match scalarisation:
        case "weighted_sum":
            scalar = (weights_BK * rewards_BK).sum(1)
        case "weighted_log_sum":
            return (weights_BK * rewards_BK.clamp(min=least).log()).sum(1)
        case "tchebycheff":
            scalar = 1 - (weights_BK * (1 - rewards_BK)).amax(1)
    return scalar.clamp(min=least).log()
