"""The protocol of training engines, and the learning rates and norms that they share."""

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
    """Sum of the squares of all elements, in the type and device of `like`, with a fixed number of operations."""
    if not tensors:
        return torch.zeros_like(like)
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype=like.dtype)).square().sum()


RATE = "rate"
"""Key of an optimiser group with the factor of its learning rate."""


def groups_of_equal_rate(named: Sequence[NamedParameter], optim: OptimConfig) -> list[dict[str, Any]]:
    """Optimiser groups by rate, ordered by :func:`trainer.config.sections.in_order`, then as in the network."""
    rates = [optim.rate_of(one.name if one.stack is None else one.stack.names[0]) for one in named]
    return [
        {"params": [one.parameter for one, own in zip(named, rates, strict=True) if own == rate], RATE: rate}
        for rate in in_order(rates)
    ]


def set_learning_rate(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group[RATE]


MOMENTS = ("exp_avg", "exp_avg_sq")
STATE = ("weight", *MOMENTS)
"""What an optimiser keeps of every parameter: the float32 master weight, and AdamW's moments."""


@dataclass(frozen=True)
class StepOutcome:
    """Result of an optimiser step.

    Attributes:
        norm: of the gradient before clipping, over all parameters and ranks, the same on every rank; infinite or NaN if
            any rank's gradient is.
        reason: why the step was skipped; None if the weights were updated.
    """

    norm: float
    reason: str | None

    @classmethod
    def judged(cls, norm: float, objection: Callable[[float], str | None]) -> Self:
        """The outcome for a gradient norm; a step whose norm is not finite is always skipped."""
        reason = objection(norm)
        if reason is None and not math.isfinite(norm):
            reason = "the gradient is not finite"
        return cls(norm, reason)

    @property
    def taken(self) -> bool:
        return self.reason is None


class Engine(Protocol):
    """Holds the network and its optimiser, possibly divided over ranks, and takes optimiser steps.

    Attributes:
        module: the network itself.
    """

    module: Network

    @property
    def model(self) -> Callable[..., Tensor]:
        """The network as called in training."""
        ...

    @property
    def group_names(self) -> Mapping[str, str]:
        """Meaning of each process group of this rank, by torch's name, for traces."""
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
            objection: called once with the norm of the gradient, before anything changes. It returns why the step must
                be skipped, or None, with the same result on all ranks.

        Returns:
            The outcome. After an objection, weights, optimiser state and its update count are unchanged.
        """
        ...

    def shards(self) -> list[Shard]:
        """This rank's shard of each dense parameter and each matrix of an expert, in the network's order."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """While entered, the network is in evaluation mode and computes with the weights of :meth:`shards`; collective.

        Whole forward passes and calls of parts of the network are both possible, if all ranks make the same calls.
        """
        ...

    def state(self, kinds: Collection[str] = STATE) -> list[StatePiece]:
        """Weights and optimiser state of this rank; zeros for moments that the first step has yet to create.

        Ranks that hold a copy of a parameter all return it; together they cover every parameter.

        Args:
            kinds: the wanted kinds of state; other moments are not allocated.
        """
        ...

    @property
    def updates(self) -> int:
        """Updates that the optimiser has taken so far, without skipped steps."""
        ...

    def state_loaded(self, updates: int) -> None:
        """Adopts the values written to :meth:`state`; collective, and never between the micro batches of a step.

        Args:
            updates: number of updates that the optimiser had taken when the state was saved.
        """
        ...

    def weights_written(self) -> None:
        """Makes the network compute with master weights that were written to through :meth:`state`.

        Collective, and never between the micro batches of a step. Optimiser state and update count are unchanged.
        """
        ...

    def gathered(self, shard: Shard, pieces: Iterable[StatePiece]) -> Tensor:
        """Joins the parts of one kind of an expert parameter's state over its replicas; collective over them.

        Args:
            shard: of the expert parameter.
            pieces: this rank's part, divided as in :meth:`state`; the kind need not be one that the engine keeps.

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
        """Logical expert in each slot of an expert-parallel group, [MoE layers, slots]; empty if all is dense."""
        ...

    def place(self, slot_to_expert: NDArray[np.int64]) -> None:
        """Declares which expert every slot holds from now on; a slot's values are then named after that expert.

        Args:
            slot_to_expert: [MoE layers, slots]; the number of slots may differ from before. The values have already
                been moved by :meth:`set_expert_state`.
        """
        ...
