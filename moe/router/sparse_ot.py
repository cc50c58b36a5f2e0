"""Routing by sparsity-constrained optimal transport: balanced, capped and sparse.

Shape suffixes: T tokens, E experts, K experts of a token.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.config import SparseOTRouterConfig
from moe.ot import balancing_potentials, project_rows
from moe.router.capacity import cut_best, cut_by_margin, map_of, slots_of_tokens, slots_per_expert
from moe.router.portable import PortableRouter, Selection


class SparseOTRouter(PortableRouter[SparseOTRouterConfig]):
    """Potentials on the experts balance their load; each token goes to its few best experts at these prices.

    In training every micro batch is solved anew, without gradient, for the potentials at which the experts share the
    tokens' mass (top_k a token) evenly; the logits count in units of their standard deviation around each token's mean,
    so that gamma keeps its meaning while they grow. A solve takes ``evaluations`` plans, whatever the tokens are, see
    :func:`moe.ot.balancing_potentials`: no shape depends on a number on the device, and the host never waits for one.
    What is missing from balance afterwards is the ``residual`` of the report, within the slack of the capacity as a
    rule. A token visits the support of its row of the plan, at least top_k experts. Experts that would take more than
    their capacity give up the choices that cost their tokens least, and the tokens they leave go to another expert with
    room. So no token is dropped while its rank balances alone, and none visits more experts than its candidates; a dual
    solution of the capacity problem ensures neither.

    Solves start from the potentials of the last optimiser step, never from those of another micro batch, so that a
    forward pass repeated for activation checkpointing routes alike. The moving average of the potentials routes at
    inference, where no solve is needed and no token sees another. In training a solve does look at the whole micro
    batch: in an autoregressive model later tokens influence the experts of earlier ones, as they do under
    expert-choice, BASE and Sinkhorn routing.

    With ``potentials: global`` all data ranks share one set: a forward pass in training sends an all-reduce of two
    float64, one for each evaluation (E * E floats; E in the last two) and one of E int64, and every rank must make as
    many passes. Capacity is then the expert's over all ranks, shared out by demand, and a rank's last tokens may find
    no room.

    With gate ``plan`` a token with one expert has the gate value top_k whatever its logits, without gradient; a gamma
    of 0.3 or more leaves few of those.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 10.
    """

    potentials: Tensor
    average_potentials: Tensor
    average_scale: Tensor
    updates: Tensor
    sums: Tensor
    one: Tensor
    hops: Tensor

    def __init__(
        self,
        router: SparseOTRouterConfig,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(router, config, pg_collection)
        self._most_choices = router.most_choices(self.topk, self.num_experts)
        zeros_E = torch.zeros(self.num_experts, dtype=torch.float32)
        self.register_buffer("potentials", zeros_E)
        self.register_buffer("average_potentials", zeros_E.clone())
        self.register_buffer("average_scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # Potentials, scale and number of the micro batches since the last update.
        self.register_buffer("sums", torch.zeros(self.num_experts + 2, dtype=torch.float64), persistent=False)
        self.register_buffer("one", torch.ones(1, dtype=torch.float32), persistent=False)
        self.register_buffer("hops", zeros_E.clone(), persistent=False)

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        potentials_E, scale, figures = self.average_potentials, self.average_scale, {}
        tokens = self._tokens(logits_TE, counted_T)
        if self.training:
            potentials_E, scale, tokens, figures = self._balanced(logits_TE, tokens, counted_T)
        constants = {"prices": self._less_hops(potentials_E).to(logits_TE.dtype), "scale": scale}
        scores_TE = _scores(logits_TE, constants)
        map_TE = self._choices(scores_TE.detach(), tokens, counted_T)
        distribution_TE = logits_TE.softmax(dim=1)
        probs_TE = self._gates(distribution_TE, scores_TE, map_TE)
        if self._router.gate != "prob":
            map_TE = probs_TE.detach() > 0
        figures = {"potentials": potentials_E.float(), **figures}
        dropped = self.unserved(map_TE, counted_T)
        return Selection(probs_TE, map_TE, dropped, figures, distribution_TE.detach(), constants)

    def gates(self, logits_TE: Tensor, map_TE: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
        if self._router.gate == "prob":
            return super().gates(logits_TE, map_TE, constants)
        return self._gates(logits_TE.softmax(dim=1), _scores(logits_TE, constants), map_TE)

    def learn(self, selection: Selection, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        """Adds the potentials that would balance these tokens to the sums for the average."""
        potentials_E, _, _, figures = self._balanced(logits_TE, self._tokens(logits_TE, counted_T), counted_T)
        return replace(selection, figures={"potentials": potentials_E.float(), **figures})

    def set_hops(self, hops_E: Tensor) -> None:
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
        self.sums.zero_()

    @property
    def _is_global(self) -> bool:
        return self._router.potentials == "global"

    def _balanced(
        self, logits_TE: Tensor, tokens: int | Tensor, counted_T: Tensor | None
    ) -> tuple[Tensor, Tensor, int | Tensor, Mapping[str, Tensor]]:
        """Potentials that balance a micro batch, added to the sums of the step; scale; tokens balanced; figures."""
        centred_TE = _centred(logits_TE.detach())
        scale, tokens = self._spread(centred_TE, tokens)
        potentials_E, figures = self._solve(centred_TE / scale.to(centred_TE.dtype), tokens, counted_T)
        self._remember(potentials_E, scale, tokens)
        return potentials_E, scale, tokens, figures

    def _tokens(self, logits_TE: Tensor, counted_T: Tensor | None) -> int | Tensor:
        """Number of this rank's tokens: float64 [] where a device alone knows it."""
        return logits_TE.shape[0] if counted_T is None else counted_T.sum(dtype=torch.float64)

    def _spread(self, centred_TE: Tensor, tokens: int | Tensor) -> tuple[Tensor, int | Tensor]:
        """Standard deviation of the logits and number of the tokens that are balanced together."""
        if not isinstance(tokens, Tensor) and not self._is_global:
            return centred_TE.std(correction=0).clamp_min(1e-6), tokens
        norm = torch.linalg.vector_norm(centred_TE)
        if self._is_global:
            own = tokens if isinstance(tokens, Tensor) else norm.new_full([], tokens, dtype=torch.float64)
            square, tokens = self.sum_over_ranks(torch.stack([norm.double().square(), own])).unbind()
            norm = square.sqrt().to(norm.dtype)
        assert isinstance(tokens, Tensor)
        return (norm / (tokens * self.num_experts).clamp_min(1).sqrt().to(norm.dtype)).clamp_min(1e-6), tokens

    @torch.no_grad()
    def _solve(
        self, scores_TE: Tensor, tokens: int | Tensor, counted_T: Tensor | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        if not isinstance(tokens, Tensor) and not tokens:
            return self.potentials, {}
        potentials_E, residual = balancing_potentials(
            scores_TE - self._router.hop_cost * self.hops if self._router.hop_cost else scores_TE,
            self.potentials.to(scores_TE.dtype),
            mass=self.topk,
            gamma=self._router.gamma,
            evaluations=self._router.evaluations,
            rows=tokens if isinstance(tokens, Tensor) else None,
            counted_N=counted_T,
            reduce=self.sum_over_ranks if self._is_global else None,
        )
        return potentials_E, {"residual": residual}

    def _remember(self, potentials_E: Tensor, scale: Tensor, tokens: int | Tensor) -> None:
        """Adds a micro batch to the sums of the step; one without tokens counts nothing."""
        if not self.counts or not (isinstance(tokens, Tensor) or tokens):
            return
        potentials = torch.cat([potentials_E, scale[None], self.one])
        self.sums += potentials * (tokens > 0) if isinstance(tokens, Tensor) else potentials

    def _less_hops(self, potentials_E: Tensor) -> Tensor:
        if not self._router.hop_cost:
            return potentials_E
        return potentials_E.double() - self._router.hop_cost * self.hops

    def _choices(self, scores_TE: Tensor, tokens: int | Tensor, counted_T: Tensor | None) -> Tensor:
        """The support of each token's row, at least top_k, within the capacity of the experts."""
        factor = self._router.capacity_factor if self.training else self._router.inference_capacity_factor
        shares = self.training and self._is_global
        if self._most_choices == self.topk and factor is not None and not shares:
            return cut_best(scores_TE, self._slots(tokens, factor), self.topk, counted_T)
        map_TE = self._support(scores_TE)
        if counted_T is not None:
            map_TE = map_TE & counted_T[:, None]
        if factor is None:
            return map_TE
        slots_E = self._slots(tokens, factor)
        if shares:
            slots_E = self._own_share(slots_E, map_TE.sum(dim=0))
        return cut_by_margin(scores_TE, map_TE, slots_E, self.topk, counted_T)

    def _support(self, scores_TE: Tensor) -> Tensor:
        """The entries of :func:`moe.ot.project_rows` and each token's best top_k experts."""
        most = self._most_choices
        best_TK, expert_TK = scores_TE.topk(most, dim=1)
        if most == self.topk:
            return map_of(expert_TK, self.num_experts)
        below_TK = best_TK - best_TK[:, :1]
        ranks_K = torch.arange(1, most + 1, device=scores_TE.device, dtype=scores_TE.dtype)
        # A product gives the running sums: those of floats are not reproducible on CUDA.
        sums_TK = below_TK @ below_TK.new_ones([most, most]).triu_()
        chosen_TK = ranks_K * below_TK > sums_TK - self._router.gamma * self.topk
        chosen_TK[:, : self.topk].fill_(True)
        return torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(1, expert_TK, chosen_TK)

    def _slots(self, tokens: int | Tensor, factor: float) -> int | Tensor:
        if isinstance(tokens, Tensor):
            return slots_of_tokens(tokens, top_k=self.topk, num_experts=self.num_experts, factor=factor)
        return slots_per_expert(tokens * self.topk, self.num_experts, factor)

    def _own_share(self, slots_E: int | Tensor, demand_E: Tensor) -> Tensor:
        """This rank's part of all slots: for a full expert in proportion to demand, else demand plus an even spare."""
        demand_of_all_E = self.sum_over_ranks(demand_E.clone())
        spare_E = (slots_E - demand_of_all_E).div(self.tp_dp_cp_group.size(), rounding_mode="floor")
        by_demand_E = demand_E * slots_E // demand_of_all_E.clamp_min(1)
        return torch.where(demand_of_all_E > slots_E, by_demand_E, demand_E + spare_E)

    def _gates(self, distribution_TE: Tensor, scores_TE: Tensor, map_TE: Tensor) -> Tensor:
        probs_TE = distribution_TE * map_TE
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


def _centred(logits_TE: Tensor) -> Tensor:
    return logits_TE - logits_TE.mean(dim=1, keepdim=True)


def _scores(logits_TE: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
    """Logits around each token's mean in units of their scale, less the prices of the experts."""
    return _centred(logits_TE) / constants["scale"].to(logits_TE.dtype) + constants["prices"]
