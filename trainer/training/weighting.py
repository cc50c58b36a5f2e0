"""Pairs that count by their weight, over all micro batches of all ranks."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.flow.coupling.protocol import gathered

FEW = 0.1
"""Share of the pairs of a batch; where no more count, gradients are noise."""


def relative_weights(log_weights: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Weights [B] of mean 1 over the global batch, a micro batch each; None if equal, and then not collective."""
    given = [values for values in log_weights if values is not None]
    if not given:
        return list(log_weights)
    values = torch.cat(given).double()
    total = torch.logsumexp(gathered(torch.logsumexp(values, 0)), 0)
    log_mean = total - torch.tensor(float(len(values) * dist.get_world_size()), dtype=total.dtype).log()
    return [(piece.double() - log_mean).exp().to(piece.dtype) for piece in given]


def effective_share(weights: Sequence[Tensor | None]) -> dict[str, float]:
    """``effective_share``, (sum w)^2 / (N sum w^2) of N pairs, in (0, 1]; collective; empty without weights."""
    given = [values for values in weights if values is not None]
    if not given:
        return {}
    mean_square = torch.cat(given).double().square().mean()
    dist.all_reduce(mean_square)
    return {"effective_share": dist.get_world_size() / float(mean_square)}


def few_count(share: float) -> str | None:
    """One line about an effective share so small that gradients are noise; None: it is not."""
    if share >= FEW:
        return None
    return (
        f"only {share:.1%} of the pairs count (effective_share); a larger epsilon, share or marginal_weight of "
        "flow.coupling weighs them more evenly"
    )


def weighted_mean(losses: Sequence[Tensor], log_weights: Sequence[Tensor | None]) -> float:
    """Mean of losses [B], each by its weight (None everywhere: plain), over all ranks; collective."""
    values = torch.cat(list(losses)).double()
    given = [weights for weights in log_weights if weights is not None]
    logs = torch.cat(given).double() if given else torch.zeros_like(values)
    largest = logs.max() if len(logs) else logs.new_tensor(-torch.inf)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    weights = (logs - largest).exp()
    sums = torch.stack([(weights * values).sum(), weights.sum()])
    dist.all_reduce(sums)
    return float(sums[0] / sums[1])
