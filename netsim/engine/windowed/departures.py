"""Ends of transmissions, and words that stop and resume queues, in the windowed engine.

Both happen at the link whose packets wait. A word comes from the next switch, and is an arrival whose key is the queue
that it is about.
"""

import numpy as np

from netsim.engine.event.calendar import END, END_PS, push
from netsim.engine.event.compiled import compiled
from netsim.engine.event.queued import finish, link_of, next_queue, serve_next, stop_or_resume, take_out
from netsim.engine.event.state import Queued, State, Whole
from netsim.engine.event.transit import forward
from netsim.engine.windowed.passage import send
from netsim.engine.windowed.wheel import Wheel, put


@compiled
def end_ps(queued: Queued | None, link: int) -> Whole:
    """When the transmission on a link ends; END_PS if there is none, or links have no queues."""
    if queued is None:
        return END_PS
    return queued.served[link].ends_ps if queued.served[link].busy else END_PS


@compiled
def depart(state: State, queued: Queued | None, wheel: Wheel, key: int, link: int, now: int) -> None:
    """A transmission of a host ends, or a pause frame arrives there, whose keys are smaller."""
    if queued is not None:
        if key < END:
            hear_word(state, queued, wheel, key, link, now)
        else:
            finish(state.network, state.routing, queued, link)
            go_on(state, queued, wheel, link, now)


@compiled
def hear_word(state: State, queued: Queued | None, wheel: Wheel, place: int, link: int, now: int) -> None:
    """A word arrives about a queue in front of a link."""
    if queued is not None and stop_or_resume(queued, place, now):
        go_on(state, queued, wheel, link, now)
        ring = state.hosts.rings[place]
        if ring.first >= 0 and ring.look_ps < 0:
            ring.look_ps = max(now, state.network.links[link].free_ps)


@compiled
def go_on(state: State, queued: Queued, wheel: Wheel, at: int, now: int) -> None:
    """Begins the next transmission of a link that is free; packets on a link that is down are lost in turn."""
    network = state.network
    while not queued.served[at].busy:
        place = next_queue(network.rules[0], queued, at)
        if place < 0:
            return
        index = take_out(queued, place)
        packet = wheel.held[index]
        leaves = serve_next(network, state.routing, queued, packet, index, at, place, now)
        if leaves >= 0:
            send(state, wheel, packet, at, forward(state, packet, at, leaves))
        wheel.next_held[index] = queued.notes[0].packet
        queued.notes[0].packet = index


@compiled
def note_inside(state: State, queued: Queued | None, wheel: Wheel) -> None:
    """Puts the end of a transmission inside a host that has begun among the events there."""
    if queued is not None:
        notes = queued.notes[0]
        if notes.begun >= 0:
            at = np.int64(notes.begun)
            if state.network.links[at].reverse == at:
                push(wheel.inside, queued.served[at].ends_ps, END | at, at)
            notes.begun = -1


@compiled
def send_words(state: State, queued: Queued, wheel: Wheel, now: int) -> None:
    """Sends the words of a switch to the queues that are to stop or to go on."""
    notes = queued.notes[0]
    for row in range(notes.told):
        _send_word(state, queued, wheel, queued.told[row], now)
    notes.told = 0


@compiled
def _send_word(state: State, queued: Queued, wheel: Wheel, place: int, now: int) -> None:
    """Sends a word to the begin of a link about one of its queues."""
    link, word = link_of(queued, state.network.rules[0], place), wheel.scratch[0]
    word.key, word.flow, word.sequence = place, 0, 0
    word.hop = word.links = word.passes = 0
    word.control = 1
    unit = link if wheel.units[link].at_host else len(state.network.links) + state.routing.source[link]
    put(wheel, word, unit, wheel.region[unit], now + queued.served[link].news_ps)
