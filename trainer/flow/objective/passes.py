"""Passes of a network through several points of each example, with and without learning from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.flow.condition import Condition
from trainer.flow.objective.protocol import Model

Point = tuple[Tensor, Tensor]
"""States [B, *D] and times [B]."""


def at_points(model: Model, condition: Condition, *points: Point) -> tuple[Tensor, ...]:
    """Calls a network once at several points of each example.

    The points of an example stand next to one another in the batch of the call, so that whoever listens to the network
    meets the examples in their order.

    Args:
        model: the network.
        condition: of the B examples.
        *points: one or more states and times of each example.

    Returns:
        The prediction [B, *D] at each of the points, in the type of its states.
    """
    if len(points) == 1:
        ((x, t),) = points
        return (model(x, t, condition).to(x.dtype),)
    x, t = (torch.stack(values, dim=1).flatten(0, 1) for values in zip(*points, strict=True))
    rows = torch.arange(len(points[0][1]), device=t.device).repeat_interleave(len(points))
    predicted = model(x, t, condition.rows(rows)).to(x.dtype)
    return predicted.unflatten(0, (-1, len(points))).unbind(1)


@contextmanager
def not_learning(model: Model) -> Iterator[None]:
    """While entered, passes of a network leave no gradients and count for nothing: it is in evaluation mode.

    Each module has its own mode set and set back, whatever engine holds the network, so that no collective is called
    and parts that were in evaluation mode before stay in it.

    Args:
        model: the network, as an objective gets it.
    """
    learning = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    for module in learning:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in learning:
            module.training = True
