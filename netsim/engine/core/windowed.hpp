// The windowed engine's loop, window by window.
//
// The threads of a run go through the stages of a window together, each with its own regions: one that is done with a
// stage waits for the others. The leader opens windows, and lets tasks begin.
#pragma once

#include "hosts.hpp"
#include "switches.hpp"

namespace netsim::windowed {

constexpr int64_t PACKETS_BETWEEN_PAUSES = 1048576;

// Lets a flow go on after a timeout.
inline void resume(const State& state, const std::deque<Acting>& acting, const Wheels& wheels, int64_t index) {
  int64_t link = state.hosts.flows[index].up;
  int64_t owner = owner_of(wheels, link);
  const State& of_owner = acting[owner].state;
  resume(of_owner, index, state.network.totals.now_ps);
  note_look(of_owner, wheels.of_thread[owner], link);
  pull_timers(of_owner, wheels);
}

// A thread enters the window that has been opened.
inline void enter(const State& state, const Wheels& wheels, const Wheel& wheel, int64_t thread) {
  auto& window = wheel.window;
  window.active = window.arrivals = window.receipts = window.received = 0;
  window.region = thread;
  window.cut_ps = window.end_ps;
  wheel.due[due_now(wheel)] = 0;
  wake(state, wheel);
  if (thread != LEADER) pull_timers(state, wheels);
}

// Whether a window has packets.
inline bool is_due(const Wheels& wheels, int64_t number) {
  int64_t due = 0;
  for (int64_t thread = 0; thread < wheels.due.rows; ++thread) {
    due += wheels.due(thread, number & (wheels.due.columns - 1));
  }
  return due > 0;
}

// Sets number and end of the next window in which something happens: GOES_ON, or why there is none.
//
// A window ends at the limit of simulated time; if tasks are left, nothing happens later.
inline int64_t open(const State& state, const Shares& shares, const Wheels& wheels, int64_t packets) {
  auto& window = wheels.window(LEADER, 0);
  auto& totals = state.network.totals;
  auto& rules = state.network.rules;
  if (packets >= PACKETS_BETWEEN_PAUSES) return PAUSED;
  if (window.over) {
    totals.now_ps = window.cut_ps - 1;
    return FINISHED;
  }
  int64_t first_ps = std::min<int64_t>(next_begin_ps(state.program), first_time(wheels.inside));
  int64_t in_flight = 0;
  for (int64_t thread = 0; thread < window.threads; ++thread) {
    first_ps = std::min<int64_t>({first_ps, wheels.window(thread, 0).due_ps, first_time(shares.timers[thread])});
    in_flight += wheels.window(thread, 0).in_flight;
  }
  if (totals.released) first_ps = std::min<int64_t>(first_ps, window.now_ps);
  if (!in_flight && first_ps == END_PS) return FINISHED;
  int64_t latest = first_ps / window.length_ps;
  int64_t number = in_flight ? window.end_ps / window.length_ps : latest;
  while (number < latest && !is_due(wheels, number)) number += 1;
  int64_t next_ps = std::max<int64_t>(window.end_ps, in_flight ? number * window.length_ps : first_ps);
  if (totals.undone && next_ps > rules.end_ps && !begin_round(rules, totals, next_ps)) {
    totals.now_ps = rules.end_ps;
    return IN_TIME;
  }
  int64_t end_ps = (number + 1) * window.length_ps;
  if (totals.undone) end_ps = std::min<int64_t>(end_ps, rules.end_ps + 1);
  for (int64_t thread = 0; thread < window.threads; ++thread) {
    wheels.window(thread, 0).number = number;
    wheels.window(thread, 0).end_ps = end_ps;
  }
  return GOES_ON;
}

// Simulates until a thread must stop, and returns why this one does; see `event.hpp`.
inline int64_t run(const State& state, const Shares& shares, Wheels& wheels, int64_t thread, int64_t resumed) {
  std::deque<Acting> acting;
  for (int64_t other = 0; other < wheels.window.rows; ++other) {
    acting.emplace_back(state, shares, other);
    wheels.of_thread.push_back(row_of(wheels, other));
  }
  const auto& wheel = wheels.of_thread[thread];
  auto& window = wheel.window;
  auto& totals = state.network.totals;
  int64_t packets = 0;
  if (totals.now_ps < 0) {
    totals.now_ps = 0;
    begin_roots(state.program, totals);
  }
  if (resumed >= 0) resume(state, acting, wheels, resumed);
  while (true) {
    int64_t why = GOES_ON;
    if (window.stage == NEXT) {
      take_back(wheels, wheel, OF_HOSTS);
      if (thread == LEADER) {
        report_to_leader(state, shares);
        why = open(state, shares, wheels, packets);
      }
    } else if (window.stage == OPEN) {
      why = deal_with_receivers(state, wheels, wheel);
    } else if (window.stage == SWITCHES) {
      why = deal_with_switches(state, wheels, wheel);
    } else if (window.stage == REST || thread == LEADER) {
      if (window.stage == TASKS) {
        report_to_leader(state, shares);
        pull_timers(state, wheels);
      } else {
        take_back(wheels, wheel, OF_SWITCHES);
      }
      why = deal_with_hosts(state, acting, wheels, wheel);
    }
    if (!meet(wheels.meetings, window.threads, thread, why)) return why;
    window.place = 0;
    if (window.stage == NEXT) {
      packets += int64_t(wheel.due[due_now(wheel)]) * window.threads;
      enter(state, wheels, wheel, thread);
    } else if (window.stage == REST) {
      forget_passed(wheel);
      release_chunks(wheel, wheel.used[OF_HOSTS]);
    }
    window.stage = window.stage == REST ? NEXT : window.stage + 1;
  }
}

}  // namespace netsim::windowed
