"""Precision and recall: the share of samples that look real, and the share of real examples that could be drawn.

Shape suffixes: Q queries, P points of a part, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

NEIGHBOURS = 3
QUERIES, POINTS = 1024, 8192
"""Points whose distances are computed at once: 64 MiB of distances."""
ROUNDING = 1e-12
"""Squared distances below this share of the squared lengths are those of equal points."""

Group = dist.ProcessGroup | None


class PrecisionRecall(NamedTuple):
    """Share of samples among the real examples, and of real examples among the samples; 0 to 1."""

    precision: float
    recall: float


def precision_recall(
    real: Tensor, samples: Tensor, *, neighbours: int = NEIGHBOURS, group: Group = None
) -> PrecisionRecall:
    """Compares features [N, F] and [M, F] by balls around their points that reach to the k-th nearest other point.

    A point is among a set if it is in the ball of one of its points. Distances are computed in float64, block by block,
    and between the ranks of `group` part by part: no rank holds more than its features and those of one other rank.
    Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", arXiv
    1904.06991, equations 1 and 2; k = 3 as there.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: {neighbours} is not a number of neighbours; use 1 or more")
    shares = []
    for name, points, queried in (("real examples", real, samples), ("samples", samples, real)):
        count = _total(len(points), points.device, group)
        if count <= neighbours:
            raise ValueError(f"{name}: {count} have no {neighbours} neighbours; give {neighbours + 1} or more")
        inside = _inside(queried, points, _radii(points, neighbours, group), group)
        shares.append(_total(int(inside.sum()), points.device, group) / _total(len(queried), points.device, group))
    return PrecisionRecall(*shares)


def _radii(points_PF: Tensor, neighbours: int, group: Group) -> Tensor:
    """Squared distance from each of this rank's points to the k-th nearest other point of all ranks, float64 [P]."""
    queries = points_PF.split(QUERIES)
    nearest = [points_PF.new_full((len(part), neighbours), torch.inf, dtype=torch.float64) for part in queries]
    for is_own, (part_PF,) in parts_of_ranks((points_PF,), group):
        for number, queries_QF in enumerate(queries):
            for start in range(0, len(part_PF), POINTS):
                squared_QP = _squared_distances(queries_QF, part_PF[start : start + POINTS])
                if is_own:
                    rows, columns = (torch.arange(size, device=squared_QP.device) for size in squared_QP.shape)
                    squared_QP.masked_fill_(rows[:, None] + number * QUERIES == columns + start, torch.inf)
                both = torch.cat([nearest[number], squared_QP], dim=1)
                nearest[number] = both.topk(neighbours, dim=1, largest=False).values
    return torch.cat([part[:, -1] for part in nearest])


def _inside(queried_QF: Tensor, points_PF: Tensor, radii_P: Tensor, group: Group) -> Tensor:
    """Whether each of this rank's queries is in the ball of one of the points of all ranks, bool [Q]."""
    queries = queried_QF.split(QUERIES)
    inside = [torch.zeros(len(part), dtype=torch.bool, device=queried_QF.device) for part in queries]
    for _, (part_PF, part_P) in parts_of_ranks((points_PF, radii_P), group):
        for found_Q, queries_QF in zip(inside, queries, strict=True):
            for start in range(0, len(part_PF), POINTS):
                balls = slice(start, start + POINTS)
                found_Q |= (_squared_distances(queries_QF, part_PF[balls]) <= part_P[balls]).any(dim=1)
    return torch.cat(inside)


def _squared_distances(queries_QF: Tensor, points_PF: Tensor) -> Tensor:
    """Returns squared distances, float64 [Q, P], which are exactly 0 between equal points."""
    queries_QF, points_PF = queries_QF.double(), points_PF.double()
    lengths_QP = queries_QF.square().sum(1)[:, None] + points_PF.square().sum(1)
    squared_QP = torch.addmm(lengths_QP, queries_QF, points_PF.T, alpha=-2)
    return squared_QP.masked_fill_(squared_QP < ROUNDING * lengths_QP, 0.0)


def parts_of_ranks(own: tuple[Tensor, ...], group: Group) -> Iterator[tuple[bool, tuple[Tensor, ...]]]:
    """Yields for each rank in turn whether it is this rank, and its tensors; collective."""
    if group is None or group.size() == 1:
        yield True, own
        return
    sizes = [torch.zeros(1, dtype=torch.int64, device=own[0].device) for _ in range(group.size())]
    dist.all_gather(sizes, torch.tensor([len(own[0])], device=own[0].device), group=group)
    for rank, size in enumerate(torch.cat(sizes).tolist()):
        is_own = rank == group.rank()
        part = tuple(one.contiguous() if is_own else one.new_empty(size, *one.shape[1:]) for one in own)
        for tensor in part:
            dist.broadcast(tensor, group=group, group_src=rank)
        yield is_own, part


def _total(count: int, device: torch.device, group: Group) -> int:
    """The sum of a number over the ranks; collective."""
    total = torch.tensor(count, device=device)
    if group is not None:
        dist.all_reduce(total, group=group)
    return int(total)
