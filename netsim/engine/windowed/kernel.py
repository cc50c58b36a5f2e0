"""The windowed engine's loop, window by window.

The threads of a run go through the stages of a window together, each with its own regions: one that is done with a
stage waits for the others. The leader opens windows, and lets tasks begin.
"""

import numpy as np

from netsim.engine.event.calendar import END_PS, first_time
from netsim.engine.event.compiled import called, compiled
from netsim.engine.event.kernel import FINISHED, IN_TIME, PAUSED, queued_of
from netsim.engine.event.program import begin_roots, next_begin_ps
from netsim.engine.event.rounds import begin_round
from netsim.engine.event.sender import resume
from netsim.engine.event.state import Array, Hosts, Network, Program, Routing, State, Whole
from netsim.engine.windowed.hosts import deal_with_hosts
from netsim.engine.windowed.meeting import meet
from netsim.engine.windowed.pending import note_look, wake
from netsim.engine.windowed.receivers import deal_with_receivers
from netsim.engine.windowed.records import GOES_ON, NEXT, OPEN, REST, SWITCHES, TASKS
from netsim.engine.windowed.regions import OF_HOSTS, OF_SWITCHES
from netsim.engine.windowed.shares import LEADER, Shares, acting, report_to_leader
from netsim.engine.windowed.switches import deal_with_switches, forget_passed
from netsim.engine.windowed.timers import pull_timers
from netsim.engine.windowed.wheel import Wheel, Wheels, due_now, owner_of, release_chunks, take_back, wheel_of

_PACKETS_BETWEEN_PAUSES = 1 << 20


@called
def run(
    arrays: tuple[tuple[Array, ...] | None, ...],
    of_shares: tuple[Array, ...],
    of_wheels: tuple[Array, ...],
    thread: int,
    resumed: int,
) -> Whole:
    """Simulates until a thread must stop, and returns why this one does; see `netsim.engine.event.kernel`."""
    parts = Network(*arrays[0]), Hosts(*arrays[1]), Program(*arrays[2]), Routing(*arrays[3])  # type: ignore[misc]
    state = State(*parts, queued_of(arrays[4]))
    shares, wheels = Shares(*of_shares), Wheel(*of_wheels)
    wheel = wheel_of(wheels, thread)
    window, totals, packets = wheel.window[0], state.network.totals[0], np.int64(0)
    if totals.now_ps < 0:
        totals.now_ps = 0
        begin_roots(state.program, totals)
    if resumed >= 0:
        _resume(state, shares, wheels, resumed)
    while True:
        why = np.int64(GOES_ON)
        if window.stage == NEXT:
            take_back(wheels, wheel, OF_HOSTS)
            if thread == LEADER:
                report_to_leader(state, shares)
                why = _open(state, shares, wheels, packets)
        elif window.stage == OPEN:
            why = deal_with_receivers(state, wheels, wheel)
        elif window.stage == SWITCHES:
            why = deal_with_switches(state, wheels, wheel)
        elif window.stage == REST or thread == LEADER:
            if window.stage == TASKS:
                report_to_leader(state, shares)
                pull_timers(state, wheels)
            else:
                take_back(wheels, wheel, OF_SWITCHES)
            why = deal_with_hosts(state, shares, wheels, wheel)
        if not meet(wheels.meetings, np.int64(window.threads), thread, why):
            return why
        window.place = 0
        if window.stage == NEXT:
            packets += wheel.due[due_now(wheel)] * window.threads
            _enter(state, wheels, wheel, thread)
        elif window.stage == REST:
            forget_passed(wheel)
            release_chunks(wheel, wheel.used[OF_HOSTS])
        window.stage = NEXT if window.stage == REST else window.stage + 1


@compiled
def _open(state: State, shares: Shares, wheels: Wheels, packets: Whole) -> Whole:
    """Sets number and end of the next window in which something happens: GOES_ON, or why there is none.

    A window ends at the limit of simulated time; if tasks are left, nothing happens later.
    """
    window, totals, rules = wheels.window[LEADER, 0], state.network.totals[0], state.network.rules[0]
    if packets >= _PACKETS_BETWEEN_PAUSES:
        return np.int64(PAUSED)
    if window.over:
        totals.now_ps = window.cut_ps - 1
        return np.int64(FINISHED)
    first_ps, in_flight = min(next_begin_ps(state.program), first_time(wheels.inside)), np.int64(0)
    for thread in range(window.threads):
        first_ps = min(first_ps, wheels.window[thread, 0].due_ps, first_time(shares.timers[thread]))
        in_flight += wheels.window[thread, 0].in_flight
    if totals.released:
        first_ps = min(first_ps, window.now_ps)
    if not in_flight and first_ps == END_PS:
        return np.int64(FINISHED)
    latest = first_ps // window.length_ps
    number = window.end_ps // window.length_ps if in_flight else latest
    while number < latest and not _is_due(wheels, number):
        number += 1
    next_ps = max(window.end_ps, number * window.length_ps if in_flight else first_ps)
    if totals.undone and next_ps > rules.end_ps and not begin_round(rules, totals, next_ps):
        totals.now_ps = rules.end_ps
        return np.int64(IN_TIME)
    end_ps = (number + 1) * window.length_ps
    if totals.undone:
        end_ps = min(end_ps, rules.end_ps + 1)
    for thread in range(window.threads):
        wheels.window[thread, 0].number, wheels.window[thread, 0].end_ps = number, end_ps
    return np.int64(GOES_ON)


@compiled
def _is_due(wheels: Wheels, number: int) -> bool:
    """Whether a window has packets."""
    due = np.int64(0)
    for thread in range(len(wheels.due)):
        due += wheels.due[thread, number & (wheels.due.shape[1] - 1)]
    return bool(due > 0)


@compiled
def _enter(state: State, wheels: Wheels, wheel: Wheel, thread: int) -> None:
    """A thread enters the window that has been opened."""
    window = wheel.window[0]
    window.active = window.arrivals = window.receipts = window.received = 0
    window.region = thread
    window.cut_ps = window.end_ps
    wheel.due[due_now(wheel)] = 0
    wake(state, wheel)
    if thread != LEADER:
        pull_timers(state, wheels)


@compiled
def _resume(state: State, shares: Shares, wheels: Wheels, index: int) -> None:
    """A flow goes on after a timeout."""
    link = np.int64(state.hosts.flows[index].up)
    owner = owner_of(wheels, link)
    of_owner = acting(state, shares, owner)
    resume(of_owner, index, state.network.totals[0].now_ps)
    note_look(of_owner, wheel_of(wheels, owner), link)
    pull_timers(of_owner, wheels)
