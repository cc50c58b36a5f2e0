// Order of events by time and key.
#pragma once

#include <algorithm>

#include "arrays.hpp"

namespace netsim {

// Number of events up to which insertion alone sorts.
constexpr int64_t RUN = 16;

// Whether an event comes before a moment and key.
template <class Event>
inline bool is_due(const Event& event, int64_t time_ps, int64_t key) {
  return event.time_ps < time_ps || (event.time_ps == time_ps && event.key < key);
}

template <class One, class Other>
inline bool comes_first(const One& one, const Other& other) {
  return one.time_ps < other.time_ps || (one.time_ps == other.time_ps && one.key < other.key);
}

template <class Event>
inline void insert(Span<Event> events, int64_t begin, int64_t end) {
  for (int64_t row = begin + 1; row < end; ++row) {
    if (!comes_first(events[row], events[row - 1])) continue;
    Event moved = events[row];
    int64_t free = row;
    while (free > begin) {
      auto& before = events[free - 1];
      if (comes_first(before, moved)) break;
      events[free] = before;
      free -= 1;
    }
    events[free] = moved;
  }
}

// Merges two sorted runs; the first run is copied to `scratch` before.
template <class Event>
inline void merge(Span<Event> events, Span<Event> scratch, int64_t begin, int64_t middle, int64_t end) {
  for (int64_t row = begin; row < middle; ++row) scratch[row] = events[row];
  int64_t left = begin;
  int64_t right = middle;
  int64_t row = begin;
  while (left < middle) {
    if (right < end && comes_first(events[right], scratch[left])) {
      events[row] = events[right];
      right += 1;
    } else {
      events[row] = scratch[left];
      left += 1;
    }
    row += 1;
  }
}

// Sorts by insertion, and many by merging runs.
template <class Event>
inline void sort_part(Span<Event> events, Span<Event> scratch, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += RUN) insert(events, first, std::min<int64_t>(first + RUN, end));
  int64_t length = RUN;
  while (length < end - begin) {
    for (int64_t first = begin; first < end; first += 2 * length) {
      int64_t middle = std::min<int64_t>(first + length, end);
      int64_t last = std::min<int64_t>(first + 2 * length, end);
      if (middle < last && comes_first(events[middle], events[middle - 1])) {
        merge(events, scratch, first, middle, last);
      }
    }
    length *= 2;
  }
}

}  // namespace netsim
