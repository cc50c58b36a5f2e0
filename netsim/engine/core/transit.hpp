// Passage of packets and acknowledgements from link to link.
#pragma once

#include <tuple>

#include "paths.hpp"
#include "receivers.hpp"
#include "recovery.hpp"
#include "tasks.hpp"

namespace netsim {

constexpr int64_t GONE = -1;
constexpr int64_t HELD = -2;

// A link of a packet's path.
inline int64_t link(const Routing& routing, Packet& packet, Flow& flow, int64_t hop) {
  if (hop == 0) return flow.up;
  if (hop == packet.links - 1) return flow.down;
  return routing.route_links(packet.route, hop - 1);
}

// The link from which a packet has come to where it is, or -1 at its host.
inline int64_t link_before(const State& state, Packet& packet, Flow& flow) {
  if (!packet.hop) return -1;
  if (packet.control) return state.routing.reverse[link(state.routing, packet, flow, packet.links - packet.hop)];
  return link(state.routing, packet, flow, packet.hop - 1);
}

// Adds a packet to the queue in front of a link.
inline std::pair<int64_t, int64_t> queue_up(const State& state, const Queued* queued, Packet& packet, int64_t link,
                                            int64_t now) {
  if (!queued) return join(state.network, packet, link, now);
  auto& flow = state.hosts.flows[packet.flow];
  int64_t came = link_before(state, packet, flow);
  return stand(state.network, state.routing, *queued, packet, flow.traffic_class, link, came, now);
}

// Notes what a link carries; links with queues do so when a transmission ends, see `queued.finish`.
inline void note_carried(const Network& network, const Queued* queued, Packet& packet, int64_t link, int64_t leaves) {
  if (queued && !packet.passes) return;
  if (!packet.control) note_carried(network, link, leaves, packet.wire);
}

inline void note_order(Flow& flow, Packet& packet) {
  if (packet.sequence < flow.highest) {
    flow.reordered += 1;
  } else {
    flow.highest = packet.sequence;
  }
}

// Turns a packet at its receiver into its acknowledgement; returns whether there is one.
inline bool receive(const State& state, Packet& packet, Flow& flow, int64_t now) {
  const auto& rules = state.network.rules;
  packet.expected = 0;
  int64_t verdict = REFUSE;
  trace(now, "received", flow.down, packet);
  if (!packet.trimmed) {
    note_order(flow, packet);
    verdict = received(rules, flow, state.hosts, packet.sequence);
    if (verdict & ACCEPTED) {
      flow.left -= 1;
      if (!flow.left) {
        flow.end_ps = now;
        delivered(state.program, flow.task, now);
      }
    }
    packet.expected = flow.expected;
  }
  if (rules.receivers_ask) packet.node = flow.left;
  if (!(verdict & (ACKNOWLEDGE | REFUSE))) return false;
  packet.refusal = (verdict & REFUSE) != 0;
  packet.key |= 1;
  packet.control = 1;
  packet.passes = !rules.acks_queue;
  packet.hop = 0;
  packet.wire = rules.ack_wire;
  packet.notified = 0;
  if (!packet.marked) packet.marked = packet.trimmed;
  if (rules.notify_ps >= 0 && packet.marked && now - flow.notified_ps >= rules.notify_ps) {
    flow.notified_ps = now;
    packet.notified = 1;
  }
  return true;
}

// Returns an acknowledgement that nothing can stop or delay: its links are counted, and none needs an event.
inline int64_t return_at_once(const State& state, Packet& packet, Flow& flow, int64_t now) {
  const auto& routing = state.routing;
  int64_t arrives = now + flow.ack_ps;
  if (packet.links > 2) {
    if (!flow.alike) arrives += routing.route_ack_ps[packet.route];
    routing.route_acks[packet.route] += 1;
  }
  flow.acks += 1;
  state.network.totals.control_hops += packet.links;
  packet.hop = packet.links;
  return arrives;
}

// Forwards a packet whose last bit leaves a link at `leaves`; returns when its next event is, or GONE.
inline int64_t forward(const State& state, Packet& packet, int64_t link, int64_t leaves) {
  const auto& network = state.network;
  int64_t arrives = leaves + network.kinds[network.links[link].kind].delay_ps;
  if (!packet.passes) trace(leaves, "departed", link, packet);
  packet.hop += 1;
  note_carried(network, state.queued, packet, link, leaves);
  if (packet.passes || packet.control || packet.hop < packet.links) return arrives;
  auto& flow = state.hosts.flows[packet.flow];
  if (flow.express) return receive(state, packet, flow, arrives) ? return_at_once(state, packet, flow, arrives) : GONE;
  if (network.rules.listens && packet.links > 1) return arrives;
  trace(arrives, "received", link, packet);
  note_order(flow, packet);
  flow.left -= 1;
  flow.end_ps = std::max<int64_t>(flow.end_ps, arrives);
  if (!flow.left) delivered(state.program, flow.task, flow.end_ps);
  return GONE;
}

// Passes a packet over a link; returns when it arrives at its next event, GONE if there is none, or HELD.
inline int64_t enter(const State& state, Packet& packet, int64_t link, int64_t now) {
  const auto& network = state.network;
  int64_t fate;
  int64_t leaves;
  if (packet.passes) {
    std::tie(fate, leaves) = cross(network, packet, link, now);
  } else {
    trace(now, "queued", link, packet);
    std::tie(fate, leaves) = queue_up(state, state.queued, packet, link, now);
    if (fate == TRIMMED) {
      bool forgiven = network.rules.forgives_last_link && packet.hop == packet.links - 1;
      packet.trimmed = forgiven ? 2 : 1;
      packet.passes = 1;
      packet.wire = network.rules.trimmed_wire;
      std::tie(fate, leaves) = cross(network, packet, link, now);
    }
  }
  if (fate == WAITS) return HELD;
  return fate == LOST ? GONE : forward(state, packet, link, leaves);
}

// The next link of a packet on its present route.
inline int64_t planned_link(const State& state, Packet& packet, Flow& flow) {
  if (packet.control) return state.routing.reverse[link(state.routing, packet, flow, packet.links - 1 - packet.hop)];
  return link(state.routing, packet, flow, packet.hop);
}

// The next link of a packet.
inline int64_t next_link(const State& state, Packet& packet, int64_t now) {
  const auto& network = state.network;
  const auto& routing = state.routing;
  auto& flow = state.hosts.flows[packet.flow];
  if (packet.control) return planned_link(state, packet, flow);
  if (network.rules.choice == AT_SWITCH && packet.hop < packet.links - 1) {
    int64_t row = choose_next(network, state.hosts, routing, state.queued, packet.flow, packet, serial_of(packet), now);
    packet.node = routing.child_node[row];
    packet.route = routing.node_route[packet.node];
    packet.links = 2 + routing.route_length[packet.route];
    return routing.child_link[row];
  }
  if (network.rules.choice == AT_FIRST_SWITCH && packet.hop == 1 && packet.links > 2) {
    packet.route = flow.first_route + choose_path_at_switch(state, flow, packet, serial_of(packet), now);
    packet.links = 2 + routing.route_length[packet.route];
  }
  return planned_link(state, packet, flow);
}

}  // namespace netsim
