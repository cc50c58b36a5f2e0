"""Unfinished work of links whose rate changes, as service time at their nominal rate."""

from bisect import bisect_right
from math import ceil, inf

from netsim.topology.failure import Rates


class Work:
    """The part of a link's work that is served at each rate: a packet keeps the rate at which its service begins."""

    def __init__(self, rates: Rates) -> None:
        self._nominal = rates.initial
        self._steps = {
            link: steps for link, steps in rates.changes.items() if len(steps) > 1 or steps[0][1] != rates.initial[link]
        }
        self._since_ps = {link: [-1] * len(steps) for link, steps in self._steps.items()}

    def varies(self, link: int) -> bool:
        """Whether the link ever has another rate than its nominal one."""
        return link in self._steps

    def begin(self, link: int, time_ps: int) -> None:
        """Notes that a link whose rate varies begins to serve a packet."""
        row = bisect_right(self._steps[link], (time_ps, inf)) - 1
        if self._since_ps[link][row] < 0:
            self._since_ps[link][row] = time_ps

    def nominal_ps(self, link: int, begin_ps: int, end_ps: int) -> int:
        """How long a link whose rate varies would take at its nominal rate for what it serves from `begin_ps` to
        `end_ps`.

        All services that have been noted begin before `end_ps`.
        """
        work_ps = 0.0
        for (_, rate), since_ps in zip(self._steps[link][::-1], self._since_ps[link][::-1], strict=True):
            if 0 <= since_ps < end_ps:
                first_ps = max(since_ps, begin_ps)
                work_ps += (end_ps - first_ps) * (rate / self._nominal[link])
                end_ps = first_ps
                if end_ps == begin_ps:
                    break
        return ceil(work_ps)
