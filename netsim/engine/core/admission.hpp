// Creation of flows at their hosts.
#pragma once

#include "cutting.hpp"
#include "sender.hpp"

namespace netsim {

// Whether flows of one instant are prepared in the order of their turns.
//
// If a queue pair has two messages that are released together, the later in the host's ring becomes its latest.
inline bool waits_for_turn(const Rules& rules) { return rules.staggered || rules.keeps; }

// How long an acknowledgement takes over a link of a kind.
inline int64_t passage_ps(const LinkKind& kind) { return kind.ack_ps + kind.delay_ps; }

// How long a full packet takes over a link of a kind, and its acknowledgement back.
inline int64_t there_and_back_ps(const LinkKind& kind) { return kind.full_ps + kind.delay_ps + passage_ps(kind); }

// Fills in the path of the flow's acknowledgements and its congestion control.
inline void prepare_acks(const State& state, Flow& flow, int64_t index, int64_t now, int64_t start_ps) {
  const auto& network = state.network;
  const auto& routing = state.routing;
  const auto& rules = network.rules;
  auto links = network.links;
  auto kinds = network.kinds;
  auto& up = links[flow.up];
  auto& down = links[flow.down];
  auto& first = links[down.reverse];
  auto& last = links[up.reverse];
  int64_t epoch = routing.epoch_ps.size - 1;
  while (routing.epoch_ps[epoch] > now) epoch -= 1;
  int64_t route = flow.first_route + routing.usable[routing.usable_begin[flow.pair * rules.epochs + epoch]];
  flow.links = 2 + routing.route_length[route];
  flow.ack_ps = passage_ps(kinds[first.kind]) + passage_ps(kinds[last.kind]);
  if (flow.alike) flow.ack_ps += routing.route_ack_ps[route];
  bool varies = up.varies || down.varies || first.varies || last.varies || !routing.calm[flow.pair];
  bool takes_part = rules.acks_take_time || rules.receivers_ask;
  bool stops = rules.ends_early || rules.acks_queue || rules.trims || rules.marks_leaving;
  flow.express = !(varies || takes_part || stops);
  int64_t round_trip_ps = there_and_back_ps(kinds[up.kind]) + there_and_back_ps(kinds[down.kind]);
  int64_t slowest_ps = std::max<int64_t>(kinds[up.kind].full_ps, kinds[down.kind].full_ps);
  for (int64_t hop = 0; hop < routing.route_length[route]; ++hop) {
    const auto& kind = kinds[links[routing.route_links(route, hop)].kind];
    round_trip_ps += there_and_back_ps(kind);
    slowest_ps = std::max<int64_t>(slowest_ps, kind.full_ps);
  }
  int64_t packets = (round_trip_ps + slowest_ps - 1) / slowest_ps;
  int64_t window = rules.fixed_window > 0 ? rules.fixed_window : packets;
  begin(rules, state.hosts, index, {round_trip_ps, packets, kinds[up.kind].rate_bps, start_ps, window});
}

// The flow goes on from where the latest flow of its queue pair stands, and becomes the latest.
inline void keep_state(const State& state, Flow& flow, int64_t index) {
  const auto& program = state.program;
  int64_t row = program.queue_pair[flow.task] + flow.id - flow.task * state.network.rules.places;
  int64_t latest = program.latest[row];
  program.latest[row] = index;
  if (latest >= 0) go_on(state.network.rules, state.hosts, index, latest);
}

// Fills in the rest of a flow's record.
inline void prepare(const State& state, Flow& flow, int64_t index, int64_t src, int64_t dst, int64_t now,
                    int64_t start_ps) {
  const auto& network = state.network;
  const auto& routing = state.routing;
  const auto& rules = network.rules;
  auto& totals = network.totals;
  flow.packets = (flow.bytes + rules.payload - 1) / rules.payload;
  flow.last_wire = flow.bytes - (flow.packets - 1) * rules.payload + rules.header;
  flow.left = flow.packets;
  flow.start_ps = flow.end_ps = now;
  flow.highest = flow.complained = flow.wake_ps = flow.oldest = flow.newest = -1;
  flow.flowlet_path = flow.chosen = flow.next_in_ring = -1;
  flow.notified_ps = LONG_AGO;
  flow.window = UNLIMITED;
  flow.traffic_class = state.program.traffic_class[flow.task];
  flow.source = src;
  flow.leaf = routing.leaf[dst];
  flow.pair = routing.pair[routing.leaf[src] * rules.leaves + flow.leaf];
  flow.first_route = routing.route_begin[flow.pair];
  if (src == dst) {
    flow.links = flow.even = flow.alike = 1;
    flow.up = flow.down = flow.back = routing.inside[src];
    return;
  }
  flow.even = flow.alike = routing.alike[flow.pair];
  flow.links = 2 + routing.route_length[flow.first_route];
  flow.up = flow.back = routing.up[src];
  flow.down = routing.down[dst];
  flow.listens = rules.listens;
  if (flow.listens) {
    flow.first_row = flow.arrival_row = totals.rows;
    totals.rows += flow.packets;
    prepare_acks(state, flow, index, now, start_ps);
    if (rules.keeps) keep_state(state, flow, index);
  }
}

// Sort key of a flow among the flows that its host releases together.
inline int64_t turn_of(const Rules& rules, const Program& program, Flow& flow, int64_t turn) {
  if (rules.order == AS_GIVEN) return turn;
  if (rules.order == ROTATED) return floor_mod(program.dst_host[flow.task] - program.src_host[flow.task], rules.hosts);
  return int64_t(draw(rules.order_draws, flow.key, 0) ^ SIGN);
}

// Creates a flow with one path for all its packets, or -1. It waits for `line_up`, or for the end of its delay.
//
// `turn` is its place among the flows that its host releases together, if the transport orders them.
inline void create(const State& state, int64_t identity, int64_t task, int64_t size_bytes, int64_t path,
                   int64_t delay_ps, int64_t turn) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  const auto& program = state.program;
  const auto& rules = network.rules;
  auto& totals = network.totals;
  int64_t now = totals.now_ps;
  int64_t index = totals.flows;
  totals.flows = index + 1;
  auto& flow = hosts.flows[index];
  flow.id = identity;
  flow.task = task;
  flow.bytes = size_bytes;
  flow.path = path;
  flow.key = flow_key(network, identity);
  program.flows_left[task] += 1;
  if (waits_for_turn(rules)) {
    flow.start_ps = now + delay_ps;
    push(hosts.turns, turn_of(rules, program, flow, turn), identity, index);
    return;
  }
  prepare(state, flow, index, program.src_host[task], program.dst_host[task], now, now + delay_ps);
  if (delay_ps) {
    push(hosts.timers, now + delay_ps, RELEASE | (1 + identity), index);
  } else {
    push(hosts.turns, turn_of(rules, program, flow, turn), identity, index);
  }
}

