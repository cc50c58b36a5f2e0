// Occurrences of units: where one begins, which one a message meets, and what both become.
#pragma once

#include "progress.hpp"

namespace netsim::forward {

// What a message meets: no occurrence, or occurrences with which it cannot be joined.
constexpr int64_t NOBODY = -1, SEVERAL = -2;
// Most messages of a unit that meet under way.
constexpr int64_t MOST_JOINED = 16;

// As `netsim.engine.forward.unit.Units`.
struct Units {
  Column message_begin, start_ps, end_ps;
  Column flow_begin, message, piece, bytes, packets, flow_end_ps, reordered;
  Column link_begin, link, first_ps, last_ps, link_packets, link_bytes, busy_ps, longest_ps, rest_ps;
  Column queue_begin, queue_time_ps, queue_ps;
};

// As `netsim.engine.forward.progress.Kinds`.
struct Kinds {
  Column unit, binding, link;
};

// Notes when the messages of a unit arrive; earlier notes of the same messages no longer count.
inline void expect_arrivals(const Progress& progress, const Units& units, int64_t unit, int64_t begin_ps,
                            Column tasks) {
  int64_t first = units.message_begin[unit];
  for (int64_t place = 0; place < tasks.size; ++place) {
    int64_t task = tasks[place];
    int64_t end = begin_ps + units.end_ps[first + place];
    if (progress.end_ps[task] < 0 && progress.due_ps[task] != end) {
      progress.due_ps[task] = end;
      push(progress, end, has_arrived(task));
    }
    progress.totals[BUSY] = std::max(progress.totals[BUSY], end);
  }
}

// Adds an occurrence, whose `count` tasks have been laid behind all others.
inline void add_occurrence(const Progress& progress, const Units& units, int64_t unit, int64_t binding,
                           int64_t begin_ps, int64_t count) {
  int64_t occurrence = progress.totals[UNITS]++;
  int64_t laid = progress.totals[LAID];
  progress.unit[occurrence] = unit;
  progress.binding[occurrence] = binding;
  progress.unit_ps[occurrence] = begin_ps;
  progress.totals[LAID] = progress.unit_begin[occurrence + 1] = laid + count;
  expect_arrivals(progress, units, unit, begin_ps, progress.laid.part(laid, count));
}

// Begins a unit on links that are free for it; `links` are those of all bindings.
inline void begin_unit(const Progress& progress, const Units& units, Column links, int64_t unit, int64_t binding,
                       int64_t begin_ps, Column tasks) {
  for (int64_t row = units.link_begin[unit]; row < units.link_begin[unit + 1]; ++row) {
    int64_t link = links[binding + units.link[row]];
    progress.free_ps[link] = begin_ps + units.last_ps[row];
    progress.owner[link] = progress.totals[UNITS];
  }
  std::copy(tasks.begin(), tasks.end(), progress.laid.begin() + progress.totals[LAID]);
  add_occurrence(progress, units, unit, binding, begin_ps, tasks.size);
}

// Begins a unit; false, with nothing done, if a link that it uses is still in use.
inline bool place(const Progress& progress, const Units& units, Column links, int64_t unit, int64_t binding,
                  int64_t begin_ps, Column tasks) {
  for (int64_t row = units.link_begin[unit]; row < units.link_begin[unit + 1]; ++row) {
    if (begin_ps + units.first_ps[row] < progress.free_ps[links[binding + units.link[row]]]) return false;
  }
  begin_unit(progress, units, links, unit, binding, begin_ps, tasks);
  return true;
}

// The entry of the hash table for a unit that is met, a unit that meets it and the time between them, or the free entry
// where they belong.
inline int64_t entry_of(const Progress& progress, int64_t met, int64_t meets, int64_t after_ps) {
  constexpr uint64_t factor = 1'000'003;
  int64_t last = progress.joint_unit.size - 1;
  int64_t entry = int64_t((uint64_t(met) * factor + uint64_t(meets)) * factor + uint64_t(after_ps)) & last;
  auto is_other = [&](int64_t entry) {
    auto key = progress.joint[entry];
    return key[0] != met || key[1] != meets || key[2] != after_ps;
  };
  while (progress.joint_unit[entry] >= 0 && is_other(entry)) entry = (entry + 1) & last;
  return entry;
}

// Notes the joint unit of a unit and of another unit that meets it.
inline void remember(const Progress& progress, int64_t met, int64_t meets, int64_t after_ps, int64_t joint) {
  int64_t entry = entry_of(progress, met, meets, after_ps);
  progress.joint(entry, 0) = met;
  progress.joint(entry, 1) = meets;
  progress.joint(entry, 2) = after_ps;
  progress.joint_unit[entry] = joint;
}

// The joint unit of an occurrence and a message that meets it now, -1 if it has not been simulated.
inline int64_t joint_of(const Progress& progress, const Kinds& kinds, int64_t met, int64_t kind) {
  int64_t after_ps = progress.totals[NOW] - progress.unit_ps[met];
  return progress.joint_unit[entry_of(progress, progress.unit[met], kinds.unit[kind], after_ps)];
}

// The occurrence whose packets a message would meet if it began now, NOBODY, or SEVERAL if it cannot join them.
inline int64_t whom_it_meets(const Progress& progress, const Units& units, const Kinds& kinds, int64_t kind) {
  int64_t now = progress.totals[NOW];
  int64_t met = NOBODY;
  int64_t unit = kinds.unit[kind];
  int64_t binding = kinds.binding[kind];
  for (int64_t row = units.link_begin[unit]; row < units.link_begin[unit + 1]; ++row) {
    int64_t link = kinds.link[binding + units.link[row]];
    if (now + units.first_ps[row] < progress.free_ps[link]) {
      int64_t owner = progress.owner[link];
      if (progress.binding[owner] != binding || (met != NOBODY && met != owner)) return SEVERAL;
      met = owner;
    }
  }
  return met;
}

// Whether so many messages may join others; arrays have room for several times as many entries as tasks.
inline bool has_room(const Progress& progress, int64_t messages) {
  int64_t entries = MOST_JOINED * messages;
  int64_t events = progress.totals[EVENTS] + progress.bytes.size;
  return progress.totals[LAID] + entries < progress.laid.size &&
         progress.totals[UNITS] + messages < progress.unit.size && events + entries < progress.event.size;
}

// Whether an occurrence still meets no other once it is part of a larger unit over the same links.
inline bool may_join(const Progress& progress, const Units& units, Column links, int64_t met, int64_t joint) {
  int64_t begin_ps = progress.unit_ps[met];
  int64_t binding = progress.binding[met];
  int64_t own = units.link_begin[progress.unit[met]];
  int64_t own_end = units.link_begin[progress.unit[met] + 1];
  for (int64_t row = units.link_begin[joint]; row < units.link_begin[joint + 1]; ++row) {
    int64_t link = links[binding + units.link[row]];
    while (own < own_end && units.link[own] < units.link[row]) own += 1;
    if (own < own_end && units.link[own] == units.link[row]) {
      if (units.first_ps[row] < units.first_ps[own]) return false;
      if (progress.owner[link] != met && units.last_ps[row] != units.last_ps[own]) return false;
    } else if (begin_ps + units.first_ps[row] < progress.free_ps[link]) {
      return false;
    }
  }
  return true;
}

// Replaces an occurrence by an occurrence of the joint unit of it and a message.
inline void join(const Progress& progress, const Units& units, const Kinds& kinds, int64_t met, int64_t task,
                 int64_t kind) {
  int64_t begin_ps = progress.unit_ps[met];
  int64_t binding = progress.binding[met];
  int64_t unit = joint_of(progress, kinds, met, kind);
  for (int64_t row = units.link_begin[unit]; row < units.link_begin[unit + 1]; ++row) {
    int64_t link = kinds.link[binding + units.link[row]];
    if (progress.owner[link] == met || begin_ps + units.first_ps[row] >= progress.free_ps[link]) {
      progress.free_ps[link] = begin_ps + units.last_ps[row];
      progress.owner[link] = progress.totals[UNITS];
    }
  }
  int64_t count = progress.unit_begin[met + 1] - progress.unit_begin[met];
  auto laid = progress.laid.begin() + progress.totals[LAID];
  std::copy_n(progress.laid.begin() + progress.unit_begin[met], count, laid);
  laid[count] = task;
  progress.unit[met] = -1;
  add_occurrence(progress, units, unit, binding, begin_ps, count + 1);
}

}  // namespace netsim::forward
