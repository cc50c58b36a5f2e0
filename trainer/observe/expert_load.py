"""Load balance of the experts, and the rows that a dispatch mode sends to another node.

Shape suffixes: L MoE layers, E experts of a layer, C columns of a layer's tally: its experts, then `_SUMS`; T tokens of
this rank, N ranks that share the experts.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.placement.placement import Mode
from moe.repetition import repeats
from trainer.model.parallel.state import HoldsExperts
from trainer.observe.protocol import ExpertUse


def crossing_rows(
    probs_TE: Tensor, map_TE: Tensor, ranks_E: Tensor, nodes_N: Tensor, here: int, mode: Mode
) -> tuple[Tensor, Tensor]:
    """Rows that a rank's tokens send to other nodes, and the same if every expert were alone on another node.

    A token sends, in mode home, a row for each choice; capped: the same, without empty slots; copies: a row for each
    rank that holds any of its experts; hierarchical: a row for each such node; coherent: a row for each such rank, each
    of which but the anchor's sends its output on to the anchor's rank. The second number, float64 [] as the first, does
    not depend on the placement: one for each choice, and in coherent dispatch one more for every choice but the anchor.

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
        self._loads = [_LayerLoad(holder, ranks_per_node, dispatch) for holder in holders]
        self._dispatch: Mode = dispatch
        self._total_LC: Tensor | None = None

    def start(self) -> None:
        """Begins the counts of a step; earlier ones stay in the total."""
        for load in self._loads:
            load.earlier, load.step, load.rows = _sum(load.earlier, load.step), None, None

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
        step = [load.step for load in self._loads if load.step is not None]
        if not step or len(step) < len(self._loads):
            return {}
        total = [_sum(load.earlier, load.step) for load in self._loads]
        both_LC = torch.stack([*step, *[tally for tally in total if tally is not None]])
        rows_LN = both_LC.new_zeros(len(step), dist.get_world_size())
        rows = [load.rows for load in self._loads if load.rows is not None]
        if len(rows) == len(step):  # in capped dispatch this rank counts those of all ranks of its group
            counted = self._loads[0].ranks if self._dispatch == "capped" else [dist.get_rank()]
            rows_LN[:, counted] = torch.stack(rows).to(rows_LN)
        sums = torch.cat([both_LC.flatten(), rows_LN.flatten()])
        dist.all_reduce(sums)
        both_LC, rows_LN = sums[: both_LC.numel()].view_as(both_LC), sums[both_LC.numel() :].view_as(rows_LN)
        step_LC, self._total_LC = both_LC.cpu().chunk(2)
        return self._figures(step_LC, rows_LN.cpu())

    def tokens(self) -> Tensor:
        """Choices of each expert on all ranks, from the start to :meth:`reduced`: int64 [L, E] on the CPU."""
        if self._total_LC is None:
            return torch.zeros([len(self.layers), 0], dtype=torch.int64)
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


class _LayerLoad:
    """Listens to a layer's router and experts.

    Attributes:
        ranks: those that share the experts.
        step, earlier: sums of the routers' reports in this step, and in those before.
        rows: rows that this rank computed in this step; in capped dispatch those of each rank of its group, [N].
    """

    def __init__(self, holder: HoldsExperts, ranks_per_node: int, dispatch: Mode) -> None:
        self.ranks = dist.get_process_group_ranks(holder.ep_group)
        self.step: Tensor | None = None
        self.earlier: Tensor | None = None
        self.rows: Tensor | None = None
        self._holder = holder
        self._dispatch: Mode = dispatch
        self._nodes_N = torch.tensor(self.ranks) // ranks_per_node
        self._placement: tuple[bool, bytes] | None = None
        holder.router.register_forward_hook(self._listen)
        holder.experts.register_forward_pre_hook(self._count)

    def _listen(self, router: Any, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        if router.training and not repeats():
            crossing = most = output[0].new_zeros([], dtype=torch.float64)
            report = router.report()
            if len(self._holder.slot_to_expert) == output[1].shape[1]:  # with replicas only the dispatcher knows
                crossing, most = self._crossing(*output)
            if self._dispatch == "capped":  # experts compute empty rows, too, and cannot tell them from others
                ranks, nodes_N = self._places(output[1])
                rows_N = ranks.new_zeros(len(nodes_N)).index_add(0, ranks, report["expert_tokens"])
                self.rows = _sum(self.rows, rows_N)
            self.step = _sum(self.step, _tally(report, crossing, most))

    def _count(self, experts: nn.Module, inputs: tuple[Any, ...]) -> None:
        if experts.training and not repeats():
            if self._dispatch != "capped":
                self.rows = _sum(self.rows, inputs[1].sum()[None])
            if self._holder.served is not None:
                assert self.step is not None
                self.step[-2:] += torch.stack(self._crossing(self._holder.served, self._holder.served))

    def _crossing(self, probs: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The result of :func:`crossing_rows` for chosen experts; for chosen slots if experts have replicas."""
        here = dist.get_rank(self._holder.ep_group)
        return crossing_rows(probs, chosen, *self._places(chosen), here, self._dispatch)

    def _places(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Ranks, as places in the group, of all slots where experts have replicas, or else of all logical experts; and
        the node of each rank, int64 [N]. They are copied to the device once for each placement.
        """
        slots, by_slot = self._holder.slot_to_expert, self._holder.served is not None
        if self._placement != (placement := (by_slot, slots.tobytes())):
            numbers = torch.arange(len(slots)) if by_slot else torch.as_tensor(slots).argsort()
            ranks = numbers // (len(slots) // len(self.ranks))
            self._placement, self._known = placement, (ranks.to(chosen.device), self._nodes_N.to(chosen.device))
        return self._known


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
