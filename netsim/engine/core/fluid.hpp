// The loop of the compiled flow-level engine: from one instant at which something happens to the next.
#pragma once

#include "admission.hpp"
#include "sharing.hpp"

namespace netsim::fluid {

constexpr double ROUNDING_PS = 0.001;
constexpr double ROUNDING = 1e-13;
constexpr double HIDDEN = 1.000000000000101;  // a little more than 1 + ROUNDING
constexpr int64_t MOMENTS_BETWEEN_PAUSES = 4096;
constexpr int64_t MANY = 32;
constexpr int64_t PACKETS = 4;

// Time for which new rates may wait when flows have only left, so that rates can rise.
inline int64_t patience_ps(const State& state, const Streams& streams) {
  auto& link = streams.links[state.routing.up[0]];
  return PACKETS * service_ps(state.network.rules.full_wire, link.rate_bps);
}

// Latency of the last bytes: delays, and service of the last packet on all links but the first.
inline int64_t latency_of(const State& state, const Streams& streams, Stream& flow, int64_t size_bytes) {
  const auto& rules = state.network.rules;
  const auto& routing = state.routing;
  int64_t latency_ps = streams.links[flow.up].delay_ps;
  if (flow.down < 0) return latency_ps;
  int64_t last_bytes = (size_bytes - 1) % rules.payload + 1 + rules.header;
  int64_t routes = routing.route_length.size;
  int64_t route = flow.segment;
  if (route >= routes) {
    int64_t pair = route - routes;
    route = routing.route_begin[pair] + routing.usable[routing.usable_begin[pair]];
  }
  for (int64_t hop = 0; hop < routing.route_length[route]; ++hop) {
    const auto& link = streams.links[routing.route_links(route, hop)];
    latency_ps += link.delay_ps + service_ps(last_bytes, link.rate_bps);
  }
  const auto& link = streams.links[flow.down];
  return latency_ps + link.delay_ps + service_ps(last_bytes, link.rate_bps);
}

// Removes flows that have sent everything, or will within a picosecond or a rounding error. Their last bytes arrive
// later.
inline void drain(const State& state, const Streams& streams, int64_t now) {
  double until = std::max<double>(now + 1.0, now * HIDDEN);
  while (first_end(streams) <= std::min<double>(until, END_PS)) {
    int64_t index = take_first(streams);
    auto& flow = streams.flows[index];
    auto& message = streams.messages[index];
    auto& last = streams.links[flow.up];
    int64_t latency_ps = latency_of(state, streams, flow, message.bytes);
    message.end_ps = now + latency_ps;
    if (last.last_ps < now) {
      last.last_ps = now;
      last.rest_ps = 0;
    }
    last.rest_ps = std::max<int64_t>(last.rest_ps, latency_ps);
    delivered(state.program, message.task, message.end_ps);
  }
}

// Turns the messages of this instant into flows, all of which start.
inline void start(const State& state, const Streams& streams, int64_t now) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  auto counts = streams.counts;
  auto& totals = network.totals;
  const auto& rules = network.rules;
  cut(state);
  totals.released = 0;
  prepare_waiting(state);
  for (int64_t place = 0; place < totals.flows; ++place) {
    auto& flow = hosts.flows[place];
    int64_t index = counts[FLOWS];
    counts[FLOWS] += 1;
    auto& stream = streams.flows[index];
    auto& message = streams.messages[index];
    message.id = flow.id;
    message.task = flow.task;
    message.bytes = flow.bytes;
    message.start_ps = stream.since_ps = now;
    stream.left = flow.bytes + rules.header * flow.packets;
    stream.up = flow.up;
    stream.down = flow.down;
    if (flow.up == flow.down) {
      stream.down = -1;
    } else if (flow.path >= 0) {
      stream.segment = flow.first_route + flow.path;
    } else {
      stream.segment = state.routing.route_length.size + flow.pair;
    }
    join(streams, index);
    if (stream.segment < state.routing.route_length.size) wait_for_turn(streams, index, rules.full_wire, now);
  }
  totals.flows = totals.rows = 0;
  empty(hosts.turns);
  counts[STARTED] = 1;
}

// Simulates until the loop must stop, and returns why.
inline int64_t run(const State& state, const Streams& streams) {
  auto counts = streams.counts;
  auto& totals = state.network.totals;
  const auto& program = state.program;
  const auto& rules = state.network.rules;
  if (totals.now_ps < 0) {
    totals.now_ps = 0;
    begin_roots(program, totals);
  }
  int64_t moments = 0;
  while (true) {
    moments += 1;
    if (moments == MOMENTS_BETWEEN_PAUSES) return PAUSED;
    int64_t now = totals.now_ps;
    while (next_begin_ps(program) == now) next_begin(program, totals, now);
    if (totals.released) {
      if (totals.released * rules.parts > state.hosts.flows.size) return NEEDS_ROOM;
      start(state, streams, now);
    }
    int64_t delay_ps = patience_ps(state, streams);
    bool waits = counts[AFFECTED] > 0 && !counts[STARTED] && now < counts[SETTLED_PS] + delay_ps;
    if (!waits && counts[AFFECTED]) {
      bool many = counts[AFFECTED] > MANY;
      if (!settle(streams, now)) return UNFAIR;
      counts[SETTLED_PS] = many ? now : -END_PS;
      counts[STARTED] = 0;
    }
    int64_t due_ps = next_begin_ps(program);
    double first = first_end(streams);
    if (first < END_PS) {
      int64_t whole = int64_t(std::ceil(first - std::max<double>(ROUNDING_PS, ROUNDING * first)));
      due_ps = std::min<int64_t>(due_ps, std::max<int64_t>(now, whole));
    }
    if (waits) due_ps = std::min<int64_t>(due_ps, counts[SETTLED_PS] + delay_ps);
    if (due_ps == END_PS) return FINISHED;
    if (due_ps > rules.end_ps && totals.undone) {
      totals.now_ps = rules.end_ps;
      return IN_TIME;
    }
    totals.now_ps = due_ps;
    drain(state, streams, due_ps);
  }
}

}  // namespace netsim::fluid
