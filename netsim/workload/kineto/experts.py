"""DeepEP's and HybridEP's exchange of tokens with experts as an all-to-all of the expert group.

A token goes once to each node with an expert of it, to the GPU at the same place there, which hands it on inside
(https://github.com/deepseek-ai/DeepEP). Experts are drawn alike: with E experts, k of them for a token, a part of e
experts gets it with probability 1 - C(E-e, k) / C(E, k). Combining sends the same tokens back.
"""

from math import comb
from typing import Annotated

from pydantic import Field

from netsim.documents import Section
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.peers import Operation

GPUS = 8
"""Of a node, at most: DeepEP's NUM_MAX_NVL_PEERS."""
_SCALED = 128
Count = Annotated[int, Field(ge=1, lt=2**24)]


class Experts(Section, frozen=True):
    """What a rank dispatches; bytes are those of 8-bit values with a scale of 4 bytes for each 128, back in bfloat16.

    Args:
        tokens: Tokens of a rank in a micro batch.
        hidden: Values of a token.
        experts: Experts in all ranks of the group.
        top_k: Experts of a token.
        nodes: Most nodes with experts of one token; all if absent.
    """

    tokens: Count
    hidden: Count
    experts: Count
    top_k: Count
    nodes: Count | None = None

    def operation(self, kind: str, family: str, group: tuple[str, tuple[int, ...]], rank: int) -> Operation:
        """The all-to-all of a dispatch or combine at a rank."""
        name, ranks = group
        size = len(ranks)
        within = size if family == "intranode" else min(GPUS, size)
        self._check(size, within)
        width = self.hidden + 4 * -(-self.hidden // _SCALED) if kind == "dispatch" else 2 * self.hidden
        nodes = size // within
        share = min(self.nodes or nodes, nodes) / nodes
        to_rank = self.tokens * self._reached(self.experts // size, share)
        to_node = self.tokens * self._reached(self.experts // nodes, share)
        place = ranks.index(rank)
        splits = tuple(
            0 if other == place
            else width * round(nodes * to_rank) if other // within == place // within
            else width * round(to_node) if other % within == place % within
            else 0
            for other in range(size)
        )  # fmt: skip
        return Operation("all_to_all", name, ranks, "byte", sum(splits), sum(splits), splits, splits)

    def _reached(self, part: int, share: float) -> float:
        """Part of all tokens that go to some experts, where a token's experts are among that share of all."""
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
