// NSCC of a flow (`netsim.congestion.nscc`), whose arithmetic is repeated step by step.
#pragma once

#include <cmath>

#include "calendar.hpp"
#include "state.hpp"

namespace netsim {

// Gains and bounds: see `netsim.congestion.nscc`.
constexpr double BIT_TIME = 8e12;
constexpr double REFERENCE_PS = 12e6, REFERENCE_BYTES = 150'000, PROMPT_PS = 1e6;
constexpr double PROPORTIONAL = 4.0, FAIR = 5.0, STEADY = 0.15, FAST = 0.25, DECREASE = 0.8, LARGEST_DECREASE = 0.5;
constexpr double AVERAGE = 0.0125, VERY_LONG = 4.0, LARGEST_WINDOW = 1.5;
constexpr int64_t PERIOD_PACKETS = 8;

inline double largest(const Rules& rules, Flow& flow, Nscc& own) {
  double most = LARGEST_WINDOW * (own.base_ps * flow.line_bps / BIT_TIME);
  return std::max<double>(most, double(rules.full_wire));
}

// Keeps the window in packets, which the sender looks at, up to date.
inline void show(const Rules& rules, Flow& flow, Nscc& own) {
  flow.window = std::max<int64_t>(1, int64_t(own.window_bytes / double(rules.full_wire)));
}

// Sets the state at the start of a flow.
inline void start(const Rules& rules, Flow& flow, Nscc& own, int64_t round_trip_ps) {
  double packet = double(rules.full_wire);
  own.network_ps = rules.network_ps > 0 ? rules.network_ps : round_trip_ps;
  flow.target_ps = rules.target_ps > 0 ? rules.target_ps : int64_t(rules.trim_share * own.network_ps);
  flow.alpha = own.network_ps * flow.line_bps / BIT_TIME / REFERENCE_BYTES;
  own.base_ps = round_trip_ps;
  own.most = largest(rules, flow, own);
  double first = rules.fixed_window > 0 ? rules.fixed_window * packet : own.most;
  own.window_bytes = std::max<double>(first, packet);
  show(rules, flow, own);
}

// The flow takes over the state of an earlier one; what has got through is counted anew.
inline void go_on(Nscc& own, const Nscc& earlier) {
  own.window_bytes = earlier.window_bytes;
  own.average_ps = earlier.average_ps;
  own.rise = earlier.rise;
  own.most = earlier.most;
  own.received = earlier.received;
  own.prompt = earlier.prompt;
  own.ignored = earlier.ignored;
  own.to_ignore = earlier.to_ignore;
  own.fast = earlier.fast;
  own.base_ps = earlier.base_ps;
  own.network_ps = earlier.network_ps;
  own.adjusted_ps = earlier.adjusted_ps;
  own.achieved = 0.0;
  own.adapts_ps = 0;
  own.trimmed = 0;
}

inline bool adapt(const Rules& rules, Flow& flow, Nscc& own, bool loss, int64_t marked, int64_t now, double in_flight) {
  bool done = marked && own.ignored < own.to_ignore;
  if (!done && now > own.adapts_ps) {
    if (own.adapts_ps && (loss || own.trimmed) && own.achieved * rules.gate < own.most) {
      own.window_bytes = std::max<double>(own.achieved, double(rules.full_wire));
      own.to_ignore = in_flight;
      own.ignored = 0.0;
      own.trimmed = 0;
      done = true;
    }
    own.achieved = 0.0;
    own.adapts_ps = now + own.base_ps + flow.target_ps;
  }
  if (done) own.rise = own.received = 0.0;
  return done;
}

inline void bound(const Rules& rules, Nscc& own) {
  own.window_bytes = std::min<double>(std::max<double>(own.window_bytes, double(rules.full_wire)), own.most);
}

inline void refuse(const Rules& rules, Flow& flow, Nscc& own, int64_t now) {
  double packet = double(rules.full_wire);
  own.ignored += packet;
  own.average_ps = AVERAGE * own.network_ps + (1.0 - AVERAGE) * own.average_ps;
  own.trimmed = 1;
  if (!adapt(rules, flow, own, true, true, now, (flow.in_flight + 1) * packet)) {
    own.window_bytes -= packet;
    bound(rules, own);
  }
}

inline void adjust(const Rules& rules, Flow& flow, Nscc& own, int64_t now) {
  own.window_bytes += own.rise / own.window_bytes;
  if (now - own.adjusted_ps >= own.network_ps) {
    own.window_bytes += STEADY * (double(rules.full_wire) * flow.alpha);
    own.adjusted_ps = now;
  }
  own.rise = own.received = 0.0;
}

inline void shrink(Flow& flow, Nscc& own, int64_t now) {
  own.fast = 0;
  own.prompt = 0.0;
  if (own.average_ps > flow.target_ps && now - flow.cut_ps > own.base_ps) {
    double excess = (own.average_ps - flow.target_ps) / own.average_ps;
    own.window_bytes *= std::max<double>(1.0 - DECREASE * excess, LARGEST_DECREASE);
    flow.cut_ps = now;
  }
}

inline void grow(const Rules& rules, Flow& flow, Nscc& own, double acked, int64_t delay) {
  if (delay < PROMPT_PS) {
    own.prompt += acked;
    if (own.fast || own.prompt > own.window_bytes) {
      own.window_bytes += acked * (FAST * flow.alpha);
      own.fast = 1;
      return;
    }
  } else {
    own.prompt = 0.0;
  }
  own.fast = 0;
  double scaled = double(rules.full_wire) * flow.alpha;
  own.rise += PROPORTIONAL * scaled / REFERENCE_PS * acked * (flow.target_ps - delay);
}

// An acknowledgement, positive or negative, has arrived at the sender.
inline void on_ack(const Rules& rules, Flow& flow, Nscc& own, int64_t packets, int64_t marked, int64_t refused,
                   int64_t round_trip_ps, int64_t now) {
  double packet = double(rules.full_wire);
  if (round_trip_ps < own.base_ps) {
    own.base_ps = round_trip_ps;
    own.most = largest(rules, flow, own);
  }
  if (refused) {
    refuse(rules, flow, own, now);
    show(rules, flow, own);
    return;
  }
  double acked = packets * packet;
  own.achieved += acked;
  own.received += acked;
  own.ignored += acked;
  int64_t delay = round_trip_ps - own.base_ps;
  if (!marked && delay > flow.target_ps) {
    own.average_ps = AVERAGE * (0.25 * own.base_ps) + (1.0 - AVERAGE) * own.average_ps;
  } else {
    own.average_ps = AVERAGE * delay + (1.0 - AVERAGE) * own.average_ps;
  }
  bool very_long = delay > VERY_LONG * flow.target_ps;
  if (!adapt(rules, flow, own, very_long, marked, now, flow.in_flight * packet)) {
    if (marked) {
      if (delay >= flow.target_ps) shrink(flow, own, now);
    } else if (delay >= flow.target_ps) {
      own.rise += FAIR * (packet * flow.alpha) * acked;
    } else {
      grow(rules, flow, own, acked, delay);
    }
    bound(rules, own);
    if (own.received > PERIOD_PACKETS * packet || now - own.adjusted_ps > own.network_ps) {
      adjust(rules, flow, own, now);
      bound(rules, own);
    }
  }
  show(rules, flow, own);
}

// Receivers that ask for packets (`netsim.engine.reference.credit`).

constexpr uint8_t CREDIT = 2;
// Serial of the first credit of a flow, behind those of its packets.
constexpr int64_t FIRST_GRANT = 1 << 27;

// Keeps the window, which the sender looks at, up to date.
inline void show(Flow& flow, Asked& own) { flow.window = own.credit > 0 ? UNLIMITED : 0; }

// Sets the state at the start of a flow.
inline void start(const Rules& rules, Flow& flow, Asked& own, int64_t initial, int64_t packets) {
  own.credit = own.unasked = initial;
  int64_t most = rules.outstanding >= 0 ? rules.outstanding : (3 * packets + 1) / 2;
  own.ahead = std::max<int64_t>(0, most - initial);
  show(flow, own);
}

// The packet that leaves costs a credit.
inline void spend(Flow& flow, Asked& own) {
  own.credit -= 1;
  own.in_flight += 1;
  show(flow, own);
}

// Takes back the credit of packets that the acknowledgement shows to be lost.
inline void on_ack(Flow& flow, Asked& own) {
  own.credit += std::max<int64_t>(0, own.in_flight - flow.in_flight - 1);
  own.in_flight = flow.in_flight;
  show(flow, own);
}

// All in flight counts as lost, and one packet may always go.
inline void on_timeout(Flow& flow, Asked& own) {
  own.credit = std::max<int64_t>(1, own.credit + own.in_flight);
  own.in_flight = 0;
  show(flow, own);
}

// A credit has arrived at the sender.
inline void on_credit(Flow& flow, Asked& own, int64_t granted) {
  if (granted > own.known) {
    own.credit += granted - own.known;
    own.known = granted;
    show(flow, own);
  }
}

// Whether there is a packet to send, and no credit for it.
inline bool is_starved(Flow& flow) {
  return !flow.window && !flow.given_up && (flow.lost > 0 || flow.next < flow.packets);
}

// A flow waits for its turn to be asked.
inline void wait(const Hosts& hosts, Pacer& pacer, int64_t index) {
  auto& own = hosts.asked[index];
  own.waits = 1;
  own.next_waiting = -1;
  if (pacer.first < 0) {
    pacer.first = index;
  } else {
    hosts.asked[pacer.last].next_waiting = index;
  }
  pacer.last = index;
}

// Packets to ask for: what is still to be sent and has not arrived, but no more than may be expected at once.
inline int64_t owed(Flow& flow, Asked& own) {
  int64_t to_send = flow.packets + own.trims - own.unasked - own.granted;
  return std::min<int64_t>(std::min<int64_t>(to_send, own.left), own.ahead + own.arrived - own.granted);
}

// A packet or its header, now its acknowledgement, has arrived at its receiver; see `transit.receive`.
inline void note(const Hosts& hosts, Packet& packet, Flow& flow, int64_t now) {
  auto& own = hosts.asked[packet.flow];
  own.left = packet.node;
  own.arrived += 1;
  if (packet.trimmed) own.trims += 1;
  own.back_route = packet.route;
  if (!own.waits && owed(flow, own) > 0) {
    auto& pacer = hosts.pacers[flow.down];
    wait(hosts, pacer, packet.flow);
    if (!pacer.runs) {
      pacer.runs = 1;
      push(hosts.timers, std::max<int64_t>(now, pacer.next_ps), pull_key(flow.down), flow.down);
    }
  }
}

// Asks the next flow of the receiver behind a link for packets, and waits as long as they take at the pace.
//
// `packet` is an unused record, which becomes the credit.
inline void pull(const State& state, int64_t link, Packet& packet, int64_t now) {
  const auto& rules = state.network.rules;
  const auto& hosts = state.hosts;
  auto& pacer = hosts.pacers[link];
  int64_t index = pacer.first;
  auto& flow = hosts.flows[index];
  auto& own = hosts.asked[index];
  pacer.first = own.next_waiting;
  int64_t amount = std::max<int64_t>(0, std::min<int64_t>(owed(flow, own), rules.grant));
  own.granted += amount;
  own.grants += 1;
  own.waits = 0;
  if (owed(flow, own) > 0) wait(hosts, pacer, index);
  pacer.next_ps = now + int64_t(amount * state.network.kinds[state.network.links[link].kind].full_ps / rules.pace);
  pacer.runs = pacer.first >= 0;
  if (pacer.runs) push(hosts.timers, pacer.next_ps, pull_key(link), link);
  packet.key = arrival_key(flow.id, FIRST_GRANT + own.grants, 1);
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

// Congestion control of a flow (`netsim.congestion`), whose arithmetic is repeated step by step.

constexpr int64_t LONG_AGO = -(int64_t(1) << 62);

// Sets the state at the start of a flow.
inline void start(const Rules& rules, const Hosts& hosts, int64_t index, int64_t round_trip_ps, int64_t packets,
                  int64_t line_bps, int64_t start_ps) {
  auto& flow = hosts.flows[index];
  int64_t kind = rules.congestion;
  int64_t initial = rules.fixed_window > 0 ? rules.fixed_window : packets;
  flow.window = kind == DCQCN ? UNLIMITED : initial;
  flow.packets_window = double(initial);
  flow.alpha = rules.first_alpha;
  flow.latest_ps = round_trip_ps;
  flow.target_ps = round_trip_ps + rules.queueing_ps + rules.hop_ps * flow.links;
  flow.cut_ps = kind == SWIFT ? LONG_AGO : 0;
  flow.rate_bps = flow.target_bps = flow.line_bps = double(line_bps);
  flow.estimated_ps = flow.increased_ps = start_ps;
  if (kind == ASKED) start(rules, flow, hosts.asked[index], initial, packets);
  if (kind == NSCC) start(rules, flow, hosts.nscc[index], round_trip_ps);
}

// A flow takes over the state of an earlier one.
inline void go_on(const Rules& rules, const Hosts& hosts, int64_t index, int64_t latest) {
  auto& flow = hosts.flows[index];
  auto& earlier = hosts.flows[latest];
  flow.window = earlier.window;
  flow.packets_window = earlier.packets_window;
  flow.alpha = earlier.alpha;
  flow.seen = earlier.seen;
  flow.marked = earlier.marked;
  flow.cut_ps = earlier.cut_ps;
  flow.latest_ps = earlier.latest_ps;
  flow.target_ps = earlier.target_ps;
  flow.rate_bps = earlier.rate_bps;
  flow.target_bps = earlier.target_bps;
  flow.line_bps = earlier.line_bps;
  flow.estimated_ps = earlier.estimated_ps;
  flow.increased_ps = earlier.increased_ps;
  flow.timer_steps = earlier.timer_steps;
  flow.byte_steps = earlier.byte_steps;
  flow.counted_bytes = earlier.counted_bytes;
  if (rules.congestion == NSCC) go_on(hosts.nscc[index], hosts.nscc[latest]);
}

// Fast recovery, then additive, then hyper increase, by how many steps each counter has made.
inline void increase(const Rules& rules, Flow& flow) {
  int64_t least = std::min<int64_t>(flow.timer_steps, flow.byte_steps);
  int64_t most = std::max<int64_t>(flow.timer_steps, flow.byte_steps);
  if (least > rules.fast_steps) {
    flow.target_bps += rules.hyper_bps;
  } else if (most > rules.fast_steps) {
    flow.target_bps += rules.additive_bps;
  }
  flow.target_bps = std::min<double>(flow.target_bps, flow.line_bps);
  flow.rate_bps = (flow.rate_bps + flow.target_bps) / 2.0;
}

// Applies all timers that have run out by now, each in its own order.
inline void catch_up(const Rules& rules, Flow& flow, int64_t now) {
  while (flow.estimated_ps + rules.estimate_ps <= now) {
    flow.estimated_ps += rules.estimate_ps;
    flow.alpha = (1.0 - rules.gain) * flow.alpha;
  }
  if (flow.rate_bps >= flow.line_bps && flow.target_bps >= flow.line_bps) {
    flow.increased_ps = std::max<int64_t>(flow.increased_ps, now - (now - flow.increased_ps) % rules.increase_ps);
    return;
  }
  while (flow.increased_ps + rules.increase_ps <= now) {
    flow.increased_ps += rules.increase_ps;
    flow.timer_steps += 1;
    increase(rules, flow);
  }
}

// Least time from the packet that leaves now to the next.
inline int64_t gap_ps(const Rules& rules, const Hosts& hosts, int64_t index, int64_t wire, int64_t now) {
  auto& flow = hosts.flows[index];
  if (rules.congestion == SWIFT && flow.packets_window < 1.0) return int64_t(flow.latest_ps / flow.packets_window);
  if (rules.congestion == ASKED) spend(flow, hosts.asked[index]);
  if (rules.congestion != DCQCN) return 0;
  catch_up(rules, flow, now);
  flow.counted_bytes += wire;
  while (flow.counted_bytes >= rules.increase_bytes) {
    flow.counted_bytes -= rules.increase_bytes;
    flow.byte_steps += 1;
    increase(rules, flow);
  }
  if (flow.rate_bps >= flow.line_bps) return 0;
  return int64_t(8.0 * wire * 1e12 / flow.rate_bps);
}

inline void dctcp(const Rules& rules, Flow& flow, int64_t packets, int64_t marked, int64_t round_trip_ps, int64_t now) {
  int64_t counted = marked ? std::max<int64_t>(packets, 1) : packets;
  flow.seen += counted;
  if (marked) {
    flow.marked += counted;
    if (now - round_trip_ps >= flow.cut_ps) {
      flow.packets_window = std::max<double>(1.0, flow.packets_window * (1.0 - flow.alpha / 2.0));
      flow.cut_ps = now;
    }
  }
  if (flow.seen >= flow.packets_window) {
    double share = double(flow.marked) / flow.seen;
    flow.alpha = (1.0 - rules.gain) * flow.alpha + rules.gain * share;
    if (!flow.marked) flow.packets_window += 1.0;
    flow.seen = flow.marked = 0;
  }
  flow.window = int64_t(flow.packets_window);
}

inline void shrink(const Rules& rules, Flow& flow, double factor, int64_t now) {
  flow.packets_window = std::max<double>(rules.smallest_window, flow.packets_window * factor);
  flow.window = std::max<int64_t>(1, int64_t(flow.packets_window));
  flow.cut_ps = now;
}

inline void swift(const Rules& rules, Flow& flow, int64_t packets, int64_t marked, int64_t round_trip_ps, int64_t now) {
  if (marked && !packets) {
    if (now - flow.cut_ps >= flow.latest_ps) shrink(rules, flow, 1.0 - rules.largest_decrease, now);
    return;
  }
  flow.latest_ps = round_trip_ps;
  double more_ps = rules.flow_gain / std::sqrt(flow.packets_window) + rules.flow_offset;
  int64_t target_ps = flow.target_ps + int64_t(std::max<double>(0.0, std::min<double>(more_ps, rules.flow_range)));
  if (round_trip_ps < target_ps) {
    flow.packets_window += rules.increase * packets / std::max<double>(flow.packets_window, 1.0);
    flow.window = std::max<int64_t>(1, int64_t(flow.packets_window));
  } else if (now - flow.cut_ps >= round_trip_ps) {
    double excess = double(round_trip_ps - target_ps) / round_trip_ps;
    shrink(rules, flow, std::max<double>(1.0 - rules.decrease * excess, 1.0 - rules.largest_decrease), now);
  }
}

// An acknowledgement, positive or negative, has arrived at the sender.
inline void on_ack(const Rules& rules, const Hosts& hosts, int64_t index, int64_t packets, int64_t marked,
                   int64_t notified, int64_t refused, int64_t round_trip_ps, int64_t now) {
  auto& flow = hosts.flows[index];
  if (rules.congestion == DCTCP) {
    dctcp(rules, flow, packets, marked, round_trip_ps, now);
  } else if (rules.congestion == SWIFT) {
    swift(rules, flow, packets, marked, round_trip_ps, now);
  } else if (rules.congestion == ASKED) {
    on_ack(flow, hosts.asked[index]);
  } else if (rules.congestion == NSCC) {
    on_ack(rules, flow, hosts.nscc[index], packets, marked, refused, round_trip_ps, now);
  } else if (rules.congestion == DCQCN) {
    catch_up(rules, flow, now);
    if (notified) {
      flow.target_bps = flow.rate_bps;
      flow.rate_bps = std::max<double>(rules.slowest_bps, flow.rate_bps * (1.0 - flow.alpha / 2.0));
      flow.alpha = (1.0 - rules.gain) * flow.alpha + rules.gain;
      flow.estimated_ps = flow.increased_ps = now;
      flow.timer_steps = flow.byte_steps = flow.counted_bytes = 0;
    }
  }
}

// The retransmission timer has run out: packets are taken as lost.
inline void on_timeout(const Rules& rules, const Hosts& hosts, int64_t index, int64_t now) {
  auto& flow = hosts.flows[index];
  if (rules.congestion == DCTCP) {
    flow.packets_window = 1.0;
    flow.window = 1;
    flow.seen = flow.marked = 0;
  } else if (rules.congestion == SWIFT) {
    shrink(rules, flow, 1.0 - rules.largest_decrease, now);
  } else if (rules.congestion == ASKED) {
    on_timeout(flow, hosts.asked[index]);
  } else if (rules.congestion == NSCC) {
    hosts.nscc[index].window_bytes = double(rules.full_wire);
    flow.window = 1;
  }
}

}  // namespace netsim
