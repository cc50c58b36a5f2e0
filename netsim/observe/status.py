"""Progress of a sweep."""

from collections.abc import Callable
from typing import NamedTuple


class Status(NamedTuple):
    """Progress of a sweep; finished cells and runs include earlier ones, packet-hops those of acknowledgements.

    `running` are cells, transports and seeds under way, in the order of the sweep; `checking`: no run has begun.
    """

    cells: int
    cells_done: int = 0
    cells_failed: int = 0
    runs: int = 0
    runs_done: int = 0
    packet_hops: int = 0
    running: tuple[tuple[str, str], ...] = ()
    checking: bool = False


Watcher = Callable[[Status], None]
"""Called whenever the status changes."""
