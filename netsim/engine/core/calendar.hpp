// Calendars of the event engine: heaps of events, in the order of `netsim.engine.reference.calendar`.
//
// Entry 0 of a heap is its header: `time_ps` is the number of entries, and `key` is 1 while the first entry has been
// taken and its place is not filled yet. Entries begin at 1; the children of entry i are 4 i - 2 to 4 i + 1. Four
// entries that are never due follow the last one. Entries behind those are written when the heap grows, so that a heap
// with room for all that may ever happen takes memory only for what does.
#pragma once

#include "state.hpp"

namespace netsim {

// The time of an event that never happens, later than all others.
constexpr int64_t END_PS = int64_t(1) << 62;
constexpr int64_t NEVER = INT64_MAX;

constexpr int64_t PHASE_BITS = 60;
// First key of each phase of an instant: pauses, from 0 on; ends of transmissions; arrivals; timers; releases; looks
// for a packet to send. Tasks, which come before all of them, have a heap of their own.
constexpr int64_t END = int64_t(1) << 59;
constexpr int64_t ARRIVAL = int64_t(1) << PHASE_BITS, TIMER = 2 * ARRIVAL, RELEASE = 3 * ARRIVAL, SEND = 4 * ARRIVAL;
constexpr int64_t PULL = int64_t(1) << 40;

// First key of the phase of a key.
inline int64_t phase(int64_t key) { return (key >> PHASE_BITS) << PHASE_BITS; }

// Place of a packet among those that arrive in the same instant.
inline int64_t arrival_key(int64_t flow_id, int64_t serial, int64_t control) {
  return ARRIVAL | (flow_id << (SERIAL_BITS + 1)) | (serial << 1) | control;
}

// Serial of a packet: the number of its transmission within the flow.
inline int64_t serial_of(const Packet& packet) { return (packet.key >> 1) & ((int64_t(1) << SERIAL_BITS) - 1); }

// Id of a packet's flow.
inline int64_t flow_id_of(const Packet& packet) {
  return (packet.key >> (SERIAL_BITS + 1)) & ((int64_t(1) << FLOW_BITS) - 1);
}

// Place of a flow's timers within an instant: first the retransmission timer, then the pacing timer.
inline int64_t timer_key(int64_t flow_id, int64_t pace) { return TIMER | (flow_id << 1) | pace; }

// Place of a receiver that asks for packets, by the link that leads to it: after all timers of flows.
inline int64_t pull_key(int64_t link) { return TIMER | PULL | link; }

// Whether a timer is that of a receiver that asks for packets.
inline bool is_pull(int64_t key) { return phase(key) == TIMER && (key & PULL) != 0; }

// When the first entry is due.
inline int64_t first_time(Heap heap) { return heap[0].time_ps ? heap[1].time_ps : END_PS; }

// Time and key of an event as one number; keys are never negative, times only in heaps that sort draws.
inline __int128 order_of(int64_t time_ps, int64_t key) {
  return static_cast<__int128>(time_ps) << 64 | static_cast<uint64_t>(key);
}

inline void rise(Heap heap, int64_t place, int64_t time_ps, int64_t key, int64_t what) {
  const auto order = order_of(time_ps, key);
  while (place > 1) {
    const int64_t above = (place + 2) >> 2;
    if (order_of(heap[above].time_ps, heap[above].key) <= order) break;
    heap[place] = heap[above];
    place = above;
  }
  heap[place] = {time_ps, key, what};
}

// Whether one event comes before another; no branch, since a processor cannot predict which of two does.
inline bool precedes(const Entry& one, const Entry& other) {
  return order_of(one.time_ps, one.key) < order_of(other.time_ps, other.key);
}

inline void sink(Heap heap, int64_t time_ps, int64_t key, int64_t what) {
  const auto order = order_of(time_ps, key);
  Entry* entries = heap.data;
  const int64_t last = entries[0].time_ps;
  int64_t place = 1;
  for (int64_t below = 2; below <= last; below = 4 * place - 2) {
    const int64_t left = below + precedes(entries[below + 1], entries[below]);
    const int64_t right = below + 2 + precedes(entries[below + 3], entries[below + 2]);
    const int64_t best = precedes(entries[right], entries[left]) ? right : left;
    if (order <= order_of(entries[best].time_ps, entries[best].key)) break;
    entries[place] = entries[best];
    place = best;
  }
  entries[place] = {time_ps, key, what};
}

// Adds an entry; it fills the place of the first one if that has been taken.
inline void push(Heap heap, int64_t time_ps, int64_t key, int64_t what) {
  if (heap[0].key) {
    heap[0].key = 0;
    sink(heap, time_ps, key, what);
    return;
  }
  heap[0].time_ps += 1;
  int64_t size = heap[0].time_ps;
  heap[size + 4].time_ps = heap[size + 4].key = NEVER;
  rise(heap, size, time_ps, key, what);
}

// Takes the first entry out; its place is filled by the next `push` or by `close`.
inline void take_first(Heap heap) { heap[0].key = 1; }

// Fills the place of the entry that was taken, if nothing else has.
inline void close(Heap heap) {
  if (heap[0].key) {
    heap[0].key = 0;
    int64_t size = heap[0].time_ps;
    heap[0].time_ps = size - 1;
    auto& last = heap[size];
    int64_t time_ps = last.time_ps;
    int64_t key = last.key;
    int64_t what = last.what;
    last.time_ps = last.key = NEVER;
    if (size > 1) sink(heap, time_ps, key, what);
  }
}

// Forgets all entries.
inline void empty(Heap heap) {
  heap[0].time_ps = heap[0].key = 0;
  for (int64_t place = 1; place < 5; ++place) heap[place].time_ps = heap[place].key = NEVER;
}

// Moves the entry with a key to an earlier time, if it is due later; a rare operation, which searches the heap.
//
// Returns:
//     Whether there is such an entry.
inline bool move_up(Heap heap, int64_t time_ps, int64_t key) {
  int64_t place = 1;
  while (place <= heap[0].time_ps && heap[place].key != key) place += 1;
  if (place > heap[0].time_ps) return false;
  if (heap[place].time_ps > time_ps) rise(heap, place, time_ps, key, heap[place].what);
  return true;
}

}  // namespace netsim
