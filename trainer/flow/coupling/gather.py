"""Values of all ranks on every rank."""

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(values: Tensor, ranks: dist.ProcessGroup | None = None) -> Tensor:
    """Puts equally shaped values of ranks together; collective.

    Args:
        values: [...] of this rank.
        ranks: the group; None: all ranks.

    Returns:
        [ranks, ...], by rank.
    """
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(ranks))]
    dist.all_gather(parts, values.contiguous(), group=ranks)
    return torch.stack(parts)
