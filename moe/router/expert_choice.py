"""Expert-choice routing: every expert takes the tokens with the largest gate values for it.

Shape suffixes: T tokens, E experts.
"""

import torch
from torch import Tensor

from moe.router.capacity import keep_largest, slots_per_expert
from moe.router.portable import PortableRouter, Selection


class ExpertChoiceRouter(PortableRouter):
    """Each expert takes top_k * T / E tokens, rounded up: balanced always, and a token may visit many experts or none.

    The experts of a token depend on the other tokens of its micro batch, at inference as in training. It is therefore
    not for autoregressive models, where later tokens would influence earlier ones.

    Source: Zhou et al., "Mixture-of-Experts with Expert Choice Routing", 2022, section 3.2.
    """

    cap = 1.0

    def select(self, logits_TE: Tensor, counted_T: Tensor | None) -> Selection:
        """See :class:`PortableRouter`."""
        probs_TE = logits_TE.softmax(dim=1)
        if counted_T is None:
            slots = slots_per_expert(len(probs_TE) * self.topk, self.num_experts, 1.0)
            open_TE = torch.ones_like(probs_TE, dtype=torch.bool)
        else:
            slots, open_TE = self.slots(counted_T, 1.0), counted_T[:, None].expand_as(probs_TE)
        map_TE = keep_largest(probs_TE.detach(), open_TE, slots)
        return Selection(probs_TE * map_TE, map_TE, self.unserved(map_TE, counted_T))
