"""Counts of a routing trace for placement, whose size does not grow with the number of tokens.

What is too sparse for an array is a tally: distinct rows of integers, each with its number of tokens.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, J kinds of jump, T tokens,
K choices per token and layer; N distinct rows, C columns.
"""

from dataclasses import dataclass
from math import prod
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from moe.routing_trace import DROPPED, RoutingTrace

_LARGEST_KEY = 1 << 62
_MOST_JUMP_COUNTS = 2**23


@dataclass(frozen=True, eq=False)
class Tally:
    """A table of counts; those of two parts of a trace add up to that of the whole, in any order.

    Attributes:
        rows: Distinct rows of numbers from -1 up, ascending, int64 [N, C].
        tokens: Tokens of each row, at least 1, int64 [N].
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def count(cls, rows: NDArray[np.int64], tokens: NDArray[np.int64] | None = None) -> Self:
        """Add up equal rows of numbers from -1 up, [any, C], which have 1 token each by default."""
        if not len(rows):
            return cls(rows, np.zeros(0, np.int64))
        keys = _keys(rows)
        order = np.argsort(keys)
        starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
        if tokens is None:
            return cls(rows[order[starts]], np.diff(starts, append=len(rows)))
        return cls(rows[order[starts]], np.add.reduceat(tokens[order], starts))

    def __add__(self, other: Self) -> Self:
        """Counts of both."""
        return self.count(np.concatenate([self.rows, other.rows]), np.concatenate([self.tokens, other.tokens]))


def _keys(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number a row, from 0 up, in the order of the rows: a sort of numbers is several times as fast as of rows."""
    keys = np.zeros(len(rows), np.int64)
    reach = 1
    for column in rows.T:
        lowest = int(column.min())
        digits, span = column - lowest, int(column.max()) - lowest + 1
        if reach * span > _LARGEST_KEY:
            keys, reach = _ranked(keys)
        if reach * span > _LARGEST_KEY:
            digits, span = _ranked(digits)
        keys = keys * span + digits
        reach *= span
    return keys


