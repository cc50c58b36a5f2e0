// What a run records over time: queues, and on request links and windows; see `netsim.engine.watch`.
#pragma once

#include <algorithm>

#include "state.hpp"

namespace netsim {

constexpr int64_t INTERVALS = 256, MOST_SAMPLES = 1024, COLUMNS = 4;
constexpr int64_t WIDTH = 0;
constexpr int64_t USED = 1;

// Longest queue of each interval of time; binary logarithm of an interval's picoseconds; intervals in use.
struct Longest {
  Span<int64_t> queue_ps;
  int64_t& width_bits;
  int64_t& used;
};

// The same as arrays; see `netsim.engine.queue_series.Longest`.
struct QueuesOverTime {
  Span<int64_t> queue_ps, shape;
  operator Longest() const { return {queue_ps, shape[0], shape[1]}; }
};

// As `netsim.engine.queue_series.QueueRecorder.add`.
inline void note_queue(const Longest& longest, int64_t time_ps, int64_t queue_ps) {
  while (time_ps >> longest.width_bits >= INTERVALS) {
    for (int64_t pair = 0; pair < INTERVALS / 2; ++pair) {
      longest.queue_ps[pair] = std::max(longest.queue_ps[2 * pair], longest.queue_ps[2 * pair + 1]);
    }
    std::fill(longest.queue_ps.begin() + INTERVALS / 2, longest.queue_ps.end(), 0);
    longest.width_bits += 1;
    longest.used = (longest.used + 1) / 2;
  }
  int64_t interval = time_ps >> longest.width_bits;
  longest.queue_ps[interval] = std::max(longest.queue_ps[interval], queue_ps);
  longest.used = std::max(longest.used, interval + 1);
}

// As `netsim.engine.watch.LinkRecorder.add`.
inline void note_carried(const Network& network, int64_t link, int64_t time_ps, int64_t size_bytes) {
  auto carried = network.carried;
  auto shape = network.carried_shape;
  if (!carried.rows) return;
  while (time_ps >> shape[WIDTH] >= INTERVALS) {
    for (int64_t row = 0; row < carried.rows; ++row) {
      for (int64_t pair = 0; pair < INTERVALS / 2; ++pair) {
        carried(row, pair) = carried(row, 2 * pair) + carried(row, 2 * pair + 1);
      }
      for (int64_t behind = INTERVALS / 2; behind < INTERVALS; ++behind) carried(row, behind) = 0;
    }
    shape[WIDTH] += 1;
    shape[USED] = (shape[USED] + 1) / 2;
  }
  int64_t interval = time_ps >> shape[WIDTH];
  carried(link, interval) += size_bytes;
  shape[USED] = std::max<int64_t>(shape[USED], interval + 1);
}

// As `netsim.engine.watch.WindowRecorder.add`.
inline void note_window(const Hosts& hosts, const Rules& rules, Flow& flow, int64_t round_trip_ps, int64_t now) {
  if (!hosts.slots.size) return;
  int64_t slot = hosts.slots[flow.task];
  if (slot < 0 || flow.id != flow.task * rules.places) return;
  auto sampled = hosts.sampled;
  auto samples = hosts.samples;
  if (sampled(slot, SEEN) % sampled(slot, STRIDE) == 0) {
    int64_t row;
    if (sampled(slot, COUNT) == MOST_SAMPLES) {
      for (int64_t row = 0; row < MOST_SAMPLES / 2; ++row) {
        for (int64_t column = 0; column < COLUMNS; ++column) {
          samples(slot, row, column) = samples(slot, 2 * row, column);
        }
      }
      sampled(slot, COUNT) = MOST_SAMPLES / 2;
      sampled(slot, STRIDE) *= 2;
    }
    if (sampled(slot, SEEN) % sampled(slot, STRIDE) == 0) {
      row = sampled(slot, COUNT);
      samples(slot, row, 0) = now;
      samples(slot, row, 3) = round_trip_ps;
      samples(slot, row, 1) = flow.window;
      samples(slot, row, 2) = flow.in_flight;
      sampled(slot, COUNT) += 1;
    }
  }
  sampled(slot, SEEN) += 1;
}

}  // namespace netsim
