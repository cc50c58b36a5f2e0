"""Routing by a balanced entropic plan.

Shape suffixes: T tokens, E experts.
"""

import math

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.config import SinkhornRouterConfig
from moe.router.capacity import map_of
from moe.router.portable import PortableRouter, Selection

_NO_MASS = -1e4
"""Logarithm of an entry that counts nowhere; finite, so that nothing becomes NaN where all tokens are padding."""


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

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        """See :class:`PortableRouter`."""
        scores_TE, figures = logits_TE.detach(), {}
        if self.training and len(logits_TE):
            scores_TE, residual = self._balanced(scores_TE, counted_T)
            figures = {"residual": residual}
        map_TE = map_of(scores_TE.topk(self.topk, dim=1).indices, self.num_experts)
        if counted_T is not None:
            map_TE = map_TE & counted_T[:, None]
        return Selection(self.gates(logits_TE, map_TE, {}), map_TE, self.unserved(map_TE, counted_T), figures)

    @torch.no_grad()
    def _balanced(self, logits_TE: Tensor, counted_T: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores in the order of the plan's entries, which may underflow, and the plan's error of its column sums.

        The iterations of :func:`moe.ot.sinkhorn` without its tolerance, which the host would have to read.
        """
        centred_TE = logits_TE - logits_TE.mean(dim=1, keepdim=True)
        if counted_T is None:
            variance = centred_TE.square().mean()
            log_load = math.log(len(logits_TE) / self.num_experts)
        else:
            tokens = counted_T.sum().clamp_min(1).to(logits_TE.dtype)
            variance = centred_TE.square().sum() / (tokens * self.num_experts)
            log_load = (tokens / self.num_experts).log()
        kernel_TE = centred_TE / (variance.sqrt().clamp_min(1e-6) * self._router.epsilon)
        # The same for the columns, in which padding has no mass.
        massive_TE = kernel_TE if counted_T is None else kernel_TE.masked_fill(~counted_T[:, None], _NO_MASS)
        columns_E = torch.zeros_like(kernel_TE[0])
        for _ in range(self._router.iterations):
            rows_T1 = (kernel_TE + columns_E).logsumexp(dim=1, keepdim=True)
            columns_E = log_load - (massive_TE - rows_T1).logsumexp(dim=0)
        scores_TE = kernel_TE + columns_E
        gathered_E = (massive_TE - scores_TE.logsumexp(dim=1, keepdim=True)).logsumexp(dim=0)
        return scores_TE, torch.expm1(columns_E + gathered_E - log_load).abs().amax()
