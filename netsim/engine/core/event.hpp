// The event engine's loop.
#pragma once

#include "admission.hpp"
#include "feedback.hpp"
#include "flight.hpp"

namespace netsim::event {

constexpr int64_t EVENTS_BETWEEN_PAUSES = 1048576;

// Puts the ring of a flow on the calendar if it looks for a packet.
inline void schedule_ring(const State& state, const Flight& flight, int64_t index) {
  auto& flow = state.hosts.flows[index];
  schedule_look(flight, state.hosts, ring_of(state.queued, state.network.rules, flow));
}

// Puts the links of the flows that have been admitted, those from `begin` on, on the calendar.
inline void schedule_admitted(const State& state, const Flight& flight, int64_t begin) {
  for (int64_t index = begin; index < state.network.totals.flows; ++index) schedule_ring(state, flight, index);
}

// The receiver behind a link asks for packets.
inline void ask(const State& state, const Flight& flight, int64_t link, int64_t now) {
  auto& totals = state.network.totals;
  int64_t place = totals.free_packet;
  auto& packet = flight.packets[place];
  totals.free_packet = packet.next;
  note_packet(state.queued, place);
  pull(state, link, packet, now);
  int64_t first = next_link(state, packet, now);
  int64_t arrives = enter(state, packet, first, now);
  if (arrives == GONE) {
    packet.next = totals.free_packet;
    totals.free_packet = place;
  } else if (arrives != HELD) {
    send(flight, place, first, arrives);
  }
  schedule_departures(flight, state.network, state.queued);
}

// A packet is at its receiver, which may ask for more; returns whether an acknowledgement goes back.
inline bool take_in(const State& state, Packet& packet, Flow& flow, int64_t now) {
  bool answers = receive(state, packet, flow, now);
  if (state.network.rules.receivers_ask) note(state, packet, flow, now);
  return answers;
}

// A packet is at the end of its link; the calendar's first entry is the packet's or its lane's.
inline void arrive(const State& state, const Flight& flight, int64_t what, int64_t now) {
  int64_t index = land(flight, what);
  auto& packet = flight.packets[index];
  const bool marks_leaving = state.network.rules.marks_leaving;
  const bool looks_back = marks_leaving && !state.queued;
  if (looks_back && what >= 0) mark_left(state.network, flight, what, now);
  auto& flow = state.hosts.flows[packet.flow];
  int64_t arrives = GONE;
  note_packet(state.queued, index);
  if (is_back(packet)) {
    receive_ack(state, packet, now);
    schedule_ring(state, flight, packet.flow);
  } else if (packet.hop < packet.links || take_in(state, packet, flow, now)) {
    int64_t link = next_link(state, packet, now);
    if (looks_back) mark_left(state.network, flight, link, now);
    arrives = enter(state, packet, link, now);
    if (arrives != GONE && arrives != HELD) {
      send(flight, index, link, arrives);
      if (marks_leaving) await_mark(state.network, state.queued, flight, index, link);
    }
    schedule_departures(flight, state.network, state.queued);
  }
  if (arrives == GONE) {
    packet.next = state.network.totals.free_packet;
    state.network.totals.free_packet = index;
  }
}

// Simulates until the loop must stop, and returns why; times and flows are in `Totals`.
//
// `resumed` is a flow that goes on after a timeout, or -1.
inline int64_t run(const State& state, const Flight& flight, int64_t resumed) {
  const auto& network = state.network;
  const auto& hosts = state.hosts;
  const auto& program = state.program;
  auto timers = hosts.timers;
  auto& totals = network.totals;
  if (totals.now_ps < 0) {
    totals.now_ps = 0;
    begin_roots(program, totals);
  }
  if (resumed >= 0) {
    resume(state, resumed, totals.now_ps);
    schedule_ring(state, flight, resumed);
  }
  int64_t choices = state.routing.chosen.rows;
  int64_t events = 0;
  while (true) {
    events += 1;
    if (events == EVENTS_BETWEEN_PAUSES) return PAUSED;
    const int64_t open = flight.slots.open;
    auto [time_ps, key, what] = find_first(flight);
    if (flight.slots.open != open && network.links.size >= MANY_LINKS) fetch_ahead(state, flight);
    bool from_timers = is_due(timers[1], time_ps, key);
    if (from_timers) std::tie(time_ps, key, what) = std::tie(timers[1].time_ps, timers[1].key, timers[1].what);
    auto [ending, end_ps] = first_end(state.queued);
    if (ending >= 0 && (end_ps < time_ps || (end_ps == time_ps && key >= END))) {
      time_ps = end_ps;
      key = END;
      what = ending;
      from_timers = false;
    } else {
      ending = -1;
    }
    const int64_t begin_ps = next_begin_ps(program);
    const int64_t next_ps = std::min<int64_t>(begin_ps, time_ps);
    if (totals.released && (next_ps > totals.now_ps || (begin_ps > time_ps && key >= RELEASE))) {
      int64_t flows = totals.flows;
      if (!admit(state)) return NEEDS_FLOWS;
      schedule_admitted(state, flight, flows);
      continue;
    }
    if (network.rules.ends_early && !totals.undone && next_ps > totals.now_ps) return FINISHED;
    if (next_ps > network.rules.end_ps && totals.undone && next_ps < END_PS) {
      if (!begin_round(network.rules, totals, next_ps)) {
        totals.now_ps = network.rules.end_ps;
        return IN_TIME;
      }
      continue;
    }
    if (begin_ps <= time_ps) {
      if (begin_ps == END_PS) return FINISHED;
      totals.now_ps = begin_ps;
      next_begin(program, totals, begin_ps);
      continue;
    }
    totals.now_ps = time_ps;
    if (from_timers && is_pull(key)) {
      if (totals.free_packet < 0 || lacks_room(flight, state.queued)) return NEEDS_ROOM;
      take_first(timers);
      close(timers);
      ask(state, flight, what, time_ps);
    } else {
      int64_t asks;
      if (from_timers) {
        take_first(timers);
        close(timers);
        asks = run_out(state, what, key, time_ps);
        if (asks >= 0) {
          totals.asks = asks;
          return ASKS_AFTER_TIMEOUT;
        }
        schedule_ring(state, flight, what);
      } else if (lacks_room(flight, state.queued)) {
        return NEEDS_ROOM;
      } else if (key < ARRIVAL) {
        depart(state, state.queued, flight, key, what, ending >= 0, time_ps);
      } else if (key < SEND) {
        if (totals.chosen == choices) return NEEDS_ROOM;
        arrive(state, flight, what, time_ps);
      } else {
        int64_t place = totals.free_packet;
        if (place < 0) return NEEDS_ROOM;
        auto& packet = flight.packets[place];
        note_packet(state.queued, place);
        int64_t arrives;
        std::tie(asks, arrives) = look(state, what, packet, time_ps);
        if (asks >= 0) {
          totals.asks = asks;
          return ASKS_FOR_PATH;
        }
        schedule_next_look(flight, hosts, what);
        if (arrives != GONE) {
          totals.free_packet = packet.next;
          if (arrives != HELD) send(flight, place, link_of(state.queued, network.rules, what), arrives);
        }
        schedule_departures(flight, state.network, state.queued);
      }
    }
  }
}

}  // namespace netsim::event
