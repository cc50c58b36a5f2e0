"""Pieces of a buffer for pipelined trees and chains, all of whose levels then work at once."""

from netsim.units import split_bytes

MOST_PIECES = 64
LEAST_PIECE_BYTES = 64 * 1024


def pieces(size_bytes: int) -> list[int]:
    """Cuts a buffer into up to `MOST_PIECES` of at least `LEAST_PIECE_BYTES`; a buffer below two of those stays whole.

    More pieces fill a pipeline sooner, but each costs a latency: a piece leaves a rank for another only when the piece
    before it has arrived there. With k pieces a tree of height h takes 2 h + k - 1 such steps.
    """
    return split_bytes(size_bytes, min(max(size_bytes // LEAST_PIECE_BYTES, 1), MOST_PIECES))
