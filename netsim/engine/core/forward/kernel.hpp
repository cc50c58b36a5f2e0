// The loop of a program: which messages are released when, and which units they are.
#pragma once

#include "occurrences.hpp"

namespace netsim::forward {

// Why `run` stops; see `netsim.engine.forward.progress`.
enum Stop : int32_t { FINISHED, UNKNOWN, TOGETHER, MEETING, STUCK };

// Leaves out released messages that have begun as parts of units, which say when they are released.
inline void leave_out_begun(const Progress& progress) {
  int64_t kept = 0;
  for (int64_t place = 0; place < progress.totals[RELEASED]; ++place) {
    int64_t task = progress.released[place];
    if (progress.due_ps[task] < 0) progress.released[kept++] = task;
  }
  progress.totals[RELEASED] = kept;
}

// Calls `visit(link)` for each link of a message that is released alone.
template <class Visit>
inline void visit_links(const Units& units, const Kinds& kinds, int64_t kind, Visit&& visit) {
  int64_t unit = kinds.unit[kind];
  for (int64_t row = units.link_begin[unit]; row < units.link_begin[unit + 1]; ++row) {
    visit(kinds.link[kinds.binding[kind] + units.link[row]]);
  }
}

// TOGETHER if two of some messages would use the same link, UNKNOWN if one has not been simulated, else FINISHED.
inline int64_t may_be_alone(const Progress& progress, const Units& units, const Kinds& kinds, Column released) {
  int64_t now = progress.totals[NOW];
  bool share = false, unknown = false;
  auto use = [&](int64_t link) {
    share |= progress.seen_ps[link] == now;
    progress.seen_ps[link] = now;
  };
  auto forget = [&](int64_t link) { progress.seen_ps[link] = -1; };
  for (int64_t task : released) use(progress.first_link[task]);
  for (int64_t task : released) {
    forget(progress.first_link[task]);
    unknown |= progress.kind[task] < 0;
  }
  if (share || unknown) return share ? TOGETHER : UNKNOWN;
  for (int64_t task : released) visit_links(units, kinds, progress.kind[task], use);
  for (int64_t task : released) visit_links(units, kinds, progress.kind[task], forget);
  return share ? TOGETHER : FINISHED;
}

// Whether each of some messages meets nobody, or an occurrence that it can join: FINISHED, or why not.
inline int64_t may_meet(const Progress& progress, const Units& units, const Kinds& kinds, Column released) {
  for (int64_t task : released) {
    int64_t kind = progress.kind[task];
    int64_t met = whom_it_meets(progress, units, kinds, kind);
    if (met == NOBODY) continue;
    if (met == SEVERAL || progress.unit_begin[met + 1] - progress.unit_begin[met] >= MOST_JOINED) return STUCK;
    if (progress.laid[progress.unit_begin[met + 1] - 1] > task) return STUCK;
    int64_t joint = joint_of(progress, kinds, met, kind);
    if (joint < 0) {
      progress.totals[MET] = met;
      progress.totals[MEETS] = task;
      return MEETING;
    }
    if (!may_join(progress, units, kinds.link, met, joint)) return STUCK;
  }
  return has_room(progress, released.size) ? FINISHED : STUCK;
}

// Begins the released messages as units of one message, unless two of them share a link.
inline int64_t begin_alone(const Progress& progress, const Units& units, const Kinds& kinds) {
  auto released = progress.released.part(0, progress.totals[RELEASED]);
  std::sort(released.begin(), released.end());
  int64_t why = may_be_alone(progress, units, kinds, released);
  if (why == FINISHED) why = may_meet(progress, units, kinds, released);
  if (why != FINISHED) return why;
  progress.totals[RELEASED] = 0;
  for (int64_t place = 0; place < released.size; ++place) {
    int64_t kind = progress.kind[released[place]];
    int64_t met = whom_it_meets(progress, units, kinds, kind);
    if (met == NOBODY) {
      begin_unit(progress, units, kinds.link, kinds.unit[kind], kinds.binding[kind], progress.totals[NOW],
                 released.part(place, 1));
    } else {
      join(progress, units, kinds, met, released[place], kind);
    }
  }
  return FINISHED;
}

// Deals with the messages that are released in this instant: FINISHED, or why the loop stops.
inline int64_t begin_released(const Progress& progress, const Units& units, const Kinds& kinds) {
  auto totals = progress.totals;
  leave_out_begun(progress);
  if (totals[NOW] >= totals[BUSY]) {
    totals[IDLE] = totals[NOW];
    totals[IDLE_UNITS] = totals[UNITS];
    if (totals[GATHERS] && totals[GATHERED] != totals[NOW]) {
      totals[GATHERED] = totals[NOW];
      return TOGETHER;
    }
  }
  return begin_alone(progress, units, kinds);
}

// Carries out the program until it stops, and returns why.
inline int64_t run(const Progress& progress, const Units& units, const Kinds& kinds) {
  auto totals = progress.totals;
  while (true) {
    int64_t following = totals[EVENTS] ? progress.event_ps[1] : -1;
    if (totals[RELEASED] && (following < 0 || following > totals[NOW])) {
      int64_t why = begin_released(progress, units, kinds);
      if (why != FINISHED) return why;
      continue;
    }
    if (following < 0) return FINISHED;
    totals[NOW] = following;
    int64_t event = take(progress);
    int64_t task = event >> 1;
    if (event == has_arrived(task)) {
      if (progress.due_ps[task] == following && progress.end_ps[task] < 0) end_task(progress, task, following);
    } else if (progress.bytes[task]) {
      release(progress, task);
    } else {
      end_task(progress, task, following);
    }
  }
}

}  // namespace netsim::forward
