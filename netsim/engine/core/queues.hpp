// Packet memory of switches (`netsim.engine.reference.conditions`). Nothing here uses the calendar.
#pragma once

#include "links.hpp"

namespace netsim {

constexpr int64_t REFUSED = 0;
constexpr int64_t TAKEN = 1;
constexpr int64_t TELLS = 2;
constexpr int64_t MILLION = 1000000;

// Millionths of a byte that a switch may hold from one queue before it pauses that queue.
inline int64_t threshold(const Rules& rules, const Switch& memory) {
  if (rules.dynamic) return rules.alpha * std::max<int64_t>(0, memory.pool - memory.used);
  return rules.pause_above * MILLION;
}

// Takes a packet into a switch if there is room.
inline int64_t takes(const Rules& rules, const Queued& queued, int64_t wire, int64_t source, int64_t queue,
                     int64_t node) {
  auto& from_ = queued.queues[source];
  auto& to = queued.queues[queue];
  auto& memory = queued.switches[node];
  if (rules.memory_bytes >= 0) {
    int64_t free = rules.memory_bytes - memory.used;
    if (wire > free) return REFUSED;
    if (!rules.pauses && to.length * MILLION >= rules.alpha * free) return REFUSED;
  }
  if (rules.pauses && !rules.dynamic && from_.held + wire > from_.most) return REFUSED;
  memory.used += wire;
  to.length += wire;
  from_.held += wire;
  if (rules.pauses && !from_.pause_sent && from_.held * MILLION > threshold(rules, memory)) {
    from_.pause_sent = 1;
    memory.pauses_sent += 1;
    return TELLS;
  }
  return TAKEN;
}

// Frees the memory of a packet; returns whether the queue that it came from is resumed.
inline bool gives_back(const Rules& rules, const Queued& queued, int64_t wire, int64_t source, int64_t queue,
                       int64_t node) {
  auto& from_ = queued.queues[source];
  auto& memory = queued.switches[node];
  memory.used -= wire;
  queued.queues[queue].length -= wire;
  from_.held -= wire;
  if (!from_.pause_sent) return false;
  int64_t enough;
  if (rules.dynamic) {
    enough = std::max<int64_t>(0, threshold(rules, memory) - rules.resume_below * MILLION);
  } else {
    enough = rules.resume_at * MILLION;
  }
  if (from_.held * MILLION > enough) return false;
  from_.pause_sent = 0;
  memory.pauses_sent -= 1;
  return true;
}

// Deficit round robin among classes (`netsim.engine.reference.nic`).
//
// Row `link` of `Queued.turns` belongs to the queues in front of a link, row `links + link` to the rings of a host's
// link.

// Whether a class takes turns with others.
inline bool takes_turns(const Queued& queued, int64_t traffic_class) {
  return queued.quanta.size > 0 && queued.quanta[traffic_class] > 0;
}

// The row of the rings of a host's link.
inline int64_t rings_of(const Queued& queued, int64_t link) { return queued.served.size + link; }

// Passes the turn to the next class that has a quantum.
inline void pass_on(const Queued& queued, int64_t row) {
  auto turns = queued.turns;
  auto quanta = queued.quanta;
  turns(row, GOT_QUANTUM) = 0;
  while (true) {
    turns(row, WHOSE_TURN) = (turns(row, WHOSE_TURN) + 1) % quanta.size;
    if (quanta[turns(row, WHOSE_TURN)]) return;
  }
}

// The class that sends next, or -1; `Queued.needs`: bytes of each class's next packet, -1 if none or paused.
inline int64_t next_class(const Queued& queued, int64_t row) {
  auto turns = queued.turns;
  auto needs = queued.needs;
  auto quanta = queued.quanta;
  bool ready = false;
  for (int64_t number = 0; number < quanta.size; ++number) {
    if (needs[number] >= 0) {
      if (!quanta[number]) return number;
      ready = true;
    }
  }
  if (!ready) return -1;
  while (true) {
    int64_t turn = turns(row, WHOSE_TURN);
    if (needs[turn] < 0) {
      turns(row, BYTES_LEFT + turn) = 0;
    } else {
      if (turns(row, BYTES_LEFT + turn) < needs[turn] && !turns(row, GOT_QUANTUM)) {
        turns(row, BYTES_LEFT + turn) += quanta[turn];
        turns(row, GOT_QUANTUM) = 1;
      }
      if (turns(row, BYTES_LEFT + turn) >= needs[turn]) return turn;
    }
    pass_on(queued, row);
  }
}

// A class has sent a packet; `more` says whether it has another.
inline void note_sent(const Queued& queued, int64_t row, int64_t traffic_class, int64_t size_bytes, bool more) {
  if (queued.quanta[traffic_class]) {
    queued.turns(row, BYTES_LEFT + traffic_class) -= size_bytes;
    if (!more) {
      queued.turns(row, BYTES_LEFT + traffic_class) = 0;
      pass_on(queued, row);
    }
  }
}

// A class has sent the only packet in front of a link that was idle: the turn has come to it and passed on.
inline void note_sent_alone(const Queued& queued, int64_t at, int64_t traffic_class) {
  auto turns = queued.turns;
  if (queued.quanta[traffic_class]) {
    while (turns(at, WHOSE_TURN) != traffic_class) {
      turns(at, BYTES_LEFT + turns(at, WHOSE_TURN)) = 0;
      pass_on(queued, at);
    }
    turns(at, BYTES_LEFT + traffic_class) = 0;
    pass_on(queued, at);
  }
}

// Links whose packets wait in queues (`netsim.engine.reference.queued`).
//
// Nothing here uses the calendar: `Queued.notes` says which link begins to send, and which queues pause or resume.

// Begins the transmission of a packet that came at `came` and then found the work `found` of its class before it.
//
// If the rate of the link varies, `work` is the work that it joined, at the nominal rate. Returns the end, -1 if the
// packet is corrupted.
inline int64_t begin(const Network& network, const Queued& queued, Packet& packet, int64_t at, int64_t place,
                     int64_t source, int64_t service, int64_t found, int64_t work, int64_t came, int64_t now) {
  auto& link = network.links[at];
  auto& served = queued.served[at];
  const auto& kind = network.kinds[link.kind];
  int64_t key = flow_key(network, flow_id_of(packet));
  int64_t again = repeats(network.rules, kind, at, key, serial_of(packet), packet.control);
  served.late = again > 0;
  if (again > 0) service += again * (service + kind.round_trip_ps);
  int64_t ends = now + service;
  link.free_ps = ends;
  if (link.varies) {
    begin_service(network, at, now);
  } else {
    work = found + service;
  }
  count(network, link, packet, service, found + service, work, came);
  served.ends_ps = ends;
  served.wire = packet.wire;
  served.busy = 1;
  served.packet = -1;
  served.queue = place;
  served.source = source;
  served.carried = packet.control || again < 0 ? 0 : packet.wire;
  queued.notes.begun = at;
  if (again < 0) {
    drop(network, packet, at, now);
    return -1;
  }
  return ends;
}

// Counts a packet lost on a link that is down; a host's link is busy for its service time all the same.
inline int64_t lose(const Network& network, Packet& packet, int64_t at, int64_t now) {
  const auto& rules = network.rules;
  auto& link = network.links[at];
  if (!link.at_switch) {
    const auto& kind = network.kinds[link.kind];
    link.free_ps = now + service_of(rules, link, kind, packet.wire, kind.rate_bps);
  }
  drop(network, packet, at, now);
  return now;
}

// How long a queue may be, as service time.
inline int64_t room_ps(const Rules& rules, Link& link, const LinkKind& kind, int64_t rate) {
  if (link.varies && rules.room_bytes >= 0) return service_of(rules, link, kind, rules.room_bytes, rate);
  return kind.room_ps;
}

// Notes that a queue is paused or resumed.
inline void tell(const Queued& queued, int64_t place) {
  auto& notes = queued.notes;
  queued.frames[notes.frames] = place;
  notes.frames += 1;
}

// Removes a packet from the memory of its switch; `source` is less than 0 at a host.
inline void release(const Network& network, const Routing& routing, const Queued& queued, int64_t at, int64_t wire,
                    int64_t source, int64_t place) {
  if (source >= 0 && gives_back(network.rules, queued, wire, source, place, routing.source[at])) tell(queued, source);
}

// Adds a packet to the queue of its class in front of a link. Returns its fate, and when its last bit leaves.
inline std::pair<int64_t, int64_t> stand(const Network& network, const Routing& routing, const Queued& queued,
                                         Packet& packet, int64_t traffic_class, int64_t at, int64_t came, int64_t now) {
  const auto& rules = network.rules;
  auto& link = network.links[at];
  const auto& kind = network.kinds[link.kind];
  int64_t rate = link.varies ? rate_at(network, at, now) : kind.rate_bps;
  if (!rate) {
    return {LOST, lose(network, packet, at, now)};
  }
  int64_t service = service_of(rules, link, kind, packet.wire, rate);
  int64_t place = at * rules.classes + traffic_class;
  auto& queue = queued.queues[place];
  auto& served = queued.served[at];
  int64_t found = queue.waiting_ps;
  if (served.busy && served.queue == place) found += served.ends_ps - now;
  int64_t source = -1;
  if (link.at_switch) {
    source = came * rules.classes + traffic_class;
    int64_t taken = REFUSED;
    if (found + service <= room_ps(rules, link, kind, rate)) {
      taken = takes(rules, queued, packet.wire, source, place, routing.source[at]);
    }
    if (taken == REFUSED) {
      if (rules.trims && !packet.control) {
        trim(network, packet, at, now);
        return {TRIMMED, now};
      }
      drop(network, packet, at, now);
      return {LOST, now};
    }
    if (taken == TELLS) tell(queued, source);
    bool may_mark = rules.marks && !rules.marks_leaving && !packet.control && !packet.marked;
    if (may_mark && marks(network, link, kind, at, packet, found, rate)) {
      mark(network, packet, at, now);
    }
  }
  int64_t work = 0;
  if (link.varies) {
    work = service_ps(queue.waiting_bytes + packet.wire, kind.rate_bps);
    if (served.busy && served.queue == place) work += work_ps(network, at, now, served.ends_ps);
  }
  if (!served.busy && !queue.stopped) {
    if (queued.quanta.size) note_sent_alone(queued, at, traffic_class);
    if (link.varies && next_down(network, at, now) < now + service) {
      release(network, routing, queued, at, packet.wire, source, place);
      return {LOST, lose(network, packet, at, now)};
    }
    int64_t ends = begin(network, queued, packet, at, place, source, service, found, work, now, now);
    return ends >= 0 ? std::pair{GOES, ends} : std::pair{LOST, now};
  }
  int64_t index = queued.notes.packet;
  auto& waiting = queued.waiting[index];
  waiting.came_ps = now;
  waiting.found_ps = found;
  waiting.work_ps = service;
  waiting.nominal_ps = work;
  waiting.wire = packet.wire;
  waiting.source = source;
  waiting.next = -1;
  queue.waiting_ps += service;
  queue.waiting_bytes += packet.wire;
  if (queue.first < 0) {
    queue.first = index;
  } else {
    queued.waiting[queue.last].next = index;
  }
  queue.last = index;
  return {WAITS, now};
}

// Ends a transmission: the last bit of the packet has left the link.
inline void finish(const Network& network, const Routing& routing, const Queued& queued, int64_t at) {
  auto& served = queued.served[at];
  served.busy = 0;
  if (served.carried) note_carried(network, at, served.ends_ps, served.carried);
  release(network, routing, queued, at, served.wire, served.source, served.queue);
}

// A pause frame (PFC) arrives: it pauses the queue, or resumes a paused queue; returns whether it is resumed.
inline bool stop_or_resume(const Queued& queued, int64_t place, int64_t now) {
  auto& queue = queued.queues[place];
  trace(now, queue.stopped ? "resumed" : "paused", place, -1, 0);
  if (queue.stopped) {
    queue.paused_ps += now - queue.stopped_ps;
    queue.stopped = 0;
    return true;
  }
  queue.stopped = 1;
  queue.stopped_ps = now;
  return false;
}

// The queue that sends next, or -1: of queues that have a packet and are not paused, the first, or by turns.
inline int64_t next_queue(const Rules& rules, const Queued& queued, int64_t at) {
  if (queued.quanta.size) {
    for (int64_t number = 0; number < rules.classes; ++number) {
      auto& queue = queued.queues[at * rules.classes + number];
      bool has_one = queue.first >= 0 && !queue.stopped;
      queued.needs[number] = has_one ? queued.waiting[queue.first].wire : -1;
    }
    int64_t chosen = next_class(queued, at);
    return chosen >= 0 ? at * rules.classes + chosen : chosen;
  }
  for (int64_t place = at * rules.classes; place < (at + 1) * rules.classes; ++place) {
    if (queued.queues[place].first >= 0 && !queued.queues[place].stopped) return place;
  }
  return -1;
}

// Takes the first packet out of a queue.
inline int64_t take_out(const Queued& queued, int64_t place) {
  auto& queue = queued.queues[place];
  int64_t index = queue.first;
  queue.first = queued.waiting[index].next;
  if (queue.first < 0) queue.last = -1;
  queue.waiting_ps -= queued.waiting[index].work_ps;
  queue.waiting_bytes -= queued.waiting[index].wire;
  int64_t classes = queued.quanta.size;
  if (classes) note_sent(queued, place / classes, place % classes, queued.waiting[index].wire, queue.first >= 0);
  return index;
}

// Unfinished work in front of a link that goes before a new packet of a class.
inline int64_t work_before(const Queued& queued, const Rules& rules, int64_t traffic_class, int64_t at, int64_t now) {
  auto& served = queued.served[at];
  int64_t work = served.busy ? served.ends_ps - now : 0;
  int64_t classes = takes_turns(queued, traffic_class) ? rules.classes : traffic_class + 1;
  for (int64_t place = at * rules.classes; place < at * rules.classes + classes; ++place) {
    work += queued.queues[place].waiting_ps;
  }
  return work;
}

// Whether a queue is paused.
inline bool is_stopped(const Queued* queued, int64_t place) {
  if (!queued) return false;
  return queued->queues[place].stopped > 0;
}

// The ring of a flow, and the queue of its packets, at its host's link.
inline int64_t ring_of(const Queued* queued, const Rules& rules, Flow& flow) {
  if (!queued) return flow.up;
  return flow.up * rules.classes + flow.traffic_class;
}

// The link of a ring or queue.
inline int64_t link_of(const Queued* queued, const Rules& rules, int64_t place) {
  if (!queued) return place;
  return place / rules.classes;
}

// The ring of the first class of a link, which keeps what concerns the whole link.
inline int64_t first_ring(const Queued* queued, const Rules& rules, int64_t link) {
  if (!queued) return link;
  return link * rules.classes;
}

// Begins the transmission of a packet that was taken out of a queue; returns its end, or -1 if it is lost.
inline int64_t serve_next(const Network& network, const Routing& routing, const Queued& queued, Packet& packet,
                          int64_t index, int64_t at, int64_t place, int64_t now) {
  const auto& rules = network.rules;
  auto& link = network.links[at];
  auto& waiting = queued.waiting[index];
  int64_t service = waiting.work_ps;
  int64_t source = waiting.source;
  if (link.varies) {
    int64_t rate = rate_at(network, at, now);
    service = rate ? service_of(rules, link, network.kinds[link.kind], packet.wire, rate) : 0;
    if (!rate || next_down(network, at, waiting.came_ps) < now + service) {
      release(network, routing, queued, at, packet.wire, source, place);
      lose(network, packet, at, now);
      return -1;
    }
  }
  int64_t found = waiting.found_ps;
  int64_t work = waiting.nominal_ps;
  int64_t came = waiting.came_ps;
  return begin(network, queued, packet, at, place, source, service, found, work, came, now);
}

}  // namespace netsim
