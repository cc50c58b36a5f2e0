// When each packet leaves its host, and which route it takes.
#pragma once

#include "../draws.hpp"
#include "sorting.hpp"

namespace netsim::exact {

// As `netsim.engine.exact.injection.Cargo`.
struct Cargo {
  Column key, pair, route, first;
  int64_t full_bytes;
  Column last_bytes;
};

// As `netsim.engine.exact.injection.Rings`.
struct Rings {
  Column order, begin, join_ps;
  int64_t round_robin;
};

// As `netsim.engine.exact.injection.Departures`.
struct Departures {
  Span<int64_t> tag, leave_ps, by_route;
};

// How packets choose their route: a `Choice` of those that hosts make without the network, its draws, and the shortest
// pause that begins a flowlet.
struct Rule {
  int64_t choice;
  uint64_t draws;
  int64_t gap_ps;
};

// Sorts the flows of each link by time; in one instant, flows released then, by turn, before delayed flows, by number.
inline void sort_rings(Column link, Column turn, Column join_ps, Column delay_ps, Column begin, Span<int64_t> order) {
  std::vector<int64_t> fill(begin.begin(), begin.end());
  for (int64_t flow = 0; flow < link.size; ++flow) order[fill[link[flow]]++] = flow;
  int64_t longest = longest_segment(begin);
  Room room(longest);
  std::vector<int64_t> key(longest), place(longest);
  for (int64_t ring = 0; ring + 1 < begin.size; ++ring) {
    auto flows = order.part(begin[ring], begin[ring + 1] - begin[ring]);
    int64_t size = flows.size;
    for (int64_t n = 0; n < size; ++n) key[n] = delay_ps[flows[n]] ? flows[n] : turn[flows[n]];
    sort({key.data(), size}, flows, room);
    for (int64_t n = 0; n < size; ++n) {
      key[n] = join_ps[flows[n]] * 2 + (delay_ps[flows[n]] > 0);
      place[n] = n;
    }
    sort({key.data(), size}, {place.data(), size}, room);
    std::copy_n(flows.data, size, room.index.begin());
    for (int64_t n = 0; n < size; ++n) flows[n] = room.index[place[n]];
  }
}

// Chooses the route of each packet, host by host.
class Routes {
 public:
  Routes(const Fabric& fabric, const Rule& rule, const Cargo& cargo, Column leaf)
      : fabric_(fabric), rule_(rule), cargo_(cargo), leaf_(leaf) {
    for (int64_t of_pair : leaf) to_leaf_.resize(std::max<size_t>(to_leaf_.size(), of_pair + 1));
    if (rule.choice == FLOWLET) {
      route_.resize(cargo.route.size);
      left_ps_.resize(cargo.route.size);
    }
  }
  // The packets of another host follow.
  void begin_host() {
    sent_ = epoch_ = 0;
    std::fill(to_leaf_.begin(), to_leaf_.end(), 0);
  }
  // Route of a packet, the flow's `serial`th, that leaves now on a link.
  int64_t choose(int64_t flow, int64_t serial, int64_t link, int64_t now) {
    if (rule_.choice == PINNED) return cargo_.route[flow];
    int64_t pair = cargo_.pair[flow];
    sent_ += 1;
    to_leaf_[leaf_[pair]] += 1;
    while (epoch_ + 1 < fabric_.epoch_ps.size && fabric_.epoch_ps[epoch_ + 1] <= now) epoch_ += 1;
    if (rule_.choice != FLOWLET) return draw_route(flow, serial, link);
    if (!serial || now - left_ps_[flow] > rule_.gap_ps) route_[flow] = draw_route(flow, serial, link);
    left_ps_[flow] = now;
    return route_[flow];
  }

 private:
  // One of the routes that are usable now.
  int64_t draw_route(int64_t flow, int64_t serial, int64_t link) const {
    int64_t pair = cargo_.pair[flow];
    int64_t row = pair * fabric_.epoch_ps.size + epoch_;
    int64_t begin = fabric_.usable_begin[row];
    int64_t count = fabric_.usable_begin[row + 1] - begin;
    int64_t turn;
    if (rule_.choice == SPRAY_ROUND_ROBIN) {
      turn = pick(draw(rule_.draws, link, 0), sent_, count);
    } else if (rule_.choice == ROTATION) {
      turn = pick(draw(rule_.draws, link, leaf_[pair]), to_leaf_[leaf_[pair]], count);
    } else {
      turn = pick(draw(rule_.draws, cargo_.key[flow], serial), 0, count);
    }
    return fabric_.route_begin[pair] + fabric_.usable[begin + turn];
  }
  const Fabric& fabric_;
  const Rule& rule_;
  const Cargo& cargo_;
  Column leaf_;
  int64_t sent_ = 0, epoch_ = 0;
  std::vector<int64_t> to_leaf_, route_, left_ps_;
};

// Serves every host's ring until it is empty.
//
// `leaf` is the destination leaf of each pair; a packet's tag is its number << `bits` | its route * `stride`.
inline void inject(const Fabric& fabric, const Rule& rule, const Rings& rings, const Cargo& cargo, Column leaf,
                   int64_t bits, int64_t stride, const Departures& departures) {
  Routes routes(fabric, rule, cargo, leaf);
  std::vector<int64_t> following(cargo.first.begin(), cargo.first.end());
  std::vector<int64_t> ring(longest_segment(rings.begin));
  int64_t out = 0;
  for (int64_t link = 0; link < fabric.delay_ps.size; ++link) {
    int64_t joining = rings.begin[link];
    int64_t all_joined = rings.begin[link + 1];
    int64_t size = all_joined - joining;
    if (!size) continue;
    auto wrapped = [size](int64_t place) { return place >= size ? place - size : place; };
    int64_t head = 0, waiting = 0, now = 0;
    Pace pace(fabric, link, cargo.full_bytes);
    routes.begin_host();
    while (waiting || joining < all_joined) {
      if (!waiting) now = std::max(now, rings.join_ps[joining]);
      while (joining < all_joined && rings.join_ps[joining] <= now) {
        ring[wrapped(head + waiting)] = rings.order[joining];
        waiting += 1;
        joining += 1;
      }
      int64_t flow = ring[head];
      int64_t packet = following[flow]++;
      bool last = packet + 1 == cargo.first[flow + 1];
      int64_t route = routes.choose(flow, packet - cargo.first[flow], link, now);
      departures.tag[out] = (packet << bits) | (route * stride);
      departures.leave_ps[out] = now;
      departures.by_route[route] += 1;
      out += 1;
      now += pace.service(last ? cargo.last_bytes[flow] : cargo.full_bytes, now);
      if (rings.round_robin && !last) ring[wrapped(head + waiting)] = flow;
      if (rings.round_robin || last) head = wrapped(head + 1);
      waiting -= last;
    }
  }
}

}  // namespace netsim::exact
