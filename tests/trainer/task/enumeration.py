"""Environments whose states are all known: exact distributions and flows, by dynamic programming over the states."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.task.environment import Environment


@dataclass(frozen=True)
class Enumerated:
    """All states of an environment.

    Attributes:
        environment: it.
        states: int64 [N, S], the start first, and every parent before its children.
        children: int64 [N, A - 1] the number of the state that each action leads to; -1: it is not possible.
        stops: bool [N] whether a state may be an object.
    """

    environment: Environment
    states: Tensor
    children: Tensor
    stops: Tensor

    @classmethod
    def of(cls, environment: Environment) -> "Enumerated":
        """Finds all states, each on ways of one length alone, from the start."""
        layer = [tuple(environment.start(1)[0].tolist())]
        number = {layer[0]: 0}
        rows: list[list[int]] = []
        while layer:
            found: list[tuple[int, ...]] = []
            states = torch.tensor(layer)
            for place, possible in enumerate(environment.allowed(states)[:, :-1].tolist()):
                row = [-1] * len(possible)
                for action in [action for action, can in enumerate(possible) if can]:
                    child = tuple(environment.step(states[place : place + 1], torch.tensor([action]))[0].tolist())
                    if child not in number:
                        number[child] = len(number)
                        found.append(child)
                    row[action] = number[child]
                rows.append(row)
            layer = found
        states = torch.tensor(list(number))
        return cls(environment, states, torch.tensor(rows), environment.allowed(states)[:, -1])

    def terminating(self, probabilities: Tensor) -> Tensor:
        """How likely each state is to be the object, float64 [N].

        Args:
            probabilities: float64 [N, A] of the actions in each state.
        """
        reached = torch.zeros(len(self.states), dtype=torch.float64)
        reached[0] = 1.0
        for place, row in enumerate(self.children.tolist()):
            for action, child in enumerate(row):
                if child >= 0:
                    reached[child] += reached[place] * probabilities[place, action]
        return reached * probabilities[:, -1]

    def wanted(self, log_reward: Tensor) -> tuple[Tensor, float]:
        """How likely each state should be the object, float64 [N], and the logarithm of the sum of all rewards.

        Args:
            log_reward: float64 [N] of the states as objects.
        """
        log_reward = log_reward.masked_fill(~self.stops, -torch.inf)
        return log_reward.softmax(0), float(log_reward.logsumexp(0))

    def flows(self, log_reward: Tensor) -> tuple[Tensor, float]:
        """Logits [N, A] of the policy that builds in proportion to rewards, all parents alike, and its log Z.

        Args:
            log_reward: as in :meth:`wanted`.
        """
        num_parents = torch.bincount(self.children[self.children >= 0], minlength=len(self.states)).double()
        flow = torch.full((len(self.states),), -torch.inf, dtype=torch.float64)
        logits = torch.full((len(self.states), self.children.shape[1] + 1), -torch.inf, dtype=torch.float64)
        for place in reversed(range(len(self.states))):
            for action, child in enumerate(self.children[place].tolist()):
                if child >= 0:
                    logits[place, action] = flow[child] - num_parents[child].log()
            if self.stops[place]:
                logits[place, -1] = log_reward[place]
            flow[place] = logits[place].logsumexp(0)
        return logits, float(flow[0])


def total_variation(one: Tensor, other: Tensor) -> float:
    """Half the sum of the absolute differences of two distributions."""
    return float((one - other).abs().sum()) / 2


@torch.no_grad()
def action_probabilities(known: Enumerated, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """What a policy does in each state, float64 [N, A].

    Args:
        known: the states.
        logits: from features [N, F] to logits [N, A].
    """
    allowed = known.environment.allowed(known.states)
    found = logits(known.environment.features(known.states)).double()
    return found.masked_fill(~allowed, -torch.inf).softmax(1)
