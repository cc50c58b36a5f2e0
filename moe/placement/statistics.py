"""All that placement needs to know of a routing trace, in counts that do not grow with the number of tokens.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, J kinds of jump.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moe.routing_trace import DROPPED, RoutingTrace

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RoutingStatistics:
    """Counts of a routing trace; those of two traces add up to those of both (ExFlow, arXiv 2401.08383, affinity).

    Attributes:
        num_tokens: Tokens of the trace.
        transitions: Tokens whose anchor is expert i of layer l and expert j of layer l + 1, [L-1, E, E].
        jumps: Transitions over layers where all choices of a token were dropped, one kind a row:
            from layer, to layer, from expert, to expert, tokens; [J, 5] in ascending order.
        source_counts: Kept choices of expert e in layer l by tokens of rank g of the group, [L, G, E]; None if the
            trace was recorded on a world that is no whole number of such groups.
        loads: Kept choices of each expert, [L, E].
        dropped: Dropped choices.
    """

    num_tokens: int
    transitions: Counts
    jumps: Counts
    source_counts: Counts | None
    loads: Counts
    dropped: int

    @classmethod
    def collect(cls, trace: RoutingTrace, num_ranks: int) -> Self:
        """Count a trace.

        Args:
            trace: The routing trace.
            num_ranks: Ranks G of one expert-parallel group. World rank r is rank r % G of its group.

        Returns:
            The counts.
        """
        num_layers, num_experts = trace.header.num_layers, trace.header.num_experts
        transitions, jumps = _count_transitions(trace.anchors(), num_experts)
        source_counts = None
        if trace.header.world_size % num_ranks == 0:
            source_counts = np.stack(
                [_count_sources(trace, layer, num_ranks, num_experts) for layer in range(num_layers)]
            )
        kept = trace.expert_ids != DROPPED
        loads = np.stack(
            [
                np.bincount(trace.expert_ids[:, layer][kept[:, layer]], minlength=num_experts)
                for layer in range(num_layers)
            ]
        )
        return cls(trace.num_tokens, transitions, jumps, source_counts, loads, int((~kept).sum()))

    def __add__(self, other: Self) -> Self:
        """Counts of both traces; source counts stay only if both have them."""
        sources = None
        if self.source_counts is not None and other.source_counts is not None:
            sources = self.source_counts + other.source_counts
        return type(self)(
            self.num_tokens + other.num_tokens,
            self.transitions + other.transitions,
            _add_up(np.concatenate([self.jumps, other.jumps])),
            sources,
            self.loads + other.loads,
            self.dropped + other.dropped,
        )

    @property
    def num_layers(self) -> int:
        """MoE layers L."""
        return len(self.loads)

    @property
    def num_experts(self) -> int:
        """Experts E per layer."""
        return self.loads.shape[1]

    @property
    def skipped(self) -> int:
        """Transitions that jump over at least one layer."""
        return int(self.jumps[:, 4].sum())

    @property
    def moves(self) -> int:
        """Transitions in all, jumps included."""
        return int(self.transitions.sum()) + self.skipped

    def normalised_mutual_information(self) -> NDArray[np.float64]:
        """How much the expert of a layer says about the expert of the next: I(e_l; e_{l+1}) / log E.

        Returns:
            One number a gap, [L-1]: 0 for no affinity, 1 if the next expert is certain and all are used equally.
        """
        joint = self.transitions / np.maximum(self.transitions.sum(axis=(1, 2), keepdims=True), 1)
        independent = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
        ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
        return (joint * np.log(ratio)).sum(axis=(1, 2)) / np.log(max(self.num_experts, 2))

    def top_mass(self, count: int) -> NDArray[np.float64]:
        """Share of an expert's tokens that its most frequent successors take, averaged over the experts in use.

        Args:
            count: Successors per expert, 1 to E: the experts of a rank, to see what one rank could keep.

        Returns:
            One share a gap, [L-1], in [0, 1]; chance is count / E.
        """
        totals = self.transitions.sum(axis=2)
        heaviest = np.sort(self.transitions, axis=2)[:, :, -count:].sum(axis=2)
        shares = np.divide(heaviest, totals, out=np.zeros(totals.shape), where=totals > 0)
        return shares.sum(axis=1) / np.maximum((totals > 0).sum(axis=1), 1)


def _count_transitions(anchors: NDArray[np.integer], num_experts: int) -> tuple[Counts, Counts]:
    tokens, num_layers = anchors.shape
    transitions = np.zeros((num_layers - 1, num_experts, num_experts), np.int64)
    jumps = [np.zeros((0, 5), np.int64)]
    last_layer = np.full(tokens, -1)
    last_expert = np.full(tokens, DROPPED)
    for layer in range(num_layers):
        here = anchors[:, layer]
        arrived = (here != DROPPED) & (last_layer >= 0)
        near = arrived & (last_layer == layer - 1)
        if layer:
            pair = last_expert[near].astype(np.int64) * num_experts + here[near]
            transitions[layer - 1] = np.bincount(pair, minlength=num_experts**2).reshape(num_experts, num_experts)
        far = arrived & ~near
        columns = (last_layer[far], np.full(far.sum(), layer), last_expert[far], here[far], np.ones(far.sum()))
        jumps.append(np.stack(columns, axis=1).astype(np.int64))
        last_layer = np.where(here != DROPPED, layer, last_layer)
        last_expert = np.where(here != DROPPED, here, last_expert)
    return transitions, _add_up(np.concatenate(jumps))


def _add_up(jumps: Counts) -> Counts:
    kinds, index = np.unique(jumps[:, :4], axis=0, return_inverse=True)
    tokens = np.bincount(index.reshape(-1), weights=jumps[:, 4], minlength=len(kinds))
    return np.column_stack([kinds, tokens.astype(np.int64)])


def _count_sources(trace: RoutingTrace, layer: int, num_ranks: int, num_experts: int) -> Counts:
    ids = trace.expert_ids[:, layer].astype(np.int64)
    rank = np.broadcast_to(trace.source_rank[:, None].astype(np.int64) % num_ranks, ids.shape)
    kept = ids != DROPPED
    pair = rank[kept] * num_experts + ids[kept]
    return np.bincount(pair, minlength=num_ranks * num_experts).reshape(num_ranks, num_experts)
