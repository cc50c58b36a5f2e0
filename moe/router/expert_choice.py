"""Expert-choice routing: every expert takes the tokens with the largest gate values for it.

Shape suffixes: T tokens, E experts.
"""

import torch

from moe.router.capacity import keep_largest, slots_per_expert
from moe.router.portable import PortableRouter, Selection


class ExpertChoiceRouter(PortableRouter):
    """Each expert takes top_k * T / E tokens, rounded up: balanced always, and a token may visit many experts or none.

    The experts of a token depend on the other tokens of its micro batch, at inference as in training. It is therefore
    not for autoregressive models, where later tokens would influence earlier ones.

    Source: Zhou et al., "Mixture-of-Experts with Expert Choice Routing", 2022, section 3.2.
    """

    cap = 1.0

    def select(self, logits_TE: torch.Tensor) -> Selection:
        """See :class:`PortableRouter`."""
        probs_TE = logits_TE.softmax(dim=1)
        slots = slots_per_expert(len(probs_TE) * self.topk, self.num_experts, 1.0)
        map_TE = keep_largest(probs_TE.detach(), torch.ones_like(probs_TE, dtype=torch.bool), slots)
        return Selection(probs_TE * map_TE, map_TE, self.unserved(map_TE))
