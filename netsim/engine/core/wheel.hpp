// Regions: parts of the fabric, switches or hosts, whose links and packets of a window fit into a cache together.
//
// The loop deals with one region after the other, so that it fetches a link once a window from outside the cache.
#pragma once

#include <atomic>
#include <optional>
#include <thread>

#include "tasks.hpp"

namespace netsim::windowed {

// Regions of hosts come first in a window, those of switches after them.
enum { OF_HOSTS, OF_SWITCHES };

// Whether a region is a region of hosts, or the only region.
inline bool is_of_hosts(Window& window, int64_t region) { return region < std::max<int64_t>(1, window.regions / 2); }

// Where the threads of a run wait for each other: at the end of each stage of a window.

// Columns of a thread: meetings so far; its reason to stop, in two columns by turns.
enum { MEETINGS, REASONS };
constexpr int64_t READS_BEFORE_YIELDING = 2000;

// Waits until a number that other threads add to reaches `count`; afterwards their earlier writes are visible.
inline void wait_until(std::atomic_ref<int64_t> number, int64_t count) {
  int64_t reads = 0;
  while (number.load(std::memory_order_acquire) < count)
    if (++reads > READS_BEFORE_YIELDING) std::this_thread::yield();
}

// Waits until all threads are there, and returns whether all go on; `why` is this thread's reason to stop, or
// GOES_ON.
//
// Reasons alternate between two columns: a thread may be at the next meeting before another has read this one's.
inline bool meet(Span<int64_t> meetings, int64_t threads, int64_t thread, int64_t why) {
  if (threads == 1) return why == GOES_ON;
  int64_t row = thread * MEETING_ROW;
  std::atomic_ref<int64_t> comings(meetings[threads * MEETING_ROW]);
  int64_t turn = REASONS + (meetings[row + MEETINGS] & 1);
  meetings[row + MEETINGS] += 1;
  meetings[row + turn] = why;
  comings.fetch_add(1, std::memory_order_acq_rel);
  wait_until(comings, threads * meetings[row + MEETINGS]);
  bool all_go_on = true;
  for (int64_t other = 0; other < threads; ++other) all_go_on &= meetings[other * MEETING_ROW + turn] == GOES_ON;
  return all_go_on;
}

// The calendar of the windowed engine: a wheel of buckets, each with the packets that arrive in one window and region.
//
// Regions are those of `netsim.engine.windowed.wheel_layout`. Packets lie in chunks, which are chained. What arrives
// more than a turn of the wheel later waits in the last bucket of that turn, and goes back into the wheel from there.
//
// Each thread has buckets of its own, into which it alone puts packets. Whoever deals with a region takes them out of
// the buckets of all threads. A chunk belongs to the thread that put packets into it, and goes back to it.

// The wheel of a thread, of which the arrays for all threads have a row each.
inline Wheel row_of(const Wheels& wheels, int64_t thread) {
  return {*wheels.window[thread].data,
          wheels.due[thread],
          wheels.buckets[thread],
          wheels.used[thread],
          wheels.returned[thread],
          wheels.found[thread],
          wheels.arrivals[thread],
          wheels.places[thread],
          wheels.receipts[thread],
          wheels.touched[thread],
          wheels.woken[thread],
          wheels.active[thread],
          wheels.pending[thread],
          wheels.timers[thread],
          wheels.ends[thread],
          *wheels.scratch[thread].data,
          wheels.region,
          wheels.owners,
          wheels.packets,
          wheels.next_chunk,
          wheels.units,
          wheels.endings,
          wheels.inside,
          wheels.held,
          wheels.next_held,
          wheels.meetings};
}

// The thread that deals with a unit.
inline int64_t owner_of(const Wheels& wheels, int64_t unit) { return wheels.owners[wheels.region[unit]]; }

// Index in `due` of the window of a moment, or of the last window in this turn of the wheel.
inline int64_t due_at(const Wheel& wheel, int64_t time_ps) {
  auto& window = wheel.window;
  int64_t turn = wheel.due.size;
  uint64_t number = uint64_t(time_ps) / uint64_t(window.length_ps);
  return int64_t(std::min<uint64_t>(number, uint64_t(window.number + turn - 1)) & uint64_t(turn - 1));
}

// Index in `due` of the open window.
inline int64_t due_now(const Wheel& wheel) { return wheel.window.number & (wheel.due.size - 1); }

// Index of the buckets of the open window and region.
inline int64_t bucket_row(const Wheel& wheel) {
  auto& window = wheel.window;
  return due_now(wheel) * window.regions + window.region;
}

// Puts a packet that arrives in a region into the wheel; there must be a free chunk.
inline void put(const Wheel& wheel, Packet& packet, int64_t unit, int64_t region, int64_t arrives) {
  auto& window = wheel.window;
  int64_t index = due_at(wheel, arrives);
  auto& bucket = wheel.buckets[index * window.regions + region];
  int64_t packets = bucket.packets;
  if (packets % CHUNK == 0) {
    int64_t chunk = window.free_chunk;
    window.free_chunk = wheel.next_chunk[chunk];
    window.free_chunks -= 1;
    if (packets) {
      wheel.next_chunk[bucket.last] = chunk;
    } else {
      bucket.first = chunk;
    }
    bucket.last = chunk;
  }
  bucket.packets = packets + 1;
  wheel.due[index] += 1;
  window.in_flight += 1;
  int64_t place = bucket.last * CHUNK + packets % CHUNK;
  wheel.packets[place] = packet;
  auto& copy = wheel.packets[place];
  copy.time_ps = arrives;
  copy.next = unit;
  prefetch(wheel.packets, place + 1, 0);
}

// Adds a chain of `chunks` chunks to the chunks whose packets arrive in the window.
inline void use_chunks(const Wheel& wheel, Used& used, int64_t first, int64_t last, int64_t chunks) {
  if (used.first < 0) {
    used.first = first;
    used.chunks = 0;
  } else {
    wheel.next_chunk[used.last] = first;
  }
  used.last = last;
  used.chunks += chunks;
}

// Frees chunks of the thread whose packets have arrived in the window.
inline void release_chunks(const Wheel& wheel, Used& used) {
  auto& window = wheel.window;
  if (used.first >= 0) {
    wheel.next_chunk[used.last] = window.free_chunk;
    window.free_chunk = used.first;
    window.free_chunks += used.chunks;
    used.first = -1;
  }
}

// Row of `Wheel.returned` for chunks of a thread that were in use in one kind of region.
inline int64_t returned_row(Window& window, int64_t whose, int64_t thread) { return whose * window.threads + thread; }

// Frees chunks of the thread that other threads are done with, of one kind of region.
inline void take_back(const Wheels& wheels, const Wheel& wheel, int64_t whose) {
  auto& window = wheel.window;
  int64_t row = returned_row(window, whose, window.thread);
  for (int64_t other = 0; other < window.threads; ++other) {
    if (other != window.thread) release_chunks(wheel, wheels.returned(other, row));
  }
}

// Whether the packets and pause frames of one event might not fit.
inline bool lacks_room(const Wheel& wheel, const Queued* queued) {
  auto& window = wheel.window;
  if (!queued) return window.free_chunks < window.spare;
  return window.free_chunks < window.spare || queued->notes.packet < 0;
}

// Whether the arrivals of the next region might not fit, or those that arrive a turn of the wheel later.
inline bool lacks_room_for_arrivals(const Wheels& wheels, const Wheel& wheel) {
  auto& window = wheel.window;
  int64_t awaited = 0;
  int64_t row = bucket_row(wheel);
  for (int64_t thread = 0; thread < window.threads; ++thread) awaited += wheels.buckets(thread, row).packets;
  window.awaited = awaited;
  bool lacks_chunks = window.free_chunks <= awaited / CHUNK + window.spare;
  return lacks_chunks || window.arrivals + awaited > wheel.found.size;
}

// Parts of a run's state that each thread has for itself, and that the event engine has once.
//
// Threads deal with different hosts and switches, so that they may share the records of these. The first thread is the
// leader: it alone lets tasks begin, for which it may have to let a host of another thread catch up.

constexpr int64_t LEADER = 0;

// The state in which any thread deals with the hosts of one thread: with the timers and notes of that thread.
struct Acting {
  std::optional<Queued> queued;
  State state;

  Acting(const State& whole, const Shares& shares, int64_t thread) : state(whole) {
    state.hosts.timers = shares.timers[thread];
    if (const auto* all = whole.queued) {
      state.queued =
          &queued.emplace(Queued{all->queues, all->waiting, all->served, all->switches, shares.notes(thread, 0),
                                 shares.frames[thread], all->endings, all->quanta, all->turns, shares.needs[thread]});
    }
  }
};

// Adds what the other threads have noted of tasks and of the round to the leader's state.
inline void report_to_leader(const State& state, const Shares& shares) {
  auto& totals = state.network.totals;
  for (int64_t thread = LEADER + 1; thread < shares.totals.rows; ++thread) {
    auto begins = shares.begins[thread];
    auto& other = shares.totals(thread, 0);
    for (int64_t place = 1; place < begins[0].time_ps + 1; ++place) {
      push(state.program.begins, begins[place].time_ps, begins[place].key, begins[place].what);
    }
    empty(begins);
    if (other.progress) {
      totals.progress = 1;
      other.progress = 0;
    }
    totals.refused = std::min<int64_t>(totals.refused, other.refused);
    other.refused = NOBODY;
  }
}

}  // namespace netsim::windowed
