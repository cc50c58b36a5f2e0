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
    """What objects are worth.

    Attributes:
        log_reward: float64 [B], finite: the logarithm of what their probabilities are in proportion to.
        figures: float64 [B, *] by name, of which means are told.
    """

    log_reward: Tensor
    figures: dict[str, Tensor]


class LogReward(Protocol):
    """Says what objects are worth; one call for each object is what a reward call is."""

    def __call__(self, objects_BS: Tensor, asked: Preferences) -> Valued:
        """Values objects.

        Args:
            objects_BS: states that the stop ended in.
            asked: the preference and the exponent of each.
        """
        ...


class ScalarisedReward(LogReward):
    """Several rewards, weighed by a preference and raised to an exponent.

    Args:
        rewards: from objects [B, S] to rewards by each objective [B, K].
        names: of the objectives.
        scalarisation, least: see :func:`log_scalar`.
    """

    def __init__(
        self, rewards: Callable[[Tensor], Tensor], names: Sequence[str], scalarisation: Scalarisation, least: float
    ) -> None:
        self._rewards, self._names, self._least = rewards, names, least
        self._scalarisation: Scalarisation = scalarisation

    def __call__(self, objects_BS: Tensor, asked: Preferences) -> Valued:
        """See `LogReward`; figures are each objective and the reward, not raised."""
        rewards_BK = self._rewards(objects_BS)
        log_scalar_B = log_scalar(rewards_BK, asked.weights, self._scalarisation, self._least)
        by_name = dict(zip(self._names, rewards_BK.unbind(1), strict=True))
        figures = {"reward": log_scalar_B.exp(), **{f"reward_{name}": values for name, values in by_name.items()}}
        return Valued(asked.exponent * log_scalar_B, figures)


def log_scalar(rewards_BK: Tensor, weights_BK: Tensor, scalarisation: Scalarisation, least: float) -> Tensor:
    """The logarithm of one reward made of several.

    Args:
        rewards_BK: objectives, from 0 to 1.
        weights_BK: of them, that sum to 1.
        scalarisation: ``weighted_sum``: sum of w r; ``weighted_log_sum``: sum of w log r, the logarithm of their
            weighted geometric mean; ``tchebycheff``: 1 - max of w (1 - r), the published distance to the best
            of all objectives turned round, since a reward has to grow with them.
        least: rewards below count as this, so that their logarithm is a number.

    Returns:
        float64 [B], at least the logarithm of `least`.
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
