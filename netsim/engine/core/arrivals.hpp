// Order of arrivals at a unit: the order of the event engine's calendar, by time and key.
#pragma once

#include "order.hpp"
#include "pending.hpp"
#include "transit.hpp"

namespace netsim::windowed {

// Deals arrivals into parts by their time; afterwards `places` has the row after the last one of each part.
inline void deal(Span<Arrival> arrivals, Span<Arrival> scratch, Span<int64_t> places, int64_t begin, int64_t end,
                 int64_t first_ps, double scale, int64_t parts) {
  for (int64_t part = 0; part < parts; ++part) places[part] = 0;
  for (int64_t row = begin; row < end; ++row) {
    scratch[row] = arrivals[row];
    places[int64_t((scratch[row].time_ps - first_ps) * scale)] += 1;
  }
  int64_t row = begin;
  for (int64_t part = 0; part < parts; ++part) {
    int64_t size = places[part];
    places[part] = row;
    row += size;
  }
  for (int64_t row = begin; row < end; ++row) {
    int64_t part = int64_t((scratch[row].time_ps - first_ps) * scale);
    arrivals[places[part]] = scratch[row];
    places[part] += 1;
  }
}

// Sorts rows [begin, end) of arrivals: few by insertion, many within parts into which they are dealt by their time.
//
// `scratch` has as many records as `arrivals`, and `places` has `PLACES` numbers; both are overwritten.
inline void sort(Span<Arrival> arrivals, Span<Arrival> scratch, Span<int64_t> places, int64_t begin, int64_t end,
                 int64_t first_ps, int64_t end_ps) {
  if (end - begin <= RUN) {
    insert(arrivals, begin, end);
    return;
  }
  int64_t parts = RUN;
  while (parts < end - begin && parts < PLACES) parts *= 2;
  deal(arrivals, scratch, places, begin, end, first_ps, double(parts) / (end_ps - first_ps), parts);
  int64_t first = begin;
  for (int64_t part = 0; part < parts; ++part) {
    int64_t last = places[part];
    if (last > first + 1) sort_part(arrivals, scratch, first, last);
    first = last;
  }
}

// Prefetches records that units and hosts will need soon: in large runs they lie outside the caches.

// How many hosts ahead: first a record, then those to which it points.
constexpr int64_t HOSTS_FAR = 12, HOSTS_NEAR = 6, HOSTS_NEXT = 3;
// How many arrivals ahead: packets and links, flows, whether a packet has arrived before.
constexpr int64_t RECORDS = 16, FLOWS = 11, ROWS = 6;

// Fetches the packets of a chunk; with them, `left` packets are left in its bucket.
inline void fetch_packets(const Wheel& wheel, int64_t chunk, int64_t left) {
  for (int64_t place = chunk * CHUNK; place < chunk * CHUNK + std::min<int64_t>(left, CHUNK); ++place) {
    prefetch(wheel.packets, place, 0);
  }
}

// Fetches the records that give the next link of a chunk's packets: their route, or their flow for the last link.
inline void fetch_next_links(const State& state, const Wheel& wheel, int64_t chunk, int64_t left) {
  for (int64_t place = chunk * CHUNK; place < chunk * CHUNK + std::min<int64_t>(left, CHUNK); ++place) {
    auto& packet = wheel.packets[place];
    if (packet.next < 0) {
      if (packet.hop + 1 == packet.links) {
        prefetch(state.hosts.flows, packet.flow, 3 * LINE_BYTES);
      } else {
        prefetch_to_read(state.routing.route_links[packet.route], 0);
      }
    }
  }
}

// Fetches what the arrivals behind a row need: packet and link, flow, whether the packet has arrived before.
inline void fetch_for_units(const State& state, const Wheel& wheel, int64_t row, int64_t end) {
  const auto& hosts = state.hosts;
  auto arrivals = wheel.arrivals;
  auto packets = wheel.packets;
  if (row + RECORDS < end) {
    auto& arrival = arrivals[row + RECORDS];
    prefetch(packets, arrival.place, 0);
    prefetch(wheel.units, arrival.unit, 0);
    if (arrival.unit < state.network.links.size) prefetch(state.network.links, arrival.unit, 0);
  }
  if (row + FLOWS < end) {
    auto& packet = packets[arrivals[row + FLOWS].place];
    if (packet.hop + 1 == packet.links) {
      prefetch(hosts.flows, packet.flow, 3 * LINE_BYTES);
      prefetch(state.routing.route_acks, packet.route, 0);
    }
  }
  if (row + ROWS < end) {
    auto& packet = packets[arrivals[row + ROWS].place];
    if (packet.hop + 1 == packet.links) {
      prefetch(hosts.arrived, hosts.flows[packet.flow].arrival_row + packet.sequence, 0);
    }
  }
}

// Fetches a link with queues, the queue of a class in front of it, and what is on the link.
inline void fetch_link(const State& state, const Queued* queued, int64_t link, int64_t traffic_class) {
  if (queued) {
    int64_t place = link * state.network.rules.classes + traffic_class;
    prefetch(state.network.links, link, 0);
    prefetch(queued->queues, place, 0);
    prefetch(queued->served, link, 0);
  }
}

// Fetches what a switch whose links have queues needs of its next arrivals: flows, then links and queues.
inline void fetch_for_switch(const State& state, const Queued* queued, const Wheel& wheel, Unit& unit) {
  int64_t row = unit.begin;
  if (queued && row + HOSTS_NEAR < unit.end) {
    auto& packet = wheel.packets[wheel.arrivals[row + HOSTS_NEAR].place];
    prefetch_to_read(state.hosts.flows, packet.flow, 2 * LINE_BYTES);
    prefetch(state.hosts.flows, packet.flow, 3 * LINE_BYTES);
    prefetch_to_read(state.routing.route_links[packet.route], 0);
  }
  if (queued && row + HOSTS_NEXT < unit.end && wheel.arrivals[row + HOSTS_NEXT].key >= ARRIVAL) {
    auto& packet = wheel.packets[wheel.arrivals[row + HOSTS_NEXT].place];
    auto& flow = state.hosts.flows[packet.flow];
    fetch_link(state, queued, planned_link(state, packet, flow), flow.traffic_class);
    int64_t came = link_before(state, packet, flow) * state.network.rules.classes + flow.traffic_class;
    prefetch(queued->queues, came, 0);
  }
}

// Fetches what the hosts behind a place among the active ones need: link and ring, then packets, then flows.
inline void fetch_for_hosts(const State& state, const Wheel& wheel, int64_t place) {
  const auto& rules = state.network.rules;
  const auto& hosts = state.hosts;
  auto units = wheel.units;
  auto links = state.network.links;
  int64_t last = wheel.window.active - 1;
  int64_t link = wheel.active[std::min<int64_t>(place + HOSTS_FAR, last)];
  prefetch(units, link, 0);
  prefetch(hosts.rings, first_ring(state.queued, rules, link), 0);
  prefetch(links, link, 0);
  fetch_link(state, state.queued, link, 0);
  const auto& later = units[wheel.active[std::min<int64_t>(place + HOSTS_NEAR + HOSTS_NEXT, last)]];
  for (int64_t row = later.begin; row < later.end; ++row) prefetch(wheel.packets, wheel.arrivals[row].place);
  link = wheel.active[std::min<int64_t>(place + HOSTS_NEAR, last)];
  int64_t index = hosts.rings[first_ring(state.queued, rules, link)].first;
  if (const auto& unit = units[link]; unit.begin < unit.end) {
    index = wheel.packets[wheel.arrivals[unit.end - 1].place].flow;
  }
  if (index >= 0) {
    prefetch(hosts.flows, index);
    prefetch(hosts.flows, index, LINE_BYTES);
    prefetch_to_read(hosts.flows, index, 2 * LINE_BYTES);
  }
  link = wheel.active[std::min<int64_t>(place + HOSTS_NEXT, last)];
  index = hosts.rings[first_ring(state.queued, rules, link)].first;
  const auto& unit = units[link];
  for (int64_t row = unit.begin; row < unit.end; ++row) {
    const auto& packet = wheel.packets[wheel.arrivals[row].place];
    if (!packet.control || packet.hop != packet.links)
      continue;  // it goes back to another host, whose thread may write its flow
    index = packet.flow;
    prefetch(hosts.sent, hosts.flows[index].first_row + packet.sequence);
  }
  // A flow of another host may be written by its thread.
  if (index >= 0 && hosts.flows[index].up == link) {
    const auto& flow = hosts.flows[index];
    prefetch(hosts.sent, flow.first_row + flow.next);
    prefetch_to_read(state.routing.usable_begin, flow.pair * rules.epochs);
  }
}

// The packets that arrive in a window and region, taken out of the wheel and sorted by unit.

// Gives each unit the rows of its arrivals.
inline void deal(const Wheel& wheel, int64_t found, int64_t touched) {
  auto& window = wheel.window;
  auto units = wheel.units;
  int64_t row = wheel.window.arrivals;
  window.touched = touched;
  window.arrivals += found;
  for (int64_t place = 0; place < touched; ++place) {
    auto& unit = units[wheel.touched[place]];
    row += unit.end;
    unit.begin = unit.end = row - unit.end;
  }
  for (int64_t place = 0; place < found; ++place) {
    auto& unit = units[wheel.found[place].unit];
    wheel.arrivals[unit.end] = wheel.found[place];
    unit.end += 1;
  }
}

// Counts the arrivals of some rows at their units; returns how many units have arrivals so far.
//
// A processor cannot predict which unit is new. So each unit is written down, and overwritten unless it was new.
inline int64_t count(const Wheel& wheel, int64_t begin, int64_t end, int64_t touched) {
  for (int64_t place = begin; place < end; ++place) {
    int64_t index = wheel.found[place].unit;
    auto& unit = wheel.units[index];
    wheel.touched[touched] = index;
    touched += int64_t(unit.end == 0);
    unit.end += 1;
  }
  return touched;
}

// Notes where the packets of a chunk arrive; returns the number of arrivals so far.
inline int64_t find(const State& state, const Wheel& wheel, int64_t chunk, int64_t size, int64_t found) {
  auto& window = wheel.window;
  for (int64_t place = chunk * CHUNK; place < chunk * CHUNK + size; ++place) {
    auto& packet = wheel.packets[place];
    if (packet.time_ps >= window.end_ps) {
      put(wheel, packet, packet.next, window.region, packet.time_ps);
      continue;
    }
    int64_t index = packet.next >= 0 ? packet.next : next_link(state, packet, packet.time_ps);
    prefetch(wheel.units, index, 0);
    auto& arrival = wheel.found[found];
    arrival.time_ps = packet.time_ps;
    arrival.key = packet.key;
    arrival.place = place;
    arrival.unit = index;
    found += 1;
  }
  return found;
}

// Empties the bucket of a thread; returns the arrivals of the region, and units with arrivals, so far.
inline std::pair<int64_t, int64_t> empty(const State& state, const Wheel& wheel, Bucket& bucket, int64_t thread,
                                         int64_t found, int64_t touched) {
  auto& window = wheel.window;
  int64_t left = bucket.packets;
  int64_t chunks = 0;
  int64_t first = bucket.first;
  int64_t last = bucket.last;
  if (!left) {
    return {found, touched};
  }
  int64_t chunk = first;
  bucket.packets = 0;
  window.in_flight -= left;
  fetch_next_links(state, wheel, first, left);
  while (left) {
    chunks += 1;
    int64_t size = std::min<int64_t>(left, CHUNK);
    left -= size;
    int64_t following = left ? wheel.next_chunk[chunk] : -1;
    if (left) fetch_next_links(state, wheel, following, left);
    if (left > CHUNK) fetch_packets(wheel, wheel.next_chunk[following], left - CHUNK);
    int64_t before = found;
    found = find(state, wheel, chunk, size, found);
    touched = count(wheel, before, found, touched);
    chunk = following;
  }
  int64_t whose = is_of_hosts(window, window.region) ? OF_HOSTS : OF_SWITCHES;
  bool is_own = thread == window.thread;
  auto& used = is_own ? wheel.used[whose] : wheel.returned[returned_row(window, whose, thread)];
  use_chunks(wheel, used, first, last, chunks);
  return {found, touched};
}

// Takes the packets that arrive in the open window and region out of their buckets, and sorts them by unit.
//
// The thread's own bucket comes first: what arrives later goes back into it.
inline void gather(const State& state, const Wheels& wheels, const Wheel& wheel) {
  auto& window = wheel.window;
  int64_t touched = 0;
  int64_t found = 0;
  int64_t row = bucket_row(wheel);
  for (int64_t turn = 0; turn < window.threads; ++turn) {
    int64_t thread = (window.thread + turn) % window.threads;
    std::tie(found, touched) = empty(state, wheel, wheels.buckets(thread, row), thread, found, touched);
  }
  deal(wheel, found, touched);
}

// Data that arrives at hosts in one window, which may end messages and let tasks begin.

// Sorts the data that waits at all receivers.
inline void order_receipts(const Wheel& wheel) {
  auto& window = wheel.window;
  sort(wheel.receipts, wheel.found, wheel.places, 0, window.receipts, window.number * window.length_ps, window.end_ps);
}

// Adds data to the receipts of the window.
inline void collect(const Wheel& wheel, int64_t begin, int64_t end) {
  auto& window = wheel.window;
  for (int64_t row = begin; row < end; ++row) {
    if (!wheel.packets[wheel.arrivals[row].place].control) {
      wheel.receipts[window.receipts] = wheel.arrivals[row];
      window.receipts += 1;
    }
  }
}

// Data without an acknowledgement is gone, but a receiver that asks for packets takes note of it (`hosts.hpp`).
inline void receive_at(const State& state, const Wheel& wheel, Unit& unit) {
  int64_t kept = unit.begin;
  bool asks = state.network.rules.receivers_ask;
  for (int64_t row = unit.begin; row < unit.end; ++row) {
    auto& arrival = wheel.arrivals[row];
    auto& packet = wheel.packets[arrival.place];
    if (packet.control || receive(state, packet, state.hosts.flows[packet.flow], arrival.time_ps) || asks) {
      wheel.arrivals[kept] = arrival;
      kept += 1;
    }
  }
  unit.end = kept;
}

// Sorts the arrivals at hosts, and turns data into acknowledgements.
//
// If the run ends with a message in the middle of a window, data must wait: it is received in the order in which it
// comes to all hosts, see `receive_next`.
inline void deal_with_hosts_of_region(const State& state, const Wheel& wheel) {
  auto& window = wheel.window;
  bool waits = state.network.rules.ends_early > 0;
  int64_t first_ps = window.number * window.length_ps;
  for (int64_t place = 0; place < window.touched; ++place) {
    int64_t index = wheel.touched[place];
    auto& unit = wheel.units[index];
    if (unit.at_host) {
      int64_t begin = unit.begin;
      int64_t end = unit.end;
      sort(wheel.arrivals, wheel.found, wheel.places, begin, end, first_ps, window.end_ps);
      if (waits) {
        collect(wheel, begin, end);
      } else {
        receive_at(state, wheel, unit);
      }
      activate(wheel, index);
    }
  }
  window.at_hosts = window.arrivals;
}

// Lets the hosts of all regions of a thread receive what has come; returns why the loop must stop.
inline int64_t deal_with_receivers(const State& state, const Wheels& wheels, const Wheel& wheel) {
  auto& window = wheel.window;
  while (is_of_hosts(window, window.region)) {
    if (lacks_room_for_arrivals(wheels, wheel)) return NEEDS_ROOM;
    gather(state, wheels, wheel);
    deal_with_hosts_of_region(state, wheel);
    touch_woken(wheel, window.region);
    window.region += window.threads;
  }
  if (window.regions > 1) {
    window.touched = 0;
    window.region = window.regions / 2 + window.thread;
  }
  order_receipts(wheel);
  return GOES_ON;
}

// When the next data that waits comes to its receiver, END_PS if none waits, and its key.
inline std::pair<int64_t, int64_t> next_receipt(const Wheel& wheel) {
  auto& window = wheel.window;
  if (window.received == window.receipts) {
    return {END_PS, 0};
  }
  auto& receipt = wheel.receipts[window.received];
  return {receipt.time_ps, receipt.key};
}

// The next data that waits is received, and becomes an acknowledgement.
inline void receive_next(const State& state, const Wheel& wheel) {
  auto& window = wheel.window;
  auto& receipt = wheel.receipts[window.received];
  window.received += 1;
  auto& packet = wheel.packets[receipt.place];
  receive(state, packet, state.hosts.flows[packet.flow], receipt.time_ps);
}

}  // namespace netsim::windowed
