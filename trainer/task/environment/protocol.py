"""Environments: states from which actions lead on until an object is done.

Shape suffixes: B states, S integers of a state, A actions, F features, K objectives.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Environment(Protocol):
    """A graph of states without cycles, in which every object is a state that the last action, to stop, ends in.

    All methods are functions of rows, on the device of their arguments. A state of one object may be reached on several
    ways; its children list it as their parent.

    Attributes:
        num_actions: A; the last one, number A - 1, stops.
        num_features: F, that a network reads of a state.
        max_actions: of a way from the start to an object, the stop included.
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
        """Which actions are possible in each state, bool [B, A]; at least one."""
        ...

    @abstractmethod
    def leading(self, states_BS: Tensor) -> Tensor:
        """Which actions lead into each state from a parent of its own, bool [B, A - 1]; none into the start."""
        ...

    @abstractmethod
    def features(self, states_BS: Tensor) -> Tensor:
        """What a network reads of each state, float32 [B, F]."""
        ...

    @abstractmethod
    def rewards(self, states_BS: Tensor) -> Tensor:
        """What an object that stops in each state is worth by each objective, float64 [B, K], in [0, 1]."""
        ...

    def coordinates(self, states_BS: Tensor) -> Tensor:
        """Where objects lie among others, float [B, C]: what is near is likely worth as much. The default: features."""
        return self.features(states_BS)

    def distances(self, states_BS: Tensor) -> Tensor:
        """How different objects are, float64 [B, B]. The default adds up the differences of the integers."""
        return (states_BS[:, None] - states_BS).abs().sum(-1).double()

    def described(self, states_BS: Tensor) -> Sequence[Any]:
        """What a person reads of each object, of what JSON can say. The default gives the integers of the states."""
        return states_BS.tolist()
