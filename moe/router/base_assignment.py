"""Routing by the best balanced assignment.

Shape suffixes: T tokens, E experts.
"""

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.host_copies import to_device
from moe.ot import exact
from moe.router.capacity import map_of
from moe.router.portable import PortableRouter, Selection


class BaseAssignmentRouter(PortableRouter):
    """Every token visits one expert, the experts' loads differ by one at most, and the sum of the logits is largest.

    Solved on the host in float64, which stalls a GPU for the milliseconds that the exact solution takes. In training a
    token's expert depends on the whole micro batch; at inference it is that of the largest logit.

    Source: Lewis et al., "BASE Layers: Simplifying Training of Large, Sparse Models", 2021, equation 2.
    """

    cap = 1.0

    def __init__(self, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None) -> None:
        """Builds the gate.

        Args:
            config: Megatron's configuration of the layer.
            pg_collection: process groups.

        Raises:
            ValueError: top_k is not 1.
        """
        super().__init__(config, pg_collection)
        if self.topk > 1:
            raise ValueError(f"top_k: {self.topk} with router base, which assigns one expert to a token; choose 1")

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        """See :class:`PortableRouter`; in training the host waits, and then solves."""
        affinity_TE = logits_TE.detach()
        expert_T = affinity_TE.argmax(dim=1)
        if self.training and counted_T is not None:
            expert_T[counted_T] = balanced_assignment(affinity_TE[counted_T])
        elif self.training:
            expert_T = balanced_assignment(affinity_TE)
        map_TE = map_of(expert_T[:, None], self.num_experts)
        if counted_T is not None:
            map_TE = map_TE & counted_T[:, None]
        return Selection(self.gates(logits_TE, map_TE, {}), map_TE, self.unserved(map_TE, counted_T))


def balanced_assignment(affinity_TE: Tensor) -> Tensor:
    """Assigns each token to one expert, each expert T / E tokens, rounded down or up.

    Every expert has floor(T / E) seats that must be filled and, unless T / E is whole, one optional seat. A phantom
    token takes the mass of all empty seats and may use optional seats only.

    Args:
        affinity_TE: affinity of each token to each expert, finite; T may be 0.

    Returns:
        The assignment of largest total affinity, int64 [T].
    """
    tokens, experts = affinity_TE.shape
    if not tokens:
        return affinity_TE.argmax(dim=1)
    full, rest = divmod(tokens, experts)
    cost = -affinity_TE.double().cpu()
    a, b = cost.new_ones(tokens), cost.new_full([experts], full)
    if rest:
        must, may = cost.new_full([1, experts], torch.inf), cost.new_zeros([1, experts])
        cost = torch.cat([torch.cat([cost, cost], dim=1), torch.cat([must, may], dim=1)])
        a, b = torch.cat([a, a.new_tensor([experts - rest])]), torch.cat([b, torch.ones_like(b)])
    plan = exact(cost, a, b).dense()[:tokens]
    return to_device(plan.argmax(dim=1) % experts, affinity_TE.device)
