"""Acknowledgements and timeouts at senders, in compiled code: see `netsim.engine.reference.feedback`."""

import numpy as np

from netsim.engine.event.calendar import RELEASE, close, phase, replace, take_first
from netsim.engine.event.choices import REPS, came_through
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import on_ack, on_timeout
from netsim.engine.event.queues import serial_of
from netsim.engine.event.recovery import acknowledged, refused, timed_out
from netsim.engine.event.sender import await_progress, enter_ring, resume
from netsim.engine.event.state import Record, State, Whole
from netsim.engine.event.transit import drop, enter, next_link, receive
from netsim.engine.reference.feedback import PATIENCE


@compiled
def arrive(state: State, lane: int, now: int) -> None:
    """The first packet of a lane is at the end of its link; the calendar's first entry is that lane's."""
    network = state.network
    way = network.lanes[lane]
    index = np.int64(way.first)
    packet = network.packets[index]
    way.first = packet.next
    if way.first < 0:
        way.last = -1
        take_first(network.calendar)
    else:
        following = network.packets[way.first]
        following.previous = -1
        replace(network.calendar, following.time_ps, following.key, lane)
    flow = state.hosts.flows[packet.flow]
    if packet.hop == flow.links:
        if packet.control:
            _hear(state, packet, flow, now)
        if packet.control or not receive(state, packet, flow, now):
            drop(network, index)
            return
    enter(state, index, next_link(state, packet, flow, now), lane >> 1, now)


@compiled
def run_out(state: State, now: int) -> Whole:
    """The first timer runs out, or a delayed flow starts; returns a flow that needs a new path, or -1."""
    network, hosts = state.network, state.hosts
    index, key = hosts.timers[1].what, hosts.timers[1].key
    flow = hosts.flows[index]
    take_first(hosts.timers)
    close(hosts.timers)
    if phase(key) == RELEASE:
        enter_ring(state, index, now)
    elif key & 1:
        flow.wake_ps = -1
        resume(state, index, now)
    elif not flow.in_flight:
        flow.timer_runs = 0
    elif now < flow.deadline_ps:
        await_progress(hosts, flow, index)
    else:
        return _give_up(state, flow, index, now)
    return np.int64(-1)


@compiled
def _hear(state: State, news: Record, flow: Record, now: int) -> None:
    """An acknowledgement is back at the sender."""
    network, hosts = state.network, state.hosts
    rules, index = network.rules[0], np.int64(news.flow)
    if news.refusal:
        newly = refused(rules, flow, hosts, np.int64(news.sequence), serial_of(news), np.int64(news.expected))
    else:
        newly = acknowledged(rules, flow, hosts, np.int64(news.sequence), serial_of(news), np.int64(news.expected))
    if newly or news.refusal:
        flow.deadline_ps = now + rules.timeout_ps
    on_ack(rules, flow, newly, news.marked, news.notified, now - news.sent_ps, now)
    if rules.choice == REPS and not news.marked:
        came_through(rules, state.routing, flow, index, news.way - flow.first_way)
    resume(state, index, now)


@compiled
def _give_up(state: State, flow: Record, index: int, now: int) -> Whole:
    """Timeout of a flow."""
    network, hosts = state.network, state.hosts
    rules = network.rules[0]
    flow.timer_runs = 0
    timed_out(rules, flow, hosts)
    on_timeout(rules, flow, now)
    if rules.choice == REPS:
        flow.frozen_ps = now + rules.freeze_ps
    if rules.asks_after_timeout or flow.fruitless + 1 >= PATIENCE:
        return index
    flow.fruitless += 1
    resume(state, index, now)
    return np.int64(-1)
