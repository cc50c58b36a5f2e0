"""Exchanges between the ranks once a step, and sums of losses by source of a mixture over all ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def totals(losses: Tensor, sources: Tensor, num: int, weights: Tensor | None = None) -> Tensor:
    """Sums of weights times losses, and of weights, by source: float64 [2, num], without the host waiting for them."""
    members = (sources[:, None] == torch.arange(num, device=sources.device)).double()
    each = torch.ones_like(losses, dtype=torch.float64) if weights is None else weights.double()
    return torch.stack([(each * losses.detach().double()) @ members, each @ members])


def means(summed: Sequence[Sequence[float]], names: Sequence[str], figure: str) -> dict[str, float]:
    """Means of each source with examples, named ``figure.SOURCE``, from sums over all micro batches and ranks."""
    together = zip(names, *summed, strict=True)
    return {f"{figure}_{name}": total / weight for name, total, weight in together if weight > 0}


def held_out_means(
    losses: Sequence[Tensor],
    sources: Sequence[Tensor],
    log_weights: Sequence[Tensor | None],
    names: Sequence[str],
    figure: str,
) -> dict[str, float]:
    """Weighted means over the held-out examples of each source (weights None: plain means); collective."""
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


@dataclass(frozen=True)
class Agreement:
    """Figures of every rank before the weights are touched: mean losses, seconds of local work, a request to stop."""

    losses: tuple[float, ...]
    own_s: tuple[float, ...]
    stop: bool


class Exchange:
    """Sends the figures by which all ranks decide alike; collective: one all-reduce of 24 bytes a rank.

    On a device the exchange is queued like other work. The host does not wait until it needs the norm of the gradient,
    and by then the exchange is done.
    """

    def __init__(self, losses: Sequence[Tensor], own_s: float, stop: bool) -> None:
        """Sends this rank's losses, seconds of local work, and whether it has a request to stop."""
        loss = torch.stack(list(losses)).double().mean()
        rows = torch.zeros(dist.get_world_size(), 3, dtype=torch.float64, device=loss.device)
        own = rows[dist.get_rank()]
        own[0] = loss
        own[1].fill_(own_s)
        own[2].fill_(float(stop))
        dist.all_reduce(rows)
        self._rows = rows.to("cpu", non_blocking=True)
        self._arrived: Any = None
        if rows.device.type != "cpu":
            self._arrived = torch.get_device_module(rows.device).Event()
            self._arrived.record()

    def result(self) -> Agreement:
        """The figures of all ranks; waits for the exchange unless the host has waited for something queued after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        by_rank = self._rows.tolist()
        return Agreement(
            losses=tuple(row[0] for row in by_rank),
            own_s=tuple(row[1] for row in by_rank),
            stop=any(row[2] for row in by_rank),
        )


def mean_terms(
    terms: Sequence[Mapping[str, Tensor]], totals: Sequence[Tensor] = ()
) -> tuple[dict[str, float], list[list[float]]]:
    """Means of named scalars over all micro batches of all ranks; collective unless there is nothing to reduce.

    Terms have the same names in all micro batches. `totals`, float64 [R, S] of each, are added up in the same
    collective.
    """
    names = sorted(terms[0])
    parts = [torch.stack([micro[name].double() for name in names]) for micro in terms if names]
    sent = [torch.stack(parts).mean(0)] if names else []
    sent += [torch.stack(list(totals)).sum(0).flatten()] if totals else []
    if not sent:
        return {}, []
    reduced = torch.cat(sent)
    dist.all_reduce(reduced)
    reduced[: len(names)] /= dist.get_world_size()
    values = reduced.tolist()
    means = dict(zip(names, values[: len(names)], strict=True))
    rows = len(totals[0]) if totals else 0
    summed = values[len(names) :]
    return means, [summed[row * len(summed) // rows : (row + 1) * len(summed) // rows] for row in range(rows)]