// Puts the flows of one instant into their hosts' rings, in order; some flows are also prepared in this order.
inline void line_up(const State& state) {
  const auto& hosts = state.hosts;
  const auto& program = state.program;
  bool waited = waits_for_turn(state.network.rules);
  auto turns = hosts.turns;
  int64_t now = state.network.totals.now_ps;
  while (turns[0].time_ps) {
    int64_t index = turns[1].what;
    take_first(turns);
    close(turns);
    if (waited) {
      auto& flow = hosts.flows[index];
      int64_t start_ps = flow.start_ps;
      prepare(state, flow, index, program.src_host[flow.task], program.dst_host[flow.task], now, start_ps);
      if (start_ps > now) {
        push(hosts.timers, start_ps, RELEASE | (1 + flow.id), index);
        continue;
      }
    }
    enter_ring(state, index, now);
  }
}

// Fills in the records of flows that `line_up` would prepare, for engines without rings.
inline void prepare_waiting(const State& state) {
  const auto& hosts = state.hosts;
  const auto& program = state.program;
  if (waits_for_turn(state.network.rules)) {
    for (int64_t index = 0; index < state.network.totals.flows; ++index) {
      auto& flow = hosts.flows[index];
      prepare(state, flow, index, program.src_host[flow.task], program.dst_host[flow.task], 0, 0);
    }
  }
}

// `netsim.transport.ethereal` for the messages of one instant.
//
// Messages are sorted by heaps, and lists are kept in scratch space of `Program`, since the core allocates
// nothing.

