"""The expert-parallel layer whose tokens stay with their experts.

Shape suffixes: T tokens on this rank before or after the move, R rows on this rank while its experts work, D width,
E experts.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.config import MoEConfig, TopKRouterConfig
from moe.dispatch.context_coherent import Arrivals, CoherentDispatcher
from moe.dispatch.residency import Residency
from moe.dispatch.row_copies import RowCopies
from moe.layer import PlacedMoELayer
from moe.replica import Slots
from moe.router import PortableRouter


class CoherentMoELayer(PlacedMoELayer):
    """A mixture of experts in context-coherent dispatch (:mod:`moe.dispatch.context_coherent`).

    The load-balancing loss is that of all tokens of the group: tokens on one rank come from the same experts, and
    balancing each rank alone would undo the affinity that keeps them there. (Routers that balance by a plan do so over
    the tokens that they see: those on the rank, unless their potentials are global.)

    Attributes:
        moves_tokens: True, since tokens change ranks in this layer.
    """

    router: PortableRouter
    token_dispatcher: CoherentDispatcher  # pyright: ignore[reportIncompatibleVariableOverride]
    moves_tokens = True

    def __init__(
        self,
        config: MoEConfig,
        megatron: TransformerConfig,
        layer: int,
        seed: int,
        slot_to_expert: np.ndarray,
        hops: np.ndarray | None = None,
    ) -> None:
        """Builds the layer as its base does.

        Raises:
            ValueError: the router drops tokens, so that what a token becomes depends on which others share its rank; or
                an expert has replicas.
        """
        _refuse_dropping(config)
        without_loss = copy.copy(megatron)
        without_loss.moe_router_load_balancing_type, without_loss.moe_aux_loss_coeff = "none", 0.0
        home = config.model_copy(update={"dispatch": "home"})
        super().__init__(home, without_loss, layer, seed, slot_to_expert, hops)
        assert isinstance(self.ep_group, dist.ProcessGroup)
        self.token_dispatcher = CoherentDispatcher(self.ep_group, self.slot_to_expert)
        self._most_choices = config.most_choices
        self._aux_loss = config.router.aux_loss if isinstance(config.router, TopKRouterConfig) else 0.0

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, rows_TD: Tensor, residency: Residency, normalise: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Residency]:
        """Moves tokens to their experts and computes the experts' outputs.

        Returns the residual stream as it was and the gate-weighted sum of the experts' outputs, each [T, D] on the new
        ranks, and where the tokens are now. `normalise`, before router and experts, works row by row.
        """
        normal_TD = normalise(rows_TD)
        probs_TE, map_TE = self.router(normal_TD[:, None])
        arrivals = self.token_dispatcher.move(rows_TD, probs_TE, map_TE, self._most_choices, residency)
        normal_RD = normalise(arrivals.rows)
        fed_TD = self.token_dispatcher.combine(self._feed(normal_RD, arrivals), arrivals)
        if self.shared_experts is not None:
            fed_TD = fed_TD + self.shared_experts(normal_RD[arrivals.residents])
        if self._aux_loss and self.training and torch.is_grad_enabled():
            fed_TD = MoEAuxLossAutoScaler.apply(fed_TD, self._balance(normal_TD, arrivals))
        return arrivals.rows[arrivals.residents], fed_TD, arrivals.residency

    def _follow(self, slots: Slots) -> None:
        if slots.has_replicas:
            raise ValueError(
                f"slot_to_expert: {slots.experts.size} slots hold replicas of {slots.num_experts} experts, and in "
                "coherent dispatch a token is where its one expert is; place without replicas, or use dispatch home or "
                "copies"
            )
        if isinstance(getattr(self, "token_dispatcher", None), CoherentDispatcher):
            self.token_dispatcher.place(slots.experts.reshape(-1))
        else:
            super()._follow(slots)

    def _feed(self, normal_RD: Tensor, arrivals: Arrivals) -> Tensor:
        """Sum over the experts of this rank for each row."""
        row_P, gate_P, counts = self.token_dispatcher.pairs(arrivals)
        pairs = RowCopies.of(row_P, len(normal_RD))
        output_PD, _ = self.experts(pairs.spread(normal_RD), counts, gate_P)
        return pairs.add(output_PD)

    def _balance(self, normal_TD: Tensor, arrivals: Arrivals) -> Tensor:
        """This rank's share of the loss of the Switch Transformer (its equation 4) over all tokens of the group.

        The mean over the ranks is the loss.
        """
        choices_E = arrivals.expert_choices
        assert choices_E is not None
        shares_TE = self.router.distribution(self.router.gating(normal_TD))
        tokens = sum(arrivals.residency.rows)
        all_choices = choices_E.sum().clamp_min(1).double()
        scale = self._aux_loss * len(choices_E) * self.ep_group.size() / (tokens * all_choices)
        return scale.to(shares_TE.dtype) * (shares_TE.sum(dim=0) * choices_E).sum()


def _refuse_dropping(config: MoEConfig) -> None:
    if config.router.dropping is None:
        return
    field, value = config.router.dropping
    raise ValueError(
        f"router.{field}: {value} drops tokens at inference by which others share their rank, which coherent dispatch "
        "changes; use router top_k without capacity_factor, or dispatch home"
    )
