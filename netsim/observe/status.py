"""Progress of a sweep."""

from collections.abc import Callable
from typing import NamedTuple


class Status(NamedTuple):
    """Progress of a sweep.

    Args:
        cells: Cells in all.
        cells_done: Those that are finished, earlier ones included.
        cells_failed: Those with a failed run.
        runs: Runs of all cells.
        runs_done: Those that are finished, earlier ones included.
        packet_hops: Packet-hops of the runs that this process finished, those of acknowledgements included.
        running: Cells, transports and seeds of the runs under way, in the order of the sweep.
        checking: Whether cells are still being checked, before any run.
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