// Rows of `Program.groups`: messages group by group; group of each message, then the order of groups; begin of each
// group; hash table of groups. Rows of `Program.routes`: paths of a group in its order; the same before they are
// turned. Rows of `Program.seen`: paths seen of each link; which of the links was seen first.
enum { MEMBER, GROUP, BEGIN, SLOT };
enum { ROUTE_TURN, ROUTE_NUMBER };
enum { LINK_SEEN, LINK_APPEARED };

// Lists the messages group by group, and within a group in their order.
inline void gather(Table<int64_t> groups, int64_t count, int64_t number) {
  int64_t group;
  for (int64_t group = 0; group < number + 1; ++group) groups(BEGIN, group) = 0;
  for (int64_t row = 0; row < count; ++row) groups(BEGIN, groups(GROUP, row)) += 1;
  int64_t end = 0;
  for (int64_t group = 0; group < number; ++group) {
    end += groups(BEGIN, group);
    groups(BEGIN, group) = end;
  }
  groups(BEGIN, number) = end;
  for (int64_t row = count - 1; row > -1; --row) {
    group = groups(GROUP, row);
    groups(BEGIN, group) -= 1;
    groups(MEMBER, groups(BEGIN, group)) = row;
  }
}

// First link of a task's message.
inline int64_t first_link(const State& state, int64_t task) {
  int64_t src = state.program.src_host[task];
  return src == state.program.dst_host[task] ? state.routing.inside[src] : state.routing.up[src];
}

inline int64_t pair_of(const State& state, int64_t task) {
  const auto& program = state.program;
  const auto& routing = state.routing;
  int64_t src = routing.leaf[program.src_host[task]];
  int64_t dst = routing.leaf[program.dst_host[task]];
  return routing.pair[src * state.network.rules.leaves + dst];
}

// Number of paths of a task's message, usable or not.
inline int64_t routes(const State& state, int64_t task) {
  int64_t pair = pair_of(state, task);
  return state.routing.route_begin[pair + 1] - state.routing.route_begin[pair];
}

// Leaf to which a message is balanced, -1 if it has one path only.
inline int64_t towards(const State& state, int64_t task) {
  return routes(state, task) > 1 ? state.routing.leaf[state.program.dst_host[task]] : -1;
}

// Groups messages of equal first link, destination leaf and size, in the order of their first messages; returns how
// many groups there are.
inline int64_t group(const State& state, int64_t count) {
  const auto& program = state.program;
  auto groups = state.program.groups;
  int64_t slots = 2;
  int64_t number = 0;
  while (slots < 2 * count) slots *= 2;
  for (int64_t row = 0; row < count; ++row) {
    int64_t task = program.released[row];
    int64_t link = first_link(state, task);
    int64_t leaf = towards(state, task);
    int64_t size = program.bytes[task];
    int64_t mixed = (link * 31 + leaf + 1) * 1000003 + size;
    int64_t slot = (mixed ^ (mixed >> 20)) & (slots - 1);
    while (groups(SLOT, slot)) {
      int64_t known = program.released[groups(BEGIN, groups(SLOT, slot) - 1)];
      if (program.bytes[known] == size && first_link(state, known) == link && towards(state, known) == leaf) break;
      slot = (slot + 1) & (slots - 1);
    }
    if (!groups(SLOT, slot)) {
      groups(BEGIN, number) = row;
      number += 1;
      groups(SLOT, slot) = number;
    }
    groups(GROUP, row) = groups(SLOT, slot) - 1;
  }
  std::fill_n(&groups(SLOT, 0), slots, 0);
  gather(groups, count, number);
  return number;
}

// Empties a heap of `count` entries in order, into an array.
inline void take_sorted(Heap sorter, Span<int64_t> into, int64_t at, int64_t count) {
  for (int64_t place = 0; place < count; ++place) {
    into[at + place] = sorter[1].what;
    take_first(sorter);
    close(sorter);
  }
}

// First slot in which to look for a route in the hash table `Program.avoided`.
inline int64_t place_of(int64_t slots, int64_t link, int64_t leaf, int64_t route) {
  return ((link * 8191 + leaf) * 131 + route) % slots;
}

