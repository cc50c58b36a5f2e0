"""The norm of a gradient that lies in many tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sum_of_squares(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Adds up the squares of all elements, in as many operations for a thousand tensors as for one.

    Args:
        tensors: any shapes, of floating types no wider than that of the sum, on one device; none: the sum is 0.
        like: says type and device of the sum.

    Returns:
        []; the squares of each tensor are added up first, in the type of the sum.
    """
    if not tensors:
        return torch.zeros_like(like)
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype=like.dtype)).square().sum()
