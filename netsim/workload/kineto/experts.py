"""DeepEP's and HybridEP's exchange of tokens with experts as an all-to-all of the expert group.

A token goes once to each node with an expert of it, to the GPU at the same place there, which hands it on inside
(https://github.com/deepseek-ai/DeepEP). Experts are drawn alike: with E experts, k of them for a token, a part of e
experts gets it with probability 1 - C(E-e, k) / C(E, k), unless a routing trace lists the choices. Combining sends the
same tokens back.
"""

from functools import lru_cache
from math import comb
from typing import Annotated

import numpy as np
from pydantic import Field

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from netsim.workload.kineto.peers import Operation
from netsim.workload.kineto.routing import Routing

GPUS = 8
"""Most GPUs of a node: DeepEP's NUM_MAX_NVL_PEERS."""
_SCALED = 128
Count = Annotated[int, Field(ge=1, lt=2**24)]


class Experts(Section, arbitrary_types_allowed=True):
    """What a rank dispatches; bytes are those of 8-bit values with a scale of 4 bytes for each 128, back in bfloat16.

    Args:
        tokens: Tokens of a rank in a micro batch.
        hidden: Values of a token.
        experts: Experts in all ranks of the group.
        top_k: Experts of a token.
        nodes: Most nodes with experts of one token; all if absent.
        routing: Measured choices, in place of experts that are drawn alike.
    """

    tokens: Count
    hidden: Count
    experts: Count
    top_k: Count
    nodes: Count | None = None
    routing: Routing | None = None

    def operation(self, kind: str, family: str, group: tuple[str, tuple[int, ...]], rank: int) -> Operation:
        """The all-to-all of a dispatch or combine at a rank."""
        name, ranks = group
        size = len(ranks)
        within = size if family == "intranode" else min(GPUS, size)
        self._check(size, within)
        width = self.hidden + 4 * -(-self.hidden // _SCALED) if kind == "dispatch" else 2 * self.hidden
        inside, across = _shares(self, size, within)  # pyright: ignore[reportArgumentType]  # frozen, so hashable
        own = ranks.index(rank)
        node, place = divmod(own, within)
        near = slice(node * within, (node + 1) * within)
        sent, received = np.zeros((2, size))
        sent[place::within], received[place::within] = across[own], across[place::within, node]
        sent[near], received[near] = inside[place, near], inside[:, own]
        sent[own] = received[own] = 0
        both = [tuple((width * np.rint(self.tokens * one).astype(np.int64)).tolist()) for one in (sent, received)]
        to, come = both if kind == "dispatch" else reversed(both)
        return Operation("all_to_all", name, ranks, "byte", sum(to), sum(come), to, come)

    def drawn(self, part: int, share: float) -> float:
        """Part of all tokens that go to `part` experts, if a token's experts are among a `share` of all experts."""
        among = max(round(share * self.experts), part)
        return share * (1 - comb(among - part, self.top_k) / comb(among, self.top_k))

    def _check(self, size: int, within: int) -> None:
        problem = ""
        if size % within or self.experts % size:
            problem = f"{self.experts} experts do not divide by {size} ranks in nodes of {within}"
        elif self.top_k > self.experts * min(self.nodes or size, size // within) // (size // within):
            problem = f"a token has {self.top_k} experts, more than there are on its nodes"
        if problem:
            raise Refusal("command line", "--experts", problem, "give those of the run, or --group expert=SIZE")


@lru_cache(maxsize=8)
def _shares(experts: Experts, size: int, within: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of a rank's tokens in a group of `size` ranks, of which `within` are in a node.

    [within, size]: what the ranks at a place of the nodes hand on to each rank of their own node, of all nodes' tokens;
    [size, nodes]: what each rank sends to each node.
    """
    nodes = size // within
    if experts.routing is not None:
        to_rank, to_node = (experts.routing.reached(size, parts) for parts in (size, nodes))
        return to_rank.reshape(nodes, within, size).sum(axis=0), to_node
    share = min(experts.nodes or nodes, nodes) / nodes
    to_rank, to_node = (experts.drawn(experts.experts // parts, share) for parts in (size, nodes))
    return np.broadcast_to(nodes * to_rank, (within, size)), np.broadcast_to(to_node, (size, nodes))
