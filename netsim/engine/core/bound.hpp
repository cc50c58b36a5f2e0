// The earliest ends of tasks on an empty fabric: see `netsim.simulation.bound`.
#pragma once

#include <ranges>

#include "passages.hpp"

namespace netsim::ideal {

// Messages that share a link, one after the other. Times in picoseconds.
struct Queue {
  int64_t arrives;  // earliest arrival of a message
  int64_t service;  // service of all, 0 if there are none
  int64_t rest;     // shortest remaining passage of a message
};

// Earliest starts and ends of tasks.
class Chain {
 public:
  Chain(const Tasks& tasks, const Ends& ends, const Passages& passages, int64_t links)
      : tasks_(tasks),
        ends_(ends),
        passages_(passages),
        start_(tasks.src.size),
        end_(tasks.src.size),
        at_first_(links),
        at_last_(links) {}

  // Follows all tasks and returns the earliest end of all.
  int64_t follow() {
    int64_t count = tasks_.src.size;
    for (int64_t task = 0; task < count; ++task) {
      int64_t row = tasks_.after_begin[task];
      start_[task] = all_done(tasks_.after.part(row, tasks_.after_begin[task + 1] - row)) + tasks_.delay_ps[task];
      const Kind* kind = kind_of(task);
      int64_t alone = kind ? std::max(kind->first_ps + kind->tail_ps, kind->head_ps + kind->last_ps + kind->end_ps) : 0;
      end_[task] = start_[task] + alone;
    }
    return all_done(std::views::iota(int64_t(0), count));
  }

  // For each first link, the earliest time at which everything has passed it; -1 stays where nothing does.
  void sent_from(Span<int64_t> ends) const {
    std::vector<int64_t> earliest(ends.size);
    for (int64_t task = 0; task < tasks_.src.size; ++task) {
      const Kind* kind = kind_of(task);
      if (!kind) continue;
      int64_t link = first_link(task, *kind);
      if (ends[link] < 0) ends[link] = 0, earliest[link] = start_[task];
      earliest[link] = std::min(earliest[link], start_[task]);
      ends[link] += kind->first_ps;
    }
    for (int64_t link = 0; link < ends.size; ++link)
      if (ends[link] >= 0) ends[link] += earliest[link];
  }

 private:
  // The kind of a task's message, none without one.
  const Kind* kind_of(int64_t task) const {
    int32_t kind = passages_.kind[task];
    return kind < 0 ? nullptr : &passages_.kinds[kind];
  }
  int64_t first_link(int64_t task, const Kind& kind) const {
    return (kind.within ? ends_.inside : ends_.up)[tasks_.src[task]];
  }
  int64_t last_link(int64_t task, const Kind& kind) const {
    return kind.within ? ends_.inside[tasks_.src[task]] : ends_.down[tasks_.dst[task]];
  }

  // Earliest end of some tasks; a message alone in its queues ends no later than on its own.
  int64_t all_done(const auto& awaited) {
    int64_t done = 0, messages = 0;
    for (int64_t task : awaited) {
      done = std::max(done, end_[task]);
      messages += passages_.kind[task] >= 0;
    }
    if (messages < 2) return done;
    for (int64_t task : awaited) {
      const Kind* kind = kind_of(task);
      if (!kind) continue;
      join(at_first_[first_link(task, *kind)], start_[task], kind->first_ps, kind->tail_ps);
      if (!kind->within) {
        join(at_last_[last_link(task, *kind)], start_[task] + kind->head_ps, kind->last_ps, kind->end_ps);
      }
    }
    for (int64_t task : awaited) {
      const Kind* kind = kind_of(task);
      if (!kind) continue;
      done = std::max({done, emptied(at_first_[first_link(task, *kind)]), emptied(at_last_[last_link(task, *kind)])});
    }
    return done;
  }

  // Adds a message to a queue: arrival, positive service time, and remaining passage after it.
  static void join(Queue& queue, int64_t arrives, int64_t service, int64_t rest) {
    if (!queue.service) queue.arrives = arrives, queue.rest = rest;
    queue.arrives = std::min(queue.arrives, arrives);
    queue.rest = std::min(queue.rest, rest);
    queue.service += service;
  }

  // Earliest end of the messages of a queue, which is empty afterwards; 0 if it is empty.
  static int64_t emptied(Queue& queue) {
    if (!queue.service) return 0;
    int64_t done = queue.arrives + queue.service + queue.rest;
    queue.service = 0;
    return done;
  }

  const Tasks& tasks_;
  const Ends& ends_;
  const Passages& passages_;
  std::vector<int64_t> start_, end_;
  std::vector<Queue> at_first_, at_last_;
};

}  // namespace netsim::ideal
