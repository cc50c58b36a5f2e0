"""Routers that balance a micro batch: by experts that choose, by the best assignment, by a balanced entropic plan.

Shape suffixes: T tokens, E experts.
"""

import math

import torch
from torch import Tensor

from moe.config import BaseAssignmentRouterConfig, ExpertChoiceRouterConfig, SinkhornRouterConfig
from moe.host_copies import to_device
from moe.ot import exact
from moe.router.capacity import keep_largest, map_of, slots_per_expert
from moe.router.portable import PortableRouter, Selection

_NO_MASS = -1e4
"""Logarithm of an entry without mass; finite, so that no NaN arises if all tokens are padding."""


class ExpertChoiceRouter(PortableRouter[ExpertChoiceRouterConfig]):
    """Each expert takes top_k * T / E tokens, rounded up: balanced always, and a token may visit many experts or none.

    The experts of a token depend on the other tokens of its micro batch, at inference as in training. It is therefore
    not for autoregressive models, where later tokens would influence earlier ones.

    Source: Zhou et al., "Mixture-of-Experts with Expert Choice Routing", 2022, section 3.2.
    """

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        probs_TE = logits_TE.softmax(dim=1)
        if counted_T is None:
            slots = slots_per_expert(len(probs_TE) * self.topk, self.num_experts, 1.0)
            open_TE = torch.ones_like(probs_TE, dtype=torch.bool)
        else:
            slots, open_TE = self.slots(counted_T, 1.0), counted_T[:, None].expand_as(probs_TE)
        map_TE = keep_largest(probs_TE.detach(), open_TE, slots)
        return Selection(probs_TE * map_TE, map_TE, self.unserved(map_TE, counted_T))


class BaseAssignmentRouter(PortableRouter[BaseAssignmentRouterConfig]):
    """Every token visits one expert, the experts' loads differ by one at most, and the sum of the logits is largest.

    Solved on the host in float64, which stalls a GPU for the milliseconds that the exact solution takes. In training a
    token's expert depends on the whole micro batch; at inference it is that of the largest logit.

    Source: Lewis et al., "BASE Layers: Simplifying Training of Large, Sparse Models", 2021, equation 2.
    """

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        """Chooses experts; in training the host waits, and then solves."""
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
    """Assigns each token to one expert, each expert T / E tokens rounded down or up, at best affinity: int64 [T].

    Every expert has floor(T / E) slots that must be filled and, unless T / E is whole, one optional slot. A phantom
    token takes the mass of all empty slots and may use optional slots only. Affinities are finite; T may be 0.
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


class SinkhornRouter(PortableRouter[SinkhornRouterConfig]):
    """Each token visits the top_k largest entries of its row of a plan whose columns are balanced.

    The plan is balanced, the selection only nearly so; no token is dropped. In training a token's experts depend on the
    whole micro batch; at inference they are those of the largest logits.

    Source: Clark et al., "Unified Scaling Laws for Routed Language Models", 2022, section 3.1 (S-BASE).
    """

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
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
