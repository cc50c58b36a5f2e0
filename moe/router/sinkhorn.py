"""Routing by a balanced entropic plan.

Shape suffixes: T tokens, E experts.
"""

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.config import SinkhornRouterConfig
from moe.ot import sinkhorn
from moe.router.capacity import map_of
from moe.router.portable import PortableRouter, Selection


class SinkhornRouter(PortableRouter):
    """Each token visits the top_k largest entries of its row of a plan whose columns are balanced.

    The plan is balanced, the selection only nearly so; no token is dropped. In training a token's experts depend on the
    whole micro batch; at inference they are those of the largest logits.

    Source: Clark et al., "Unified Scaling Laws for Routed Language Models", 2022, section 3.1 (S-BASE).
    """

    def __init__(
        self,
        router: SinkhornRouterConfig,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        """Builds the gate.

        Args:
            router: settings of the entropic problem.
            config: Megatron's configuration of the layer.
            pg_collection: process groups.
        """
        super().__init__(config, pg_collection)
        self._router = router

    def select(self, logits_TE: Tensor) -> Selection:
        """See :class:`PortableRouter`."""
        scores_TE, figures = logits_TE.detach(), {}
        if self.training and len(logits_TE):
            scores_TE, residual = self._balanced(scores_TE)
            figures = {"residual": residual}
        map_TE = map_of(scores_TE.topk(self.topk, dim=1).indices, self.num_experts)
        return Selection(logits_TE.softmax(dim=1) * map_TE, map_TE, self.unserved(map_TE), figures)

    @torch.no_grad()
    def _balanced(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Scores in the order of the plan's entries, which may underflow, and the plan's error of its column sums."""
        centred_TE = logits_TE - logits_TE.mean(dim=1, keepdim=True)
        cost_TE = -centred_TE / centred_TE.square().mean().sqrt().clamp_min(1e-6)
        plan = sinkhorn(
            cost_TE,
            logits_TE.new_ones(len(logits_TE)),
            logits_TE.new_full([self.num_experts], len(logits_TE) / self.num_experts),
            epsilon=self._router.epsilon,
            max_iterations=self._router.iterations,
        )
        return plan.potentials[1] - cost_TE, plan.marginal_error
