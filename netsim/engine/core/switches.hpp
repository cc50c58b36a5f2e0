// What happens at the links of switches, or at switches as a whole, in one window.
//
// Links with queues share what their switch holds, so that the switch is the unit.
#pragma once

#include "arrivals.hpp"
#include "pending.hpp"

namespace netsim::windowed {

// Frees the chunks of a region of switches, and the rows of its arrivals.
inline void forget_passed(const Wheel& wheel) {
  release_chunks(wheel, wheel.used[OF_SWITCHES]);
  wheel.window.arrivals = wheel.window.at_hosts;
}

// A link, or a switch, passes its arrivals on; returns whether there was room for all.
inline bool pass_on(const State& state, const Queued* queued, const Wheel& wheel, Unit& unit, int64_t index) {
  auto& window = wheel.window;
  int64_t node = index - state.network.links.size;
  int64_t choices = state.routing.chosen.rows;
  bool in_order = begins_in_order(state, queued, wheel, node);
  while (true) {
    int64_t now = window.cut_ps;
    int64_t key = 0;
    Packet* packet = nullptr;
    if (unit.begin < unit.end) {
      auto& arrival = wheel.arrivals[unit.begin];
      if (is_due(arrival, now, key)) {
        now = arrival.time_ps;
        key = arrival.key;
        packet = &wheel.packets[arrival.place];
      }
    }
    bool ends = in_order && is_due(wheel.ends[1], now, key);
    if (!(ends || packet)) break;
    if (lacks_room(wheel, queued) || state.network.totals.chosen == choices) return false;
    if (ends) {
      now = wheel.ends[1].time_ps;
      end_next(state, queued, wheel);
    } else {
      int64_t link = index;
      if (window.by_switch) {
        link = key >= ARRIVAL ? next_link(state, *packet, now) : link_of(queued, state.network.rules, key);
      }
      if (queued && !in_order) {
        if (key >= ARRIVAL && may_pause(state, *queued, *packet)) {
          put_in_order(*queued, wheel, node);
          in_order = true;
          continue;
        }
        if (!catch_up(state, *queued, wheel, link, now + (key >= ARRIVAL))) return false;
      }
      unit.begin += 1;
      fetch_for_units(state, wheel, unit.begin, window.arrivals);
      fetch_for_switch(state, queued, wheel, unit);
      if (key >= ARRIVAL) {
        send(state, wheel, *packet, link, enter(state, *packet, link, now));
      } else {
        receive_pause_frame(state, queued, wheel, key, link, now);
      }
    }
    settle(state, queued, wheel, node, in_order, now);
  }
  if (!end_window(state, queued, wheel, node)) return false;
  unit.begin = unit.end = 0;
  await_later(wheel, index, next_end_ps(queued, wheel, node));
  return true;
}

// Lets units deal with their arrivals, one after the other; returns whether there was room for all.
inline bool deal_with_region(const State& state, const Wheel& wheel) {
  auto& window = wheel.window;
  while (window.place < window.touched) {
    int64_t index = wheel.touched[window.place];
    auto& unit = wheel.units[index];
    if (!unit.at_host) {
      sort(wheel.arrivals, wheel.found, wheel.places, unit.begin, unit.end, window.number * window.length_ps,
           window.end_ps);
      if (!pass_on(state, state.queued, wheel, unit, index)) return false;
    }
    window.place += 1;
  }
  return true;
}

// Lets the switches of all regions of a thread deal with their arrivals; returns why the loop must stop.
//
// If there is only one region, its arrivals have been gathered with its hosts.
inline int64_t deal_with_switches(const State& state, const Wheels& wheels, const Wheel& wheel) {
  auto& window = wheel.window;
  while (true) {
    if (!deal_with_region(state, wheel)) return NEEDS_ROOM;
    if (window.region >= window.regions) return GOES_ON;
    forget_passed(wheel);
    if (lacks_room_for_arrivals(wheels, wheel)) return NEEDS_ROOM;
    gather(state, wheels, wheel);
    touch_woken(wheel, window.region);
    window.place = 0;
    window.region += window.threads;
  }
}

}  // namespace netsim::windowed
