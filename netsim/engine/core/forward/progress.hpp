// The state of a program that is carried out unit by unit: its tasks, when they begin and when they are done.
#pragma once

#include "../exact/layout.hpp"

namespace netsim::forward {

using exact::Column;

// Entries of `Progress.totals`; see `netsim.engine.forward.progress`.
enum Total : int32_t {
  NOW,
  RELEASED,
  EVENTS,
  DONE,
  UNITS,
  LAID,
  BUSY,
  IDLE,
  IDLE_UNITS,
  MET,
  MEETS,
  GATHERS,
  GATHERED
};

// As `netsim.engine.forward.progress.Progress`.
struct Progress {
  Column bytes, delay_ps;
  Span<const int32_t> first_link;
  Column next_begin;
  Span<const int32_t> next;
  Span<int32_t> waits_for;
  Span<int64_t> end_ps;
  Span<const int32_t> kind;
  Span<int64_t> released, stack, event_ps, event, due_ps, free_ps, owner, seen_ps;
  Span<int64_t> unit, binding, unit_ps, unit_begin, laid;
  Table<int64_t> joint;
  Span<int64_t> joint_unit, totals;
};

// An event of the heap: a task's delay is over, or its message has arrived.
inline int64_t delay_is_over(int64_t task) { return 2 * task; }
inline int64_t has_arrived(int64_t task) { return 2 * task + 1; }

// Adds an event to the heap.
inline void push(const Progress& progress, int64_t time_ps, int64_t event) {
  int64_t place = ++progress.totals[EVENTS];
  while (place > 1 && progress.event_ps[place >> 1] > time_ps) {
    progress.event_ps[place] = progress.event_ps[place >> 1];
    progress.event[place] = progress.event[place >> 1];
    place >>= 1;
  }
  progress.event_ps[place] = time_ps;
  progress.event[place] = event;
}

// Takes the first event from the heap; the order within an instant does not matter.
inline int64_t take(const Progress& progress) {
  int64_t first = progress.event[1];
  int64_t size = --progress.totals[EVENTS];
  int64_t time_ps = progress.event_ps[size + 1];
  int64_t event = progress.event[size + 1];
  int64_t place = 1;
  while (2 * place <= size) {
    int64_t child = 2 * place;
    if (child < size && progress.event_ps[child + 1] < progress.event_ps[child]) child += 1;
    if (progress.event_ps[child] >= time_ps) break;
    progress.event_ps[place] = progress.event_ps[child];
    progress.event[place] = progress.event[child];
    place = child;
  }
  progress.event_ps[place] = time_ps;
  progress.event[place] = event;
  return first;
}

// Releases a task's message.
inline void release(const Progress& progress, int64_t task) { progress.released[progress.totals[RELEASED]++] = task; }

// Ends a task, and all tasks without delay and bytes that waited only for tasks that are now done.
inline void end_task(const Progress& progress, int64_t task, int64_t now) {
  progress.stack[0] = task;
  int64_t depth = 1;
  while (depth) {
    int64_t ended = progress.stack[--depth];
    progress.end_ps[ended] = now;
    progress.totals[DONE] += 1;
    for (int64_t row = progress.next_begin[ended]; row < progress.next_begin[ended + 1]; ++row) {
      int64_t following = progress.next[row];
      if (--progress.waits_for[following]) continue;
      if (progress.delay_ps[following]) {
        push(progress, now + progress.delay_ps[following], delay_is_over(following));
      } else if (progress.bytes[following]) {
        release(progress, following);
      } else {
        progress.stack[depth++] = following;
      }
    }
  }
}

// Begins the tasks that wait for none, from the last to the first, since those that wait for a task follow it.
inline void start(const Progress& progress) {
  for (int64_t task = progress.waits_for.size - 1; task >= 0; --task) {
    if (progress.waits_for[task]) continue;
    if (progress.delay_ps[task]) {
      push(progress, progress.delay_ps[task], delay_is_over(task));
    } else if (progress.bytes[task]) {
      release(progress, task);
    } else {
      end_task(progress, task, 0);
    }
  }
}

}  // namespace netsim::forward
