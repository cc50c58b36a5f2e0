"""All states of a small environment, and how often a policy stops in each.

Shape suffixes: N states, S integers of a state, A actions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.task.environment.protocol import Environment

MOST_STATES = 10_000
"""States up to which an environment counts as small: words of six letters out of four have 5,461."""


class States(NamedTuple):
    """All states of an environment.

    Attributes:
        states: int64 [N, S], the start first.
        children: int64 [N, A - 1] the number of the state that each action leads to; N: it is not possible.
        allowed: bool [N, A] which actions are possible.
        max_actions: of the longest way, the stop included.
    """

    states: Tensor
    children: Tensor
    allowed: Tensor
    max_actions: int

    @property
    def stops(self) -> Tensor:
        """Which states may be objects, bool [N]."""
        return self.allowed[:, -1]

    def terminating(self, probabilities: Tensor) -> Tensor:
        """How likely each state is to be the object, float64 [N]: exact, by as many steps as the longest path has.

        `probabilities` are float64 [N, A], 0 where an action is not possible.
        """
        here = torch.zeros(len(self.states), dtype=torch.float64)
        here[0] = 1.0
        stopped = torch.zeros_like(here)
        into = self.children.flatten()
        for _ in range(self.max_actions):
            stopped += here * probabilities[:, -1]
            moved = (here[:, None] * probabilities[:, :-1]).flatten()
            here = torch.zeros(len(here) + 1, dtype=torch.float64).index_add(0, into, moved)[:-1]
        return stopped


def enumerated(environment: Environment, most: int = MOST_STATES) -> States | None:
    """Finds all states by following every action from the start, on the CPU; None: there are more than `most`."""
    layer = environment.start(1)
    number = {tuple(layer[0].tolist()): 0}
    edges: list[Tensor] = []
    known, at = layer, 0
    while at < len(known):
        layer = known[at:]
        allowed = environment.allowed(layer)[:, :-1]
        parents, actions = allowed.nonzero(as_tuple=True)
        found: list[list[int]] = []
        ends = []
        for child in environment.step(layer[parents], actions).tolist() if len(parents) else ():
            key = tuple(child)
            if key not in number:
                number[key] = len(number)
                found.append(child)
            ends.append(number[key])
        if len(number) > most:
            return None
        edges.append(torch.stack([parents + at, actions, torch.tensor(ends, dtype=torch.int64)]))
        at = len(known)
        known = torch.cat([known, torch.tensor(found, dtype=torch.int64).reshape(len(found), known.shape[1])])
    parents, actions, ends = torch.cat(edges, dim=1)
    children = torch.full((len(known), environment.num_actions - 1), len(known))
    children[parents, actions] = ends
    return States(known, children, environment.allowed(known), environment.max_actions)
