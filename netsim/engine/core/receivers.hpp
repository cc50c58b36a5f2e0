// Receivers that ask for packets, each at the pace of its link (`netsim.engine.reference.credit`).
#pragma once

#include "calendar.hpp"
#include "congestion.hpp"

namespace netsim {

constexpr uint8_t CREDIT = 2;
// Serial of the first credit of a flow, behind the serials of its packets.
constexpr int64_t FIRST_GRANT = 1 << 27;

// Whether a flow has a packet to send, and no credit for it.
inline bool is_starved(Flow& flow) {
  return !flow.window && !flow.given_up && (flow.lost > 0 || flow.next < flow.packets);
}

// Adds a flow to the flows that the receiver asks for packets in turn.
inline void wait(const Hosts& hosts, Pacer& pacer, int64_t index) {
  auto& own = record_of<CreditState>(hosts.own, index);
  own.waits = 1;
  own.next_waiting = -1;
  if (pacer.first < 0) {
    pacer.first = index;
  } else {
    record_of<CreditState>(hosts.own, pacer.last).next_waiting = index;
  }
  pacer.last = index;
}

// A packet or its header, now its acknowledgement, has arrived at its receiver; see `transit.receive`.
inline void note(const State& state, Packet& packet, Flow& flow, int64_t now) {
  const auto& hosts = state.hosts;
  const auto credit = under<Credit>(state.network.rules, hosts, packet.flow);
  auto& own = credit.own;
  own.left = packet.node;
  own.arrived += 1;
  if (packet.trimmed) own.trims += 1;
  own.back_route = packet.route;
  if (!own.waits && credit.owed() > 0) {
    auto& pacer = hosts.pacers[flow.down];
    wait(hosts, pacer, packet.flow);
    if (!pacer.runs) {
      pacer.runs = 1;
      push(hosts.timers, std::max<int64_t>(now, pacer.next_ps), pull_key(flow.down), flow.down);
    }
  }
}

// Asks the next flow of the receiver behind a link for packets, and waits for their service time at its pace.
//
// `packet` is an unused record, which becomes the credit.
inline void pull(const State& state, int64_t link, Packet& packet, int64_t now) {
  const auto& rules = state.network.rules;
  const auto& hosts = state.hosts;
  auto& pacer = hosts.pacers[link];
  int64_t index = pacer.first;
  const auto credit = under<Credit>(rules, hosts, index);
  auto& own = credit.own;
  pacer.first = own.next_waiting;
  int64_t amount = std::max<int64_t>(0, std::min<int64_t>(credit.owed(), credit.settings.grant));
  own.granted += amount;
  own.grants += 1;
  own.waits = 0;
  if (credit.owed() > 0) wait(hosts, pacer, index);
  int64_t full_ps = state.network.kinds[state.network.links[link].kind].full_ps;
  pacer.next_ps = now + int64_t(amount * full_ps / credit.settings.pace);
  pacer.runs = pacer.first >= 0;
  if (pacer.runs) push(hosts.timers, pacer.next_ps, pull_key(link), link);
  packet.key = arrival_key(credit.flow.id, FIRST_GRANT + own.grants, 1);
  packet.sent_ps = now;
  packet.flow = index;
  packet.route = own.back_route;
  packet.links = 2 + state.routing.route_length[own.back_route];
  packet.hop = packet.trimmed = packet.marked = packet.notified = 0;
  packet.control = 1;
  packet.passes = !rules.acks_queue;
  packet.wire = rules.ack_wire;
  packet.refusal = CREDIT;
  packet.expected = own.granted;
}

}  // namespace netsim
