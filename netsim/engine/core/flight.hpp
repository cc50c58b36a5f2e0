// Packets in flight and hosts' links that look for a packet, on the calendar of the event engine.
#pragma once

#include "sender.hpp"
#include "slots.hpp"

namespace netsim::event {

// Puts a host's link on the calendar if it will look for a packet and is not there yet.
inline void schedule_look(const Flight& flight, const Hosts& hosts, int64_t link) {
  auto& ring = hosts.rings[link];
  if (ring.look_ps >= 0 && !ring.scheduled) {
    ring.scheduled = 1;
    add(flight, ring.look_ps, SEND | link, link);
  }
}

// Moves a host's link, the calendar's first entry, to when it looks again, or takes it off the calendar.
inline void schedule_next_look(const Flight& flight, const Hosts& hosts, int64_t link) {
  auto& ring = hosts.rings[link];
  take_first(flight);
  ring.scheduled = ring.look_ps >= 0;
  if (ring.scheduled) add(flight, ring.look_ps, SEND | link, link);
}

// The packet of an arrival: the first one of a link, or one of the control lane, whose packets may overtake each other,
// so that each has an entry of its own.
inline int64_t arriving(const Flight& flight, int64_t what) { return what < 0 ? ~what : flight.lanes[what].first; }

// Removes a packet that arrives, which is the calendar's first entry, from the packets in flight.
inline int64_t land(const Flight& flight, int64_t what) {
  const int64_t index = arriving(flight, what);
  take_first(flight);
  if (what < 0) return index;
  auto& route = flight.lanes[what];
  route.first = flight.packets[index].next;
  if (route.first < 0) {
    route.last = -1;
  } else {
    const auto& following = flight.packets[route.first];
    add(flight, following.time_ps, following.key, what);
  }
  return index;
}

// Adds a packet that leaves a link to the packets in flight; it is the last of its lane to arrive.
inline void send(const Flight& flight, int64_t index, int64_t link, int64_t arrives) {
  auto& packet = flight.packets[index];
  auto& route = flight.lanes[link];
  packet.time_ps = arrives;
  packet.next = -1;
  if (packet.passes) {
    add(flight, arrives, packet.key, ~index);
  } else if (route.first < 0) {
    route.first = route.last = index;
    add(flight, arrives, packet.key, link);
  } else {
    flight.packets[route.last].next = index;
    route.last = index;
  }
}

// Prefetches records that the entries of later slots will need: in large runs they lie outside the caches.

// Number of links from which on that pays; slots ahead to fetch lanes or rings, packets or flows, what packets need.
constexpr int64_t MANY_LINKS = 2048;
constexpr int64_t SLOTS_FAR = 12, SLOTS_NEAR = 8, SLOTS_NEXT = 4;

// Fetches what the packet of a lane that arrives needs: its flow, and the link on which it goes on.
inline void fetch_for_packet(const State& state, const Flight& flight, Packet& packet) {
  const auto& hosts = state.hosts;
  prefetch(hosts.flows, packet.flow, 2 * LINE_BYTES);
  if (is_back(packet)) {
    prefetch(hosts.flows, packet.flow);
    prefetch(hosts.flows, packet.flow, LINE_BYTES);
  } else if (!packet.control && packet.hop + 1 < packet.links) {
    const int64_t link = state.routing.route_links(packet.route, packet.hop - 1);
    prefetch(state.network.links, link);
    prefetch(flight.lanes, link);
    if (state.queued) {
      prefetch(state.queued->queues, link * state.network.rules.classes);
      prefetch(state.queued->served, link);
    }
  } else {
    prefetch(hosts.flows, packet.flow, 3 * LINE_BYTES);
  }
}

// Fetches ahead as a slot opens.
inline void fetch_ahead(const State& state, const Flight& flight) {
  const auto& rings = state.hosts.rings;
  for (const int64_t ahead : {SLOTS_FAR, SLOTS_NEAR, SLOTS_NEXT}) {
    int64_t index = flight.first[(flight.slots.open + ahead) & (flight.first.size - 1)];
    for (; index >= 0; index = flight.later[index].next) {
      const auto& entry = flight.later[index];
      if (entry.key < ARRIVAL) continue;
      if (ahead == SLOTS_FAR) {
        if (entry.what >= 0) entry.key < SEND ? prefetch(flight.lanes, entry.what) : prefetch(rings, entry.what);
      } else if (entry.key >= SEND) {
        if (const int64_t flow = rings[entry.what].first; flow >= 0) prefetch(state.hosts.flows, flow);
      } else if (ahead == SLOTS_NEAR) {
        prefetch(flight.packets, arriving(flight, entry.what));
      } else {
        fetch_for_packet(state, flight, flight.packets[arriving(flight, entry.what)]);
      }
    }
  }
}

// Marks of packets that leave a link, by the work of their class that they leave behind.
//
// The end of a transmission is an event where packets wait in queues. Elsewhere a packet's last bit leaves at a time
// that is known when it joins the queue; what has come until then is known when the next packet comes to the link, or
// else when the marked one is at the link's end.

// Notes a packet that a link of a switch has begun to send, or that has joined its queue as the last one.
inline void await_mark(const Network& network, const Queued* queued, const Flight& flight, int64_t index, int64_t at) {
  auto& link = network.links[at];
  if (!link.at_switch || flight.packets[index].passes) return;
  if (queued) {
    queued->served[at].packet = index;
  } else if (link.unmarked < 0) {
    link.unmarked = index;
  }
}

// Marks a packet whose last bit leaves a link now, if so much work stays behind it.
inline void mark_leaving(const Network& network, Packet& packet, int64_t at, int64_t work, int64_t now) {
  auto& link = network.links[at];
  const auto& kind = network.kinds[link.kind];
  int64_t rate = link.varies ? rate_at(network, at, now) : kind.rate_bps;
  bool may_mark = rate && !packet.control && !packet.marked;
  if (may_mark && marks(network, link, kind, at, packet, work, rate)) mark(network, packet, at, now);
}

// Marks those packets whose last bit has left a link by now, before anything else joins its queue.
inline void mark_left(const Network& network, const Flight& flight, int64_t at, int64_t now) {
  auto& link = network.links[at];
  while (link.unmarked >= 0) {
    auto& packet = flight.packets[link.unmarked];
    int64_t leaves = packet.time_ps - network.kinds[link.kind].delay_ps;
    if (leaves > now) return;
    link.unmarked = packet.next;
    mark_leaving(network, packet, at, std::max<int64_t>(0, link.free_ps - leaves), leaves);
  }
}

// Ends of transmissions, and pause frames, on the calendar of the event engine.
//
// Most transmissions have one of few durations. Those of equal duration end in the order in which they began, so that
// a list is their calendar; others are in the heap. All are in the heap where the order of ends in one instant decides
// which queue is resumed: if thresholds follow the memory, or if a pause frame takes no time.

// Notes which packet the next event is about.
inline void note_packet(const Queued* queued, int64_t index) {
  if (queued) queued->notes.packet = index;
}

// The link in the lists whose transmission ends first, or -1, and when.
inline std::pair<int64_t, int64_t> first_end(const Queued* queued) {
  int64_t link = -1;
  int64_t first_ps = END_PS;
  if (queued) {
    for (int64_t kind = 0; kind < queued->endings.size; ++kind) {
      int64_t first = queued->endings[kind].first;
      if (first >= 0 && queued->served[first].ends_ps < first_ps) {
        link = first;
        first_ps = queued->served[first].ends_ps;
      }
    }
  }
  return {link, first_ps};
}

// Whether the pause frames of one event might not fit into the calendar.
inline bool lacks_room(const Flight& flight, const Queued* queued) {
  if (!queued) return false;
  int64_t used = flight.calendar[0].time_ps + flight.slots.used;
  return used + queued->queues.size + ENTRIES_OF_EVENT > flight.calendar.size;
}

// The list of transmissions that take as long as the transmission on a link, or -1 for the heap.
inline int64_t kind_of(const Network& network, const Queued& queued, int64_t at) {
  const auto& rules = network.rules;
  auto& served = queued.served[at];
  if (network.links[at].varies || rules.by_link || served.late) return -1;
  if (served.wire == rules.full_wire) return served.kind;
  return served.wire == rules.ack_wire ? served.kind + 1 : -1;
}

inline void schedule_end(const Flight& flight, const Network& network, const Queued& queued, int64_t at) {
  auto& served = queued.served[at];
  int64_t kind = kind_of(network, queued, at);
  if (kind < 0) {
    add(flight, served.ends_ps, END | at, at);
    return;
  }
  auto& line = queued.endings[kind];
  served.next = -1;
  if (line.first < 0) {
    line.first = at;
  } else {
    queued.served[line.last].next = at;
  }
  line.last = at;
}

// Puts the end of the transmission that has begun, and the pause frames that are sent, on the calendar.
inline void schedule_departures(const Flight& flight, const Network& network, const Queued* queued) {
  if (queued) {
    auto& notes = queued->notes;
    if (notes.begun >= 0) {
      schedule_end(flight, network, *queued, notes.begun);
      notes.begun = -1;
    }
    for (int64_t row = 0; row < notes.frames; ++row) {
      int64_t place = queued->frames[row];
      int64_t pause_delay_ps = queued->served[link_of(queued, network.rules, place)].pause_delay_ps;
      add(flight, network.totals.now_ps + pause_delay_ps, place, place);
    }
    notes.frames = 0;
  }
}

// Begins the next transmission of a link that is free; packets on a link that is down are lost in turn.
inline void go_on(const State& state, const Queued& queued, const Flight& flight, int64_t at, int64_t now) {
  const auto& network = state.network;
  auto& totals = state.network.totals;
  while (!queued.served[at].busy) {
    int64_t place = next_queue(network.rules, queued, at);
    if (place < 0) return;
    int64_t index = take_out(queued, place);
    auto& packet = flight.packets[index];
    int64_t leaves = serve_next(network, state.routing, queued, packet, index, at, place, now);
    int64_t arrives = leaves < 0 ? GONE : forward(state, packet, at, leaves);
    if (arrives == GONE) {
      packet.next = totals.free_packet;
      totals.free_packet = index;
    } else {
      send(flight, index, at, arrives);
      if (network.rules.marks_leaving) await_mark(network, &queued, flight, index, at);
    }
  }
}

// A transmission ends, or a pause frame arrives, whose key is below END; `listed`: the event is not in the heap.
inline void depart(const State& state, const Queued* queued, const Flight& flight, int64_t key, int64_t what,
                   bool listed, int64_t now) {
  if (queued) {
    const auto& network = state.network;
    int64_t link = what;
    if (listed) {
      auto& line = queued->endings[kind_of(network, *queued, what)];
      line.first = queued->served[what].next;
    } else {
      take_first(flight);
    }
    if (key >= END) {
      finish(network, state.routing, *queued, link);
      const auto& served = queued->served[link];
      if (network.rules.marks_leaving && served.packet >= 0) {
        mark_leaving(network, flight.packets[served.packet], link, queued->queues[served.queue].waiting_ps, now);
      }
    } else {
      if (!stop_or_resume(*queued, what, now)) return;
      link = link_of(queued, network.rules, what);
    }
    go_on(state, *queued, flight, link, now);
    schedule_departures(flight, network, queued);
    if (key < END) {
      auto& ring = state.hosts.rings[what];
      if (ring.first >= 0 && ring.look_ps < 0) {
        ring.look_ps = std::max<int64_t>(now, network.links[link].free_ps);
        schedule_look(flight, state.hosts, what);
      }
    }
  }
}

}  // namespace netsim::event
