// Timers that run out in the open window, in a sorted list for each link of a host.
#pragma once

#include <deque>

#include "admission.hpp"
#include "arrivals.hpp"
#include "feedback.hpp"
#include "pending.hpp"

namespace netsim::windowed {

// The host's link of a timer: the link of a flow, or of a receiver that asks for packets.
inline int64_t link_of_timer(const State& state, int64_t key, int64_t what) {
  return is_pull(key) ? state.network.links[what].reverse : state.hosts.flows[what].up;
}

// Inserts a timer into the sorted list of a link.
inline void add_timer(const Wheel& wheel, int64_t link, int64_t time_ps, int64_t key, int64_t what) {
  auto& window = wheel.window;
  auto& unit = wheel.units[link];
  int64_t index = window.free_timer;
  if (index < 0) {
    index = window.timers;
    window.timers += 1;
  } else {
    window.free_timer = wheel.timers[index].next;
  }
  auto& timer = wheel.timers[index];
  timer.time_ps = time_ps;
  timer.key = key;
  timer.what = what;
  int64_t before = -1;
  int64_t after = unit.first_timer;
  while (after >= 0 && is_due(wheel.timers[after], time_ps, key)) {
    before = after;
    after = wheel.timers[after].next;
  }
  timer.next = after;
  if (before < 0) {
    unit.first_timer = index;
  } else {
    wheel.timers[before].next = index;
  }
}

// Hands the timers that run out in this window to their hosts' links, which may be another thread's.
inline void pull_timers(const State& state, const Wheels& wheels) {
  auto& window = wheels.window(0, 0);
  auto timers = state.hosts.timers;
  while (first_time(timers) < window.end_ps) {
    int64_t time_ps = timers[1].time_ps;
    int64_t key = timers[1].key;
    int64_t what = timers[1].what;
    take_first(timers);
    close(timers);
    int64_t link = link_of_timer(state, key, what);
    const auto& wheel = wheels.of_thread[owner_of(wheels, link)];
    add_timer(wheel, link, time_ps, key, what);
    if (state.network.links[link].reverse == link) {
      push(wheel.inside, time_ps, key, link);
    } else {
      activate(wheel, link);
    }
  }
}

// Removes a timer from the list of a link; `before` is the timer before it in the list, or -1.
inline void take_timer(const Wheel& wheel, int64_t link, int64_t before, int64_t index) {
  auto& window = wheel.window;
  auto& timer = wheel.timers[index];
  if (before < 0) {
    wheel.units[link].first_timer = timer.next;
  } else {
    wheel.timers[before].next = timer.next;
  }
  timer.next = window.free_timer;
  window.free_timer = index;
}

// Moves the retransmission timer of a flow up to its deadline; it is among the link's timers of this window.
inline void move_timer_up(const State& state, const Wheel& wheel, int64_t link) {
  auto& totals = state.network.totals;
  auto& flow = state.hosts.flows[totals.moves_up];
  int64_t key = timer_key(flow.id, 0);
  int64_t before = -1;
  int64_t index = wheel.units[link].first_timer;
  while (wheel.timers[index].key != key) {
    before = index;
    index = wheel.timers[index].next;
  }
  if (wheel.timers[index].time_ps > flow.deadline_ps) {
    take_timer(wheel, link, before, index);
    add_timer(wheel, link, flow.deadline_ps, key, totals.moves_up);
  }
  totals.moves_up = -1;
}

// What happens at hosts in one window: acknowledgements, timers, and links that look for a packet to send.
//
// Each link of a host is simulated on its own until a task begins. The link that sends the message of that task first
// catches up with that instant. Traffic inside a host may end, and let a task begin, within the window: the links
// inside hosts go through all instants together with the tasks. The leader does all this, also for the hosts of other
// threads, which wait meanwhile.

// What comes next at a host's link.
enum class Next { nothing, arrival, timer, end, look };

// Lets a host's link do the next thing; returns why the loop must stop, or GOES_ON.
inline int64_t let_happen(const State& state, const Wheel& wheel, int64_t link, Next what, int64_t key, int64_t now) {
  const auto& hosts = state.hosts;
  auto& unit = wheel.units[link];
  auto& totals = state.network.totals;
  Packet* packet = &wheel.scratch;
  int64_t asks = -1;
  int64_t arrives = GONE;
  if (what == Next::arrival) {
    packet = &wheel.packets[wheel.arrivals[unit.begin].place];
    unit.begin += 1;
  }
  if (key < ARRIVAL) {
    depart(state, state.queued, wheel, key, link, now);
    return GOES_ON;
  }
  if (what == Next::arrival) {
    if (is_back(*packet)) {
      receive_ack(state, *packet, now);
      if (totals.moves_up >= 0) move_timer_up(state, wheel, link);
      return GOES_ON;
    }
    if (state.network.rules.receivers_ask) note(state, *packet, hosts.flows[packet->flow], now);
    if (!packet->control) return GOES_ON;
  } else if (what == Next::timer) {
    int64_t about = wheel.timers[unit.first_timer].what;
    take_timer(wheel, link, -1, unit.first_timer);
    if (!is_pull(key)) {
      asks = run_out(state, about, key, now);
      totals.asks = asks;
      return asks >= 0 ? int64_t(ASKS_AFTER_TIMEOUT) : GOES_ON;
    }
    pull(state, about, *packet, now);
  }
  if (what == Next::look) {
    std::tie(asks, arrives) = look(state, key - SEND, *packet, now);
    if (asks >= 0) {
      totals.asks = asks;
      return ASKS_FOR_PATH;
    }
  } else {
    arrives = enter(state, *packet, link, now);
  }
  send(state, wheel, *packet, link, arrives);
  return GOES_ON;
}

// Lets a host's link go through what happens there before a moment and key.
//
// Returns why the loop must stop, in which case this is to be called again; GOES_ON if nothing is left to do.
inline int64_t advance(const State& state, const Wheels& wheels, const Wheel& wheel, int64_t link, int64_t until_ps,
                       int64_t until_key) {
  const auto& rules = state.network.rules;
  auto& unit = wheel.units[link];
  while (true) {
    int64_t time_ps = until_ps;
    int64_t key = until_key;
    Next what = Next::nothing;
    if (unit.begin < unit.end) {
      auto& arrival = wheel.arrivals[unit.begin];
      if (is_due(arrival, time_ps, key)) {
        time_ps = arrival.time_ps;
        key = arrival.key;
        what = Next::arrival;
      }
    }
    if (unit.first_timer >= 0) {
      auto& timer = wheel.timers[unit.first_timer];
      if (is_due(timer, time_ps, key)) {
        time_ps = timer.time_ps;
        key = timer.key;
        what = Next::timer;
      }
    }
    int64_t ends_ps = end_ps(state.queued, link);
    if (ends_ps < time_ps || (ends_ps == time_ps && (END | link) < key)) {
      time_ps = ends_ps;
      key = END | link;
      what = Next::end;
    }
    if (state.network.links[link].reverse == link) send_before(state, state.queued, link, time_ps);
    auto [ring, look_ps] = first_look(state.hosts, state.queued, rules, link);
    if (look_ps < time_ps || (look_ps == time_ps && (SEND | ring) < key)) {
      time_ps = look_ps;
      key = SEND | ring;
      what = Next::look;
    }
    if (what == Next::nothing) return GOES_ON;
    if (lacks_room(wheel, state.queued)) return NEEDS_ROOM;
    state.network.totals.now_ps = time_ps;
    int64_t why = let_happen(state, wheel, link, what, key, time_ps);
    if (why != GOES_ON) return why;
    note_inside(state, state.queued, wheel);
    pull_timers(state, wheels);
  }
}

// Takes the first event inside a host, which has happened, off the calendar.
inline void take_inside(const State& state, const Wheel& wheel, int64_t link) {
  if (wheel.inside[1].key >= SEND) state.hosts.rings[wheel.inside[1].key - SEND].scheduled = 0;
  take_first(wheel.inside);
  close(wheel.inside);
  note_look(state, wheel, link);
}

// A link has done everything in this window; notes when it has something to do next.
inline void leave_window(const State& state, const Wheel& wheel, int64_t link) {
  auto& unit = wheel.units[link];
  unit.begin = unit.end = unit.active = 0;
  if (!wheel.window.over) note_look(state, wheel, link);
}

// Notes when the links of flows that have been admitted, those from `first` on, look for a packet.
inline void note_admitted(const State& state, const Wheels& wheels, int64_t first) {
  for (int64_t index = first; index < state.network.totals.flows; ++index) {
    int64_t link = state.hosts.flows[index].up;
    note_look(state, wheels.of_thread[owner_of(wheels, link)], link);
  }
  pull_timers(state, wheels);
}

// The link that sends the message of a task.
inline int64_t link_of_task(const State& state, int64_t task) {
  int64_t src = state.program.src_host[task];
  int64_t dst = state.program.dst_host[task];
  return src == dst ? state.routing.inside[src] : state.routing.up[src];
}

// Lets tasks begin, and in the last stage the hosts of a thread do what they do in the window.
//
// Returns why the loop must stop, in which case this is to be called again; GOES_ON at the end of either stage.
inline int64_t deal_with_hosts(const State& state, const std::deque<Acting>& acting, const Wheels& wheels,
                               const Wheel& wheel) {
  const auto& program = state.program;
  auto& window = wheel.window;
  auto& totals = state.network.totals;
  while (true) {
    int64_t begin_ps = next_begin_ps(program);
    int64_t inside_ps = first_time(wheel.inside);
    auto [receipt_ps, receipt_key] = next_receipt(wheel);
    int64_t link = -1;
    int64_t until_ps = window.cut_ps;
    int64_t until_key = 0;
    if (window.stage == REST) {
      if (window.place == window.active) return GOES_ON;
      link = wheel.active[window.place];
    } else if (totals.released && std::min<int64_t>(begin_ps, receipt_ps) > window.now_ps) {
      if (window.place == totals.released) {
        totals.now_ps = window.now_ps;
        int64_t first = totals.flows;
        if (!admit(state)) return NEEDS_FLOWS;
        window.place = 0;
        note_admitted(state, wheels, first);
        continue;
      }
      link = link_of_task(state, program.released[window.place]);
      until_ps = window.now_ps;
      until_key = RELEASE;
    } else if (std::min<int64_t>({begin_ps, inside_ps, receipt_ps}) >= window.cut_ps) {
      return GOES_ON;
    } else if (begin_ps <= std::min<int64_t>(inside_ps, receipt_ps)) {
      window.now_ps = begin_ps;
      next_begin(program, totals, begin_ps);
      if (state.network.rules.ends_early && !totals.undone) {
        window.over = 1;
        window.cut_ps = begin_ps + 1;
      }
      continue;
    } else if (receipt_ps < inside_ps || (receipt_ps == inside_ps && receipt_key < wheel.inside[1].key)) {
      receive_next(state, wheel);
      continue;
    } else {
      link = wheel.inside[1].what;
      until_ps = inside_ps;
      until_key = wheel.inside[1].key + 1;
    }
    int64_t owner = owner_of(wheels, link);
    int64_t why = advance(acting[owner].state, wheels, wheels.of_thread[owner], link, until_ps, until_key);
    if (why != GOES_ON) return why;
    if (window.stage != REST && until_key != RELEASE) {
      take_inside(state, wheel, link);
      continue;
    }
    if (window.stage == REST) {
      leave_window(state, wheel, link);
      fetch_for_hosts(state, wheel, window.place);
    }
    window.place += 1;
  }
}

}  // namespace netsim::windowed
