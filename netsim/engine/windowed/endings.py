"""Ends of transmissions at a switch whose links have queues, in the order of the event engine's calendar.

Three lists a switch: full packets, answers, and all others. A transmission that begins later mostly ends later than
those of its list, so that its place is found from the end.
"""

import numpy as np

from netsim.engine.event.calendar import END_PS
from netsim.engine.event.compiled import compiled
from netsim.engine.event.records import LANE
from netsim.engine.event.state import Queued, Record, Whole

_KINDS = 3


def no_endings(switches: int) -> np.ndarray:
    """Empty lists for so many switches."""
    return np.full(_KINDS * switches, -1, dtype=LANE)


@compiled
def first_end(queued: Queued | None, switch: int) -> tuple[Whole, Whole]:
    """The link of a switch whose transmission ends first, or -1, and when."""
    link, first_ps = np.int64(-1), END_PS
    if queued is not None:
        for row in range(_KINDS * switch, _KINDS * (switch + 1)):
            first = np.int64(queued.endings[row].first)
            if first >= 0:
                ends_ps = queued.served[first].ends_ps
                if ends_ps < first_ps or (ends_ps == first_ps and first < link):
                    link, first_ps = first, ends_ps
    return link, first_ps


@compiled
def add_end(queued: Queued, rules: Record, switch: int, link: int) -> None:
    """Adds the transmission that has begun on a link of a switch."""
    served = queued.served[link]
    line = queued.endings[_row(rules, served, switch)]
    before, after = np.int64(line.last), np.int64(-1)
    while before >= 0 and _ends_later(queued.served[before], before, served.ends_ps, link):
        before, after = np.int64(queued.served[before].previous), before
    served.previous, served.next = before, after
    if before < 0:
        line.first = link
    else:
        queued.served[before].next = link
    if after < 0:
        line.last = link
    else:
        queued.served[after].previous = link


@compiled
def take_end(queued: Queued | None, rules: Record, switch: int, link: int) -> None:
    """Takes out the transmission that ends first."""
    if queued is not None:
        served = queued.served[link]
        line = queued.endings[_row(rules, served, switch)]
        line.first = served.next
        if served.next < 0:
            line.last = -1
        else:
            queued.served[served.next].previous = -1


@compiled
def _row(rules: Record, served: Record, switch: int) -> Whole:
    """The list of a transmission."""
    kind = np.int64(2)
    if not served.late:
        if served.wire == rules.full_wire:
            kind = np.int64(0)
        elif served.wire == rules.answer_wire:
            kind = np.int64(1)
    return _KINDS * switch + kind


@compiled
def _ends_later(other: Record, other_link: int, ends_ps: int, link: int) -> bool:
    return other.ends_ps > ends_ps or (other.ends_ps == ends_ps and other_link > link)
