"""The table of routes that a transport avoids because they have failed flows."""

import numpy as np

from netsim.engine.event.state import State

_FIRST_SLOTS = 64


def with_avoided(state: State, route: tuple[int, int, int], until_ps: int) -> State:
    """The state in which a route is avoided; its table doubles before it is half full.

    `route` is first link, destination leaf, and place among the routes between two leaves.
    """
    table = state.program.avoided
    known = table[table[:, 0] >= 0] if len(table) else table
    if 2 * (len(known) + 1) > len(table):
        table = np.full((max(_FIRST_SLOTS, 2 * len(table)), 4), -1, dtype=np.int64)
        for *entry, time_ps in known.tolist():
            _put(table, tuple(entry), time_ps)
        state = state._replace(program=state.program._replace(avoided=table))
    _put(table, route, until_ps)
    return state


def _put(table: np.ndarray, route: tuple[int, ...], until_ps: int) -> None:
    slot = _place_of(len(table), *route)
    while table[slot, 0] >= 0 and tuple(table[slot, :3].tolist()) != route:
        slot = (slot + 1) % len(table)
    table[slot] = *route, until_ps


def _place_of(slots: int, link: int, leaf: int, route: int) -> int:
    """Where the search for a route begins, as in the core."""
    return ((link * 8191 + leaf) * 131 + route) % slots
