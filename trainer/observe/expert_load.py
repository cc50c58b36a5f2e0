"""How evenly the experts are used, and how many rows of a dispatch cross to another node, as its mode sends them.

Shape suffixes: L MoE layers, E experts of a layer, C columns of a layer's tally: its experts, then `_SUMS`; T tokens of
this rank, N ranks that share the experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from moe.placement.placement import Mode
from moe.repetition import repeats
from trainer.model.parallel.state import HoldsExperts
from trainer.observe.protocol import ExpertUse


def crossing_rows(
    probs_TE: Tensor, map_TE: Tensor, ranks_E: Tensor, nodes_N: Tensor, here: int, mode: Mode
) -> tuple[Tensor, Tensor]:
    """Rows that one rank's tokens send to other nodes in a layer, and those if every expert were alone on another node.

    home: a row a choice; capped: likewise, empty slots left out; copies: a row a rank that holds any of the token's
    experts; hierarchical: a row a node that does; coherent: a row a rank, and the output of each of them but the
    anchor's, sent on to the anchor's rank. The second number, float64 [] as the first, does not depend on the
    placement: one a choice, and in coherent dispatch one more for every choice of a token but its anchor.

    Args:
        probs_TE: gate values; the largest chosen one is the anchor's.
        map_TE: bool, the choices that were kept.
        ranks_E: where each expert is, a place among the ranks that share the experts.
        nodes_N: node of each of those ranks.
        here: place of this rank among them.
    """
    choices = map_TE.sum().double()
    away_N = nodes_N != nodes_N[here]
    if mode in ("home", "capped"):
        return (map_TE & away_N[ranks_E]).sum().double(), choices
    place_E = ranks_E
    if mode == "hierarchical":  # the first rank of a node stands for all of it
        place_E = (nodes_N[:, None] == nodes_N).long().argmax(dim=1)[ranks_E]
    visits_TN = map_TE.new_zeros([len(map_TE), len(nodes_N)], dtype=torch.int64)
    visits_TN = visits_TN.index_add(1, place_E, map_TE.long()) > 0
    sent = (visits_TN & away_N).sum().double()
    if mode != "coherent":
        return sent, choices
    anchor_T = ranks_E[probs_TE.detach().masked_fill(~map_TE, -1.0).argmax(dim=1)]
    returned = (visits_TN & (nodes_N != nodes_N[anchor_T][:, None])).sum().double()
    return sent + returned, 2 * choices - map_TE.any(dim=1).sum().double()


PERCENTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "max": 1.0}
"""Percentiles of the load of a layer's experts that are reported; a min of 0 is a dead expert."""
_SUMS = ("dropped", "due", "entropy", "residual", "solves", "crossing", "most_crossing")


