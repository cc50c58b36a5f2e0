"""The windowed engine's loop, window by window."""

from netsim.engine.event.calendar import END_PS, first_time
from netsim.engine.event.compiled import called, compiled
from netsim.engine.event.kernel import FINISHED, IN_TIME, NEEDS_ROOM, PAUSED, queued_of
from netsim.engine.event.program import begin_roots, next_begin_ps
from netsim.engine.event.rounds import begin_round
from netsim.engine.event.sender import resume
from netsim.engine.event.state import Array, Hosts, Network, Program, Routing, State, Whole
from netsim.engine.windowed.gathering import gather
from netsim.engine.windowed.hosts import deal_with_hosts
from netsim.engine.windowed.pending import note_look, touch_woken, wake
from netsim.engine.windowed.receivers import deal_with_receivers, order_receipts
from netsim.engine.windowed.records import NEXT, OPEN, REST, SWITCHES, TASKS
from netsim.engine.windowed.regions import OF_HOSTS, is_of_hosts
from netsim.engine.windowed.switches import deal_with_switches, forget_passed
from netsim.engine.windowed.timers import pull_timers
from netsim.engine.windowed.wheel import Wheel, due_now, lacks_room_for_arrivals, release_chunks

OPENED = -1
_PACKETS_BETWEEN_PAUSES = 1 << 20


@called
def run(arrays: tuple[tuple[Array, ...] | None, ...], of_wheel: tuple[Array, ...], resumed: int) -> Whole:
    """Simulates until the loop must stop, and returns why; see `netsim.engine.event.kernel`.

    Args:
        arrays: The fields of `State`.
        of_wheel: The fields of `Wheel`.
        resumed: A flow that goes on after a timeout, or -1.
    """
    parts = Network(*arrays[0]), Hosts(*arrays[1]), Program(*arrays[2]), Routing(*arrays[3])  # type: ignore[misc]
    state = State(*parts, queued_of(arrays[4]))
    wheel = Wheel(*of_wheel)
    network, hosts, window = state.network, state.hosts, wheel.window[0]
    totals = network.totals[0]
    if totals.now_ps < 0:
        totals.now_ps = 0
        begin_roots(state.program, totals)
    if resumed >= 0:
        resume(state, resumed, totals.now_ps)
        note_look(state, wheel, hosts.flows[resumed].up)
        pull_timers(state, wheel)
    packets = 0
    while True:
        if window.stage == NEXT:
            if packets >= _PACKETS_BETWEEN_PAUSES:
                return PAUSED
            why = _open(state, wheel)
            if why != OPENED:
                return why
            window.active = window.arrivals = window.region = window.receipts = window.received = 0
            window.cut_ps = window.end_ps
            packets += wheel.due[due_now(wheel)]
            window.stage = OPEN
        if window.stage == OPEN:
            if lacks_room_for_arrivals(wheel):
                return NEEDS_ROOM
            gather(state, wheel)
            window.region += 1
            window.place = 0
            if is_of_hosts(window, window.region - 1):
                deal_with_receivers(state, wheel)
                if is_of_hosts(window, window.region):
                    continue
                order_receipts(wheel)
                wake(state, wheel)
                touch_woken(wheel, window.region - 1)
                pull_timers(state, wheel)
                window.stage = TASKS
            else:
                touch_woken(wheel, window.region - 1)
                window.stage = SWITCHES
        if window.stage == SWITCHES:
            why = deal_with_switches(state, wheel)
            if why != FINISHED:
                return why
            if window.region < window.regions:
                forget_passed(wheel)
                window.stage = OPEN
                continue
            window.stage, window.place = REST, 0
        why = deal_with_hosts(state, wheel)
        if why != FINISHED:
            return why
        if window.stage == REST:
            forget_passed(wheel)
            release_chunks(wheel, OF_HOSTS)
            window.stage = NEXT


@compiled
def _open(state: State, wheel: Wheel) -> Whole:
    """Sets number and end of the next window in which something happens: OPENED, or why there is none.

    A window ends at the limit of simulated time; if tasks are left, nothing happens later.
    """
    window, totals, rules = wheel.window[0], state.network.totals[0], state.network.rules[0]
    if window.over:
        totals.now_ps = window.cut_ps - 1
        return FINISHED
    first_ps = min(next_begin_ps(state.program), first_time(state.hosts.timers), first_time(wheel.inside))
    first_ps = min(first_ps, window.due_ps)
    if totals.released:
        first_ps = min(first_ps, window.now_ps)
    if not window.in_flight and first_ps == END_PS:
        return FINISHED
    if totals.undone and window.end_ps > rules.end_ps and not begin_round(rules, totals, window.end_ps):
        totals.now_ps = rules.end_ps
        return IN_TIME
    latest = first_ps // window.length_ps
    number = window.end_ps // window.length_ps if window.in_flight else latest
    while number < latest:
        if wheel.due[number & (len(wheel.due) - 1)]:
            break
        number += 1
    window.number, window.end_ps = number, (number + 1) * window.length_ps
    if totals.undone:
        window.end_ps = min(window.end_ps, rules.end_ps + 1)
    return OPENED
