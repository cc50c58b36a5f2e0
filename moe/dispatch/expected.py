"""The expected exchanges of a whole pass through a model if every expert is equally likely."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from moe.dispatch.coherent_messages import Moves, coherent_exchanges, end_exchanges
from moe.dispatch.messages import PATTERNS, Borrowing, Exchange, Sizes, Visits

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
    seats: int | None = None,
) -> Iterator[tuple[int | None, Exchange]]:
    """Exchanges of a micro batch in one pass, in program order.

    Args:
        dispatch: one of MODES.
        phase: forward or backward.
        sizes: sizes of a row.
        layers: blocks with experts, ascending.
        num_ranks: ranks that share the experts; one alone sends nothing.
        num_nodes: nodes that they are on.
        tokens: tokens of each rank.
        top_k: experts of a token.
        most_choices: choices that a message of coherent dispatch has room for.
        borrowings: replicas of each layer; empty: there are none.
        seats: choices that each expert has room for from each rank, for capped dispatch.

    Yields:
        The block (None outside the blocks) and the exchange.
    """
    if num_ranks == 1 or not layers:
        return
    visits = Visits.even(
        tokens=tokens, top_k=top_k, num_experts=sizes.num_experts, num_ranks=num_ranks, num_nodes=num_nodes
    )
    order = slice(None, None, 1 if phase == "forward" else -1)
    if dispatch != "coherent":
        for layer, borrowing in list(zip(layers, borrowings or [None] * len(layers), strict=True))[order]:
            exchanges = PATTERNS[dispatch](replace(visits, borrowing=borrowing, seats=seats), sizes, phase)
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
