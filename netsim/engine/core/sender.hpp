// The sending side of hosts' links: flows take turns (`netsim.engine.reference.nic`).
#pragma once

#include "transit.hpp"

namespace netsim {

// Whether there is a packet to send, the window has room for it, and the flow is not given up.
inline bool is_open(Flow& flow) {
  bool pending = !flow.given_up && (flow.lost > 0 || flow.next < flow.packets);
  return pending && flow.in_flight < flow.window && !(flow.alone && flow.in_flight);
}

// Adds a flow to the end of its host's ring; the link looks for a packet as soon as it is free.
inline void enter_ring(const State& state, int64_t index, int64_t now) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  auto& flow = hosts.flows[index];
  int64_t place = ring_of(state.queued, network.rules, flow);
  auto& ring = hosts.rings[place];
  flow.in_ring = 1;
  flow.next_in_ring = -1;
  if (ring.first < 0) {
    ring.first = index;
  } else {
    hosts.flows[ring.last].next_in_ring = index;
  }
  ring.last = index;
  if (ring.look_ps < 0 && !is_stopped(state.queued, place)) {
    ring.look_ps = std::max<int64_t>(now, network.links[flow.up].free_ps);
  }
}

// Sets a timer that wakes an open flow which only its pace holds back.
inline void keep_pace(const Hosts& hosts, Flow& flow, int64_t index) {
  if (flow.wake_ps != flow.next_ps) {
    flow.wake_ps = flow.next_ps;
    push(hosts.timers, flow.next_ps, timer_key(flow.id, 1), index);
  }
}

// Resumes a flow that is outside its host's ring, as soon as its pace allows.
inline void resume(const State& state, int64_t index, int64_t now) {
  const auto& hosts = state.hosts;
  auto& flow = hosts.flows[index];
  if (!flow.in_ring && is_open(flow)) {
    if (now >= flow.next_ps) {
      enter_ring(state, index, now);
    } else {
      keep_pace(hosts, flow, index);
    }
  }
}

// Starts the flow's retransmission timer, which runs until its deadline.
inline void await_progress(const Hosts& hosts, Flow& flow, int64_t index) {
  flow.timer_runs = 1;
  push(hosts.timers, flow.deadline_ps, timer_key(flow.id, 0), index);
}

// Moves the flow's running timer up to its deadline if that has become earlier; see `TOTALS.moves_up`.
inline void await_progress_sooner(const Network& network, const Hosts& hosts, Flow& flow, int64_t index) {
  if (!move_up(hosts.timers, flow.deadline_ps, timer_key(flow.id, 0))) network.totals.moves_up = index;
}

inline bool is_ready(Flow& flow, int64_t now) { return now >= flow.next_ps && is_open(flow); }

// Removes the first flow from a ring.
inline void leave_ring(const Hosts& hosts, Ring& ring) {
  auto& flow = hosts.flows[ring.first];
  flow.in_ring = 0;
  ring.first = flow.next_in_ring;
  if (ring.first < 0) ring.last = -1;
}

// Sends a packet of the first flow of a ring, and moves the flow to its next place; see `look`.
inline int64_t send(const State& state, Ring& ring, Flow& flow, int64_t index, int64_t epoch, Packet& packet,
                    int64_t now) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  const auto& routing = state.routing;
  const auto& rules = network.rules;
  auto& totals = network.totals;
  int64_t serial = flow.serial;
  if (rules.timeout_ps >= 0 && !flow.in_flight) flow.deadline_ps = now + timeout_ps(rules, flow);
  int64_t sequence = take(rules, flow, hosts);
  packet.key = arrival_key(flow.id, serial, 0);
  packet.sent_ps = now;
  packet.flow = index;
  packet.sequence = sequence;
  int64_t wire = sequence + 1 < flow.packets ? rules.full_wire : flow.last_wire;
  packet.wire = wire;
  packet.hop = packet.control = packet.passes = packet.trimmed = packet.marked = 0;
  int64_t path;
  if (rules.choice == PINNED) {
    path = flow.path;
  } else if (rules.choice == AT_SWITCH) {
    path = -1;
    packet.node = flow.pair * rules.epochs + epoch;
    packet.route = routing.node_route[packet.node];
  } else if (rules.choice == AT_FIRST_SWITCH) {
    path = -1;
    packet.node = flow.pair * rules.epochs + epoch;
    packet.route = flow.first_route + routing.usable[routing.usable_begin[packet.node]];
  } else {
    path = choose_path(rules, hosts, routing, index, serial, now, epoch);
  }
  if (path >= 0) packet.route = flow.first_route + path;
  packet.links = flow.even ? flow.links : 2 + routing.route_length[packet.route];
  auto& last = hosts.rings[first_ring(state.queued, rules, flow.up)];
  last.last_flow = index;
  last.last_path = path;
  last.last_wire = wire;
  last.last_epoch = epoch;
  totals.packets += 1;
  int64_t arrives = enter(state, packet, flow.up, now);
  if (flow.listens) {
    flow.next_ps = now + gap_ps(rules, hosts, index, wire, now);
    if (rules.timeout_ps >= 0 && !flow.timer_runs) await_progress(hosts, flow, index);
  }
  if (!is_ready(flow, now)) {
    leave_ring(hosts, ring);
    if (flow.listens && is_open(flow)) keep_pace(hosts, flow, index);
  } else if (rules.round_robin && ring.last != index) {
    ring.first = flow.next_in_ring;
    flow.next_in_ring = -1;
    hosts.flows[ring.last].next_in_ring = index;
    ring.last = index;
  }
  return arrives;
}

