"""What the ranks tell each other once a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """What every rank knows of every rank, before the weights are touched.

    Attributes:
        losses: mean loss of each rank's micro batches.
        own_s: seconds of each rank's own work.
        stop: a rank was told to stop.
    """

    losses: tuple[float, ...]
    own_s: tuple[float, ...]
    stop: bool


def agree(losses: Sequence[Tensor], own_s: float, stop: bool) -> Agreement:
    """Exchanges what the ranks must decide alike; collective: one all-reduce of 24 bytes for each rank.

    Args:
        losses: of this rank's micro batches.
        own_s: seconds of its own work.
        stop: it was told to stop.
    """
    loss = torch.stack(list(losses)).double().mean()
    rows = torch.zeros(dist.get_world_size(), 3, dtype=torch.float64, device=loss.device)
    rows[dist.get_rank()] = torch.stack([loss, loss.new_tensor(own_s), loss.new_tensor(float(stop))])
    dist.all_reduce(rows)
    by_rank = rows.tolist()
    return Agreement(
        losses=tuple(row[0] for row in by_rank),
        own_s=tuple(row[1] for row in by_rank),
        stop=any(row[2] for row in by_rank),
    )


def mean_terms(terms: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Means of named scalars over all micro batches of all ranks; collective unless there are none.

    Args:
        terms: those of each micro batch of this rank, by the same names in all.
    """
    names = sorted(terms[0])
    if not names:
        return {}
    mean = torch.stack([torch.stack([micro[name].double() for name in names]) for micro in terms]).mean(0)
    dist.all_reduce(mean)
    return dict(zip(names, (mean / dist.get_world_size()).tolist(), strict=True))
