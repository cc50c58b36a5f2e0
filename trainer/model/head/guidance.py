"""Classifier-free guidance: one field made of the conditional and the unconditional prediction."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.flow.sampler import Field


def guided_field(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], condition: Tensor, null_label: int, scale: float
) -> Field:
    """Binds labels and guidance to a model.

    v = v_null + scale (v_condition - v_null); both come from one forward pass of twice the batch, and a scale of 0
    or 1 needs only one of them.

    Source: Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, equation 6 with scale = 1 + w.

    Args:
        velocity: from states [B, *D], times [B] and labels [B] to velocities [B, *D].
        condition: int64 [B] labels.
        null_label: the label that stands for none.
        scale: 0 or more.

    Returns:
        The field (x, t) -> velocity.
    """
    nothing = torch.full_like(condition, null_label)
    if scale in (0.0, 1.0):
        labels = condition if scale else nothing
        return lambda x, t: velocity(x, t, labels)
    both = torch.cat([condition, nothing])

    def field(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = velocity(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return field
