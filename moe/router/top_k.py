"""Top-k routing: every token takes the experts with its largest gate values.

Shape suffixes: T tokens, E experts.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.moe_utils import (
    compute_routing_scores_for_aux_loss,
    get_tokens_per_expert_and_token_count,
    switch_load_balancing_loss_func,
    topk_routing_with_score_function,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.config import TopKRouterConfig
from moe.router.capacity import keep_first, keep_largest, map_of, slots_per_expert
from moe.router.portable import PortableRouter, Selection


class PortableTopKRouter(PortableRouter[TopKRouterConfig]):
    """Megatron-Core's top-k selection and load-balancing loss, with a capacity and a balancing bias of our own.

    Capacity differs from Megatron's where that depends on the device: among equal gate values the earlier token stays,
    and policy ``position`` drops the last tokens (Megatron's top-k over a 0/1 column keeps any). The bias of
    auxiliary-loss-free balancing acts on the selection alone. It moves by ``bias_rate`` after every optimiser step, up
    for experts that fewer tokens than the mean requested in that step on all data ranks, down for the others; a
    capacity does not hide the demand.

    Source: Shazeer et al., "Outrageously Large Neural Networks", 2017, section 2.1; the bias: Wang et al.,
    "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", 2024, algorithm 1.
    """

    expert_bias: Tensor | None
    demand: Tensor

    def __init__(
        self, router: TopKRouterConfig, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None
    ) -> None:
        super().__init__(router, config, pg_collection)
        if router.bias_rate:
            del self.expert_bias
            self.register_buffer("expert_bias", torch.zeros(self.num_experts, dtype=torch.float32))
            self.register_buffer("demand", torch.zeros(self.num_experts, dtype=torch.int64), persistent=False)

    def distribution(self, logits_TE: Tensor) -> Tensor:
        if self._router.score == "softmax":
            return logits_TE.softmax(dim=1)
        return torch.nn.functional.normalize(logits_TE.sigmoid(), p=1, dim=1)

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        probs_TE, wanted_TE, expert_TK = self._scored(logits_TE, None)
        if counted_T is not None:
            probs_TE, wanted_TE = probs_TE * counted_T[:, None], wanted_TE & counted_T[:, None]
        self._demanded(wanted_TE)
        factor = self._router.capacity_factor
        if factor is None:
            map_TE, dropped = wanted_TE, wanted_TE.new_zeros([], dtype=torch.int64)
        else:
            map_TE = self._within_capacity(probs_TE.detach(), wanted_TE, factor, counted_T)
            probs_TE, dropped = probs_TE * map_TE, (wanted_TE & ~map_TE).sum()
        if self.is_aux_loss_enabled() and self.learns and len(logits_TE):
            probs_TE = self._with_aux_loss(probs_TE, logits_TE, counted_T)
        return Selection(probs_TE, map_TE, dropped, constants={"experts": expert_TK})

    def gates(self, logits_TE: Tensor, map_TE: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
        """Gate values; those that are normalised over the choices are so before any is dropped.

        The order of the choices decides the last digits of their sum, so they come in that of the selection.
        """
        return self._scored(logits_TE, constants["experts"])[0] * map_TE

    def learn(self, selection: Selection, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        wanted_TE = map_of(selection.constants["experts"], self.num_experts)
        self._demanded(wanted_TE if counted_T is None else wanted_TE & counted_T[:, None])
        if not (self.is_aux_loss_enabled() and self.learns and len(logits_TE)):
            return selection
        return replace(selection, probs=self._with_aux_loss(selection.probs, logits_TE, counted_T, wanted_TE))

    @torch.no_grad()
    def update_bias(self) -> None:
        """Moves the bias by one step towards balance, by the demand since the last call; collective."""
        if self._router.bias_rate:
            demand_E = self.sum_over_ranks(self.demand)
            assert self.expert_bias is not None
            self.expert_bias += self._router.bias_rate * (demand_E.sum() - self.num_experts * demand_E).sign()
            demand_E.zero_()

    def forget(self) -> None:
        if self._router.bias_rate:
            self.demand.zero_()

    def _scored(self, logits_TE: Tensor, expert_TK: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gate values and map [T, E] of each token's best experts, int64 [T, K], or of given ones in their place."""
        chosen: Any = _Chosen(expert_TK)
        probs_TE, map_TE = topk_routing_with_score_function(
            logits_TE,
            self.topk,
            use_pre_softmax=self.config.moe_router_pre_softmax,
            score_function=self._router.score,
            expert_bias=self.expert_bias,
            router_replay=chosen,
        )
        return probs_TE, map_TE, chosen.experts

    def _demanded(self, wanted_TE: Tensor) -> None:
        """Adds the choices of tokens before the capacity to the demand for each expert."""
        if self._router.bias_rate and self.counts:
            self.demand += wanted_TE.sum(dim=0)

    def _within_capacity(self, probs_TE: Tensor, wanted_TE: Tensor, factor: float, counted_T: Tensor | None) -> Tensor:
        if counted_T is None:
            slots = slots_per_expert(len(wanted_TE) * self.topk, self.num_experts, factor)
        else:
            slots = self.slots(counted_T, factor)
        if self._router.drop_policy == "position":
            return keep_first(wanted_TE, slots)
        return keep_largest(probs_TE, wanted_TE, slots)

    def _with_aux_loss(
        self, probs_TE: Tensor, logits_TE: Tensor, counted_T: Tensor | None, taken_TE: Tensor | None = None
    ) -> Tensor:
        """The load-balancing loss of the tokens that are no padding; Megatron's own is NaN where all are padding.

        `taken_TE` are choices that are taken again, in place of those of the logits.
        """
        if counted_T is None:
            chosen_TE, scores_TE = compute_routing_scores_for_aux_loss(logits_TE, self.topk, self._router.score)
            return self._apply_aux_loss(probs_TE, scores_TE, chosen_TE if taken_TE is None else taken_TE)
        chosen_TE, scores_TE = compute_routing_scores_for_aux_loss(
            logits_TE, self.topk, self._router.score, padding_mask=~counted_T
        )
        if taken_TE is not None:
            chosen_TE = taken_TE & counted_T[:, None]
        counts: Any = get_tokens_per_expert_and_token_count(
            chosen_TE, self.tp_cp_group, self.topk, with_padding_mask=True
        )
        chosen_E, _, tokens = counts
        coefficient = self.get_aux_loss_coeff("aux_loss")
        loss = switch_load_balancing_loss_func(
            scores_TE, chosen_E, tokens.clamp_min(1), self.topk, self.num_experts, coefficient
        )
        return self.attach_and_log_load_balancing_loss(
            probs_TE, coefficient, loss, "load_balancing_loss", self.tp_cp_group
        )


class _Chosen:
    """Stands in for Megatron's replay: notes the experts of each token, int64 [T, K], or gives another pass's."""

    def __init__(self, experts: Tensor | None) -> None:
        self.experts = experts

    def get_replay_topk(
        self,
        scores_TE: Tensor,
        topk: int,
        _num_groups: int | None,
        _group_topk: int | None,
        compute: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Scores and experts of each token, [T, K]."""
        if self.experts is None:
            values_TK, self.experts = compute(scores_TE, topk)
            return values_TK, self.experts
        return scores_TE.gather(1, self.experts), self.experts
