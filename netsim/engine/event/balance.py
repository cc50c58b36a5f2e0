"""`netsim.transport.ethereal` for the messages of one instant, in compiled code.

Messages are sorted by heaps, and lists are kept in scratch space of `Program`, since compiled code allocates nothing.
"""

import numpy as np

from netsim.engine.compiled.draws import draw
from netsim.engine.event.admission import create
from netsim.engine.event.calendar import close, push, take_first
from netsim.engine.event.choices import epoch_of
from netsim.engine.event.compiled import compiled
from netsim.engine.event.keys import flow_key, message_key
from netsim.engine.event.state import Array, Record, State, Whole

_SIGN = np.uint64(1 << 63)

MEMBER, GROUP, BEGIN, SLOT = range(4)
"""Rows of `Program.groups`: messages group by group; group of each message, then the order of groups; begin of each
group; hash table of groups."""
TURN, NUMBER = range(2)
"""Rows of `Program.ways`: ways of a group in its order; the same before they are turned."""
SEEN, APPEARED = range(2)
"""Rows of `Program.seen`: ways seen of each link; which of the links was seen first."""


@compiled
def balance(state: State) -> None:
    """Turns the messages of this instant into flows."""
    room, rules, totals = state.program, state.network.rules[0], state.network.totals[0]
    sorter, groups = room.sorter, _group(state, totals.released)
    for group in range(groups):
        first = room.released[room.groups[MEMBER, room.groups[BEGIN, group]]]
        if rules.shuffled_groups:
            drawn = draw(rules.leaf_draws, message_key(state.network, first), 0)
            push(sorter, np.int64(drawn ^ _SIGN), first, np.int64(group))
        else:
            room.groups[GROUP, group] = group
    if rules.shuffled_groups:
        take_sorted(sorter, room.groups[GROUP], np.int64(0), groups)
    epoch = epoch_of(state.routing, totals.now_ps) if rules.epochs > 1 else 0
    row = np.int64(0)
    for turn in range(groups):
        group = room.groups[GROUP, turn]
        row = _admit_group(state, room.groups[BEGIN, group], room.groups[BEGIN, group + 1], epoch, row)


@compiled
def take_sorted(sorter: Array, into: Array, at: int, count: int) -> None:
    """Empties a heap of `count` entries in order, into an array."""
    for place in range(count):
        into[at + place] = sorter[1].what
        take_first(sorter)
        close(sorter)


@compiled
def _ways(state: State, task: int) -> Whole:
    """Number of paths of a task's message, usable or not."""
    pair = _pair(state, task)
    return state.routing.way_begin[pair + 1] - state.routing.way_begin[pair]


@compiled
def _pair(state: State, task: int) -> Whole:
    program, routing = state.program, state.routing
    src, dst = routing.leaf[program.src_host[task]], routing.leaf[program.dst_host[task]]
    return routing.pair[src * state.network.rules[0].leaves + dst]


@compiled
def _link(state: State, task: int) -> Whole:
    """First link of a task's message."""
    src = state.program.src_host[task]
    return state.routing.inside[src] if src == state.program.dst_host[task] else state.routing.up[src]


@compiled
def _towards(state: State, task: int) -> Whole:
    """Leaf to which a message is balanced, -1 if it has one path only."""
    return state.routing.leaf[state.program.dst_host[task]] if _ways(state, task) > 1 else np.int64(-1)


@compiled
def _group(state: State, count: int) -> Whole:
    """Groups messages of one first link, destination leaf and size, in the order of their first; returns how many."""
    program, groups = state.program, state.program.groups
    slots, number = np.int64(2), np.int64(0)
    while slots < 2 * count:
        slots *= 2
    for row in range(count):
        task = program.released[row]
        link, leaf, size = _link(state, task), _towards(state, task), program.bytes[task]
        mixed = (link * 31 + leaf + 1) * 1_000_003 + size
        slot = (mixed ^ (mixed >> 20)) & (slots - 1)
        while groups[SLOT, slot]:
            known = program.released[groups[BEGIN, groups[SLOT, slot] - 1]]
            if program.bytes[known] == size and _link(state, known) == link and _towards(state, known) == leaf:
                break
            slot = (slot + 1) & (slots - 1)
        if not groups[SLOT, slot]:
            groups[BEGIN, number] = row
            number += 1
            groups[SLOT, slot] = number
        groups[GROUP, row] = groups[SLOT, slot] - 1
    groups[SLOT, :slots] = 0
    _gather(groups, count, number)
    return number


