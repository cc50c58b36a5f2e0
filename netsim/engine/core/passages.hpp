// Least times of messages through an empty fabric, computed once for messages of equal bytes between equal hosts.
#pragma once

#include <vector>

#include "segments.hpp"

namespace netsim::ideal {

// Columns of `netsim.workload.tasks.TaskColumns`.
struct Tasks {
  Span<const int32_t> src, dst;  // ranks
  Wholes bytes, delay_ps;
  Wholes after_begin;         // rows of `after` of each task
  Span<const int32_t> after;  // tasks for which it waits
};

// Links of each rank's host: see `netsim.simulation.bound.Ends`.
struct Ends {
  Wholes up, down, inside;  // links to its leaf, from its leaf, and inside the host
  Wholes host, leaf;
  Wholes alike;  // number of the hosts that have this leaf and links of these rates and delays
};

// Links and the routes between leaves: see `netsim.engine.core.fabric.FabricArrays`.
struct Fabric {
  Wholes best_bps;  // highest rate that a link ever has, 0 if it is never up
  Wholes delay_ps;
  Wholes pair;         // index of a pair of leaves
  Wholes route_begin;  // first route of a pair
  Table<const int64_t> route_links;
  Wholes route_length;
  Wholes links_of(int64_t route) const { return route_links[route].part(0, route_length[route]); }
};

// What the smallest packet of a message depends on: see `netsim.simulation.bound.Wire`.
struct Wire {
  int64_t payload, header;
  Wholes parts;      // numbers of equal parts into which messages may be cut
  int64_t anywhere;  // whether they may be cut anywhere
  int64_t shares;    // whether they may be cut into shares for their paths
};

// A kind of message. Times in picoseconds.
struct Kind {
  bool within;       // whether it stays inside its host
  int64_t first_ps;  // service on the first link
  int64_t last_ps;   // service on the last link
  int64_t head_ps;   // time until the first packet may be at the last link
  int64_t tail_ps;   // time of the smallest packet after its service on the first link
  int64_t end_ps;    // delay of the last link
};

// Kinds of the messages of all tasks.
struct Passages {
  std::vector<int32_t> kind;  // of each task; -1 for one without a message
  std::vector<Kind> kinds;
};

// Finds tasks whose messages are of one kind: a hash table of kinds that doubles.
class KindTable {
 public:
  KindTable(const Tasks& tasks, const Ends& ends) : tasks_(tasks), ends_(ends), slots_(2048, -1) {}
  // The first task of each kind.
  const std::vector<int64_t>& first() const { return first_; }
  // The kind of a task, a new one if it is the first of its kind.
  int32_t kind_of(int64_t task) {
    if (2 * first_.size() >= slots_.size()) double_slots();
    int32_t& slot = slots_[place_of(task)];
    if (slot < 0) {
      slot = int32_t(first_.size());
      first_.push_back(task);
    }
    return slot;
  }

