"""What switches hold, in compiled code: see `netsim.engine.reference.conditions`. Nothing here knows the calendar."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Queued, Record, Whole
from netsim.topology.keys import MILLION

REFUSED, TAKEN, TELLS = range(3)
"""What becomes of a packet that comes to a switch; TELLS: it is taken, and its queue is told to stop."""

_MILLION = np.int64(MILLION)


@compiled
def takes(rules: Record, queued: Queued, wire: int, source: int, queue: int, switch: int) -> Whole:
    """Takes a packet into a switch if there is room."""
    from_, to, memory = queued.queues[source], queued.queues[queue], queued.switches[switch]
    if rules.memory_bytes >= 0:
        free = rules.memory_bytes - memory.used
        if wire > free:
            return np.int64(REFUSED)
        if not rules.pauses and to.length * _MILLION >= rules.alpha * free:
            return np.int64(REFUSED)
    if rules.pauses and not rules.dynamic and from_.held + wire > from_.most:
        return np.int64(REFUSED)
    memory.used += wire
    to.length += wire
    from_.held += wire
    if rules.pauses and not from_.told and from_.held * _MILLION > _threshold(rules, memory):
        from_.told = 1
        memory.told += 1
        return np.int64(TELLS)
    return np.int64(TAKEN)


@compiled
def gives_back(rules: Record, queued: Queued, wire: int, source: int, queue: int, switch: int) -> bool:
    """Frees the memory of a packet; returns whether the queue that it came from is told to go on."""
    from_, memory = queued.queues[source], queued.switches[switch]
    memory.used -= wire
    queued.queues[queue].length -= wire
    from_.held -= wire
    if not from_.told:
        return False
    if rules.dynamic:
        enough = max(np.int64(0), _threshold(rules, memory) - rules.resume_below * _MILLION)
    else:
        enough = rules.resume_at * _MILLION
    if from_.held * _MILLION > enough:
        return False
    from_.told = 0
    memory.told -= 1
    return True


@compiled
def _threshold(rules: Record, memory: Record) -> Whole:
    """Millionths of a byte that a switch may hold from one queue before it pauses that queue."""
    if rules.dynamic:
        return rules.alpha * max(np.int64(0), memory.pool - memory.used)
    return rules.pause_above * _MILLION
