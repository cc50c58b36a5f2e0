"""What the experts of a layer hold, row by row."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # Megatron takes seconds to import
    from moe.layer import PlacedMoELayer


def expert_values(layer: "PlacedMoELayer") -> dict[int, dict[str, tuple[Tensor, Tensor]]]:
    """Value and gradient of each matrix of the experts at home on this rank, by logical expert and name."""
    stacks = {
        name: (stack.detach(), torch.zeros_like(stack) if stack.grad is None else stack.grad)
        for name, stack in layer.expert_stacks().items()
    }
    return {
        expert: {name: (value[row], gradient[row]) for name, (value, gradient) in stacks.items()}
        for row, expert in enumerate(layer.local_experts)
    }
