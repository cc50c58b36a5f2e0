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


def gathered_rows(rows: Tensor, ranks: dist.ProcessGroup | None) -> Tensor:
    """The rows of all ranks, by rank; collective.

    Args:
        rows: [B, ...] of this rank, as many on every rank.
        ranks: the group; None: this rank is on its own.

    Returns:
        [ranks B, ...].
    """
    return rows if ranks is None else gathered(rows, ranks).flatten(0, 1)