 private:
  void double_slots() {
    slots_.assign(2 * slots_.size(), -1);
    for (size_t kind = 0; kind < first_.size(); ++kind) slots_[place_of(first_[kind])] = int32_t(kind);
  }
  // Place of a task's kind in the table, which is empty if the kind is new.
  size_t place_of(int64_t task) const {
    uint64_t one = ends_.alike[tasks_.src[task]], other = ends_.alike[tasks_.dst[task]], size = tasks_.bytes[task];
    uint64_t mixed = (one * 0x9E3779B1 + other) * 0x85EBCA6B + size * 0xC2B2AE35 + is_within(task);
    mixed ^= mixed >> 29;
    size_t place = (mixed * 0x27D4EB2F ^ (mixed >> 15)) & (slots_.size() - 1);
    while (slots_[place] >= 0 && !are_alike(first_[slots_[place]], task)) place = (place + 1) & (slots_.size() - 1);
    return place;
  }
  bool is_within(int64_t task) const { return ends_.host[tasks_.src[task]] == ends_.host[tasks_.dst[task]]; }
  bool are_alike(int64_t one, int64_t other) const {
    return tasks_.bytes[one] == tasks_.bytes[other] && is_within(one) == is_within(other) &&
           ends_.alike[tasks_.src[one]] == ends_.alike[tasks_.src[other]] &&
           ends_.alike[tasks_.dst[one]] == ends_.alike[tasks_.dst[other]];
  }
  const Tasks& tasks_;
  const Ends& ends_;
  std::vector<int64_t> first_;
  std::vector<int32_t> slots_;
};

// Bytes of a message on the wire.
inline int64_t whole_bytes(int64_t size_bytes, const Wire& wire) {
  return size_bytes + wire.header * ((size_bytes + wire.payload - 1) / wire.payload);
}

// `netsim.foundation.units.service_ps`; 0 for links that are never up.
inline int64_t service_if_up_ps(int64_t wire_bytes, int64_t rate_bps) {
  return rate_bps ? service_ps(wire_bytes, rate_bps) : 0;
}

inline bool is_ever_up(Wholes links, const Fabric& fabric) {
  for (int64_t link : links)
    if (!fabric.best_bps[link]) return false;
  return true;
}

// How many routes between two leaves are up at some time.
inline int64_t paths_ever_up(int64_t pair, const Fabric& fabric) {
  int64_t paths = 0;
  for (int64_t route = fabric.route_begin[pair]; route < fabric.route_begin[pair + 1]; ++route) {
    paths += is_ever_up(fabric.links_of(route), fabric);
  }
  return paths;
}

// The least time of a packet between two leaves, over routes that are ever up, if there are some.
inline int64_t least_ps(int64_t pair, int64_t wire_bytes, bool some_up, const Fabric& fabric) {
  int64_t least = -1;
  for (int64_t route = fabric.route_begin[pair]; route < fabric.route_begin[pair + 1]; ++route) {
    if (some_up && !is_ever_up(fabric.links_of(route), fabric)) continue;
    int64_t passage_ps = 0;
    for (int64_t link : fabric.links_of(route)) {
      passage_ps += service_if_up_ps(wire_bytes, fabric.best_bps[link]) + fabric.delay_ps[link];
    }
    if (least < 0 || passage_ps < least) least = passage_ps;
  }
  return std::max<int64_t>(least, 0);
}

// Payload of the last packet of a flow; a whole one for no flow.
inline int64_t last_packet(int64_t size_bytes, int64_t payload) {
  return size_bytes ? (size_bytes - 1) % payload + 1 : payload;
}

// Least payload of a packet.
inline int64_t smallest_packet(int64_t size_bytes, int64_t paths, const Wire& wire) {
  if (wire.anywhere) return 1;
  int64_t least = last_packet(size_bytes, wire.payload);
  int64_t each = size_bytes / paths, rest = size_bytes % paths;
  for (int64_t share = 1; share <= paths && wire.shares; ++share) {
    int64_t shorter = each * share + rest * share / paths;
    int64_t longer = shorter + (rest * share % paths > 0);
    least = std::min({least, last_packet(shorter, wire.payload), last_packet(longer, wire.payload)});
  }
  for (int64_t parts : wire.parts) {
    int64_t shorter = size_bytes / parts;
    least = std::min(least, last_packet(shorter, wire.payload));
    if (size_bytes % parts) least = std::min(least, last_packet(shorter + 1, wire.payload));
  }
  return least;
}

// Least payload of a flow.
inline int64_t shortest_flow(int64_t size_bytes, int64_t paths, const Wire& wire) {
  if (wire.anywhere) return 1;
  int64_t least = wire.shares ? size_bytes / paths : size_bytes;
  for (int64_t parts : wire.parts) least = std::min(least, size_bytes / parts);
  return std::max<int64_t>(least, 1);
}

// The kind of a task's message.
inline Kind describe(int64_t task, const Tasks& tasks, const Ends& ends, const Fabric& fabric, const Wire& wire,
                     int64_t leaves) {
  int64_t one = tasks.src[task], other = tasks.dst[task], size = tasks.bytes[task];
  int64_t whole = whole_bytes(size, wire);
  bool within = ends.host[one] == ends.host[other];
  int64_t up = within ? ends.inside[one] : ends.up[one];
  int64_t down = within ? ends.inside[one] : ends.down[other];
  int64_t up_bps = fabric.best_bps[up], down_bps = fabric.best_bps[down];
  int64_t up_delay_ps = fabric.delay_ps[up], down_delay_ps = fabric.delay_ps[down];
  int64_t first_ps = service_if_up_ps(whole, up_bps), last_ps = service_if_up_ps(whole, down_bps);
  if (within) return {within, first_ps, last_ps, 0, up_delay_ps, down_delay_ps};
  int64_t pair = fabric.pair[ends.leaf[one] * leaves + ends.leaf[other]];
  int64_t up_paths = paths_ever_up(pair, fabric), paths = std::max<int64_t>(1, up_paths);
  int64_t smallest = smallest_packet(size, paths, wire) + wire.header;
  int64_t full = std::min(size, wire.payload) + wire.header;
  int64_t before = (shortest_flow(size, paths, wire) - 1) / wire.payload;
  int64_t route_ps = least_ps(pair, smallest, up_paths > 0, fabric);
  int64_t full_ps = service_if_up_ps(full, up_bps);
  int64_t small_first_ps = before * full_ps + service_if_up_ps(smallest, up_bps) + route_ps;
  int64_t full_first_ps = full_ps + least_ps(pair, full, up_paths > 0, fabric);
  int64_t head_ps = up_delay_ps + std::min(full_first_ps, small_first_ps);
  int64_t tail_ps = up_delay_ps + route_ps + service_if_up_ps(smallest, down_bps) + down_delay_ps;
  return {within, first_ps, last_ps, head_ps, tail_ps, down_delay_ps};
}

// The passages of all messages. Adds up the bytes on the wire that leave each leaf for another, and those that come.
inline Passages passages_of(const Tasks& tasks, const Ends& ends, const Fabric& fabric, const Wire& wire,
                            Table<int64_t> crossing) {
  Passages passages;
  passages.kind.assign(tasks.src.size, -1);
  KindTable table(tasks, ends);
  for (int64_t task = 0; task < tasks.src.size; ++task) {
    if (!tasks.bytes[task]) continue;
    passages.kind[task] = table.kind_of(task);
    int64_t one = ends.leaf[tasks.src[task]], other = ends.leaf[tasks.dst[task]];
    if (one != other) {
      int64_t whole = whole_bytes(tasks.bytes[task], wire);
      crossing(0, one) += whole;
      crossing(1, other) += whole;
    }
  }
  for (int64_t task : table.first()) {
    passages.kinds.push_back(describe(task, tasks, ends, fabric, wire, crossing.columns));
  }
  return passages;
}

}  // namespace netsim::ideal
