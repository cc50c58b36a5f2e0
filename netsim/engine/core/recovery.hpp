// Loss recovery of a flow (`netsim.congestion.recovery`).
//
// Packets in flight are a list in the order of their transmissions, through the records of `Hosts.sent`.
#pragma once

#include "state.hpp"

namespace netsim {

constexpr int64_t ACCEPTED = 1;
constexpr int64_t ACKNOWLEDGE = 2;
constexpr int64_t REFUSE = 4;
constexpr uint8_t BIT_ACKED = 1, BIT_LOST = 2, BIT_UNDER_ROUTE = 4;
constexpr int64_t ALL = int64_t(1) << 62;

// As `netsim.congestion.timeout.Timeout.lasts_ps`.
inline int64_t timeout_ps(const Rules& rules, Flow& flow) {
  int64_t base = std::max<int64_t>(rules.timeout_ps, (flow.smoothed_8 >> 3) + flow.deviation_4);
  if (!flow.fruitless) return base;
  int64_t lasts = base;
  int64_t doublings = flow.fruitless;
  while (doublings && lasts < rules.longest_timeout_ps) {
    lasts = 2 * lasts;
    doublings = doublings - 1;
  }
  return std::max<int64_t>(base, std::min<int64_t>(lasts, rules.longest_timeout_ps));
}

// As `netsim.congestion.timeout.Timeout.measure`.
inline void measure(const Rules& rules, Flow& flow, int64_t round_trip_ps) {
  if (!rules.estimates) return;
  if (!flow.smoothed_8) {
    flow.smoothed_8 = 8 * round_trip_ps;
    flow.deviation_4 = 2 * round_trip_ps;
    return;
  }
  int64_t difference = round_trip_ps - (flow.smoothed_8 >> 3);
  flow.smoothed_8 += difference;
  flow.deviation_4 += std::abs(difference) - (flow.deviation_4 >> 2);
}

// Takes the first lost packet.
inline int64_t first_lost(Flow& flow, const Hosts& hosts) {
  int64_t row = flow.first_row + flow.lost_from;
  while (!(hosts.sent[row].bits & BIT_LOST)) row += 1;
  hosts.sent[row].bits &= ~BIT_LOST;
  flow.lost -= 1;
  flow.lost_from = row + 1 - flow.first_row;
  return row - flow.first_row;
}

// The packet to send as the flow's next transmission; counts the transmission.
inline int64_t take(const Rules& rules, Flow& flow, const Hosts& hosts) {
  int64_t serial = flow.serial;
  flow.serial = serial + 1;
  flow.in_flight += 1;
  int64_t sequence;
  if (flow.lost) {
    sequence = first_lost(flow, hosts);
  } else {
    sequence = flow.next;
    flow.next = sequence + 1;
  }
  if (rules.recovery == SELECTIVE && flow.listens) {
    auto& sent = hosts.sent[flow.first_row + sequence];
    sent.bits |= BIT_UNDER_ROUTE;
    sent.last_serial = serial;
    sent.older = flow.newest;
    sent.newer = -1;
    if (flow.newest >= 0) {
      hosts.sent[flow.first_row + flow.newest].newer = sequence;
    } else {
      flow.oldest = sequence;
    }
    flow.newest = sequence;
  }
  if (sequence < flow.sent) {
    flow.retransmitted += 1;
  } else {
    flow.sent = sequence + 1;
  }
  return sequence;
}

// Go-back-N: everything before `expected` has arrived.
inline int64_t acknowledged_before(Flow& flow, int64_t expected) {
  int64_t newly = std::max<int64_t>(0, expected - flow.acked);
  flow.acked += newly;
  flow.next = std::max<int64_t>(flow.next, flow.acked);
  flow.in_flight = flow.next - flow.acked;
  if (newly) flow.alone = 0;
  return newly;
}

// A packet is no longer in flight.
inline void land(Flow& flow, const Hosts& hosts, Transmission& sent) {
  int64_t older = sent.older;
  int64_t newer = sent.newer;
  if (older >= 0) {
    hosts.sent[flow.first_row + older].newer = newer;
  } else {
    flow.oldest = newer;
  }
  if (newer >= 0) {
    hosts.sent[flow.first_row + newer].older = older;
  } else {
    flow.newest = older;
  }
  sent.bits &= ~BIT_UNDER_ROUTE;
  flow.in_flight -= 1;
}

inline void lose(Flow& flow, Transmission& sent, int64_t sequence) {
  if (!(sent.bits & (BIT_ACKED | BIT_LOST))) {
    sent.bits |= BIT_LOST;
    flow.lost += 1;
    flow.lost_from = flow.lost > 1 ? std::min<int64_t>(flow.lost_from, sequence) : sequence;
  }
}

// Counts transmissions in flight with serials below `limit` as lost.
inline void lose_before(Flow& flow, const Hosts& hosts, int64_t limit) {
  while (flow.oldest >= 0 && hosts.sent[flow.first_row + flow.oldest].last_serial < limit) {
    int64_t sequence = flow.oldest;
    auto& sent = hosts.sent[flow.first_row + sequence];
    land(flow, hosts, sent);
    lose(flow, sent, sequence);
  }
}

// An acknowledgement has arrived; returns the number of packets newly acknowledged.
inline int64_t acknowledged(const Rules& rules, Flow& flow, const Hosts& hosts, int64_t sequence, int64_t serial,
                            int64_t expected) {
  if (rules.recovery == NOTHING_LOST) {
    flow.in_flight -= 1;
    return 1;
  }
  if (rules.recovery == GO_BACK_N) return acknowledged_before(flow, expected);
  auto& sent = hosts.sent[flow.first_row + sequence];
  if (sent.bits & BIT_UNDER_ROUTE && sent.last_serial == serial) land(flow, hosts, sent);
  int64_t newly = sent.bits & BIT_ACKED ? 0 : 1;
  sent.bits |= BIT_ACKED;
  if (sent.bits & BIT_LOST) {
    sent.bits &= ~BIT_LOST;
    flow.lost -= 1;
  }
  if (rules.reordering >= 0) lose_before(flow, hosts, serial - rules.reordering);
  return newly;
}

// A negative acknowledgement (NACK) has arrived; returns the number of packets newly acknowledged.
inline int64_t refused(const Rules& rules, Flow& flow, const Hosts& hosts, int64_t sequence, int64_t serial,
                       int64_t expected) {
  if (rules.recovery == GO_BACK_N) {
    bool old = expected < flow.acked;
    int64_t newly = acknowledged_before(flow, expected);
    if (!old) {
      flow.next = flow.acked;
      flow.in_flight = 0;
    }
    return newly;
  }
  auto& sent = hosts.sent[flow.first_row + sequence];
  if (sent.bits & BIT_UNDER_ROUTE && sent.last_serial == serial) {
    land(flow, hosts, sent);
    lose(flow, sent, sequence);
  }
  return 0;
}

// The timeout has passed without progress.
inline void timed_out(const Rules& rules, Flow& flow, const Hosts& hosts) {
  if (rules.recovery == GO_BACK_N) {
    flow.next = flow.acked;
    flow.in_flight = 0;
    flow.alone = 1;
  } else {
    lose_before(flow, hosts, ALL);
  }
}

// A packet has arrived at the receiver; returns the bits of its acknowledgement.
inline int64_t received(const Rules& rules, Flow& flow, const Hosts& hosts, int64_t sequence) {
  if (rules.recovery == NOTHING_LOST) return ACCEPTED | ACKNOWLEDGE;
  if (rules.recovery == SELECTIVE) {
    int64_t row = flow.arrival_row + sequence;
    int64_t seen = hosts.arrived[row];
    hosts.arrived[row] = 1;
    return seen ? ACKNOWLEDGE : ACCEPTED | ACKNOWLEDGE;
  }
  if (sequence == flow.expected) {
    flow.expected += 1;
    return ACCEPTED | ACKNOWLEDGE;
  }
  if (sequence < flow.expected) return ACKNOWLEDGE;
  if (flow.complained == flow.expected) return 0;
  flow.complained = flow.expected;
  return REFUSE;
}

}  // namespace netsim
