// Path choice of transports, packet by packet (`netsim.transport`).
#pragma once

#include "queues.hpp"

namespace netsim {

constexpr int64_t VALID = 0;
constexpr int64_t KEPT = 1;

// Number of the epoch, an interval between changes of the routing's knowledge.
inline int64_t epoch_of(const Routing& routing, int64_t now) {
  int64_t epoch = routing.epoch_ps.size - 1;
  while (routing.epoch_ps[epoch] > now) epoch -= 1;
  return epoch;
}

// Whether a path is among the usable paths in rows [begin, end).
inline bool is_usable(const Routing& routing, int64_t begin, int64_t end, int64_t path) {
  for (int64_t row = begin; row < end; ++row)
    if (routing.usable[row] == path) return true;
  return false;
}

// The usable path at a place, counted from the row `begin`; without failures it is the place itself.
inline int64_t usable(const Rules& rules, const Routing& routing, int64_t begin, int64_t place) {
  return rules.all_usable ? place : routing.usable[begin + place];
}

// Whether a packet explores although the ring may have entries: after a freeze, whose end empties the ring.
inline bool explores(const Rules& rules, Flow& flow, int64_t now) {
  if (flow.frozen_ps && now >= flow.frozen_ps) {
    flow.frozen_ps = 0;
    flow.exploring = rules.explore;
    flow.valid = flow.kept = 0;
  }
  if (flow.exploring) {
    flow.exploring -= 1;
    return true;
  }
  return false;
}

// The draw for a packet: of its path, or of a header value that leads to a path.
inline uint64_t drawn(const Rules& rules, Flow& flow, int64_t serial) {
  if (!rules.entropies) return draw(rules.path_draws, flow.key, serial);
  int64_t turn = serial;
  int64_t number = 0;
  if (rules.in_rounds) {
    turn = serial / rules.entropies;
    number = serial % rules.entropies;
  }
  int64_t value = pick(draw(rules.path_draws, flow.key, turn), number, rules.entropies);
  return draw(rules.entropy_draws, flow.key, value);
}

// REPS: the oldest valid entry of the flow's ring; else, while frozen, its entries in turn; else a drawn path.
inline int64_t recycle(const Rules& rules, const Routing& routing, Flow& flow, int64_t index, int64_t serial,
                       int64_t begin, int64_t count, int64_t now) {
  int64_t entries = rules.entries;
  if (rules.explore && explores(rules, flow, now)) {
    return usable(rules, routing, begin, pick(drawn(rules, flow, serial), 0, count));
  }
  int64_t path;
  while (flow.valid) {
    path = routing.paths(index * entries + flow.valid_begin, VALID);
    flow.valid_begin = (flow.valid_begin + 1) % entries;
    flow.valid -= 1;
    if (is_usable(routing, begin, begin + count, path)) return path;
  }
  if (now < flow.frozen_ps) {
    for (int64_t turn_ = 0; turn_ < flow.kept; ++turn_) {
      path = routing.paths(index * entries + flow.kept_begin, KEPT);
      int64_t end = (flow.kept_begin + flow.kept) % entries;
      routing.paths(index * entries + end, KEPT) = path;
      flow.kept_begin = (flow.kept_begin + 1) % entries;
      if (is_usable(routing, begin, begin + count, path)) return path;
    }
  }
  return usable(rules, routing, begin, pick(drawn(rules, flow, serial), 0, count));
}

// How many of some usable paths are minimal; they come first.
inline int64_t minimal_among(const Routing& routing, int64_t begin, int64_t count, int64_t minimal) {
  int64_t among = 0;
  while (among < count && routing.usable[begin + among] < minimal) among += 1;
  return among;
}

// The route that follows the route of the host's last packet to the same leaf.
inline int64_t rotate(const Rules& rules, const Routing& routing, Flow& flow, int64_t count) {
  if (flow.links == 1) return 0;
  int64_t pair = flow.source * rules.leaves + flow.leaf;
  routing.counts[pair] += 1;
  return pick(draw(rules.path_draws, flow.up, flow.leaf), routing.counts[pair], count);
}

// Path of a packet whose flow has none of its own, among the routes of its pair of leaves.
inline int64_t choose_path(const Rules& rules, const Hosts& hosts, const Routing& routing, int64_t index,
                           int64_t serial, int64_t now, int64_t epoch) {
  auto& flow = hosts.flows[index];
  int64_t kind = rules.choice;
  int64_t begin = routing.usable_begin[flow.pair * rules.epochs + epoch];
  int64_t count = routing.usable_begin[flow.pair * rules.epochs + epoch + 1] - begin;
  if (kind == SPRAY_RANDOM) return usable(rules, routing, begin, pick(drawn(rules, flow, serial), 0, count));
  if (kind == SPRAY_ROUND_ROBIN) {
    auto& ring = hosts.rings[flow.up * rules.classes];
    ring.sent += 1;
    return usable(rules, routing, begin, pick(draw(rules.path_draws, flow.up, 0), ring.sent, count));
  }
  if (kind == ROTATION) return usable(rules, routing, begin, rotate(rules, routing, flow, count));
  if (kind == FLOWLET) {
    int64_t path = flow.flowlet_path;
    if (path < 0 || now - flow.flowlet_ps > rules.gap_ps || !is_usable(routing, begin, begin + count, path)) {
      path = routing.usable[begin + pick(draw(rules.path_draws, flow.key, serial), 0, count)];
    }
    flow.flowlet_ps = now;
    flow.flowlet_path = path;
    return path;
  }
  if (kind == DETOURING) {
    int64_t minimal = minimal_among(routing, begin, count, routing.minimal[flow.pair]);
    if (minimal == count) minimal = 0;
    return routing.usable[begin + minimal + pick(draw(rules.path_draws, flow.key, serial), 0, count - minimal)];
  }
  return recycle(rules, routing, flow, index, serial, begin, count, now);
}

// REPS: a path without a mark becomes the newest entry; the oldest one goes if there is no room.
inline void came_through(const Rules& rules, const Routing& routing, Flow& flow, int64_t index, int64_t path) {
  int64_t entries = rules.entries;
  int64_t first = index * rules.entries;
  routing.paths(first + (flow.valid_begin + flow.valid) % entries, VALID) = path;
  if (flow.valid < entries) {
    flow.valid += 1;
  } else {
    flow.valid_begin = (flow.valid_begin + 1) % entries;
  }
  routing.paths(first + (flow.kept_begin + flow.kept) % entries, KEPT) = path;
  if (flow.kept < entries) {
    flow.kept += 1;
  } else {
    flow.kept_begin = (flow.kept_begin + 1) % entries;
  }
}

// Choices of switches (`netsim.transport.switched`).
//
// Each pair of leaves and epoch (of the packet's departure) has a tree of choices: its nodes are the links that
// continue the path so far, in the order of the routes. A packet descends in this tree.

constexpr int64_t SAMPLE_BITS = 8;

// Unfinished work in front of a link that goes before a new packet of a flow.
inline int64_t backlog_ps(const Rules& rules, Span<Link> links, const Queued* queued, Flow& flow, int64_t link,
                          int64_t now) {
  if (queued) return work_before(*queued, rules, flow.traffic_class, link, now);
  return std::max<int64_t>(0, links[link].free_ps - now);
}

// The link with the least unfinished work; among equals the next after the switch's last choice.
inline int64_t shortest(const Rules& rules, Span<Link> links, const Routing& routing, const Queued* queued, Flow& flow,
                        int64_t begin, int64_t end, int64_t now) {
  int64_t node = routing.source[routing.child_link[begin]];
  int64_t last = routing.shortest(node, 0);
  int64_t best = -1;
  int64_t best_work = 0;
  int64_t best_turn = 0;
  for (int64_t row = begin; row < end; ++row) {
    int64_t link = routing.child_link[row];
    int64_t work = backlog_ps(rules, links, queued, flow, link, now) / rules.step_ps;
    int64_t turn = link > last ? link : link + links.size;
    if (best < 0 || work < best_work || (work == best_work && turn < best_turn)) {
      best = row;
      best_work = work;
      best_turn = turn;
    }
  }
  routing.shortest(node, 0) = routing.child_link[best];
  return best;
}

// The link with the least unfinished work; among equals one is drawn.
inline int64_t shortest_drawn(const Rules& rules, Span<Link> links, const Routing& routing, const Queued* queued,
                              Flow& flow, int64_t serial, int64_t begin, int64_t end, int64_t now) {
  int64_t least = 0;
  int64_t equal = 0;
  for (int64_t row = begin; row < end; ++row) {
    int64_t work = backlog_ps(rules, links, queued, flow, routing.child_link[row], now) / rules.step_ps;
    if (!equal || work < least) {
      least = work;
      equal = 0;
    }
    if (work == least) equal += 1;
  }
  uint64_t drawn = draw(rules.path_draws, flow.key, (serial << LINK_BITS) | routing.child_link[begin]);
  int64_t left = int64_t(drawn % uint64_t(equal));
  for (int64_t row = begin; row < end; ++row) {
    if (backlog_ps(rules, links, queued, flow, routing.child_link[row], now) / rules.step_ps == least) {
      if (!left) return row;
      left -= 1;
    }
  }
  return begin;
}

// Adds a new candidate behind all candidates whose queues are as short; returns the number of candidates.
inline int64_t insert(Span<int64_t> rows, Span<int64_t> works, int64_t size, int64_t row, int64_t work) {
  int64_t place;
  for (int64_t place = 0; place < size; ++place)
    if (rows[place] == row) return size;
  place = size;
  while (place && works[place - 1] > work) {
    rows[place] = rows[place - 1];
    works[place] = works[place - 1];
    place -= 1;
  }
  rows[place] = row;
  works[place] = work;
  return size + 1;
}

// The shortest among queues drawn at random and the queues that were shortest before.
inline int64_t sampled(const Rules& rules, Span<Link> links, const Routing& routing, const Queued* queued, Flow& flow,
                       int64_t serial, int64_t begin, int64_t end, int64_t now) {
  int64_t first = routing.child_link[begin];
  int64_t node = routing.source[first];
  auto rows = routing.candidates[0];
  auto works = routing.candidates[1];
  int64_t size = 0;
  int64_t row;
  int64_t work;
  for (int64_t sample = 0; sample < rules.samples; ++sample) {
    uint64_t drawn = draw(rules.path_draws, flow.key, (((serial << SAMPLE_BITS) | sample) << LINK_BITS) | first);
    row = begin + int64_t(drawn % uint64_t(end - begin));
    work = backlog_ps(rules, links, queued, flow, routing.child_link[row], now);
    size = insert(rows, works, size, row, work);
  }
  for (int64_t place = 0; place < rules.memory; ++place) {
    for (int64_t row = begin; row < end; ++row) {
      if (routing.child_link[row] == routing.shortest(node, place)) {
        work = backlog_ps(rules, links, queued, flow, routing.child_link[row], now);
        size = insert(rows, works, size, row, work);
      }
    }
  }
  for (int64_t place = 0; place < rules.memory; ++place) {
    routing.shortest(node, place) = place < size ? routing.child_link[rows[place]] : -1;
  }
  return rows[0];
}

// The row of the next link of a packet, chosen by the switch where the packet is.
inline int64_t choose_next(const Network& network, const Hosts& hosts, const Routing& routing, const Queued* queued,
                           int64_t index, Packet& packet, int64_t serial, int64_t now) {
  const auto& rules = network.rules;
  auto& totals = network.totals;
  int64_t begin = routing.child_begin[packet.node];
  int64_t end = routing.child_begin[packet.node + 1];
  if (end - begin == 1) return begin;
  if (rules.at_switch == SHORTEST) {
    return shortest(rules, network.links, routing, queued, hosts.flows[index], begin, end, now);
  }
  if (rules.at_switch == SHORTEST_DRAWN) {
    return shortest_drawn(rules, network.links, routing, queued, hosts.flows[index], serial, begin, end, now);
  }
  if (rules.at_switch == SAMPLED) {
    return sampled(rules, network.links, routing, queued, hosts.flows[index], serial, begin, end, now);
  }
  auto& flow = hosts.flows[index];
  int64_t node = routing.source[routing.child_link[begin]];
  int64_t known = flow.chosen;
  while (known >= 0 && routing.chosen(known, 0) != node) known = routing.chosen(known, 2);
  int64_t row;
  if (known >= 0) {
    for (int64_t row = begin; row < end; ++row)
      if (routing.child_link[row] == routing.chosen(known, 1)) return row;
  }
  row = shortest(rules, network.links, routing, queued, flow, begin, end, now);
  if (known < 0) {
    known = totals.chosen;
    totals.chosen += 1;
    routing.chosen(known, 0) = node;
    routing.chosen(known, 2) = flow.chosen;
    flow.chosen = known;
  }
  routing.chosen(known, 1) = routing.child_link[row];
  return row;
}

// The choice of the first switch between a minimal path and a detour: `netsim.transport.detouring`.

// Unfinished work in front of the first link of a path, times its number of links between switches.
inline int64_t cost(const State& state, Flow& flow, int64_t path, int64_t now) {
  const auto& network = state.network;
  int64_t route = flow.first_route + path;
  int64_t link = state.routing.route_links(route, 0);
  return backlog_ps(network.rules, network.links, state.queued, flow, link, now) * state.routing.route_length[route];
}

// Path of a packet that is at its first switch, as an index into the routes of its pair of leaves.
inline int64_t choose_path_at_switch(const State& state, Flow& flow, Packet& packet, int64_t serial, int64_t now) {
  const auto& rules = state.network.rules;
  const auto& routing = state.routing;
  int64_t begin = routing.usable_begin[packet.node];
  int64_t count = routing.usable_begin[packet.node + 1] - begin;
  int64_t minimal = minimal_among(routing, begin, count, routing.minimal[flow.pair]);
  int64_t some = minimal ? minimal : count;
  int64_t direct = routing.usable[begin + int64_t(draw(rules.other_draws, flow.key, serial) % uint64_t(some))];
  if (!minimal || minimal == count) return direct;
  uint64_t drawn = draw(rules.path_draws, flow.key, serial);
  int64_t detour = routing.usable[begin + minimal + int64_t(drawn % uint64_t(count - minimal))];
  return cost(state, flow, direct, now) <= cost(state, flow, detour, now) + rules.bias_ps ? direct : detour;
}

}  // namespace netsim
