"""Environments: actions build an object state by state; also walks through the states, and a list of all of them.

Shape suffixes: B states or objects, N all states, T actions of the longest walk, S integers of a state, A actions, F
features, K objectives.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from moe.host_copies import to_device
from moe.seeds import fold_in, uniform


class Environment(Protocol):
    """An acyclic graph of states. An object is a state in which the last action, the stop, is taken.

    All methods are functions of rows, on the device of their arguments. A state of one object may be reached by several
    paths; its children list it as their parent.

    Attributes:
        num_actions: A; the last one, number A - 1, stops.
        num_features: F, the number of features of a state.
        max_actions: the most actions of a path from the start to an object, the stop included.
        objectives: names of the K rewards of an object.
    """

    num_actions: int
    num_features: int
    max_actions: int
    objectives: tuple[str, ...]

    @abstractmethod
    def start(self, num: int) -> Tensor:
        """The state that every object begins at, int64 [`num`, S]."""
        ...

    @abstractmethod
    def step(self, states_BS: Tensor, actions_B: Tensor) -> Tensor:
        """The states [B, S] after actions that do not stop and that :meth:`allowed` allows."""
        ...

    @abstractmethod
    def allowed(self, states_BS: Tensor) -> Tensor:
        """Marks the actions that are possible in each state, bool [B, A]; at least one."""
        ...

    @abstractmethod
    def leading(self, states_BS: Tensor) -> Tensor:
        """Marks the actions that lead into each state, one for each parent, bool [B, A - 1]; none into the start."""
        ...

    @abstractmethod
    def features(self, states_BS: Tensor) -> Tensor:
        """Input features of each state for a network, float32 [B, F]."""
        ...

    @abstractmethod
    def rewards(self, states_BS: Tensor) -> Tensor:
        """Reward of the object in each state by each objective, float64 [B, K], in [0, 1]."""
        ...

    def coordinates(self, states_BS: Tensor) -> Tensor:
        """Coordinates float [B, C] in which near objects are likely to have similar rewards. The default: features."""
        return self.features(states_BS)

    def distances(self, states_BS: Tensor) -> Tensor:
        """Distances between objects, float64 [B, B]. The default adds up the differences of the integers."""
        return (states_BS[:, None] - states_BS).abs().sum(-1).double()

    def described(self, states_BS: Tensor) -> Sequence[Any]:
        """A readable description of each object, as JSON values. The default gives the integers of the states."""
        return states_BS.tolist()


_CHOICE, _EXPLORATION = range(2)


class Walks(NamedTuple):
    """Walks from the start to objects, T as long as the longest possible: states int64 [B, T, S], actions int64 [B, T].

    `taken`, bool [B, T], is true up to the stop; from then on states are the object and actions the stop.
    """

    states: Tensor
    actions: Tensor
    taken: Tensor

    @property
    def objects(self) -> Tensor:
        """The objects: states in which the stop was taken, int64 [B, S]."""
        return self.states[:, -1]


def rollout(
    environment: Environment, policy: Callable[[Tensor], Tensor], keys: Tensor, *, exploration: float = 0.0
) -> Walks:
    """Walks from the start until each has stopped; the host waits for nothing.

    The policy, from features [B, F] to logits [B, A], is called `max_actions` - 1 times however short the walks are, so
    that all ranks call alike; the last action of the longest walk can only be the stop. Each walk is a function of its
    key, int64, and of its logits. `exploration` is the share of actions drawn evenly among the possible ones.
    """
    num, longest, stop = len(keys), environment.max_actions, environment.num_actions - 1
    drawn = fold_in(keys[:, None], torch.arange(longest, device=keys.device))
    choices = fold_in(fold_in(drawn, _CHOICE)[..., None], torch.arange(stop + 1, device=keys.device))
    gumbel_BTA = -(-(uniform(choices) + 2.0**-54).log()).log()
    explores_BT = uniform(fold_in(drawn, _EXPLORATION)) < exploration
    begun = to_device(environment.start(num), keys.device)
    first = environment.allowed(begun)[:, :-1].int().argmax(1)
    states, running = begun, torch.ones_like(keys, dtype=torch.bool)
    visited, actions, taken = [], [], []
    for time in range(longest):
        visited.append(states)
        taken.append(running)
        chosen = torch.full_like(keys, stop)
        if time < longest - 1:
            logits = policy(environment.features(states)).double()
            logits = logits.masked_fill(explores_BT[:, time, None], 0.0)
            scores = (logits + gumbel_BTA[:, time]).masked_fill(~environment.allowed(states), -torch.inf)
            chosen = torch.where(running, scores.argmax(1), stop)
        actions.append(chosen)
        running = running & (chosen != stop)
        goes = running[:, None]
        stepped = environment.step(torch.where(goes, states, begun), torch.where(running, chosen, first))
        states = torch.where(goes, stepped, states)
    return Walks(torch.stack(visited, 1), torch.stack(actions, 1), torch.stack(taken, 1))


MOST_STATES = 10_000
"""Most states of a small environment, such as the 5,461 words of up to six letters out of four."""


class States(NamedTuple):
    """All states, int64 [N, S], the start first, and `max_actions` of the longest path, the stop included.

    `children`, int64 [N, A - 1], number the states that actions lead to: N where one is not `allowed`, bool [N, A].
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
        """Exact probability of each state as the object, float64 [N]; those of actions [N, A] are 0 if impossible."""
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
        states: list[list[int]] = []
        ends = []
        for child in environment.step(layer[parents], actions).tolist() if len(parents) else ():
            key = tuple(child)
            if key not in number:
                number[key] = len(number)
                states.append(child)
            ends.append(number[key])
        if len(number) > most:
            return None
        edges.append(torch.stack([parents + at, actions, torch.tensor(ends, dtype=torch.int64)]))
        at = len(known)
        known = torch.cat([known, torch.tensor(states, dtype=torch.int64).reshape(len(states), known.shape[1])])
    parents, actions, ends = torch.cat(edges, dim=1)
    children = torch.full((len(known), environment.num_actions - 1), len(known))
    children[parents, actions] = ends
    return States(known, children, environment.allowed(known), environment.max_actions)