class ExpertLoad:
    """Sums up the routers' reports by block index, over the micro batches of a step and since the start."""

    def __init__(self, model: nn.Module, ranks_per_node: int, dispatch: Mode = "home") -> None:
        holders = [module for module in model.modules() if isinstance(module, HoldsExperts)]
        self.layers = [holder.layer for holder in holders]
        self._ranks_per_node = ranks_per_node
        self._dispatch: Mode = dispatch
        self._step: list[Tensor | None] = [None] * len(holders)
        self._earlier: list[Tensor | None] = [None] * len(holders)
        self._total_LC: Tensor | None = None
        self._rows: list[Tensor | None] = [None] * len(holders)
        self._places: list[_Places | None] = [None] * len(holders)
        self._groups = [dist.get_process_group_ranks(holder.ep_group) for holder in holders]
        for index, holder in enumerate(holders):
            holder.router.register_forward_hook(self._listener(index, holder))
            holder.experts.register_forward_pre_hook(self._counter(index, holder))

    def start(self) -> None:
        """Begins the counts of a step; earlier ones stay in the total."""
        self._earlier = [_sum(*tallies) for tallies in zip(self._earlier, self._step, strict=True)]
        self._step = [None] * len(self._step)
        self._rows = [None] * len(self._rows)

    def reduced(self) -> dict[str, float]:
        """The step's figures over all ranks, by one all-reduce; collective. Empty for a dense network.

        ``expert_load_max_over_mean``: the busiest expert's choices over the mean, averaged over the layers; 1 is
        balanced, the number of experts is collapse. ``rank_load_max_over_mean``: the same of the rows that ranks
        computed, which replicas level; empty slots of capped dispatch are left out. ``expert_load.layer_<block>.min``,
        ``.p50``, ``.p90`` and ``.max``: percentiles of the experts of one layer, over their mean. ``dropped_fraction``:
        due choices that no expert took. ``crossnode_token_fraction``: rows that dispatch sends to another node, as a
        share of those that it would send there if every expert of a token were alone on a node other than its own
        (:func:`crossing_rows`); it falls with the bytes between nodes. ``router_entropy``: of the gates' distribution
        in nats, 0 where every gate is sure. ``router_residual``, of routers that solve for balance: how far from it
        they stopped, over the mean load.
        """
        step = [tally for tally in self._step if tally is not None]
        if not step or len(step) < len(self._step):
            return {}
        total = [_sum(*tallies) for tallies in zip(self._earlier, self._step, strict=True)]
        both_LC = torch.stack([*step, *[tally for tally in total if tally is not None]])
        rows_LN = both_LC.new_zeros(len(step), dist.get_world_size())
        rows = [rows for rows in self._rows if rows is not None]
        if len(rows) == len(step):
            rows_LN[:, self._row_ranks] = torch.stack(rows).to(rows_LN)
        sums = torch.cat([both_LC.flatten(), rows_LN.flatten()])
        dist.all_reduce(sums)
        both_LC, rows_LN = sums[: both_LC.numel()].view_as(both_LC), sums[both_LC.numel() :].view_as(rows_LN)
        step_LC, self._total_LC = both_LC.cpu().chunk(2)
        return self._figures(step_LC, rows_LN.cpu())

    def tokens(self) -> Tensor:
        """Choices of each expert on all ranks, from the start to :meth:`reduced`: int64 [L, E] on the CPU."""
        if self._total_LC is None:
            return torch.zeros([len(self._step), 0], dtype=torch.int64)
        return self._total_LC[:, : -len(_SUMS)].long()

    def dropped(self) -> int:
        """Due choices that no expert took, of the same time as :meth:`tokens`."""
        return 0 if self._total_LC is None else int(self._total_LC[:, -len(_SUMS)].sum())

    def use(self) -> ExpertUse:
        """:meth:`tokens` and :meth:`dropped` in plain numbers."""
        return ExpertUse(tuple(self.layers), self.tokens().tolist(), self.dropped())

    def _figures(self, step_LC: Tensor, rows_LN: Tensor) -> dict[str, float]:
        tokens_LE, sums_LC = step_LC[:, : -len(_SUMS)], step_LC[:, -len(_SUMS) :]
        load_LE = tokens_LE / tokens_LE.mean(dim=1, keepdim=True).clamp_min(1e-9)
        percentiles_LP = load_LE.quantile(torch.tensor(list(PERCENTILES.values()), dtype=torch.float64), dim=1).T
        sums = dict(zip(_SUMS, sums_LC.sum(dim=0).tolist(), strict=True))
        figures = {
            "expert_load_max_over_mean": float(load_LE.amax(dim=1).mean()),
            "rank_load_max_over_mean": float((rows_LN.amax(dim=1) / rows_LN.mean(dim=1).clamp_min(1e-9)).mean()),
            "dropped_fraction": sums["dropped"] / max(sums["due"], 1.0),
            "crossnode_token_fraction": sums["crossing"] / max(sums["most_crossing"], 1.0),
            "router_entropy": sums["entropy"] / max(sums["due"], 1.0),
        }
        if sums["solves"]:
            figures["router_residual"] = sums["residual"] / sums["solves"]
        for layer, values in zip(self.layers, percentiles_LP.tolist(), strict=True):
            named = zip(PERCENTILES, values, strict=True)
            figures.update({f"expert_load.layer_{layer}.{name}": value for name, value in named})
        return figures

    def _listener(self, index: int, holder: HoldsExperts) -> Any:
        def listen(router: Any, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            if router.training and not repeats():
                crossing = most = output[0].new_zeros([], dtype=torch.float64)
                report = router.report()
                if len(holder.slot_to_expert) == output[1].shape[1]:  # with replicas only the dispatcher knows
                    crossing, most = self._crossing(index, holder, *output)
                if self._dispatch == "capped":  # experts compute empty seats, too, and cannot tell them from others
                    ranks = self._places_of(index, holder, output[1]).ranks
                    rows_N = ranks.new_zeros(holder.ep_group.size()).index_add(0, ranks, report["expert_tokens"])
                    self._rows[index] = _sum(self._rows[index], rows_N)
                self._step[index] = _sum(self._step[index], _tally(report, crossing, most))

        return listen

    def _counter(self, index: int, holder: HoldsExperts) -> Any:
        def count(experts: nn.Module, inputs: tuple[Any, ...]) -> None:
            if experts.training and not repeats():
                if self._dispatch != "capped":
                    self._rows[index] = _sum(self._rows[index], inputs[1].sum()[None])
                if holder.served is not None:
                    tally = self._step[index]
                    assert tally is not None
                    tally[-2:] += torch.stack(self._crossing(index, holder, holder.served, holder.served))

        return count

    def _crossing(self, index: int, holder: HoldsExperts, probs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The result of `crossing_rows` for chosen experts, or for chosen slots where experts have replicas."""
        places = self._places_of(index, holder, chosen)
        here = dist.get_rank(holder.ep_group)
        return crossing_rows(probs, chosen, places.ranks, places.nodes, here, self._dispatch)

    def _places_of(self, index: int, holder: HoldsExperts, chosen: Tensor) -> "_Places":
        """The layer's places, copied to the device once for each placement."""
        known, slots = self._places[index], holder.slot_to_expert
        by_slot = holder.served is not None
        if known is None or known.by_slot != by_slot or not np.array_equal(known.slot_to_expert, slots):
            known = _Places.of(slots, by_slot, dist.get_process_group_ranks(holder.ep_group), self._ranks_per_node)
            known = replace(known, ranks=known.ranks.to(chosen.device), nodes=known.nodes.to(chosen.device))
            self._places[index] = known
        return known

    @property
    def _row_ranks(self) -> list[int]:
        """Ranks for which this one counts rows: in capped dispatch all ranks of its group, else itself."""
        own = dist.get_rank()
        return self._groups[0] if self._dispatch == "capped" else [own]


@dataclass(frozen=True, eq=False, slots=True)
class _Places:
    """The ranks and nodes of a layer's experts.

    Attributes:
        slot_to_expert: the placement.
        by_slot: whether `ranks` has an entry for each slot, where experts have replicas, or for each logical expert.
        ranks: rank of each slot or expert, as its place among the ranks that share the experts.
        nodes: node of each of those ranks, int64 [N].
    """

    slot_to_expert: NDArray[np.int64]
    by_slot: bool
    ranks: Tensor
    nodes: Tensor

    @classmethod
    def of(cls, slots: NDArray[np.int64], by_slot: bool, group: list[int], ranks_per_node: int) -> "_Places":
        numbers = torch.arange(len(slots)) if by_slot else torch.as_tensor(slots).argsort()
        return cls(slots, by_slot, numbers // (len(slots) // len(group)), torch.tensor(group) // ranks_per_node)


def _tally(report: Mapping[str, Tensor], crossing: Tensor, most_crossing: Tensor) -> Tensor:
    """The sums of one pass as a row [C]; the mean entropy is multiplied by its number of choices."""
    due = report["due_choices"].double()
    residual = report.get("residual")
    solves = torch.ones_like(due) if residual is not None else torch.zeros_like(due)
    residual = torch.zeros_like(due) if residual is None else residual.double()
    sums = [report["dropped_choices"].double(), due, report["entropy"].double() * due, residual, solves]
    sums += [crossing, most_crossing]
    return torch.cat([report["expert_tokens"].double(), torch.stack(sums)])


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
