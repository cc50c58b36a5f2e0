"""Routing by sparsity-constrained optimal transport: balanced, capped and sparse.

Shape suffixes: T tokens, E experts, K experts of a token.
"""

from collections.abc import Mapping

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.config import SparseOTRouterConfig
from moe.ot import expert_potentials, project_rows
from moe.router.capacity import cut_by_margin, slots_per_expert
from moe.router.portable import PortableRouter, Selection

SMOOTH = 8
"""Most experts that a token may spread over while potentials are sought; fewer make the objective less smooth."""


class SparseOTRouter(PortableRouter):
    """Potentials on the experts balance their load; each token goes to its few best experts at these prices.

    In training every micro batch is solved anew, without gradient, for the potentials at which the experts share the
    tokens' mass (top_k a token) evenly; the logits count in units of their standard deviation around each token's mean,
    so that gamma keeps its meaning while they grow. A token visits the support of its row of the plan, at least top_k
    experts. Experts that would take more than their capacity give up the choices that cost their tokens least, and the
    tokens they leave go to the next best expert with room. So no token is dropped while its rank balances alone, and
    none visits more experts than its candidates; a dual solution of the capacity problem ensures neither.

    Solves start from the potentials of the last optimiser step, never from those of another micro batch, so that a
    forward pass repeated for activation checkpointing routes alike. The moving average of the potentials routes at
    inference, where no solve is needed and no token sees another. In training a solve does look at the whole micro
    batch: in an autoregressive model later tokens influence the experts of earlier ones, as they do under
    expert-choice, BASE and Sinkhorn routing.

    With ``potentials: global`` all data ranks share one set: a forward pass in training sends an all-reduce of two
    float64, one of 1 + E floats per evaluation (``evaluations`` in the report, five to ten as a rule) and one of E
    int64, and every rank must make as many passes. Capacity is then the expert's over all ranks, shared out by demand,
    and a rank's last tokens may find no room.

    With gate ``plan`` a token with one expert has the gate value top_k whatever its logits, without gradient; a gamma
    of 0.3 or more leaves few of those.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 10.
    """

    potentials: Tensor
    average_potentials: Tensor
    average_scale: Tensor
    updates: Tensor
    sums: Tensor
    hops: Tensor

    def __init__(
        self,
        router: SparseOTRouterConfig,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        """Builds the gate.

        Args:
            router: the transport problem.
            config: Megatron's configuration of the layer.
            pg_collection: process groups.
        """
        super().__init__(config, pg_collection)
        self._router = router
        self.cap = router.capacity_factor if router.potentials == "rank" else None
        self._most_choices = min(max(router.candidates, self.topk), self.num_experts)
        zeros_E = torch.zeros(self.num_experts, dtype=torch.float32)
        self.register_buffer("potentials", zeros_E)
        self.register_buffer("average_potentials", zeros_E.clone())
        self.register_buffer("average_scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # Potentials, scale and number of the micro batches since the last update.
        self.register_buffer("sums", torch.zeros(self.num_experts + 2, dtype=torch.float64), persistent=False)
        self.register_buffer("hops", zeros_E.clone(), persistent=False)

    def select(self, logits_TE: Tensor) -> Selection:
        """See :class:`PortableRouter`."""
        centred_TE = logits_TE - logits_TE.mean(dim=1, keepdim=True)
        counts = self.counts
        with torch.no_grad():
            if self.training:
                scale, tokens = self._spread(centred_TE)
                potentials_E, figures = self._solve(centred_TE, scale, tokens)
                if counts and tokens:
                    self.sums += torch.cat([potentials_E, torch.stack([scale, torch.ones_like(scale)])])
            else:
                scale, tokens = self.average_scale, len(logits_TE)
                potentials_E, figures = self.average_potentials.double(), {}
        bias_E = (potentials_E - self._router.hop_cost * self.hops).to(logits_TE.dtype)
        scores_TE = centred_TE / scale.to(logits_TE.dtype) + bias_E
        map_TE = self._choices(scores_TE.detach(), tokens)
        probs_TE = self._gates(logits_TE, scores_TE, map_TE)
        if self._router.gate != "prob":
            map_TE = probs_TE.detach() > 0
        return Selection(probs_TE, map_TE, self.unserved(map_TE), {"potentials": potentials_E.float(), **figures})

    def set_hops(self, hops_E: Tensor) -> None:
        """See :class:`moe.router.protocol.Router`."""
        self.hops.copy_(hops_E)

    @torch.no_grad()
    def update_bias(self) -> None:
        """Takes the mean potentials of the step as the next start and into the moving average; collective."""
        sums = self.sum_over_ranks(self.sums)
        passes = sums[-1]
        mean = (sums / passes.clamp_min(1)).float()
        seen = passes > 0
        kept = (self.updates / (self.updates + 1)).clamp_max(self._router.ema_decay)
        share = torch.where(seen, 1 - kept, 0.0)
        self.potentials.copy_(torch.where(seen, mean[:-2], self.potentials))
        self.average_potentials.lerp_(mean[:-2], share)
        self.average_scale.lerp_(mean[-2], share)
        self.updates += seen
        sums.zero_()

    def forget(self) -> None:
        """See :class:`moe.router.protocol.Router`."""
        self.sums.zero_()

    @property
    def _is_global(self) -> bool:
        return self._router.potentials == "global"

    def _spread(self, centred_TE: Tensor) -> tuple[Tensor, int]:
        """Standard deviation of the logits and number of the tokens that are balanced together."""
        tokens = centred_TE.new_tensor(len(centred_TE), dtype=torch.float64)
        moments = torch.stack([centred_TE.square().sum(dtype=torch.float64), tokens])
        if self._is_global:
            moments = self.sum_over_ranks(moments)
        variance = moments[0] / (moments[1] * self.num_experts).clamp_min(1)
        return variance.sqrt().clamp_min(1e-6), int(moments[1])

    def _solve(self, centred_TE: Tensor, scale: Tensor, tokens: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        if not tokens:
            return self.potentials.double(), {}
        cost_TE = self._router.hop_cost * self.hops - centred_TE / scale
        if not len(centred_TE):  # the other ranks wait for this one
            cost_TE = cost_TE.new_zeros([1, self.num_experts])
        plan = expert_potentials(
            cost_TE.to(centred_TE.dtype),
            self._masses(centred_TE) if len(centred_TE) else centred_TE.new_zeros(1),
            centred_TE.new_full([self.num_experts], self.topk * tokens / self.num_experts),
            k=min(max(SMOOTH, self._most_choices), self.num_experts),
            gamma=self._router.gamma,
            warm_start=self.potentials.to(centred_TE.dtype),
            reduce=self.sum_over_ranks if self._is_global else None,
        )
        potentials_E = plan.potentials[1].double()
        figures = {
            "residual": plan.marginal_error,
            "evaluations": plan.marginal_error.new_tensor(plan.evaluations).long(),
        }
        return potentials_E - potentials_E.mean(), figures

    def _choices(self, scores_TE: Tensor, tokens: int) -> Tensor:
        """The support of each token's row, at least top_k, within the capacity of the experts."""
        best = project_rows(scores_TE, self._masses(scores_TE), k=self._most_choices, gamma=self._router.gamma)
        due_K = torch.arange(self._most_choices, device=scores_TE.device) < self.topk
        map_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter(1, best.indices, (best.values > 0) | due_K)
        factor = self._router.capacity_factor if self.training else self._router.inference_capacity_factor
        if factor is None:
            return map_TE
        slots_E = torch.full_like(self.hops, slots_per_expert(tokens * self.topk, self.num_experts, factor)).long()
        if self.training and self._is_global:
            slots_E = self._own_share(slots_E, map_TE.sum(dim=0))
        return cut_by_margin(scores_TE, map_TE, slots_E, self.topk)

    def _own_share(self, slots_E: Tensor, demand_E: Tensor) -> Tensor:
        """This rank's part of the slots of all ranks: in proportion to demand for a full expert, else above demand."""
        demand_of_all_E = self.sum_over_ranks(demand_E.clone())
        spare_E = (slots_E - demand_of_all_E).div(self.tp_dp_cp_group.size(), rounding_mode="floor")
        by_demand_E = demand_E * slots_E // demand_of_all_E.clamp_min(1)
        return torch.where(demand_of_all_E > slots_E, by_demand_E, demand_E + spare_E)

    def _gates(self, logits_TE: Tensor, scores_TE: Tensor, map_TE: Tensor) -> Tensor:
        probs_TE = logits_TE.softmax(dim=1) * map_TE
        if self._router.gate == "prob":
            return probs_TE
        mass = self.topk * self._router.gamma
        highest_T1 = scores_TE.detach().masked_fill(~map_TE, -torch.inf).amax(dim=1, keepdim=True)
        # Far enough below a token's best expert to get no mass.
        closed_TE = (highest_T1 - 2 * mass - 1).nan_to_num().expand_as(scores_TE)
        open_TE = torch.where(map_TE, scores_TE, closed_TE)
        plan = project_rows(open_TE, self._masses(scores_TE), k=self._most_choices, gamma=self._router.gamma)
        plan_TE = torch.zeros_like(scores_TE).scatter(1, plan.indices, plan.values) * map_TE
        if self._router.gate == "plan":
            return plan_TE
        return torch.where(plan_TE > 0, plan_TE.detach() + (probs_TE - probs_TE.detach()), 0.0)

    def _masses(self, scores_TE: Tensor) -> Tensor:
        return scores_TE.new_full([len(scores_TE)], self.topk)
