"""Records of the windowed engine: packets by value, arrivals, units, timers, and the window that is open.

Times in picoseconds; -1 is no index.
"""

import numpy as np

from netsim.engine.event.records import PACKET

INDEX, _WHOLE, _YES = np.int32, np.int64, np.uint8
_VALUE = {name: PACKET[name] for name in PACKET.names or () if name not in ("next", "previous")}
VALUE = np.dtype(sorted([*_VALUE.items(), ("unit", np.dtype(INDEX))], key=lambda field: -field[1].itemsize), align=True)
"""A packet by value: the fields of `PACKET`, and the unit at which it arrives, or -1; see `passage`."""

ARRIVAL = np.dtype([("time_ps", _WHOLE), ("key", _WHOLE), ("place", INDEX), ("unit", INDEX)])
"""An arrival of the window: its time, its order within that instant, and the packet's place in `Wheel.packets`."""

BUCKET = np.dtype([(name, INDEX) for name in ("first", "last", "packets")])
"""First and last chunk, and packets in all of them."""

UNIT = np.dtype(
    [
        *((name, INDEX) for name in ("begin", "end", "first_timer")),
        *((name, _YES) for name in ("active", "pending", "at_host")),
    ],
    align=True,
)
"""A unit of the simulation: rows of its arrivals in this window; of a host's link also its timers of this window, and
whether it is among the active ones; whether it is among `Wheel.pending`; whether it is the link of a host."""

ENDING = np.dtype([("ends_ps", _WHOLE), ("first", INDEX)], align=True)
"""The first of a switch's links that send, which are chained, and when the first transmission ends."""

USED = np.dtype([(name, INDEX) for name in ("first", "last", "chunks")])
"""Chunks whose packets have arrived in the window, chained, and their number."""

TIMER = np.dtype([("time_ps", _WHOLE), ("key", _WHOLE), ("what", INDEX), ("next", INDEX)], align=True)
"""A timer that runs out in this window: of a flow, or of the receiver behind a link, which asks for packets."""

WINDOW = np.dtype(
    [
        *(
            (name, _WHOLE)
            for name in ("length_ps", "end_ps", "number", "now_ps", "in_flight", "due_ps", "spare", "cut_ps")
        ),
        *(
            (name, INDEX)
            for name in (
                "stage",
                "region",
                "regions",
                "place",
                "touched",
                "woken",
                "arrivals",
                "at_hosts",
                "active",
                "pending",
                "receipts",
                "received",
                "awaited",
            )
        ),
        *((name, INDEX) for name in ("free_chunk", "free_chunks", "free_timer", "timers")),
        *((name, INDEX) for name in ("by_switch", "over", "thread", "threads")),
    ],
    align=True,
)
"""The window: its length, its end and its number; the last instant in which tasks began; packets in the wheel; when the
first pending unit is due; chunks that one event may need; the moment before which everything happens: the window's
end, or that of a run that ends early with an instant, and is `over` then; how far the loop is (see
`netsim.engine.windowed.kernel`), and in which region; arrivals, and those at hosts; receipts, and how many have been
received; arrivals of a region for which there was no room; free chunks; timers that have been in use; the thread, and
how many there are."""

GOES_ON = -1
"""Why a stage ends if nothing stops the loop; see `netsim.engine.event.kernel` for what does."""

NEXT, OPEN, TASKS, SWITCHES, REST = range(5)
"""Stages of a window: none is open; one is, and receivers take what has come; tasks begin; switches pass packets on;
hosts do what is left."""
