// Where packets go that leave a link.
#pragma once

#include "sender.hpp"
#include "wheel.hpp"

namespace netsim::windowed {

// Keeps a packet that waits in a queue.
inline void hold(const Queued* queued, const Wheel& wheel, Packet& packet) {
  if (queued) {
    auto& notes = queued->notes;
    wheel.held[notes.packet] = packet;
    notes.packet = wheel.next_held[notes.packet];
  }
}

// The unit at which a packet arrives that leaves a link: a switch, or a host's link.
//
// -1 for the first and the last link behind a switch: they are found when the packet is taken out of the wheel. For
// those between, the packet's route has been read already.
inline int64_t next_unit(const State& state, const Wheel& wheel, Packet& packet, int64_t link) {
  if (packet.hop == packet.links) {
    return packet.control ? state.hosts.flows[packet.flow].back : state.network.links[link].reverse;
  }
  if (wheel.window.by_switch) return state.network.links.size + state.routing.source[state.network.links[link].reverse];
  if ((2 <= packet.hop && packet.hop < packet.links - 1) && !packet.control) {
    return state.routing.route_links(packet.route, packet.hop - 1);
  }
  return -1;
}

// Puts a packet that leaves a link into the wheel, unless it waits in a queue, or is gone.
inline void send(const State& state, const Wheel& wheel, Packet& packet, int64_t link, int64_t arrives) {
  if (arrives == HELD) {
    hold(state.queued, wheel, packet);
  } else if (arrives != GONE) {
    int64_t unit = next_unit(state, wheel, packet, link);
    int64_t region = wheel.region[unit >= 0 ? unit : state.network.links[link].reverse];
    put(wheel, packet, unit, region, arrives);
  }
}

// Ends of transmissions, and pause frames, in the windowed engine.
//
// Both happen at the link whose packets wait. A pause frame comes from the next switch, and is an arrival whose key is
// the queue that it is about.

// When the transmission on a link ends; END_PS if there is none, or links have no queues.
inline int64_t end_ps(const Queued* queued, int64_t link) {
  if (!queued) return END_PS;
  return queued->served[link].busy ? queued->served[link].ends_ps : END_PS;
}

// Begins the next transmission of a link that is free; packets on a link that is down are lost in turn.
inline void go_on(const State& state, const Queued& queued, const Wheel& wheel, int64_t at, int64_t now) {
  const auto& network = state.network;
  while (!queued.served[at].busy) {
    int64_t place = next_queue(network.rules, queued, at);
    if (place < 0) return;
    int64_t index = take_out(queued, place);
    auto& packet = wheel.held[index];
    int64_t leaves = serve_next(network, state.routing, queued, packet, index, at, place, now);
    if (leaves >= 0) send(state, wheel, packet, at, forward(state, packet, at, leaves));
    wheel.next_held[index] = queued.notes.packet;
    queued.notes.packet = index;
  }
}

// A pause frame arrives about a queue in front of a link.
inline void receive_pause_frame(const State& state, const Queued* queued, const Wheel& wheel, int64_t place,
                                int64_t link, int64_t now) {
  if (queued && stop_or_resume(*queued, place, now)) {
    go_on(state, *queued, wheel, link, now);
    auto& ring = state.hosts.rings[place];
    if (ring.first >= 0 && ring.look_ps < 0) ring.look_ps = std::max<int64_t>(now, state.network.links[link].free_ps);
  }
}

// A transmission of a host ends, or a pause frame arrives there, whose key is below END.
inline void depart(const State& state, const Queued* queued, const Wheel& wheel, int64_t key, int64_t link,
                   int64_t now) {
  if (queued) {
    if (key < END) {
      receive_pause_frame(state, queued, wheel, key, link, now);
    } else {
      finish(state.network, state.routing, *queued, link);
      go_on(state, *queued, wheel, link, now);
    }
  }
}

// Adds the end of a transmission that has begun inside a host to the events inside hosts.
inline void note_inside(const State& state, const Queued* queued, const Wheel& wheel) {
  if (queued) {
    auto& notes = queued->notes;
    if (notes.begun >= 0) {
      int64_t at = notes.begun;
      if (state.network.links[at].reverse == at) push(wheel.inside, queued->served[at].ends_ps, END | at, at);
      notes.begun = -1;
    }
  }
}

// Sends a pause frame about one of a link's queues to the sending end of the link.
inline void send_pause_frame(const State& state, const Queued& queued, const Wheel& wheel, int64_t place, int64_t now) {
  int64_t link = link_of(&queued, state.network.rules, place);
  auto& frame = wheel.scratch;
  frame.key = place;
  frame.flow = 0;
  frame.sequence = 0;
  frame.hop = frame.links = frame.passes = 0;
  frame.control = 1;
  int64_t unit = wheel.units[link].at_host ? link : state.network.links.size + state.routing.source[link];
  put(wheel, frame, unit, wheel.region[unit], now + queued.served[link].pause_delay_ps);
}

// Sends the pause frames of a switch to the queues that are to stop or to go on.
inline void send_pause_frames(const State& state, const Queued& queued, const Wheel& wheel, int64_t now) {
  auto& notes = queued.notes;
  for (int64_t row = 0; row < notes.frames; ++row) send_pause_frame(state, queued, wheel, queued.frames[row], now);
  notes.frames = 0;
}

// Ends of transmissions at a switch whose links have queues.
//
// What waits in front of a link, and when it leaves, depends on nothing that ends at other links of the switch, unless
// those share memory, packets choose among them, or the end of one lets a queue go on. So ends are mostly caught up
// with link by link: as something comes to the link, and as the window ends. Otherwise they are put in order.

// When the first transmission at a switch ends that goes on after the window; END_PS if there is none.
inline int64_t next_end_ps(const Queued* queued, const Wheel& wheel, int64_t node) {
  return !queued ? END_PS : wheel.endings[node].ends_ps;
}

// Puts the transmissions of a switch that end in this window into a calendar.
inline void put_in_order(const Queued& queued, const Wheel& wheel, int64_t node) {
  empty(wheel.ends);
  int64_t link = wheel.endings[node].first;
  while (link >= 0) {
    auto& served = queued.served[link];
    if (served.busy && served.ends_ps < wheel.window.cut_ps) push(wheel.ends, served.ends_ps, END | link, link);
    link = served.next;
  }
}

// Puts the ends at a switch in order if anything depends on that order; returns whether it does.
inline bool begins_in_order(const State& state, const Queued* queued, const Wheel& wheel, int64_t node) {
  if (!queued) return false;
  const auto& rules = state.network.rules;
  bool chooses = rules.choice == AT_SWITCH || rules.choice == AT_FIRST_SWITCH;
  if (rules.memory_bytes < 0 && !chooses && !queued->switches[node].pauses_sent) return false;
  put_in_order(*queued, wheel, node);
  return true;
}

// Whether a packet makes its switch pause the queue that it came from, if nothing has left the switch since.
inline bool may_pause(const State& state, const Queued& queued, Packet& packet) {
  const auto& rules = state.network.rules;
  auto& flow = state.hosts.flows[packet.flow];
  if (!rules.pauses) return false;
  int64_t source = link_before(state, packet, flow) * rules.classes + flow.traffic_class;
  return queued.queues[source].held + packet.wire > rules.pause_above;
}

// Ends the transmissions of a link before a moment, and begins the next ones; returns whether there was room for all.
inline bool catch_up(const State& state, const Queued& queued, const Wheel& wheel, int64_t link, int64_t until_ps) {
  auto& served = queued.served[link];
  while (served.busy && served.ends_ps < until_ps) {
    if (lacks_room(wheel, &queued)) return false;
    int64_t ends_ps = served.ends_ps;
    finish(state.network, state.routing, queued, link);
    go_on(state, queued, wheel, link, ends_ps);
  }
  queued.notes.begun = -1;
  return true;
}

// Ends the first of the transmissions that are in order; `settle` follows.
inline void end_next(const State& state, const Queued* queued, const Wheel& wheel) {
  if (queued) {
    int64_t now = wheel.ends[1].time_ps;
    int64_t link = wheel.ends[1].what;
    take_first(wheel.ends);
    finish(state.network, state.routing, *queued, link);
    go_on(state, *queued, wheel, link, now);
  }
}

// Notes that a switch has begun to send on a link, and sends pause frames.
inline void settle(const State& state, const Queued* queued, const Wheel& wheel, int64_t node, bool in_order,
                   int64_t now) {
  if (queued) {
    auto& notes = queued->notes;
    if (notes.begun >= 0) {
      int64_t link = notes.begun;
      notes.begun = -1;
      auto& served = queued->served[link];
      auto& ending = wheel.endings[node];
      if (!served.listed) {
        served.listed = 1;
        served.next = ending.first;
        ending.first = link;
      }
      if (in_order && served.ends_ps < wheel.window.cut_ps) push(wheel.ends, served.ends_ps, END | link, link);
    }
    close(wheel.ends);
    send_pause_frames(state, *queued, wheel, now);
  }
}

// Catches up with all links of a switch; returns whether there was room for all.
inline bool end_window(const State& state, const Queued* queued, const Wheel& wheel, int64_t node) {
  if (!queued) return true;
  auto& ending = wheel.endings[node];
  int64_t until_ps = wheel.window.cut_ps;
  int64_t before = -1;
  int64_t link = ending.first;
  int64_t first_ps = END_PS;
  while (link >= 0) {
    if (!catch_up(state, *queued, wheel, link, until_ps)) return false;
    auto& served = queued->served[link];
    if (served.busy) {
      first_ps = std::min<int64_t>(first_ps, served.ends_ps);
      before = link;
    } else {
      served.listed = 0;
      if (before < 0) {
        ending.first = served.next;
      } else {
        queued->served[before].next = served.next;
      }
    }
    link = served.next;
  }
  ending.ends_ps = first_ps;
  return true;
}

// Links inside hosts, whose flows take turns and meet nothing else: all packets until a flow ends go in one step.
//
// All packets before the last one of a flow are full, so that they leave one service time apart. Until another flow
// joins, only the last packet of a flow matters to anything else: the calendar has that packet.

// Whether a link is inside a host, is free when it looks for a packet, and only its flows decide what it does.
inline bool is_steady(const State& state, const Queued* queued, int64_t link) {
  if (queued) return false;
  const auto& network = state.network;
  const auto& rules = network.rules;
  auto& inner = network.links[link];
  if (inner.reverse != link || inner.varies || rules.epochs > 1 || rules.ends_early || network.carried.rows) {
    return false;
  }
  return state.hosts.rings[link].first >= 0 && inner.free_ps <= state.hosts.rings[link].look_ps;
}

// How many packets a ring sends before the first packet that ends a flow, and how many flows take turns until then.
inline std::pair<int64_t, int64_t> before_end(const State& state, int64_t link) {
  auto flows = state.hosts.flows;
  int64_t index = state.hosts.rings[link].first;
  if (!state.network.rules.round_robin) {
    return {flows[index].packets - flows[index].next - 1, 1};
  }
  int64_t least = flows[index].packets - flows[index].next - 1;
  int64_t first = 0;
  int64_t place = 0;
  while (index >= 0) {
    int64_t rest = flows[index].packets - flows[index].next - 1;
    if (rest < least) {
      least = rest;
      first = place;
    }
    if (!rest) {
      return {place, place + 1};
    }
    place += 1;
    index = flows[index].next_in_ring;
  }
  return {least * place + first, place};
}

// When a ring sends the first packet that ends a flow; when it looks for a packet, if that is unknown.
inline int64_t first_end_ps(const State& state, const Queued* queued, int64_t place) {
  auto& ring = state.hosts.rings[place];
  if (!is_steady(state, queued, place)) return ring.look_ps;
  const auto& network = state.network;
  return ring.look_ps + before_end(state, place).first * network.kinds[network.links[place].kind].full_ps;
}

// Counts full packets of the flows that take turns, each of which has more, and moves on whose turn it is.
inline void count_off(const State& state, int64_t link, int64_t packets, int64_t taking_turns) {
  auto flows = state.hosts.flows;
  auto& ring = state.hosts.rings[link];
  int64_t rounds = packets / taking_turns;
  int64_t extra = packets % taking_turns;
  int64_t index = ring.first;
  int64_t turn = 0;
  int64_t latest = -1;
  while (turn < taking_turns && (rounds || turn < extra)) {
    auto& flow = flows[index];
    int64_t sent = rounds + (turn < extra);
    flow.serial += sent;
    flow.in_flight += sent;
    flow.next += sent;
    flow.sent = flow.next;
    flow.left -= sent;
    turn += 1;
    if (turn == extra) latest = index;
    index = flow.next_in_ring;
  }
  if (latest >= 0 && flows[latest].next_in_ring >= 0) {
    flows[ring.last].next_in_ring = ring.first;
    ring.first = flows[latest].next_in_ring;
    flows[latest].next_in_ring = -1;
    ring.last = latest;
  }
}

// Sends the packets of a link inside a host that leave before a moment, up to the first packet that ends a flow.
inline void send_before(const State& state, const Queued* queued, int64_t link, int64_t until_ps) {
  auto& ring = state.hosts.rings[link];
  if (ring.look_ps < 0 || ring.look_ps >= until_ps || !is_steady(state, queued, link)) return;
  const auto& network = state.network;
  const auto& rules = network.rules;
  auto& totals = network.totals;
  auto& inner = network.links[link];
  int64_t service_ps = network.kinds[inner.kind].full_ps;
  auto [most, flows] = before_end(state, link);
  int64_t packets = std::min<int64_t>(most, (until_ps - ring.look_ps + service_ps - 1) / service_ps);
  if (packets) {
    count_off(state, link, packets, flows);
    ring.look_ps += packets * service_ps;
    inner.free_ps = ring.look_ps;
    inner.bytes += packets * rules.full_wire;
    inner.busy_ps += packets * service_ps;
    inner.longest_ps = std::max<int64_t>(inner.longest_ps, service_ps);
    totals.packets += packets;
    totals.hops += packets;
  }
}

// Units that will do something on their own: hosts' links that look for a packet, and links whose transmissions end.

// Notes that a host's link has something to do in this window.
inline void activate(const Wheel& wheel, int64_t link) {
  auto& window = wheel.window;
  auto& unit = wheel.units[link];
  if (!unit.active) {
    unit.active = 1;
    wheel.active[window.active] = link;
    window.active += 1;
  }
}

// The ring of a host's link that looks for a packet first, and when; END_PS if none does.
inline std::pair<int64_t, int64_t> first_look(const Hosts& hosts, const Queued* queued, const Rules& rules,
                                              int64_t link) {
  int64_t first = first_ring(queued, rules, link);
  int64_t first_ps = hosts.rings[first].look_ps >= 0 ? hosts.rings[first].look_ps : END_PS;
  for (int64_t ring = first + 1, end = first + rules.classes; ring < end; ++ring) {
    int64_t look_ps = hosts.rings[ring].look_ps;
    if (0 <= look_ps && look_ps < first_ps) {
      first = ring;
      first_ps = look_ps;
    }
  }
  return {first, first_ps};
}

// When a unit has something to do on its own; END_PS if it never has.
inline int64_t next_due_ps(const State& state, const Queued* queued, const Wheel& wheel, int64_t index) {
  if (index >= state.network.links.size) return next_end_ps(queued, wheel, index - state.network.links.size);
  auto [_, look_ps] = first_look(state.hosts, queued, state.network.rules, index);
  return std::min<int64_t>(look_ps, end_ps(queued, index));
}

// Puts a link inside a host on the calendar of such links; a new flow may end before the flow noted there.
inline void look_inside(const State& state, const Wheel& wheel, int64_t link) {
  int64_t first = first_ring(state.queued, state.network.rules, link);
  for (int64_t place = first; place < first + state.network.rules.classes; ++place) {
    auto& ring = state.hosts.rings[place];
    if (ring.look_ps < 0) continue;
    if (ring.scheduled) {
      move_up(wheel.inside, ring.look_ps, SEND | place);
    } else {
      ring.scheduled = 1;
      push(wheel.inside, first_end_ps(state, state.queued, place), SEND | place, link);
    }
  }
}

// Adds a unit to the units that have something to do on their own in a later window, unless it never has.
inline void await_later(const Wheel& wheel, int64_t index, int64_t due_ps) {
  auto& window = wheel.window;
  auto& unit = wheel.units[index];
  if (due_ps == END_PS) return;
  window.due_ps = std::min<int64_t>(window.due_ps, due_ps);
  if (!unit.pending) {
    unit.pending = 1;
    wheel.pending[window.pending] = index;
    window.pending += 1;
  }
}

// Notes when a host's link has something to do on its own: in this window, or in a later one.
inline void note_look(const State& state, const Wheel& wheel, int64_t link) {
  if (state.network.links[link].reverse == link) {
    look_inside(state, wheel, link);
    return;
  }
  int64_t due_ps = next_due_ps(state, state.queued, wheel, link);
  if (due_ps < wheel.window.end_ps) {
    activate(wheel, link);
  } else {
    await_later(wheel, link, due_ps);
  }
}

// Finds the units that have something to do on their own in the window that opens.
inline void wake(const State& state, const Wheel& wheel) {
  auto& window = wheel.window;
  int64_t links = state.network.links.size;
  int64_t kept = 0;
  window.due_ps = END_PS;
  window.woken = 0;
  for (int64_t place = 0; place < window.pending; ++place) {
    int64_t index = wheel.pending[place];
    auto& unit = wheel.units[index];
    int64_t due_ps = next_due_ps(state, state.queued, wheel, index);
    if (window.end_ps <= due_ps && due_ps < END_PS) {
      wheel.pending[kept] = index;
      kept += 1;
      window.due_ps = std::min<int64_t>(window.due_ps, due_ps);
      continue;
    }
    unit.pending = 0;
    if (due_ps == END_PS) continue;
    if (index < links) {
      activate(wheel, index);
    } else {
      wheel.woken[window.woken] = index;
      window.woken += 1;
    }
  }
  window.pending = kept;
}

// Adds the switches of a region where transmissions end, but nothing arrives, to those with something to do.
inline void touch_woken(const Wheel& wheel, int64_t region) {
  auto& window = wheel.window;
  for (int64_t place = 0; place < window.woken; ++place) {
    int64_t index = wheel.woken[place];
    if (wheel.region[index] == region && wheel.units[index].begin == wheel.units[index].end) {
      wheel.touched[window.touched] = index;
      window.touched += 1;
    }
  }
}

}  // namespace netsim::windowed
