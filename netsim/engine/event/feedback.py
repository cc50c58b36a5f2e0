"""Acknowledgements and timeouts at senders, in compiled code: see `netsim.engine.reference.feedback`."""

import numpy as np

from netsim.engine.event.calendar import RELEASE, phase
from netsim.engine.event.choices import REPS, came_through
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import on_ack, on_timeout
from netsim.engine.event.credit import CREDIT, is_starved, on_credit
from netsim.engine.event.queues import serial_of
from netsim.engine.event.recovery import acknowledged, measure, refused, timed_out, timeout_ps
from netsim.engine.event.rounds import note_answer
from netsim.engine.event.sender import await_progress, await_progress_sooner, enter_ring, resume
from netsim.engine.event.state import Hosts, Network, Record, State, Whole
from netsim.engine.event.watching import note_window


@compiled
def is_back(packet: Record) -> bool:
    """Whether a packet is an acknowledgement that has come back to its sender."""
    return packet.control and packet.hop == packet.links


@compiled
def run_out(state: State, index: int, key: int, now: int) -> Whole:
    """A timer runs out, or a delayed flow starts; returns the flow if Python decides about it, else -1."""
    hosts = state.hosts
    flow = hosts.flows[index]
    if phase(key) == RELEASE:
        enter_ring(state, index, now)
    elif key & 1:
        flow.wake_ps = -1
        resume(state, index, now)
    elif not flow.in_flight and not is_starved(flow):
        flow.timer_runs = 0
    elif now < flow.deadline_ps:
        await_progress(hosts, flow, index)
    else:
        return _give_up(state, flow, index, now)
    return np.int64(-1)


@compiled
def hear(state: State, news: Record, now: int) -> None:
    """An acknowledgement is back at the sender."""
    network, hosts = state.network, state.hosts
    rules, index = network.rules[0], np.int64(news.flow)
    flow = hosts.flows[index]
    if news.refusal == CREDIT:
        on_credit(flow, hosts.asked[index], np.int64(news.expected))
        if rules.timeout_ps >= 0:
            flow.deadline_ps = now + timeout_ps(rules, flow)
        resume(state, index, now)
        return
    if news.refusal:
        newly = refused(rules, flow, hosts, np.int64(news.sequence), serial_of(news), np.int64(news.expected))
    else:
        newly = acknowledged(rules, flow, hosts, np.int64(news.sequence), serial_of(news), np.int64(news.expected))
    if newly or news.refusal:
        note_answer(state, flow.task, newly > 0)
    if rules.timeout_ps >= 0:
        _note_news(network, hosts, index, news, newly > 0, now)
    on_ack(rules, hosts, index, newly, news.marked, news.notified, news.refusal, now - news.sent_ps, now)
    note_window(hosts, rules, flow, now - news.sent_ps, now)
    if rules.choice == REPS and news.marked != 1:
        flow.unmarked += 1
        if flow.unmarked % rules.every == 0:
            came_through(rules, state.routing, flow, index, news.way - flow.first_way)
    resume(state, index, now)


@compiled
def _note_news(network: Network, hosts: Hosts, index: int, news: Record, progress: bool, now: int) -> None:
    """See `netsim.engine.reference.feedback.Feedback._note_news`."""
    rules, flow = network.rules[0], hosts.flows[index]
    doubled = flow.fruitless > 0
    if not news.refusal:
        measure(rules, flow, now - news.sent_ps)
    if progress:
        flow.fruitless = 0
    if progress or news.refusal:
        flow.deadline_ps = now + timeout_ps(rules, flow)
    if progress and doubled and flow.timer_runs:
        await_progress_sooner(network, hosts, flow, index)


@compiled
def _give_up(state: State, flow: Record, index: int, now: int) -> Whole:
    """Timeout of a flow."""
    network, hosts = state.network, state.hosts
    rules = network.rules[0]
    flow.timer_runs = 0
    timed_out(rules, flow, hosts)
    on_timeout(rules, hosts, index, now)
    if rules.choice == REPS and not (rules.explore and (flow.frozen_ps or flow.exploring)):
        flow.frozen_ps = now + rules.freeze_ps
    flow.fruitless += 1
    if rules.asks_after_timeout or flow.fruitless >= rules.patience:
        return index
    resume(state, index, now)
    return np.int64(-1)
