"""The protocol of training engines, and the rates and norms that they share."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.sections import OptimConfig, in_order
from trainer.model.network import Network
from trainer.model.parallel.state import NamedParameter, Shard, StatePiece


def sum_of_squares(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Sum of the squares of all elements, 0 without tensors, in as many operations for a thousand tensors as for one.

    The sum has the type and device of `like`; no tensor has a wider floating type. The squares of each tensor are
    summed first, in the type of the sum.
    """
    if not tensors:
        return torch.zeros_like(like)
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype=like.dtype)).square().sum()


RATE = "rate"
"""Key of an optimiser group with the factor of its learning rate."""


def groups_of_equal_rate(named: Sequence[NamedParameter], optim: OptimConfig) -> list[dict[str, Any]]:
    """Returns optimiser groups by rate, ordered by :func:`trainer.config.sections.in_order`, then as in the network."""
    rates = [optim.rate_of(one.name if one.stack is None else one.stack.names[0]) for one in named]
    return [
        {"params": [one.parameter for one, own in zip(named, rates, strict=True) if own == rate], RATE: rate}
        for rate in in_order(rates)
    ]


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Sets the learning rate of every group to `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[RATE]


MOMENTS = ("exp_avg", "exp_avg_sq")
STATE = ("weight", *MOMENTS)
"""What an optimiser keeps of every parameter: the float32 master weight, and AdamW's moments."""


@dataclass(frozen=True)
class StepOutcome:
    """What became of an optimiser step.

    Attributes:
        norm: of the gradient before clipping, over all parameters and ranks, the same on every rank; infinite or NaN
            where the gradient of any rank is.
        reason: why the step was not taken; None if the weights were updated.
    """

    norm: float
    reason: str | None

    @classmethod
    def judged(cls, norm: float, objection: Callable[[float], str | None]) -> Self:
        """Returns the outcome of a step by the norm of its gradient; a step whose norm is not finite is never taken."""
        reason = objection(norm)
        if reason is None and not math.isfinite(norm):
            reason = "the gradient is not finite"
        return cls(norm, reason)

    @property
    def taken(self) -> bool:
        """Whether the weights were updated."""
        return self.reason is None


class Engine(Protocol):
    """Holds the network and its optimiser, in whatever pieces, and takes optimiser steps.

    Attributes:
        module: the network as it was given.
    """

    module: Network

    @property
    def model(self) -> Callable[..., Tensor]:
        """The network to call in training."""
        ...

    @property
    def group_names(self) -> Mapping[str, str]:
        """Meaning of each process group of this rank, for traces."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds a micro batch's gradients; the last micro batch of a step also averages them over the data ranks.

        Args:
            loss: mean over the micro batch.
        """
        ...

    def step(self, lr: float, objection: Callable[[float], str | None]) -> StepOutcome:
        """Takes the optimiser step of the micro batches since the last one, or drops their gradients.

        Args:
            lr: learning rate.
            objection: called once with the norm of the gradient, before anything is changed. It returns why the step
                must not be taken, None if it may, and answers alike on all ranks.

        Returns:
            The outcome. After an objection, weights, optimiser state and its count of updates are what they were.
        """
        ...

    def shards(self) -> list[Shard]:
        """Returns this rank's shard of each dense parameter and each matrix of an expert, in the network's order."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """While entered, the network is in evaluation mode and computes with what :meth:`shards` holds; collective.

        Whole forward passes and calls of parts of the network are both possible, on all ranks alike.
        """
        ...

    def state(self, kinds: Collection[str] = STATE) -> list[StatePiece]:
        """Weights and optimiser state of this rank, with zeros for what the first step would make.

        Ranks that hold a copy of a parameter all give it; together they cover every parameter.

        Args:
            kinds: the wanted kinds of state; unwanted moments are not allocated.
        """
        ...

    @property
    def updates(self) -> int:
        """Updates that the optimiser has taken so far; a skipped step is none."""
        ...

    def state_loaded(self, updates: int) -> None:
        """Adopts the values written to :meth:`state`; collective, and never between the micro batches of a step.

        Args:
            updates: number of updates that the optimiser had taken when the state was saved.
        """
        ...

    def weights_written(self) -> None:
        """Makes the network compute with the master weights, which were written to through :meth:`state`.

        Collective, and never between the micro batches of a step. Optimiser state and its count stay as they are.
        """
        ...

    def gathered(self, shard: Shard, pieces: Iterable[StatePiece]) -> Tensor:
        """Joins the parts that the replicas of an expert parameter keep of one kind of its state; collective over them.

        Args:
            shard: of the expert parameter.
            pieces: this rank's part of it, divided as in :meth:`state`; the kind need not be one that the engine keeps.

        Returns:
            float32, in the parameter's shape.
        """
        ...

    def expert_state(self, shard: Shard) -> dict[str, Tensor]:
        """Weight and optimiser state of one matrix of an expert, whole and in float32; collective over its copies.

        Returns:
            ``weight``, ``exp_avg``, ``exp_avg_sq``, each in the shape of the matrix.
        """
        ...

    def set_expert_state(self, shard: Shard, state: Mapping[str, Tensor]) -> None:
        """Sets the state that :meth:`expert_state` returned, possibly on another rank."""
        ...

    def slot_to_expert(self) -> NDArray[np.int64]:
        """Logical expert in each slot of an expert-parallel group, [MoE layers, experts]; empty where all is dense."""
        ...

    def place(self, slot_to_expert: NDArray[np.int64]) -> None:
        """Declares which expert every slot holds from now on; the slot's values then go by the name of that expert.

        Args:
            slot_to_expert: [MoE layers, slots]; the number of slots may differ from before. The values have already
                been moved by :meth:`set_expert_state`.
        """
        ...
