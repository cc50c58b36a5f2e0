// Acknowledgements and timeouts at senders (`netsim.engine.reference.feedback`).
#pragma once

#include "sender.hpp"

namespace netsim {

// Whether a packet is an acknowledgement that has come back to its sender.
inline bool is_back(Packet& packet) { return packet.control && packet.hop == packet.links; }

// Timeout of a flow.
inline int64_t give_up(const State& state, Flow& flow, int64_t index, int64_t now) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  const auto& rules = network.rules;
  flow.timer_runs = 0;
  timed_out(rules, flow, hosts);
  on_timeout(rules, hosts, index, now);
  trace(now, "timed out", -1, flow.id, flow.window);
  if (rules.choice == REPS && !(rules.explore && (flow.frozen_ps || flow.exploring))) {
    flow.frozen_ps = now + rules.freeze_ps;
  }
  flow.fruitless += 1;
  if (rules.asks_after_timeout || flow.fruitless >= rules.patience) return index;
  resume(state, index, now);
  return -1;
}

// A timer runs out, or a delayed flow starts; returns the flow if Python decides about it, else -1.
inline int64_t run_out(const State& state, int64_t index, int64_t key, int64_t now) {
  const auto& hosts = state.hosts;
  auto& flow = hosts.flows[index];
  if (phase(key) == RELEASE) {
    enter_ring(state, index, now);
  } else if (key & 1) {
    flow.wake_ps = -1;
    resume(state, index, now);
  } else if (!flow.in_flight && !is_starved(flow)) {
    flow.timer_runs = 0;
  } else if (now < flow.deadline_ps) {
    await_progress(hosts, flow, index);
  } else {
    return give_up(state, flow, index, now);
  }
  return -1;
}

// As `netsim.engine.reference.feedback.Feedback._note_ack`.
inline void note_ack(const Network& network, const Hosts& hosts, int64_t index, Packet& ack, bool progress,
                     int64_t now) {
  const auto& rules = network.rules;
  auto& flow = hosts.flows[index];
  bool doubled = flow.fruitless > 0;
  if (!ack.refusal) measure(rules, flow, now - ack.sent_ps);
  if (progress) flow.fruitless = 0;
  if (progress || ack.refusal) flow.deadline_ps = now + timeout_ps(rules, flow);
  if (progress && doubled && flow.timer_runs) await_progress_sooner(network, hosts, flow, index);
}

// An acknowledgement is back at the sender.
inline void receive_ack(const State& state, Packet& ack, int64_t now) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  const auto& rules = network.rules;
  int64_t index = ack.flow;
  auto& flow = hosts.flows[index];
  if (ack.refusal == CREDIT) {
    on_credit(rules, hosts, index, ack.expected);
    trace(now, "credited", -1, ack, flow.window);
    if (rules.timeout_ps >= 0) flow.deadline_ps = now + timeout_ps(rules, flow);
    resume(state, index, now);
    return;
  }
  int64_t newly;
  if (ack.refusal) {
    newly = refused(rules, flow, hosts, ack.sequence, serial_of(ack), ack.expected);
  } else {
    newly = acknowledged(rules, flow, hosts, ack.sequence, serial_of(ack), ack.expected);
  }
  if (newly || ack.refusal) note_progress(state, flow.task, newly > 0);
  if (rules.timeout_ps >= 0) note_ack(network, hosts, index, ack, newly > 0, now);
  on_ack(rules, hosts, index, {newly, ack.marked > 0, ack.notified > 0, ack.refusal > 0, now - ack.sent_ps, now});
  trace(now, "acknowledged", -1, ack, flow.window);
  note_window(hosts, rules, flow, now - ack.sent_ps, now);
  if (rules.choice == REPS && ack.marked != 1) {
    flow.unmarked += 1;
    if (flow.unmarked % rules.every == 0) came_through(rules, state.routing, flow, index, ack.route - flow.first_route);
  }
  resume(state, index, now);
}

}  // namespace netsim
