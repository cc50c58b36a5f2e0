"""Inverse problems: states of a flow that agree with an observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.flow.sampler.protocol import Field


class Consistency(Protocol):
    """Agreement of states with the observations that were made of them."""

    def initial(self) -> Tensor:
        """The states [B, *D] of the pseudo-inverse of the observations."""
        ...

    def enforced(self, states: Tensor, weight: float, /) -> Tensor:
        """The nearest states that agree with the observations.

        Args:
            states: [B, *D].
            weight: of the prior at this time, which a solver by gradients scales its steps by.
        """
        ...

    def residual(self, states: Tensor, /) -> Tensor:
        """[B] mean over the observed values of the squared distance |A x - y|^2 / numel."""
        ...


@dataclass(frozen=True)
class Solution:
    """States that solve inverse problems.

    Attributes:
        states: [B, *D] at time 1.
        residual: [B] see `Consistency.residual`.
        calls: how often the field was evaluated for the batch.
    """

    states: Tensor
    residual: Tensor
    calls: int


class InverseSolver(Protocol):
    """Solves inverse problems with a flow as the prior."""

    def solve(self, field: Field, consistency: Consistency, *, keys: Tensor) -> Solution:
        """Solves one problem for each example.

        Args:
            field: of the flow, under the conditions of the examples.
            consistency: with the observations.
            keys: int64 [B] keys of what is drawn, one for each example.
        """
        ...
