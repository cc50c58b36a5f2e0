"""Classifier-free guidance: one prediction made of the conditional and the unconditional one."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.flow import Condition

Predict = Callable[[Tensor, Tensor], Tensor]
"""States [B, *D] and times [B] to predictions, with condition and guidance already bound."""


def guided(
    predict: Callable[[Tensor, Tensor, Condition], Tensor], condition: Condition, nothing: Condition, scale: float
) -> Predict:
    """Binds conditions and guidance to a model.

    p = p_nothing + scale (p_condition - p_nothing); both come from one forward pass of twice the batch, and a scale of
    0 or 1 needs only one of them. Velocity, data, noise and score are affine in one another at a state, so it makes no
    difference which of them the model predicts.

    Source: Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, equation 6 with scale = 1 + w.

    Args:
        predict: from states [B, *D], times [B] and conditions to predictions.
        condition: of the B examples.
        nothing: what stands for no condition, for the same examples.
        scale: 0 or more.

    Returns:
        The guided prediction.
    """
    if scale in (0.0, 1.0):
        only = condition if scale else nothing
        return lambda x, t: predict(x, t, only)
    both = condition.beside(nothing)

    def prediction(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = predict(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return prediction