// Whether a flow from the same host to the same leaf has lately failed on a route.
inline bool is_avoided(const State& state, int64_t task, int64_t route) {
  auto avoided = state.program.avoided;
  if (!avoided.rows) return false;
  int64_t link = first_link(state, task);
  int64_t leaf = state.routing.leaf[state.program.dst_host[task]];
  int64_t slot = place_of(avoided.rows, link, leaf, route);
  while (avoided(slot, 0) >= 0) {
    if (avoided(slot, 0) == link && avoided(slot, 1) == leaf && avoided(slot, 2) == route) {
      return avoided(slot, 3) > state.network.totals.now_ps;
    }
    slot = (slot + 1) % avoided.rows;
  }
  return false;
}

// Lists usable routes that have not failed lately, or all usable ones if there is none; returns how many.
inline int64_t good_routes(const State& state, int64_t task, int64_t epoch) {
  const auto& routing = state.routing;
  const auto& rules = state.network.rules;
  auto turn = state.program.routes[ROUTE_TURN];
  int64_t row = pair_of(state, task) * rules.epochs + epoch;
  int64_t begin = routing.usable_begin[row];
  int64_t end = routing.usable_begin[row + 1];
  int64_t count = 0;
  for (int64_t place = begin; place < end; ++place) {
    if (!is_avoided(state, task, routing.usable[place])) {
      turn[count] = routing.usable[place];
      count += 1;
    }
  }
  if (count) return count;
  for (int64_t place = begin; place < end; ++place) turn[place - begin] = routing.usable[place];
  return end - begin;
}

// Orders routes so that they take the links up in turn, from the source's place on, and of each link the next route.
inline void links_in_turn(const State& state, int64_t task, int64_t routes) {
  const auto& routing = state.routing;
  const auto& room = state.program;
  int64_t host = state.program.src_host[task];
  int64_t base = routing.route_begin[pair_of(state, task)];
  int64_t leaf = routing.leaf[host];
  int64_t different = 0;
  auto turn = room.routes[ROUTE_TURN];
  auto links = room.seen;
  int64_t link;
  for (int64_t place = 0; place < routes; ++place) {
    link = routing.route_links(base + turn[place], 0);
    if (!links(LINK_SEEN, link)) {
      links(LINK_APPEARED, link) = different;
      different += 1;
    }
    room.routes(ROUTE_NUMBER, place) = links(LINK_SEEN, link);
    links(LINK_SEEN, link) += 1;
  }
  for (int64_t place = 0; place < routes; ++place) {
    link = routing.route_links(base + turn[place], 0);
    int64_t nth = floor_mod(room.routes(ROUTE_NUMBER, place) - leaf, links(LINK_SEEN, link));
    push(room.sorter, nth * different + links(LINK_APPEARED, link), place, turn[place]);
  }
  for (int64_t place = 0; place < routes; ++place) links(LINK_SEEN, routing.route_links(base + turn[place], 0)) = 0;
  take_sorted(room.sorter, room.routes[ROUTE_NUMBER], 0, routes);
  for (int64_t place = 0; place < routes; ++place) {
    turn[place] = room.routes(ROUTE_NUMBER, (place + routing.place[host]) % routes);
  }
}

// Sort key of `other` by its distance from `one`, modulo `number`.
inline int64_t ahead(int64_t one, int64_t other, int64_t number) { return other < one ? other + number : other; }

// Orders a group's routes and messages as the transport says.
inline void order(const State& state, int64_t first, int64_t begin, int64_t end, int64_t routes) {
  const auto& rules = state.network.rules;
  const auto& room = state.program;
  const auto& routing = state.routing;
  int64_t task;
  if (rules.shuffled) {
    int64_t drawn;
    for (int64_t place = 0; place < routes; ++place) {
      int64_t route = room.routes(ROUTE_TURN, place);
      drawn = draw(rules.path_draws, message_key(state.network, first), route);
      push(room.sorter, int64_t(drawn ^ SIGN), place, route);
    }
    take_sorted(room.sorter, room.routes[ROUTE_TURN], 0, routes);
    for (int64_t place = begin; place < end; ++place) {
      task = room.groups(MEMBER, place);
      drawn = draw(rules.member_draws, message_key(state.network, task), 0);
      push(room.sorter, int64_t(drawn ^ SIGN), task, task);
    }
    take_sorted(room.sorter, room.groups[MEMBER], begin, end - begin);
  } else if (rules.staggered) {
    links_in_turn(state, first, routes);
    int64_t source = routing.place[room.src_host[first]];
    for (int64_t place = begin; place < end; ++place) {
      task = room.groups(MEMBER, place);
      push(room.sorter, ahead(source, routing.place[room.dst_host[task]], rules.hosts), task, task);
    }
    take_sorted(room.sorter, room.groups[MEMBER], begin, end - begin);
  }
}

