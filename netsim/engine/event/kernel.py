"""The event engine's loop, from one instant in which messages are released to the next."""

from netsim.engine.event.admission import admit, admit_whole
from netsim.engine.event.calendar import ARRIVAL, END, END_PS, RELEASE, SEND, close, first_time
from netsim.engine.event.compiled import called, compiled
from netsim.engine.event.departures import depart
from netsim.engine.event.feedback import arrive, run_out
from netsim.engine.event.program import begin_roots, next_begin, next_begin_ps
from netsim.engine.event.queued import first_end, lacks_room
from netsim.engine.event.sender import look, resume
from netsim.engine.event.state import Array, Hosts, Network, Program, Queued, Routing, State, Whole

FINISHED, RELEASED, ASKS_FOR_PATH, ASKS_AFTER_TIMEOUT, NEEDS_ROOM = range(5)
"""Why the loop stops: all tasks are done; messages wait for admission; a flow's path has failed; a flow has timed out;
the arrays of packets or of choices, or the calendar are full."""


@called
def run(arrays: tuple[tuple[Array, ...] | None, ...], admitted: Array, resumed: int) -> Whole:
    """Simulates until the loop must stop, and returns why; times and flows are in `Totals`.

    Args:
        arrays: The fields of `State`, as tuples without names, which are quicker to hand over.
        admitted: Flows that begin now; see `admit`.
        resumed: A flow that goes on after a timeout, or -1.
    """
    parts = Network(*arrays[0]), Hosts(*arrays[1]), Program(*arrays[2]), Routing(*arrays[3])  # type: ignore[misc]
    state = State(*parts, _queued(arrays[4]))
    network, timers, program = state.network, state.hosts.timers, state.program
    calendar, totals = network.calendar, network.totals[0]
    if totals.now_ps < 0:
        totals.now_ps = 0
        begin_roots(program, totals)
    if len(admitted):
        admit(state, admitted)
    if resumed >= 0:
        resume(state, resumed, totals.now_ps)
    choices = len(state.routing.chosen)
    while True:
        close(calendar)
        time_ps, key, what = first_time(calendar), calendar[1].key, calendar[1].what
        timer_ps, from_timers = first_time(timers), False
        if timer_ps < time_ps or (timer_ps == time_ps and timer_ps < END_PS and timers[1].key < key):
            time_ps, key, from_timers = timer_ps, timers[1].key, True
        ending, end_ps = first_end(state.queued)
        if ending >= 0 and (end_ps < time_ps or (end_ps == time_ps and key >= END)):
            time_ps, key, what, from_timers = end_ps, END, ending, False
        else:
            ending = -1
        begin_ps = next_begin_ps(program)
        if totals.released and (min(begin_ps, time_ps) > totals.now_ps or (begin_ps > time_ps and key >= RELEASE)):
            if not network.rules[0].stride:
                return RELEASED
            admit_whole(state)
            continue
        if begin_ps <= time_ps:
            if begin_ps == END_PS:
                return FINISHED
            totals.now_ps = begin_ps
            next_begin(program, totals, begin_ps)
            continue
        totals.now_ps = time_ps
        if from_timers:
            asks = run_out(state, time_ps)
            if asks >= 0:
                totals.asks = asks
                return ASKS_AFTER_TIMEOUT
        elif lacks_room(network, state.queued):
            return NEEDS_ROOM
        elif key < ARRIVAL:
            depart(state, state.queued, key, what, ending >= 0, time_ps)
        elif key < SEND:
            if totals.chosen == choices:
                return NEEDS_ROOM
            arrive(state, what, time_ps)
        else:
            if totals.free_packet < 0:
                return NEEDS_ROOM
            asks = look(state, what, time_ps)
            if asks >= 0:
                totals.asks = asks
                return ASKS_FOR_PATH


@compiled
def _queued(part: tuple[Array, ...] | None) -> Queued | None:
    if part is None:
        return None
    return Queued(*part)
