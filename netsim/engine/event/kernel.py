"""The event engine's loop."""

from netsim.engine.event.calendar import END_PS, RELEASE, SEND, close, first_time
from netsim.engine.event.compiled import called
from netsim.engine.event.cutting import admit
from netsim.engine.event.feedback import arrive, run_out
from netsim.engine.event.program import begin_roots, next_begin, next_begin_ps
from netsim.engine.event.sender import look, resume
from netsim.engine.event.state import Array, Hosts, Network, Program, Routing, State, Whole

FINISHED, NEEDS_FLOWS, ASKS_FOR_PATH, ASKS_AFTER_TIMEOUT, NEEDS_ROOM = range(5)
"""Why the loop stops: all tasks are done; released messages need room for their flows; a flow's path has failed; a flow
has timed out; the arrays of packets or of choices are full."""


@called
def run(arrays: tuple[tuple[Array, ...], ...], resumed: int) -> Whole:
    """Simulates until the loop must stop, and returns why; times and flows are in `Totals`.

    Args:
        arrays: The fields of `State`, as tuples without names, which are quicker to hand over.
        resumed: A flow that goes on after a timeout, or -1.
    """
    state = State(Network(*arrays[0]), Hosts(*arrays[1]), Program(*arrays[2]), Routing(*arrays[3]))
    network, timers, program = state.network, state.hosts.timers, state.program
    calendar, totals = network.calendar, network.totals[0]
    if totals.now_ps < 0:
        totals.now_ps = 0
        begin_roots(program, totals)
    if resumed >= 0:
        resume(network, state.hosts, resumed, totals.now_ps)
    choices = len(state.routing.chosen)
    while True:
        close(calendar)
        time_ps, key, what = first_time(calendar), calendar[1].key, calendar[1].what
        timer_ps, from_timers = first_time(timers), False
        if timer_ps < time_ps or (timer_ps == time_ps and timer_ps < END_PS and timers[1].key < key):
            time_ps, key, from_timers = timer_ps, timers[1].key, True
        begin_ps = next_begin_ps(program)
        if totals.released and (min(begin_ps, time_ps) > totals.now_ps or (begin_ps > time_ps and key >= RELEASE)):
            if not admit(state):
                return NEEDS_FLOWS
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
