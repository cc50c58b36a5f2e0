"""Collectives of each dispatch mode in an expert layer, and their sizes.

The formula, the replay and the tests of the dispatchers share this one description. All collectives run on the
expert-parallel group; a group of one rank issues none.

Shape legend: T tokens of a micro batch on one rank, K choices, E experts, N ranks of the group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

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
    """

    hidden: int
    element_bytes: int
    num_experts: int
    dtype: str
    gate_bytes: int = GATE_BYTES
    key_value_bytes: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a token."""
        return self.hidden * self.element_bytes


@dataclass(frozen=True, eq=False, slots=True)
class Visits:
    """Visits in one layer and micro batch, int64 [N, N]; row: the token's home, column: the expert's rank.

    Attributes:
        choices: kept choices.
        tokens: tokens with at least one kept choice there.
    """

    choices: Counts
    tokens: Counts

    @classmethod
    def of(cls, chosen: Sequence[tuple[int, NDArray[np.integer]]], expert_ranks_E: Counts, num_ranks: int) -> Self:
        """Counts the choices of a micro batch.

        Args:
            chosen: for each home rank of the group its tokens' experts [T, K], -1 where dropped.
            expert_ranks_E: rank of each expert.
            num_ranks: ranks N of the group.
        """
        choices, tokens = np.zeros((2, num_ranks, num_ranks), np.int64)
        for home, ids_TK in chosen:
            ranks_TK = np.where(ids_TK < 0, num_ranks, expert_ranks_E[ids_TK])
            visited_TN = np.zeros((len(ids_TK), num_ranks + 1), np.int64)
            np.add.at(visited_TN, (np.arange(len(ids_TK))[:, None], ranks_TK), 1)
            choices[home] += visited_TN[:, :num_ranks].sum(axis=0)
            tokens[home] += (visited_TN[:, :num_ranks] > 0).sum(axis=0)
        return cls(choices, tokens)

    @classmethod
    def even(cls, *, tokens: int, top_k: int, num_experts: int, num_ranks: int) -> Self:
        """Expected visits for a router that gives every token top_k distinct, equally likely experts.

        A token has an expert on a rank of S slots with probability 1 - C(E - S, k) / C(E, k), so that the expected
        number of visits to ranks is a whole number only in special cases (k = 1, k > E - S, S = 1); it is rounded.

        Args:
            tokens: tokens of each rank.
            top_k: experts of a token.
            num_experts: experts of the layer, a multiple of num_ranks.
            num_ranks: ranks N of the group.
        """
        sets, sets_elsewhere = comb(num_experts, top_k), comb(num_experts - num_experts // num_ranks, top_k)
        visits = round(Fraction(tokens * num_ranks * (sets - sets_elsewhere), sets))
        return cls(spread(tokens * top_k, num_ranks), spread(visits, num_ranks))


def spread(rows: int, num_ranks: int, *, first: int = 0) -> Counts:
    """Spreads the rows of every rank evenly over the ranks, beginning with the `first`-th one after it.

    Args:
        rows: rows of each rank.
        num_ranks: ranks N of the group.
        first: 0 begins with the sender, 1 leaves it out.

    Returns:
        Rows from each rank to each, int64 [N, N]; what does not divide goes to the first ones.
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
        volume: bytes from each rank to each, own block included, int64 [N, N].
    """

    op: str
    dtype: str
    volume: Counts

    def fields(self, member: int) -> dict[str, Any]:
        """Fields of a rank's record of it in a collective trace.

        Args:
            member: place of the rank in the group.

        Returns:
            The record's op, dtype, bytes and splits by name.
        """
        sent, received = self.volume[member], self.volume[:, member]
        own = {"op": self.op, "dtype": self.dtype, "bytes_out": int(received.sum())}
        if self.op == "all_gather":
            return own | {"bytes_in": int(sent[member])}
        if self.op == "reduce_scatter":
            return own | {"bytes_in": int(sent.sum()), "bytes_out": int(sent[member])}
        splits = {"in_splits": tuple(sent.tolist()), "out_splits": tuple(received.tolist())}
        return own | {"bytes_in": int(sent.sum())} | splits


def home_exchanges(visits: Visits, sizes: Sizes, phase: str) -> list[Exchange]:
    """Home-return dispatch: the counts of all experts, rows with their gate value, rows home; backward mirrors it."""
    rows = visits.choices
    out, weighted = rows * sizes.row_bytes, rows * (sizes.row_bytes + sizes.gate_bytes)
    if phase == "backward":
        return [Exchange("all_to_all", sizes.dtype, out), Exchange("all_to_all", sizes.dtype, weighted.T)]
    return [
        Exchange("all_gather", "int64", np.full_like(rows, sizes.num_experts * COUNT_BYTES)),
        Exchange("all_to_all", sizes.dtype, weighted),
        Exchange("all_to_all", sizes.dtype, out.T),
    ]


def copies_exchanges(visits: Visits, sizes: Sizes, phase: str) -> list[Exchange]:
    """De-duplicated dispatch: two counts for each rank, a row a rank, a label and a gate a choice, rows home."""
    rows = visits.tokens * sizes.row_bytes
    gates = visits.choices * sizes.gate_bytes
    labels = visits.choices * sizes.element_bytes
    if phase == "backward":
        return [Exchange("all_to_all", sizes.dtype, rows), Exchange("all_to_all", sizes.dtype, (rows + gates).T)]
    return [
        Exchange("all_to_all", "int32", np.full_like(rows, COUNT_BYTES)),
        Exchange("all_to_all", sizes.dtype, rows + labels + gates),
        Exchange("all_to_all", sizes.dtype, rows.T),
    ]


PATTERNS: dict[str, Callable[[Visits, Sizes, str], list[Exchange]]] = {
    "home": home_exchanges,
    "copies": copies_exchanges,
}