def _ranked(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Numbers replaced by their ranks among the distinct ones, and how many distinct ones there are."""
    order = np.argsort(numbers)
    ranks = np.empty(len(numbers), np.int64)
    ranks[order] = np.cumsum(np.diff(numbers[order], prepend=numbers[order[0]]) != 0)
    return ranks, int(ranks.max()) + 1


Counts = NDArray[np.int64]
_Table = TypeVar("_Table", NDArray[np.int64], Tally)


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
        anchors: Tokens whose anchor is expert e of layer l, [L, E].
        coactivation: Tokens that chose both expert i and expert j of layer l, [L, E, E]; the diagonal is 0.
        choice_sets: Sets of experts that tokens chose together, by rank: layer, rank, then K experts in ascending
            order after -1 for each that is missing. None if ranks are unknown, or after `from_vector`.
        visits: Moves of tokens with several choices: layer, previous layer and anchor there (-1 for the first),
            anchor, then the other choices as in choice_sets. None for one choice, or after `from_vector`.
    """

    num_tokens: int
    transitions: Counts
    jumps: Counts
    source_counts: Counts | None
    loads: Counts
    dropped: int
    anchors: Counts
    coactivation: Counts
    choice_sets: Tally | None = None
    visits: Tally | None = None

    @classmethod
    def collect(cls, trace: RoutingTrace, num_ranks: int) -> Self:
        """Count a trace; world rank r is rank r % `num_ranks` of its expert-parallel group."""
        num_experts, top_k = trace.header.num_experts, trace.header.top_k
        anchors = trace.anchors()
        transitions, jumps, arrivals = _follow(anchors, num_experts)
        located = trace.header.world_size % num_ranks == 0
        rank = trace.source_rank.astype(np.int64) % num_ranks
        sets, coactivation = _count_sets(trace, rank)
        return cls(
            num_tokens=trace.num_tokens,
            transitions=transitions,
            jumps=jumps,
            source_counts=_count_choices(trace, rank, num_ranks, num_experts) if located else None,
            loads=_count_choices(trace, np.zeros_like(rank), 1, num_experts)[:, 0],
            dropped=int((trace.expert_ids == DROPPED).sum()),
            anchors=np.stack([np.bincount(here[here != DROPPED], minlength=num_experts) for here in anchors.T]),
            coactivation=coactivation,
            choice_sets=sets if located else None,
            visits=_count_visits(trace, anchors, arrivals) if top_k > 1 else None,
        )

    def __add__(self, other: Self) -> Self:
        """Counts of both traces; fields that only one of them has are dropped."""
        return type(self)(
            self.num_tokens + other.num_tokens,
            self.transitions + other.transitions,
            _add_up(np.concatenate([self.jumps, other.jumps])),
            _both(self.source_counts, other.source_counts),
            self.loads + other.loads,
            self.dropped + other.dropped,
            self.anchors + other.anchors,
            self.coactivation + other.coactivation,
            _both(self.choice_sets, other.choice_sets),
            _both(self.visits, other.visits),
        )

    def to_vector(self) -> Counts:
        """Flatten the counts whose size is fixed by L, E and, if sources are known, G, to merge ranks by an all-reduce.

        Jumps, choice sets and visits have no fixed size and are left out: tokens that skip a layer then count as if
        they had ended before it, and the copies objective cannot be priced.
        """
        totals = np.array([self.num_tokens, self.dropped])
        parts = [totals, self.transitions, self.anchors, self.loads, self.coactivation]
        if self.source_counts is not None:
            parts.append(self.source_counts)
        return np.concatenate([part.reshape(-1) for part in parts]).astype(np.int64)

    @classmethod
    def from_vector(cls, vector: Counts, num_layers: int, num_experts: int, num_ranks: int | None) -> Self:
        """Read what `to_vector` wrote, or a sum of such vectors; without ranks if it had no source counts."""
        gap, layer = (num_layers - 1, num_experts, num_experts), (num_layers, num_experts)
        shapes: list[tuple[int, ...]] = [(2,), gap, layer, layer, (*layer, num_experts)]
        if num_ranks is not None:
            shapes.append((num_layers, num_ranks, num_experts))
        ends = np.cumsum([prod(shape) for shape in shapes])
        if vector.shape != (ends[-1],):
            raise ValueError(
                f"vector: shape {vector.shape} is not [{ends[-1]}]; give the numbers of layers, experts and ranks that "
                "it was made with"
            )
        parts = [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]
        (tokens, dropped), transitions, anchors, loads, pairs, *sources = parts
        return cls(
            num_tokens=int(tokens),
            transitions=transitions,
            jumps=np.zeros((0, 5), np.int64),
            source_counts=sources[0] if sources else None,
            loads=loads,
            dropped=int(dropped),
            anchors=anchors,
            coactivation=pairs,
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
        """Normalised mutual information of the experts of consecutive layers, [L-1]: I(e_l; e_{l+1}) / log E.

        It is 0 for no affinity, 1 if the next expert is certain and all are used equally.
        """
        joint = self.transitions / np.maximum(self.transitions.sum(axis=(1, 2), keepdims=True), 1)
        independent = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
        ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
        return (joint * np.log(ratio)).sum(axis=(1, 2)) / np.log(max(self.num_experts, 2))

    def top_mass(self, count: int) -> NDArray[np.float64]:
        """Share of an expert's tokens that its `count` most frequent successors take, mean over experts in use, [L-1].

        With the experts of a rank it is the share that one rank could keep; chance is count / E.
        """
        totals = self.transitions.sum(axis=2)
        heaviest = np.sort(self.transitions, axis=2)[:, :, -count:].sum(axis=2)
        shares = np.divide(heaviest, totals, out=np.zeros(totals.shape), where=totals > 0)
        return shares.sum(axis=1) / np.maximum((totals > 0).sum(axis=1), 1)


def _both(one: _Table | None, other: _Table | None) -> _Table | None:
    return None if one is None or other is None else one + other


def _follow(anchors: NDArray[np.integer], num_experts: int) -> tuple[Counts, Counts, Counts]:
    """Transitions, jumps, and where each token came from: layer and expert, [T, L, 2], -1 before its first anchor."""
    tokens, num_layers = anchors.shape
    transitions = np.zeros((num_layers - 1, num_experts, num_experts), np.int64)
    jumps = [np.zeros((0, 5), np.int64)]
    arrivals = np.empty((tokens, num_layers, 2), np.int64)
    last_layer, last_expert = np.full((2, tokens), DROPPED)
    for layer in range(num_layers):
        here = anchors[:, layer]
        arrivals[:, layer, 0], arrivals[:, layer, 1] = last_layer, last_expert
        arrived = (here != DROPPED) & (last_layer >= 0)
        near = arrived & (last_layer == layer - 1)
        if layer:
            pair = last_expert[near] * num_experts + here[near]
            transitions[layer - 1] = np.bincount(pair, minlength=num_experts**2).reshape(num_experts, num_experts)
        far = arrived & ~near
        columns = (last_layer[far], np.full(far.sum(), layer), last_expert[far], here[far], np.ones(far.sum()))
        jumps.append(np.stack(columns, axis=1).astype(np.int64))
        last_layer = np.where(here != DROPPED, layer, last_layer)
        last_expert = np.where(here != DROPPED, here, last_expert)
    return transitions, _add_up(np.concatenate(jumps)), arrivals


def _add_up(jumps: Counts) -> Counts:
    tally = Tally.count(jumps[:, :4], jumps[:, 4])
    return np.column_stack([tally.rows, tally.tokens])


def _count_choices(trace: RoutingTrace, rank: Counts, num_ranks: int, num_experts: int) -> Counts:
    layers = []
    for layer in range(trace.header.num_layers):
        ids = trace.expert_ids[:, layer]
        kept = ids != DROPPED
        pair = np.broadcast_to(rank[:, None], ids.shape)[kept] * num_experts + ids[kept]
        layers.append(np.bincount(pair, minlength=num_ranks * num_experts).reshape(num_ranks, num_experts))
    return np.stack(layers)


def _distinct(ids: NDArray[np.integer]) -> Counts:
    """Choices in ascending order after -1 for each that is dropped or repeated, [T, K]."""
    ids = np.sort(ids.astype(np.int64), axis=1)
    ids[:, 1:][ids[:, 1:] == ids[:, :-1]] = DROPPED
    return np.sort(ids, axis=1)


def _count_sets(trace: RoutingTrace, rank: Counts) -> tuple[Tally, Counts]:
    """Choice sets by layer and rank, and the co-activation that follows from them, [L, E, E]."""
    tallies, pairs = [], []
    for layer in range(trace.header.num_layers):
        experts = _distinct(trace.expert_ids[:, layer])
        kept = experts[:, -1] != DROPPED
        rows = np.column_stack([np.full(len(rank), layer), rank, experts])
        tallies.append(Tally.count(rows if kept.all() else rows[kept]))
        pairs.append(_count_pairs(experts, trace.header.num_experts))
    sets = Tally(np.concatenate([t.rows for t in tallies]), np.concatenate([t.tokens for t in tallies]))
    return sets, np.stack(pairs)


def _count_pairs(experts: Counts, num_experts: int) -> Counts:
    """Tokens that chose both experts; a row of experts is in ascending order after -1 for each that is missing."""
    upper = np.zeros(num_experts**2, np.int64)
    columns = np.ascontiguousarray(experts.T)
    for first, low in enumerate(columns[:-1]):
        index = low * num_experts + columns[first + 1 :]
        if low.min() == DROPPED:
            index = index[:, low != DROPPED]
        upper += np.bincount(index.reshape(-1), minlength=len(upper))
    upper = upper.reshape(num_experts, num_experts)
    return upper + upper.T


def _count_visits(trace: RoutingTrace, anchors: NDArray[np.integer], arrivals: Counts) -> Tally:
    tallies = []
    for layer, (ids, here) in enumerate(zip(trace.expert_ids.swapaxes(0, 1), anchors.T, strict=True)):
        kept = here != DROPPED
        others = np.where(ids == here[:, None], DROPPED, ids)[kept]
        rows = (np.full(kept.sum(), layer), arrivals[kept, layer], here[kept], _distinct(others)[:, 1:])
        tallies.append(Tally.count(np.column_stack(rows).astype(np.int64)))
    return Tally(np.concatenate([t.rows for t in tallies]), np.concatenate([t.tokens for t in tallies]))


def layer_pairs(statistics: RoutingStatistics) -> NDArray[np.int64]:
    """Tokens between every two layers with direct moves, [pairs, E, E]: the transitions, then those of `jump_pairs`."""
    return np.concatenate([statistics.transitions, jump_pairs(statistics)])


def jump_pairs(statistics: RoutingStatistics) -> NDArray[np.int64]:
    """Tokens that jump between every two layers, [pairs, E, E]; no pairs if they would take too much memory."""
    num_layers, num_experts = statistics.num_layers, statistics.num_experts
    from_layer, to_layer, from_expert, to_expert, tokens = statistics.jumps.T
    kinds, pair = np.unique(from_layer * num_layers + to_layer, return_inverse=True)
    if len(kinds) * num_experts**2 > _MOST_JUMP_COUNTS:
        return np.zeros((0, num_experts, num_experts), np.int64)
    counts = np.zeros((len(kinds), num_experts, num_experts), np.int64)
    counts[pair, from_expert, to_expert] = tokens
    return counts


def layer_blocks(statistics: RoutingStatistics, begin: int, end: int) -> NDArray[np.float64]:
    """Tokens between the experts of layers `begin` to `end` - 1, jumps inside included.

    From layer and expert to later layer and expert: [end - begin, E, end - begin, E].
    """
    num_layers, num_experts = end - begin, statistics.num_experts
    blocks = np.zeros((num_layers, num_experts, num_layers, num_experts))
    for layer in range(num_layers - 1):
        blocks[layer, :, layer + 1] = statistics.transitions[begin + layer]
    inside = (statistics.jumps[:, 0] >= begin) & (statistics.jumps[:, 1] < end)
    from_layer, to_layer, from_expert, to_expert, tokens = statistics.jumps[inside].T
    blocks[from_layer - begin, from_expert, to_layer - begin, to_expert] = tokens
    return blocks
