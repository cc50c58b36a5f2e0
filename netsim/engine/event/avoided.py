"""The table of ways that a transport avoids because they have failed flows; see `Program.avoided`."""

import numpy as np

from netsim.engine.event.state import State

_FIRST_SLOTS = 64


def with_avoided(state: State, way: tuple[int, int, int], until_ps: int) -> State:
    """The state in which a way is avoided; its table doubles before it is half full.

    `way` is first link, destination leaf, and place among the ways between two leaves.
    """
    table = state.program.avoided
    known = table[table[:, 0] >= 0] if len(table) else table
    if 2 * (len(known) + 1) > len(table):
        table = np.full((max(_FIRST_SLOTS, 2 * len(table)), 4), -1, dtype=np.int64)
        for *entry, time_ps in known.tolist():
            _put(table, tuple(entry), time_ps)
        state = state._replace(program=state.program._replace(avoided=table))
    _put(table, way, until_ps)
    return state


def _put(table: np.ndarray, way: tuple[int, ...], until_ps: int) -> None:
    slot = _place_of(len(table), *way)
    while table[slot, 0] >= 0 and tuple(table[slot, :3].tolist()) != way:
        slot = (slot + 1) % len(table)
    table[slot] = *way, until_ps


def _place_of(slots: int, link: int, leaf: int, way: int) -> int:
    """Where the search for a way begins, as in the core."""
    return ((link * 8191 + leaf) * 131 + way) % slots
