"""Deficit round robin among classes in compiled code: see `netsim.engine.reference.nic`.

Row `link` of `Queued.turns` belongs to the queues in front of a link, row `links + link` to the rings of a host's link.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Queued, Whole

TURN, GIVEN, LEFT = 0, 1, 2
"""Columns of `Queued.turns`: whose turn it is; whether it has got its quantum; what each class has left, in bytes."""


@compiled
def takes_turns(queued: Queued, traffic_class: int) -> bool:
    """Whether a class takes turns with others."""
    return len(queued.quanta) > 0 and queued.quanta[traffic_class] > 0


@compiled
def rings_of(queued: Queued, link: int) -> Whole:
    """The row of the rings of a host's link."""
    return np.int64(len(queued.served) + link)


@compiled
def next_class(queued: Queued, row: int) -> Whole:
    """The class that sends next, or -1; `Queued.needs` says what each needs, -1 if it has no packet or is paused."""
    turns, needs, quanta, ready = queued.turns, queued.needs, queued.quanta, False
    for number in range(len(quanta)):
        if needs[number] >= 0:
            if not quanta[number]:
                return np.int64(number)
            ready = True
    if not ready:
        return np.int64(-1)
    while True:
        turn = turns[row, TURN]
        if needs[turn] < 0:
            turns[row, LEFT + turn] = 0
        else:
            if turns[row, LEFT + turn] < needs[turn] and not turns[row, GIVEN]:
                turns[row, LEFT + turn] += quanta[turn]
                turns[row, GIVEN] = 1
            if turns[row, LEFT + turn] >= needs[turn]:
                return np.int64(turn)
        _pass_on(queued, row)


@compiled
def note_sent(queued: Queued, row: int, traffic_class: int, size_bytes: int, more: bool) -> None:
    """A class has sent a packet; `more` says whether it has another."""
    if queued.quanta[traffic_class]:
        queued.turns[row, LEFT + traffic_class] -= size_bytes
        if not more:
            queued.turns[row, LEFT + traffic_class] = 0
            _pass_on(queued, row)


@compiled
def note_sent_alone(queued: Queued, at: int, traffic_class: int) -> None:
    """A class has sent the only packet in front of a link that was idle: the turn has come to it and passed on."""
    turns = queued.turns
    if queued.quanta[traffic_class]:
        while turns[at, TURN] != traffic_class:
            turns[at, LEFT + turns[at, TURN]] = 0
            _pass_on(queued, at)
        turns[at, LEFT + traffic_class] = 0
        _pass_on(queued, at)


@compiled
def _pass_on(queued: Queued, row: int) -> None:
    """The turn passes to the next class that has one."""
    turns, quanta = queued.turns, queued.quanta
    turns[row, GIVEN] = 0
    while True:
        turns[row, TURN] = (turns[row, TURN] + 1) % len(quanta)
        if quanta[turns[row, TURN]]:
            return