// Notes that the ring of a class has sent a packet.
inline void note_turn(const Queued* queued, int64_t link, int64_t place, int64_t size_bytes, bool more) {
  if (queued) {
    int64_t classes = queued->quanta.size;
    if (classes) note_sent(*queued, rings_of(*queued, link), place - link * classes, size_bytes, more);
  }
}

// Whether a flow of a ring may send; flows before it leave the ring.
inline bool has_flow(const Hosts& hosts, Ring& ring, int64_t now) {
  while (ring.first >= 0 && !is_ready(hosts.flows[ring.first], now)) leave_ring(hosts, ring);
  return ring.first >= 0;
}

// Whether the ring of a class may send on a link that is free; see the reference engine's `_whose_turn`.
inline bool has_turn(const State& state, const Queued* queued, int64_t link, int64_t place, int64_t now) {
  if (!queued) return true;
  const auto& hosts = state.hosts;
  const auto& rules = state.network.rules;
  int64_t first = link * rules.classes;
  if (!takes_turns(*queued, place - first)) return true;
  for (int64_t number = 0; number < rules.classes; ++number) {
    auto& ring = hosts.rings[first + number];
    bool sends = takes_turns(*queued, number) && !queued->queues[first + number].stopped;
    queued->needs[number] = sends && has_flow(hosts, ring, now) ? rules.full_wire : -1;
  }
  return first + next_class(*queued, rings_of(*queued, link)) == place;
}

// Sends the next packet of a ring of a host's link in an unused record, and notes when the ring looks again.
//
// Returns:
//     A flow that needs another path first, or -1; when the packet arrives at its next event, see `enter`.
inline std::pair<int64_t, int64_t> look(const State& state, int64_t place, Packet& packet, int64_t now) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  const auto& routing = state.routing;
  auto& ring = hosts.rings[place];
  const auto& rules = network.rules;
  int64_t link = link_of(state.queued, rules, place);
  if (is_stopped(state.queued, place)) {
    ring.look_ps = -1;
    return {-1, GONE};
  }
  if (network.links[link].free_ps > now) {
    ring.look_ps = network.links[link].free_ps;
    return {-1, GONE};
  }
  if (!has_flow(hosts, ring, now)) {
    ring.look_ps = -1;
    return {-1, GONE};
  }
  if (!has_turn(state, state.queued, link, place, now)) {
    ring.look_ps = now + 1;
    return {-1, GONE};
  }
  int64_t index = ring.first;
  auto& flow = hosts.flows[index];
  int64_t epoch = rules.epochs > 1 ? epoch_of(routing, now) : 0;
  if (rules.choice == PINNED && rules.epochs > 1) {
    int64_t row = flow.pair * rules.epochs + epoch;
    if (!is_usable(routing, routing.usable_begin[row], routing.usable_begin[row + 1], flow.path)) {
      return {index, GONE};
    }
  }
  int64_t arrives = send(state, ring, flow, index, epoch, packet, now);
  note_turn(state.queued, link, place, packet.wire, ring.first >= 0);
  ring.look_ps = ring.first >= 0 ? std::max<int64_t>(now, network.links[link].free_ps) : -1;
  return {-1, arrives};
}

}  // namespace netsim
