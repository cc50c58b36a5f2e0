"""Losses of each source of a mixture: sums and counts, which add up over micro batches and ranks that lack one."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def totals(losses: Tensor, sources: Tensor, num: int, weights: Tensor | None = None) -> Tensor:
    """Sums of weights times losses, and of weights, by source: float64 [2, num], without the host waiting for them."""
    members = (sources[:, None] == torch.arange(num, device=sources.device)).double()
    each = torch.ones_like(losses, dtype=torch.float64) if weights is None else weights.double()
    return torch.stack([(each * losses.detach().double()) @ members, each @ members])


def means(summed: Sequence[Sequence[float]], names: Sequence[str], figure: str) -> dict[str, float]:
    """The mean of a figure for each source that had examples, as ``figure.SOURCE``, of sums over all micro batches and
    ranks.
    """
    together = zip(names, *summed, strict=True)
    return {f"{figure}_{name}": total / weight for name, total, weight in together if weight > 0}


def held_out_means(
    losses: Sequence[Tensor],
    sources: Sequence[Tensor],
    log_weights: Sequence[Tensor | None],
    names: Sequence[str],
    figure: str,
) -> dict[str, float]:
    """Means over the held-out examples of each source, each by its weight (None: plain); collective."""
    values = torch.cat(list(losses)).double()
    given = [weights for weights in log_weights if weights is not None]
    weights = None
    if given:
        logs = torch.cat(given).double()
        largest = logs.max() if len(logs) else logs.new_tensor(-torch.inf)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        weights = (logs - largest).exp()
    summed = totals(values, torch.cat(list(sources)), len(names), weights)
    dist.all_reduce(summed)
    return means(summed.tolist(), names, figure)
