// Calendar of the event engine: a wheel of slots of time, and a heap.
//
// Slots open one after the other. The entries of the open slot are sorted into a run, whose last entry is never due.
// The heap holds entries that are added to the open slot, and entries after the last slot of the wheel.
#pragma once

#include <utility>

#include "calendar.hpp"
#include "order.hpp"

namespace netsim::event {

// The slot of a moment; all before it have been open.
inline int64_t slot_of(const Flight& flight, int64_t time_ps) { return time_ps >> flight.slots.width_bits; }

// Whether a slot is on the wheel and has not opened yet.
inline bool is_ahead(const Flight& flight, int64_t slot) {
  return uint64_t(slot - flight.slots.open - 1) < uint64_t(flight.first.size - 1);
}

// Adds an entry.
inline void add(const Flight& flight, int64_t time_ps, int64_t key, int64_t what) {
  auto& slots = flight.slots;
  const int64_t slot = slot_of(flight, time_ps);
  if (!is_ahead(flight, slot)) {
    push(flight.calendar, time_ps, key, what);
    return;
  }
  int64_t index = slots.free;
  if (index < 0) {
    index = slots.fresh++;
  } else {
    slots.free = flight.later[index].next;
  }
  const int64_t place = slot & (flight.first.size - 1);
  flight.later[index] = {time_ps, key, int32_t(what), flight.first[place]};
  flight.first[place] = index;
  flight.filled[place >> 6] |= uint64_t(1) << (place & 63);
  slots.used += 1;
}

// The first slot of the wheel that has entries; the wheel must not be empty.
inline int64_t next_filled(const Flight& flight) {
  const int64_t after = flight.slots.open + 1;
  const int64_t place = after & (flight.first.size - 1);
  int64_t word = place >> 6;
  uint64_t bits = flight.filled[word] >> (place & 63) << (place & 63);
  while (!bits) bits = flight.filled[word = (word + 1) & (flight.filled.size - 1)];
  const int64_t found = word << 6 | __builtin_ctzll(bits);
  return after + ((found - place) & (flight.first.size - 1));
}

// Moves the entries of the slot that opens to the run, in their order.
inline void fill_run(const Flight& flight) {
  auto& slots = flight.slots;
  const int64_t place = slots.open & (flight.first.size - 1);
  const int64_t end = flight.run.size - 1;
  flight.filled[place >> 6] &= ~(uint64_t(1) << (place & 63));
  slots.begin = end;
  // The chain begins with the latest entry: filled from its end, the run has the order of addition, nearly sorted.
  for (int64_t index = flight.first[place]; index >= 0;) {
    auto& entry = flight.later[index];
    flight.run[--slots.begin] = entry;
    index = std::exchange(entry.next, std::exchange(slots.free, index));
  }
  flight.first[place] = -1;
  sort_part(flight.run, Span<Timer>{flight.run.data - end / 2, end}, slots.begin, end);
}

// Opens the slot of the next entry; nothing is left in the slot that is open.
inline void open_next(const Flight& flight) {
  auto& slots = flight.slots;
  const auto heap = flight.calendar;
  const int64_t in_wheel = slots.used ? next_filled(flight) : INT64_MAX;
  const int64_t in_heap = heap[0].time_ps ? slot_of(flight, heap[1].time_ps) : INT64_MAX;
  const int64_t next = std::min(in_wheel, in_heap);
  if (next == INT64_MAX) return;
  slots.open = next;
  if (in_wheel == next) fill_run(flight);
}

// Finds the first entry, which `take_first` takes.
inline Entry find_first(const Flight& flight) {
  auto& slots = flight.slots;
  close(flight.calendar);
  if (slots.begin + 1 == flight.run.size && slot_of(flight, flight.calendar[1].time_ps) > slots.open) {
    open_next(flight);
  }
  const auto& ahead = flight.run[slots.begin];
  const auto& top = flight.calendar[1];
  slots.from_run = comes_first(ahead, top);
  return slots.from_run ? Entry{ahead.time_ps, ahead.key, ahead.what} : top;
}

// Takes the first entry out, once it has been found.
inline void take_first(const Flight& flight) {
  auto& slots = flight.slots;
  if (slots.from_run) {
    slots.begin += 1;
    slots.used -= 1;
  } else {
    take_first(flight.calendar);
  }
}

}  // namespace netsim::event
