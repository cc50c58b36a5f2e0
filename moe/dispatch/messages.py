"""Collectives of each dispatch mode in an expert layer, and their sizes.

The formula, the replay and the tests of the dispatchers share this one description. Collectives run on the
expert-parallel group, or on parts of it; a group of one rank issues none.

Shape legend: T tokens of a micro batch on one rank, K choices, E experts, N ranks of the expert-parallel group, M its
nodes, P slots of the group. Rank g sits on node g // (N / M).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moe.replica import Slots

Counts = NDArray[np.int64]
COUNT_BYTES = 8
GATE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a row.

    Attributes:
        hidden: width of a token.
        element_bytes: bytes of one of its elements.
        num_experts: experts of a layer.
        dtype: name of the elements' type.
        gate_bytes: bytes of a gate value.
        key_value_bytes: bytes of a token's keys and values, for coherent dispatch; 0 where attention gathers none.
        expert_bytes: bytes of an expert's weights, for replicas.
        target_bytes: bytes of a target, 1 or 4, for coherent dispatch.
    """

    hidden: int
    element_bytes: int
    num_experts: int
    dtype: str
    gate_bytes: int = GATE_BYTES
    key_value_bytes: int = 0
    expert_bytes: int = 0
    target_bytes: int = 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a token."""
        return self.hidden * self.element_bytes


@dataclass(frozen=True, slots=True)
class CappedMessage:
    """Message of capped dispatch to a rank, in rows as wide as a token: one a choice, then some full of gate values.

    Gate values behind the rows leave every row where a matrix product can read it. Rows on the way home have no gate
    values, but the same places, so that one index finds a row in every message.

    Attributes:
        capacity: choices that all slots of the receiver, or of the sender on the return, take.
        gate_rows: rows that hold the gate values of so many choices.
    """

    capacity: int
    gate_rows: int

    @classmethod
    def of(cls, *, slots: int, capacity: int, row_bytes: int, gate_bytes: int) -> Self:
        """Computes the sizes of a message to a rank with `slots` slots of `capacity` choices each."""
        return cls(slots * capacity, -(-slots * capacity * gate_bytes // row_bytes))

    @property
    def rows(self) -> int:
        """Number of rows of the message, gate rows included."""
        return self.capacity + self.gate_rows


@dataclass(frozen=True, eq=False, slots=True)
class Borrowing:
    """Replicas of a layer, and what they add to every pass.

    Attributes:
        experts: replicas by the rank of their home and the rank that borrows their weights, int64 [N, N].
        by_all_counts: whether a source needs the counts of all ranks to choose among replicas.
    """

    experts: Counts
    by_all_counts: bool

    @classmethod
    def of(cls, slots: Slots, rule: str) -> Self | None:
        """The replicas of a layer, from its slots; None without any. `rule` is even or least_loaded."""
        return cls(slots.copies, rule == "least_loaded") if slots.has_replicas else None


@dataclass(frozen=True, eq=False, slots=True)
class Visits:
    """Visits in one layer and micro batch, int64 [N, N]; row: the token's home, column: the expert's rank.

    Attributes:
        choices: kept choices.
        tokens: tokens with at least one kept choice there.
        nodes: tokens with at least one kept choice on each node, [N, M].
        borrowing: replicas of the layer; None if absent.
        capacity: choices that each expert takes of each rank; needed in capped dispatch alone.
    """

    choices: Counts
    tokens: Counts
    nodes: Counts
    borrowing: Borrowing | None = None
    capacity: int | None = None

    @classmethod
    def of(
        cls,
        chosen: Sequence[tuple[int, NDArray[np.integer]]],
        expert_ranks_E: Counts,
        num_ranks: int,
        num_nodes: int = 1,
    ) -> Self:
        """Counts the choices of a micro batch.

        Args:
            chosen: for each home rank of the group its tokens' experts [T, K], -1 where dropped.
            expert_ranks_E: rank of each expert.
            num_ranks: ranks N of the group.
            num_nodes: nodes M of the group.
        """
        visited = []
        for home, ids_TK in chosen:
            ranks_TK = np.where(ids_TK < 0, num_ranks, expert_ranks_E[ids_TK])
            visited_TN = np.zeros((len(ids_TK), num_ranks + 1), np.int64)
            np.add.at(visited_TN, (np.arange(len(ids_TK))[:, None], ranks_TK), 1)
            visited.append((home, visited_TN[:, :num_ranks]))
        return cls._counted(visited, num_ranks, num_nodes)

    @classmethod
    def of_slots(
        cls,
        served: Iterable[tuple[int, NDArray[np.bool_]]],
        num_ranks: int,
        num_nodes: int = 1,
        borrowing: Borrowing | None = None,
    ) -> Self:
        """Counts the choices of a micro batch by the slots that serve tokens of each home rank, bool [T, P]."""
        visited = [(home, map_TP.reshape(len(map_TP), num_ranks, -1).sum(axis=2)) for home, map_TP in served]
        return replace(cls._counted(visited, num_ranks, num_nodes), borrowing=borrowing)

    @classmethod
    def _counted(cls, visited: Iterable[tuple[int, Counts]], num_ranks: int, num_nodes: int) -> Self:
        """Adds up the choices of each home's tokens on each rank, [T, N]."""
        choices, tokens = np.zeros((2, num_ranks, num_ranks), np.int64)
        nodes = np.zeros((num_ranks, num_nodes), np.int64)
        for home, visited_TN in visited:
            choices[home] += visited_TN.sum(axis=0)
            tokens[home] += (visited_TN > 0).sum(axis=0)
            of_nodes_TM = visited_TN.reshape(len(visited_TN), num_nodes, num_ranks // num_nodes).sum(axis=2)
            nodes[home] += (of_nodes_TM > 0).sum(axis=0)
        return cls(choices, tokens, nodes)

    @classmethod
    def even(cls, *, tokens: int, top_k: int, num_experts: int, num_ranks: int, num_nodes: int = 1) -> Self:
        """Expected visits for a router that gives every token top_k distinct, equally likely experts.

        A token has an expert on a rank of S slots with probability 1 - C(E - S, k) / C(E, k), so that the expected
        number of visits to ranks is a whole number only in special cases (k = 1, k > E - S, S = 1); it is rounded.
        Visits to nodes are counted alike, with the slots of a node in place of S. Replicas change the choices of ranks
        but not their number; the copies that they save are not counted. The ranks have `tokens` tokens each.
        """
        sets = comb(num_experts, top_k)

        def visited(places: int) -> Counts:
            sets_elsewhere = comb(num_experts - num_experts // places, top_k)
            return spread(round(Fraction(tokens * places * (sets - sets_elsewhere), sets)), places)

        nodes = np.repeat(visited(num_nodes), num_ranks // num_nodes, axis=0)
        return cls(spread(tokens * top_k, num_ranks), visited(num_ranks), nodes)


def spread(rows: int, num_ranks: int, *, first: int = 0) -> Counts:
    """Spreads the rows of every rank evenly over the ranks, int64 [N, N]; the remainder goes to the first ranks.

    Ranks count from the sender on. With `first` 1 they count from the rank after it, and the sender gets none.
    """
    each, left = divmod(rows, num_ranks - first)
    ranks = np.arange(num_ranks, dtype=np.int64)
    after = (ranks - ranks[:, None]) % num_ranks
    return np.where(after < first, 0, each + (after < first + left))


@dataclass(frozen=True, eq=False, slots=True)
class Exchange:
    """One collective.

    Attributes:
        op: all_to_all, all_gather or reduce_scatter.
        dtype: type of its elements.
        volume: bytes from each rank of the expert-parallel group to each, the local block included, int64 [N, N].
        group: meaning of the process group: expert, or of its parts expert_rail and expert_node.
        parts: number of the part that each rank is in, int64 [N]; None: the group is whole.
    """

    op: str
    dtype: str
    volume: Counts
    group: str = "expert"
    parts: Counts | None = None

    def members(self, member: int) -> Counts:
        """Returns the ranks of the expert-parallel group in the same part as rank `member`, ascending."""
        parts = np.zeros(len(self.volume), np.int64) if self.parts is None else self.parts
        return np.flatnonzero(parts == parts[member])

    def fields(self, member: int) -> dict[str, Any]:
        """Op, dtype, bytes and splits of the record of a member of the group in a collective trace."""
        together = self.members(member)
        sent, received = self.volume[member, together], self.volume[together, member]
        own = {"op": self.op, "dtype": self.dtype, "bytes_out": int(received.sum())}
        if self.op == "all_gather":
            return own | {"bytes_in": int(self.volume[member, member])}
        if self.op == "reduce_scatter":
            return own | {"bytes_in": int(sent.sum()), "bytes_out": int(self.volume[member, member])}
        splits = {"in_splits": tuple(sent.tolist()), "out_splits": tuple(received.tolist())}
        return own | {"bytes_in": int(sent.sum())} | splits


def _weights(visits: Visits, sizes: Sizes, phase: str) -> list[Exchange]:
    """Weights of replicas from their homes, between the way out and the way home; their gradients back."""
    if visits.borrowing is None:
        return []
    volume = visits.borrowing.experts * sizes.expert_bytes
    return [Exchange("all_to_all", sizes.dtype, volume.T if phase == "backward" else volume)]


def _all_counts(visits: Visits, sizes: Sizes) -> Exchange:
    """Choices of every expert, from all ranks to all."""
    return Exchange("all_gather", "int64", np.full_like(visits.choices, sizes.num_experts * COUNT_BYTES))


def _counts_for_replicas(visits: Visits, sizes: Sizes) -> list[Exchange]:
    """Returns the gather of all counts that replicas need in modes that exchange only message sizes; else nothing."""
    return [_all_counts(visits, sizes)] if visits.borrowing is not None and visits.borrowing.by_all_counts else []


def home_exchanges(visits: Visits, sizes: Sizes, phase: str) -> list[Exchange]:
    """Home-return dispatch: the counts of all experts, rows with their gate value, rows home; backward mirrors it."""
    rows = visits.choices
    out, weighted = rows * sizes.row_bytes, rows * (sizes.row_bytes + sizes.gate_bytes)
    weights = _weights(visits, sizes, phase)
    if phase == "backward":
        return [Exchange("all_to_all", sizes.dtype, out), *weights, Exchange("all_to_all", sizes.dtype, weighted.T)]
    return [
        _all_counts(visits, sizes),
        Exchange("all_to_all", sizes.dtype, weighted),
        *weights,
        Exchange("all_to_all", sizes.dtype, out.T),
    ]


def capped_exchanges(visits: Visits, sizes: Sizes, phase: str) -> list[Exchange]:  # noqa: ARG001
    """Capped dispatch: reserved rows with their gate values, and home; backward the same. Needs `visits.capacity`."""
    if visits.capacity is None:
        raise ValueError("capacity: is unknown, and capped dispatch needs it; give a router with a limit")
    num_ranks = len(visits.choices)
    message = CappedMessage.of(
        slots=sizes.num_experts // num_ranks,
        capacity=visits.capacity,
        row_bytes=sizes.row_bytes,
        gate_bytes=sizes.gate_bytes,
    )
    return [Exchange("all_to_all", sizes.dtype, np.full_like(visits.choices, message.rows * sizes.row_bytes))] * 2


def copies_exchanges(visits: Visits, sizes: Sizes, phase: str) -> list[Exchange]:
    """De-duplicated dispatch: two counts for each rank, a row a rank, a label and a gate a choice, rows home."""
    rows = visits.tokens * sizes.row_bytes
    gates = visits.choices * sizes.gate_bytes
    labels = visits.choices * sizes.element_bytes
    weights = _weights(visits, sizes, phase)
    if phase == "backward":
        gradients = Exchange("all_to_all", sizes.dtype, (rows + gates).T)
        return [Exchange("all_to_all", sizes.dtype, rows), *weights, gradients]
    return [
        *_counts_for_replicas(visits, sizes),
        Exchange("all_to_all", "int32", np.full_like(rows, COUNT_BYTES)),
        Exchange("all_to_all", sizes.dtype, rows + labels + gates),
        *weights,
        Exchange("all_to_all", sizes.dtype, rows.T),
    ]


def hierarchical_exchanges(visits: Visits, sizes: Sizes, phase: str) -> list[Exchange]:
    """Two-level dispatch: three kinds of counts for each node, rows over the rails, rows inside the nodes, and home.

    A rank sends every rank of a node the numbers of rows that go to the node, and of rows and choices for each rank.
    A rail joins the ranks of equal place on all nodes; on it a row is a token for a node, its own node included, with
    a label and a gate for each choice there. The relay, rank k of a node for what left ranks k, then sends a row for
    each rank of the node that holds any of the token's experts. With one node or one rank a node the mode is `copies`.
    """
    num_ranks, num_nodes = visits.nodes.shape
    width = num_ranks // num_nodes
    if 1 in (num_nodes, width):
        return copies_exchanges(visits, sizes, phase)
    nodes, places = np.divmod(np.arange(num_ranks), width)
    rails = np.where(places[:, None] == places, 1, 0)
    rail_rows = rails * visits.nodes[:, nodes]
    rail_choices = rails * visits.choices.reshape(num_ranks, num_nodes, width).sum(axis=2)[:, nodes]
    inside = np.where(nodes[:, None] == nodes, 1, 0)
    node_rows, node_choices = (
        inside * of_ranks.reshape(num_nodes, width, num_ranks).sum(axis=0)[places]
        for of_ranks in (visits.tokens, visits.choices)
    )

    def rail(rows: Counts, choices: Counts | int, each: int) -> Exchange:
        return Exchange("all_to_all", sizes.dtype, rows * sizes.row_bytes + choices * each, "expert_rail", places)

    def node(rows: Counts, choices: Counts | int, each: int) -> Exchange:
        return Exchange("all_to_all", sizes.dtype, rows * sizes.row_bytes + choices * each, "expert_node", nodes)

    if phase == "backward":
        gate = sizes.gate_bytes
        gradients = [node(node_rows.T, node_choices.T, gate), rail(rail_rows.T, rail_choices.T, gate)]
        return [rail(rail_rows, 0, 0), node(node_rows, 0, 0), *_weights(visits, sizes, phase), *gradients]
    label = sizes.element_bytes + sizes.gate_bytes
    return [
        *_counts_for_replicas(visits, sizes),
        Exchange("all_to_all", "int32", np.full((num_ranks, num_ranks), (1 + 2 * width) * COUNT_BYTES // 2)),
        rail(rail_rows, rail_choices, label),
        node(node_rows, node_choices, label),
        *_weights(visits, sizes, phase),
        node(node_rows.T, 0, 0),
        rail(rail_rows.T, 0, 0),
    ]


PATTERNS: dict[str, Callable[[Visits, Sizes, str], list[Exchange]]] = {
    "home": home_exchanges,
    "capped": capped_exchanges,
    "copies": copies_exchanges,
    "hierarchical": hierarchical_exchanges,
}