@compiled
def _gather(groups: Array, count: int, number: int) -> None:
    """Lays members out group by group, each in the order of the messages."""
    for group in range(number + 1):
        groups[BEGIN, group] = 0
    for row in range(count):
        groups[BEGIN, groups[GROUP, row]] += 1
    end = np.int64(0)
    for group in range(number):
        end += groups[BEGIN, group]
        groups[BEGIN, group] = end
    groups[BEGIN, number] = end
    for row in range(count - 1, -1, -1):
        group = groups[GROUP, row]
        groups[BEGIN, group] -= 1
        groups[MEMBER, groups[BEGIN, group]] = row


@compiled
def _admit_group(state: State, begin: int, end: int, epoch: int, row: int) -> Whole:
    """Balances a group over its usable ways; returns the number of flows of all groups so far, given that before."""
    room, rules = state.program, state.network.rules[0]
    for place in range(begin, end):
        room.groups[MEMBER, place] = room.released[room.groups[MEMBER, place]]
    first = room.groups[MEMBER, begin]
    if _ways(state, first) == 1:
        for place in range(begin, end):
            task = room.groups[MEMBER, place]
            row = _flow(state, task, np.int64(0), room.bytes[task], np.int64(0), row)
        return row
    ways = _good_ways(state, first, epoch)
    _order(state, first, begin, end, ways)
    flows = (end - begin) % ways
    whole = end - flows
    for place in range(begin, whole):
        task = room.groups[MEMBER, place]
        row = _flow(state, task, np.int64(0), room.bytes[task], room.ways[TURN, (place - begin) % ways], row)
    for place in range(whole, end):
        if rules.equal_pieces:
            row = _equal(state, room.groups[MEMBER, place], place - whole, flows, ways, row)
        else:
            row = _minimal(state, room.groups[MEMBER, place], place - whole, flows, ways, row)
    return row


@compiled
def _good_ways(state: State, task: int, epoch: int) -> Whole:
    """Lists usable ways that have not failed lately, or all usable ones if there is none; returns how many."""
    routing, rules, turn = state.routing, state.network.rules[0], state.program.ways[TURN]
    row = _pair(state, task) * rules.epochs + epoch
    begin, end = routing.usable_begin[row], routing.usable_begin[row + 1]
    count = np.int64(0)
    for place in range(begin, end):
        if not _is_avoided(state, task, routing.usable[place]):
            turn[count] = routing.usable[place]
            count += 1
    if count:
        return count
    for place in range(begin, end):
        turn[place - begin] = routing.usable[place]
    return end - begin


@compiled
def _is_avoided(state: State, task: int, way: int) -> bool:
    """Whether a way has failed one of its host's flows to that leaf lately."""
    avoided = state.program.avoided
    if not len(avoided):
        return False
    link, leaf = _link(state, task), state.routing.leaf[state.program.dst_host[task]]
    slot = place_of(len(avoided), link, leaf, way)
    while avoided[slot, 0] >= 0:
        if avoided[slot, 0] == link and avoided[slot, 1] == leaf and avoided[slot, 2] == way:
            return avoided[slot, 3] > state.network.totals[0].now_ps
        slot = (slot + 1) % len(avoided)
    return False


@compiled
def place_of(slots: int, link: int, leaf: int, way: int) -> Whole:
    """Where the search for a way begins in `Program.avoided`."""
    return ((link * 8191 + leaf) * 131 + way) % slots


@compiled
def _order(state: State, first: int, begin: int, end: int, ways: int) -> None:
    """Orders a group's ways and messages as the transport says."""
    rules, room, routing = state.network.rules[0], state.program, state.routing
    if rules.shuffled:
        for place in range(ways):
            way = room.ways[TURN, place]
            drawn = draw(rules.path_draws, message_key(state.network, first), way)
            push(room.sorter, np.int64(drawn ^ _SIGN), np.int64(place), way)
        take_sorted(room.sorter, room.ways[TURN], np.int64(0), ways)
        for place in range(begin, end):
            task = room.groups[MEMBER, place]
            drawn = draw(rules.member_draws, message_key(state.network, task), 0)
            push(room.sorter, np.int64(drawn ^ _SIGN), task, task)
        take_sorted(room.sorter, room.groups[MEMBER], begin, end - begin)
    elif rules.staggered:
        _links_in_turn(state, first, ways)
        source = routing.place[room.src_host[first]]
        for place in range(begin, end):
            task = room.groups[MEMBER, place]
            push(room.sorter, _ahead(source, routing.place[room.dst_host[task]], rules.hosts), task, task)
        take_sorted(room.sorter, room.groups[MEMBER], begin, end - begin)


