"""The costs of some states, refused where they are no differentiable value of each."""

from __future__ import annotations

from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.cost.protocol import RunningCost


def differentiable_values(cost: RunningCost, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Asks a cost for its values [B] at states that have a gradient.

    Args:
        cost: that is asked.
        x: [B, *D] states that require a gradient, where gradients are enabled.
        t: [B] times.
        condition: of the examples.

    Raises:
        ValueError: the cost returns something else than a value for each example, or one that does not depend on the
            state.
    """
    values, name = cost(x, t, condition), type(cost).__name__
    if values.shape != (len(x),):
        raise ValueError(
            f"cost: {name} returns the shape {tuple(values.shape)} for {len(x)} examples; return one value for each, "
            f"({len(x)},)"
        )
    if not values.requires_grad:
        raise ValueError(
            f"cost: {name} does not depend on the state by operations that torch differentiates; compute it from x "
            "without detach, numpy or no_grad"
        )
    return values
