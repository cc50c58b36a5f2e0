"""Collectives of context-coherent dispatch and their sizes, and the expected exchanges of a pass in any mode.

Shape legend: T tokens of a micro batch on one rank, L MoE layers, K choices, E experts, N ranks of the group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moe.dispatch.messages import COUNT_BYTES, PATTERNS, Borrowing, Counts, Exchange, Sizes, Visits, spread

_LOSS_BYTES = 4


@dataclass(frozen=True, eq=False, slots=True)
class Moves:
    """Moves of the tokens of a group in one layer and micro batch.

    Attributes:
        rows: rows from the rank that held the token to the ranks of its experts, int64 [N, N].
        copies: rows from the rank of a further expert to the rank where the token stays, int64 [N, N].
        residents: tokens on each rank before the layer, int64 [N].
        tokens: tokens T of a home rank.
        top_k: choices K that a message has room for.
        is_first: the layer is the first that moves tokens.
        is_last: the layer is the last that does.
    """

    rows: Counts
    copies: Counts
    residents: Counts
    tokens: int
    top_k: int
    is_first: bool
    is_last: bool

    @classmethod
    def of(
        cls, chosen: Sequence[tuple[int, NDArray[np.integer]]], expert_ranks_LE: Counts, num_ranks: int
    ) -> list[Self]:
        """Follows the tokens of a micro batch through the layers; the moves of each layer, [L].

        Args:
            chosen: for each home rank of the group its tokens' experts [T, L, K], the anchor first, -1 where dropped.
            expert_ranks_LE: rank of each expert.
            num_ranks: ranks N of the group.
        """
        at_T = np.concatenate([np.full(len(ids_TLK), home) for home, ids_TLK in chosen])
        ids_TLK = np.concatenate([ids_TLK for _, ids_TLK in chosen])
        tokens, num_layers, top_k = len(chosen[0][1]), *ids_TLK.shape[1:]
        moves = []
        for layer in range(num_layers):
            ids_TK = ids_TLK[:, layer]
            ranks_TK = expert_ranks_LE[layer][ids_TK]
            kept_TK = ids_TK >= 0
            first_T = kept_TK.argmax(axis=1)[:, None]
            anchors_T = np.where(kept_TK.any(axis=1), np.take_along_axis(ranks_TK, first_T, axis=1)[:, 0], at_T)
            visits_TN = np.zeros((len(ids_TK), num_ranks), np.int64)
            np.put_along_axis(visits_TN, np.where(kept_TK, ranks_TK, anchors_T[:, None]), 1, axis=1)
            rows, copies = np.zeros((2, num_ranks, num_ranks), np.int64)
            np.add.at(rows, at_T, visits_TN)
            np.put_along_axis(visits_TN, anchors_T[:, None], 0, axis=1)
            np.add.at(copies.T, anchors_T, visits_TN)
            residents = np.bincount(at_T, minlength=num_ranks)
            moves.append(cls(rows, copies, residents, tokens, top_k, layer == 0, layer == num_layers - 1))
            at_T = anchors_T
        return moves

    @classmethod
    def even(cls, visits: Visits, *, tokens: int, top_k: int, num_layers: int) -> list[Self]:
        """Expected moves of each layer if every expert is equally likely, wherever a token is.

        Args:
            visits: expected visits of home-return dispatch.
            tokens: tokens of each rank.
            top_k: choices that a message holds.
            num_layers: layers that move tokens.
        """
        num_ranks = len(visits.tokens)
        copies = spread(int(visits.tokens[0].sum()) - tokens, num_ranks, first=1)
        residents = np.full(num_ranks, tokens, np.int64)
        return [
            cls(visits.tokens, copies, residents, tokens, top_k, layer == 0, layer == num_layers - 1)
            for layer in range(num_layers)
        ]


def coherent_exchanges(moves: Moves, sizes: Sizes, phase: str) -> list[Exchange]:
    """Exchanges of a block with attention and a MoE layer: keys and values, counts, rows, copies; or their reverse."""
    integer_bytes = 8 if sizes.element_bytes == 8 else 4
    gates = moves.top_k * sizes.gate_bytes
    labels = (1 + moves.top_k) * integer_bytes
    copies = [Exchange("all_to_all", sizes.dtype, moves.copies * sizes.row_bytes)] * (moves.top_k > 1)
    fullest = np.full_like(moves.rows, moves.residents.max())
    if phase == "backward":
        back = Exchange("all_to_all", sizes.dtype, moves.rows.T * (sizes.row_bytes + gates))
        scattered = Exchange("reduce_scatter", sizes.dtype, fullest * sizes.key_value_bytes)
        mirrored = [Exchange(one.op, one.dtype, one.volume.T) for one in copies]
        return [*mirrored, back, *[scattered] * (not moves.is_first)]
    num_ranks = len(moves.rows)
    gathered = Exchange("all_gather", sizes.dtype, fullest * (sizes.key_value_bytes + integer_bytes))
    counts = np.full_like(moves.rows, COUNT_BYTES * (2 * num_ranks + sizes.num_experts))
    rows = Exchange("all_to_all", sizes.dtype, moves.rows * (sizes.row_bytes + gates + labels))
    return [*[gathered] * (not moves.is_first), Exchange("all_gather", "int64", counts), rows, *copies]


def end_exchanges(moves: Moves, sizes: Sizes, phase: str) -> list[Exchange]:
    """Exchanges after the last block in the forward pass and before it in the backward pass: targets and losses."""
    each = np.full_like(moves.rows, moves.tokens)
    losses = each * _LOSS_BYTES
    if phase == "backward":
        return [Exchange("all_gather", "float32", losses)]
    targets = Exchange("all_gather", "uint8" if sizes.target_bytes == 1 else "int32", each * sizes.target_bytes)
    return [targets, Exchange("reduce_scatter", "float32", losses)]


MODES = (*PATTERNS, "coherent")


def expected_exchanges(
    dispatch: str,
    phase: str,
    sizes: Sizes,
    layers: Sequence[int],
    *,
    num_ranks: int,
    num_nodes: int = 1,
    tokens: int,
    top_k: int,
    most_choices: int,
    borrowings: Sequence[Borrowing | None] = (),
    capacity: int | None = None,
) -> Iterator[tuple[int | None, Exchange]]:
    """Exchanges of a micro batch in one pass, in program order, each with its block (None outside the blocks).

    Args:
        dispatch: one of MODES.
        phase: forward or backward.
        sizes: sizes of a row.
        layers: blocks with experts, ascending.
        num_ranks: ranks that share the experts; one alone sends nothing.
        num_nodes: nodes that they are on.
        tokens: tokens of each rank.
        top_k: experts of a token.
        most_choices: choices that a message of coherent dispatch holds.
        borrowings: replicas of each layer; empty without any.
        capacity: choices that each expert takes of each rank, for capped dispatch.
    """
    if num_ranks == 1 or not layers:
        return
    visits = Visits.even(
        tokens=tokens, top_k=top_k, num_experts=sizes.num_experts, num_ranks=num_ranks, num_nodes=num_nodes
    )
    order = slice(None, None, 1 if phase == "forward" else -1)
    if dispatch != "coherent":
        for layer, borrowing in list(zip(layers, borrowings or [None] * len(layers), strict=True))[order]:
            exchanges = PATTERNS[dispatch](replace(visits, borrowing=borrowing, capacity=capacity), sizes, phase)
            yield from ((layer, exchange) for exchange in exchanges)
        return
    moves = Moves.even(visits, tokens=tokens, top_k=most_choices, num_layers=len(layers))
    ends = [(None, exchange) for exchange in end_exchanges(moves[-1], sizes, phase)]
    inside = [
        (layer, exchange)
        for layer, move in list(zip(layers, moves, strict=True))[order]
        for exchange in coherent_exchanges(move, sizes, phase)
    ]
    yield from [*inside, *ends] if phase == "forward" else [*ends, *inside]
