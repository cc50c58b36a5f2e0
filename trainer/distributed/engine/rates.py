"""Optimiser groups of parameters whose learning rate is scaled alike."""

from collections.abc import Sequence
from typing import Any

from trainer.config.sections import OptimConfig, in_order
from trainer.model.parallel.state import NamedParameter

RATE = "rate"
"""Key of an optimiser group with the factor of its learning rate."""


def groups_of_equal_rate(named: Sequence[NamedParameter], optim: OptimConfig) -> list[dict[str, Any]]:
    """The groups, in the order of :func:`trainer.config.sections.in_order`; within one, in the order of the network."""
    rates = [optim.rate_of(one.name if one.stack is None else one.stack.names[0]) for one in named]
    return [
        {"params": [one.parameter for one, own in zip(named, rates, strict=True) if own == rate], RATE: rate}
        for rate in in_order(rates)
    ]


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Sets the learning rate of every group by its factor; `lr` is that of a parameter without one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[RATE]
