// Begin, release and end of tasks (`netsim.engine.frontier`).
#pragma once

#include "calendar.hpp"

namespace netsim {

// Ends a task, and all tasks without delay and bytes that waited only for tasks that are now done.
inline void done(const Program& program, Totals& totals, int64_t task, int64_t now) {
  program.stack[0] = task;
  int64_t depth = 1;
  while (depth) {
    depth -= 1;
    int64_t done = program.stack[depth];
    totals.undone -= 1 - program.background[done];
    program.waits_for[done] = DONE;
    for (int64_t row = program.next_begin[done]; row < program.next_begin[done + 1]; ++row) {
      int64_t following = program.next[row];
      program.waits_for[following] -= 1;
      if (program.waits_for[following]) continue;
      if (program.delay_ps[following]) {
        push(program.begins, now + program.delay_ps[following], 0, 2 * following);
      } else if (program.bytes[following]) {
        program.released[totals.released] = following;
        totals.released += 1;
      } else {
        program.end_ps[following] = now;
        program.stack[depth] = following;
        depth += 1;
      }
    }
  }
}

// Releases a task's message; a task without one is done.
inline void move(const Program& program, Totals& totals, int64_t task, int64_t now) {
  if (program.bytes[task]) {
    program.released[totals.released] = task;
    totals.released += 1;
  } else {
    program.end_ps[task] = now;
    done(program, totals, task, now);
  }
}

// Starts a task that waits for nothing but its delay.
inline void begin(const Program& program, Totals& totals, int64_t task, int64_t now) {
  if (program.delay_ps[task]) {
    push(program.begins, now + program.delay_ps[task], 0, 2 * task);
  } else {
    move(program, totals, task, now);
  }
}

// Starts all tasks that wait for no other, from the last to the first, since successors come after a task.
inline void begin_roots(const Program& program, Totals& totals) {
  for (int64_t task = program.waits_for.size - 1; task > -1; --task) {
    if (!program.waits_for[task]) begin(program, totals, task, 0);
  }
}

// Takes the first task from the heap: its delay is over, or its message has arrived.
inline void next_begin(const Program& program, Totals& totals, int64_t now) {
  int64_t what = program.begins[1].what;
  take_first(program.begins);
  close(program.begins);
  if (what & 1) {
    done(program, totals, what >> 1, now);
  } else {
    move(program, totals, what >> 1, now);
  }
}

// When `next_begin` has something to take.
inline int64_t next_begin_ps(const Program& program) { return first_time(program.begins); }

// A flow of a task completes at its receiver at `end_ps`, which may be in the future.
inline void delivered(const Program& program, int64_t task, int64_t end_ps) {
  program.flows_left[task] -= 1;
  program.end_ps[task] = std::max<int64_t>(program.end_ps[task], end_ps);
  if (!program.flows_left[task]) push(program.begins, program.end_ps[task], 0, 2 * task + 1);
}

// Rounds of a run whose packets are trimmed (`netsim.engine.reference.watching`).

// Value of `Totals.refused` while no task has been refused in a round.
constexpr int64_t NOBODY = int64_t(1) << 62;

// Notes that a packet of a task is newly acknowledged, or refused.
inline void note_progress(const State& state, int64_t task, bool progress) {
  auto& totals = state.network.totals;
  if (progress) {
    if (!totals.progress && !state.program.background[task]) totals.progress = 1;
  } else if (task < totals.refused && !state.program.background[task]) {
    totals.refused = task;
  }
}

// Begins the round of a moment, later than `Rules.end_ps`; False if the run ends there.
inline bool begin_round(Rules& rules, Totals& totals, int64_t now) {
  if (rules.end_ps == rules.limit_ps) return false;
  if (totals.progress) {
    totals.fruitless = 0;
  } else if (totals.refused < NOBODY) {
    totals.fruitless += 1;
  }
  if (totals.fruitless >= rules.fruitless) return false;
  totals.progress = 0;
  totals.refused = NOBODY;
  rules.end_ps = std::min<int64_t>(rules.limit_ps, (now / rules.round_ps + 1) * rules.round_ps - 1);
  return true;
}

}  // namespace netsim