// Place of a flow among the flows that its host releases together, if the transport orders them.
inline int64_t turn_of(const Rules& rules, const State& state, int64_t task, int64_t row) {
  if (!rules.staggered) return row;
  const auto& program = state.program;
  const auto& routing = state.routing;
  int64_t src = program.src_host[task];
  int64_t dst = program.dst_host[task];
  int64_t places = ahead(routing.place[src], routing.place[dst], rules.hosts);
  return places * (2 * rules.leaves) + ahead(routing.leaf[src], routing.leaf[dst], rules.leaves);
}

// Creates a flow, in its turn in its host's ring; returns the number of flows so far.
inline int64_t flow(const State& state, int64_t task, int64_t piece, int64_t size_bytes, int64_t route, int64_t row) {
  const auto& rules = state.network.rules;
  int64_t identity = task * rules.places + piece;
  int64_t delay_ps = 0;
  if (rules.start_delay_ps) {
    uint64_t drawn = draw(rules.delay_draws, flow_key(state.network, identity), 0);
    delay_ps = int64_t(drawn % uint64_t(rules.start_delay_ps + 1));
  }
  create(state, identity, task, size_bytes, route, delay_ps, turn_of(rules, state, task, row));
  return row + 1;
}

// Balances a group over its usable routes; `row` is the number of flows before the group. Returns the number after it.
inline int64_t admit_group(const State& state, int64_t begin, int64_t end, int64_t epoch, int64_t row) {
  const auto& room = state.program;
  const auto& rules = state.network.rules;
  for (int64_t place = begin; place < end; ++place) {
    room.groups(MEMBER, place) = room.released[room.groups(MEMBER, place)];
  }
  int64_t first = room.groups(MEMBER, begin);
  int64_t task;
  if (routes(state, first) == 1) {
    for (int64_t place = begin; place < end; ++place) {
      task = room.groups(MEMBER, place);
      row = flow(state, task, 0, room.bytes[task], 0, row);
    }
    return row;
  }
  int64_t routes = good_routes(state, first, epoch);
  order(state, first, begin, end, routes);
  int64_t flows = (end - begin) % routes;
  int64_t whole = end - flows;
  for (int64_t place = begin; place < whole; ++place) {
    task = room.groups(MEMBER, place);
    row = flow(state, task, 0, room.bytes[task], room.routes(ROUTE_TURN, (place - begin) % routes), row);
  }
  for (int64_t place = whole; place < end; ++place) {
    task = room.groups(MEMBER, place);
    Cut message{place - whole, flows, room.bytes[task], routes};
    cut_message(message, rules.equal_pieces, [&](int64_t piece, int64_t size_bytes, int64_t turn) {
      row = flow(state, task, piece, size_bytes, room.routes(ROUTE_TURN, turn), row);
    });
  }
  return row;
}

// Turns the messages of this instant into flows.
inline void balance(const State& state) {
  const auto& room = state.program;
  const auto& rules = state.network.rules;
  auto& totals = state.network.totals;
  auto sorter = room.sorter;
  int64_t groups = group(state, totals.released);
  int64_t group;
  for (int64_t group = 0; group < groups; ++group) {
    int64_t first = room.released[room.groups(MEMBER, room.groups(BEGIN, group))];
    if (rules.shuffled_groups) {
      uint64_t drawn = draw(rules.leaf_draws, message_key(state.network, first), 0);
      push(sorter, int64_t(drawn ^ SIGN), first, group);
    } else {
      room.groups(GROUP, group) = group;
    }
  }
  if (rules.shuffled_groups) take_sorted(sorter, room.groups[GROUP], 0, groups);
  int64_t epoch = rules.epochs > 1 ? epoch_of(state.routing, totals.now_ps) : 0;
  int64_t row = 0;
  for (int64_t turn = 0; turn < groups; ++turn) {
    group = room.groups(GROUP, turn);
    row = admit_group(state, room.groups(BEGIN, group), room.groups(BEGIN, group + 1), epoch, row);
  }
}

