"""How many rows capped dispatch sends; free of torch, for formulas and replays."""

import math
from dataclasses import dataclass


def seats_of(tokens: int, *, top_k: int, num_experts: int, cap: float) -> int:
    """Choices of a rank that an expert takes at most.

    Args:
        tokens: tokens of the rank.
        top_k: experts that a token visits, on average.
        num_experts: experts that share the choices.
        cap: the most that an expert takes, as a multiple of its even share.

    Returns:
        The multiple, rounded up to whole choices; never more than there are tokens.
    """
    return min(tokens, math.ceil(round(cap * tokens * top_k / num_experts, 6)))


@dataclass(frozen=True, slots=True)
class Message:
    """What one rank sends another, in rows of the width of a token: one for each seat, then some full of gate values.

    Gate values behind the rows leave every row where a matrix product can read it. Rows on the way home have no gate
    values, but the same places, so that one index finds a row in every message.

    Attributes:
        seats: seats of all slots of the receiver, or of the sender on the way home.
        gate_rows: rows that hold the gate values of so many seats.
    """

    seats: int
    gate_rows: int

    @classmethod
    def of(cls, *, slots: int, seats: int, row_bytes: int, gate_bytes: int) -> "Message":
        """Measures a message.

        Args:
            slots: slots of a rank.
            seats: seats that a rank has at each of them.
            row_bytes: bytes of a token.
            gate_bytes: bytes of a gate value.
        """
        return cls(slots * seats, -(-slots * seats * gate_bytes // row_bytes))

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self.seats + self.gate_rows
