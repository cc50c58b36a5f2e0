"""Admission of the messages of an instant: flows and paths by each built-in transport's rule, in compiled code."""

import numpy as np

from netsim.engine.compiled.draws import draw
from netsim.engine.event.admission import create, line_up
from netsim.engine.event.balance import balance, take_sorted
from netsim.engine.event.calendar import push
from netsim.engine.event.choices import epoch_of
from netsim.engine.event.compiled import compiled
from netsim.engine.event.recovery import SELECTIVE
from netsim.engine.event.state import Record, State, Whole

WHOLE, HASHED, CHECKSUM, PARTS, BALANCED = range(5)
"""Rules: a flow a message, whose packets choose their paths; a flow a message on a path by hash, or by CRC-32; equal
parts of a message, each on a path by hash; `netsim.transport.ethereal`."""

_POLYNOMIAL = np.uint64(0xEDB88320)
"""Of CRC-32 (ISO-HDLC), lowest bit first."""
_ONES = np.uint64(0xFFFFFFFF)
_BYTES = _BITS = 8


@compiled
def admit(state: State) -> bool:
    """Turns the messages of this instant into flows in their hosts' rings; False if there is no room for the flows."""
    totals, rules, hosts = state.network.totals[0], state.network.rules[0], state.hosts
    if totals.flows + totals.released * rules.parts > len(hosts.flows):
        return False
    if rules.recovery == SELECTIVE and rules.listens and totals.rows + _most_packets(state) > len(hosts.sent):
        return False
    cut(state)
    totals.released = 0
    line_up(state)
    return True


@compiled
def cut(state: State) -> None:
    """Creates the flows of the messages of this instant."""
    _sort(state)
    if state.network.rules[0].admission == BALANCED:
        balance(state)
    else:
        _cut(state)


@compiled
def _most_packets(state: State) -> Whole:
    """No fewer packets than the flows of this instant have."""
    totals, rules, most = state.network.totals[0], state.network.rules[0], np.int64(0)
    for row in range(totals.released):
        most += state.program.bytes[state.program.released[row]] // rules.payload + rules.parts
    return most


@compiled
def _sort(state: State) -> None:
    """Brings the messages of this instant into the order of their numbers."""
    program, count, in_order = state.program, state.network.totals[0].released, True
    for row in range(1, count):
        in_order &= program.released[row - 1] < program.released[row]
    if not in_order:
        for row in range(count):
            push(program.sorter, program.released[row], np.int64(0), program.released[row])
        take_sorted(program.sorter, program.released, np.int64(0), count)


@compiled
def _cut(state: State) -> None:
    """Admission of transports that look at each message alone."""
    totals, program, rules = state.network.totals[0], state.program, state.network.rules[0]
    epoch = epoch_of(state.routing, totals.now_ps) if rules.epochs > 1 else 0
    for row in range(totals.released):
        task = program.released[row]
        size = program.bytes[task]
        if rules.admission == PARTS:
            pair = program.src[task] << 32 | program.dst[task]
            for part in range(min(size, rules.parts)):
                share = size // rules.parts + (part < size % rules.parts)
                path = _usable(state, task, draw(rules.path_draws, pair, part), epoch)
                create(state, task * rules.parts + part, task, share, path, np.int64(0), np.int64(0))
            continue
        path = np.int64(-1)
        if rules.admission == HASHED:
            path = _usable(state, task, draw(rules.path_draws, program.src[task], program.dst[task]), epoch)
        elif rules.admission == CHECKSUM:
            path = _usable(state, task, _checksum(rules, program.src[task], program.dst[task]), epoch)
        create(state, task * rules.places, task, size, path, np.int64(0), np.int64(0))


@compiled
def _usable(state: State, task: int, drawn: int, epoch: int) -> Whole:
    """The usable path of a task that a hash picks."""
    program, routing, rules = state.program, state.routing, state.network.rules[0]
    src, dst = routing.leaf[program.src_host[task]], routing.leaf[program.dst_host[task]]
    row = routing.pair[src * rules.leaves + dst] * rules.epochs + epoch
    begin = routing.usable_begin[row]
    return routing.usable[begin + np.int64(drawn % np.uint64(routing.usable_begin[row + 1] - begin))]


@compiled
def _checksum(rules: Record, src: int, dst: int) -> Whole:
    """CRC-32 of seed, source and destination; `path_draws` is that of the seed alone."""
    checksum = np.uint64(rules.path_draws) ^ _ONES
    for value in (np.uint64(src), np.uint64(dst)):
        for byte in range(_BYTES):
            checksum ^= (value >> np.uint64(8 * byte)) & np.uint64(0xFF)
            for _ in range(_BITS):
                checksum = (checksum >> np.uint64(1)) ^ (_POLYNOMIAL * (checksum & np.uint64(1)))
    return checksum ^ _ONES