@compiled
def _ahead(one: int, other: int, number: int) -> Whole:
    """Sort key of `other` by its distance from `one`, modulo `number`."""
    return other + number if other < one else np.int64(other)


@compiled
def _links_in_turn(state: State, task: int, ways: int) -> None:
    """Ways over one link up after the other, from the source's place on, each time on by the next of its ways."""
    routing, room, host = state.routing, state.program, state.program.src_host[task]
    base, leaf, different = routing.way_begin[_pair(state, task)], routing.leaf[host], np.int64(0)
    turn, links = room.ways[TURN], room.seen
    for place in range(ways):
        link = routing.way_links[base + turn[place], 0]
        if not links[SEEN, link]:
            links[APPEARED, link] = different
            different += 1
        room.ways[NUMBER, place] = links[SEEN, link]
        links[SEEN, link] += 1
    for place in range(ways):
        link = routing.way_links[base + turn[place], 0]
        nth = (room.ways[NUMBER, place] - leaf) % links[SEEN, link]
        push(room.sorter, nth * different + links[APPEARED, link], np.int64(place), turn[place])
    for place in range(ways):
        links[SEEN, routing.way_links[base + turn[place], 0]] = 0
    take_sorted(room.sorter, room.ways[NUMBER], np.int64(0), ways)
    for place in range(ways):
        turn[place] = room.ways[NUMBER, (place + routing.place[host]) % ways]


@compiled
def _equal(state: State, task: int, position: int, flows: int, ways: int, row: int) -> Whole:
    """Equal pieces of one of `flows` messages, which continue the turn."""
    one, other = flows, ways
    while other:
        one, other = other, one % other
    pieces, size = ways // one, state.program.bytes[task]
    for piece in range(min(pieces, size)):
        way = state.program.ways[TURN, (position * pieces + piece) % ways]
        row = _flow(state, task, np.int64(piece), size // pieces + (piece < size % pieces), way, row)
    return row


@compiled
def _minimal(state: State, task: int, position: int, flows: int, ways: int, row: int) -> Whole:
    """As few pieces as possible: way k takes bytes [k, k + 1) * total / s of the flows laid end to end."""
    each = state.program.bytes[task]
    total, begin, end = each * flows, position * each, (position + 1) * each
    turn, piece = begin * ways // total, np.int64(0)
    while begin < end:
        border = min(end, (turn + 1) * total // ways)
        if border > begin:
            row = _flow(state, task, piece, border - begin, state.program.ways[TURN, turn], row)
            piece += 1
            begin = border
        turn += 1
    return row


@compiled
def _flow(state: State, task: int, piece: int, size_bytes: int, way: int, row: int) -> Whole:
    """Creates a flow, in its turn in its host's ring; returns the number of flows so far."""
    rules = state.network.rules[0]
    identity = task * rules.places + piece
    delay_ps = np.int64(0)
    if rules.start_delay_ps:
        drawn = draw(rules.delay_draws, flow_key(state.network, identity), 0)
        delay_ps = np.int64(drawn % np.uint64(rules.start_delay_ps + 1))
    create(state, identity, task, size_bytes, way, delay_ps, _turn(rules, state, task, row))
    return row + 1


@compiled
def _turn(rules: Record, state: State, task: int, row: int) -> Whole:
    """Place of a flow among those its host releases together, if the transport orders them."""
    if not rules.staggered:
        return row
    program, routing = state.program, state.routing
    src, dst = program.src_host[task], program.dst_host[task]
    places = _ahead(routing.place[src], routing.place[dst], rules.hosts)
    return places * (2 * rules.leaves) + _ahead(routing.leaf[src], routing.leaf[dst], rules.leaves)