// Admission of the messages of an instant: flows and paths by each built-in transport's rule.

// Brings the messages of this instant into the order of their numbers.
inline void sort(const State& state) {
  const auto& program = state.program;
  int64_t count = state.network.totals.released;
  bool in_order = true;
  for (int64_t row = 1; row < count; ++row) in_order &= program.released[row - 1] < program.released[row];
  if (!in_order) {
    for (int64_t row = 0; row < count; ++row) push(program.sorter, program.released[row], 0, program.released[row]);
    take_sorted(program.sorter, program.released, 0, count);
  }
}

// The usable path of a task that a hash picks.
inline int64_t usable(const State& state, int64_t task, int64_t drawn, int64_t epoch) {
  const auto& program = state.program;
  const auto& routing = state.routing;
  const auto& rules = state.network.rules;
  int64_t src = routing.leaf[program.src_host[task]];
  int64_t dst = routing.leaf[program.dst_host[task]];
  int64_t row = routing.pair[src * rules.leaves + dst] * rules.epochs + epoch;
  int64_t begin = routing.usable_begin[row];
  return routing.usable[begin + int64_t(drawn % uint64_t(routing.usable_begin[row + 1] - begin))];
}

// CRC-32 of seed, source and destination; `path_draws` is the CRC-32 of the seed alone.
inline int64_t checksum(const Rules& rules, int64_t src, int64_t dst) {
  return crc32(crc32(uint32_t(rules.path_draws), src), dst);
}

// Admission of transports that look at each message alone.
inline void cut_alone(const State& state) {
  auto& totals = state.network.totals;
  const auto& program = state.program;
  const auto& rules = state.network.rules;
  int64_t epoch = rules.epochs > 1 ? epoch_of(state.routing, totals.now_ps) : 0;
  for (int64_t row = 0; row < totals.released; ++row) {
    int64_t task = program.released[row];
    int64_t size = program.bytes[task];
    int64_t path;
    if (rules.admission == PARTS) {
      int64_t pair = (int64_t(program.src[task]) << 32) | program.dst[task];
      for (int64_t part = 0; part < std::min<int64_t>(size, rules.parts); ++part) {
        int64_t share = size / rules.parts + (part < size % rules.parts);
        path = usable(state, task, draw(rules.path_draws, pair, part), epoch);
        create(state, task * rules.parts + part, task, share, path, 0, 0);
      }
      continue;
    }
    path = -1;
    if (rules.admission == HASHED) {
      path = usable(state, task, draw(rules.path_draws, program.src[task], program.dst[task]), epoch);
    } else if (rules.admission == CHECKSUM) {
      path = usable(state, task, checksum(rules, program.src[task], program.dst[task]), epoch);
    }
    create(state, task * rules.places, task, size, path, 0, 0);
  }
}

// Creates the flows of the messages of this instant.
inline void cut(const State& state) {
  sort(state);
  if (state.network.rules.admission == BALANCED) {
    balance(state);
  } else {
    cut_alone(state);
  }
}

// Upper bound of the number of packets of this instant's flows.
inline int64_t most_packets(const State& state) {
  auto& totals = state.network.totals;
  const auto& rules = state.network.rules;
  int64_t most = 0;
  for (int64_t row = 0; row < totals.released; ++row) {
    most += state.program.bytes[state.program.released[row]] / rules.payload + rules.parts;
  }
  return most;
}

// Turns the messages of this instant into flows in their hosts' rings; False if there is no room for the flows.
inline bool admit(const State& state) {
  auto& totals = state.network.totals;
  const auto& rules = state.network.rules;
  const auto& hosts = state.hosts;
  if (totals.flows + totals.released * rules.parts > hosts.flows.size) return false;
  if (rules.recovery == SELECTIVE && rules.listens && totals.rows + most_packets(state) > hosts.sent.size) return false;
  cut(state);
  totals.released = 0;
  line_up(state);
  return true;
}

}  // namespace netsim
