// Tasks as arrays, and draws of many messages at once.
#pragma once

#include "../cutting.hpp"
#include "../draws.hpp"
#include "layout.hpp"

namespace netsim::exact {

// End of a message that has not been simulated yet, and of every task that waits for it.
constexpr int64_t UNKNOWN = -1;

// When each task may begin, UNKNOWN if it waits for an UNKNOWN end; fills in the ends of tasks without bytes.
inline void release_times(Column delay_ps, Column size_bytes, Column after_begin, Span<const int32_t> after,
                          Span<int64_t> end_ps, Span<int64_t> release_ps) {
  for (int64_t task = 0; task < delay_ps.size; ++task) {
    int64_t latest = 0;
    for (int64_t place = after_begin[task]; place < after_begin[task + 1]; ++place) {
      int64_t end = end_ps[after[place]];
      latest = end == UNKNOWN || latest == UNKNOWN ? UNKNOWN : std::max(latest, end);
    }
    release_ps[task] = latest == UNKNOWN ? UNKNOWN : latest + delay_ps[task];
    if (!size_bytes[task]) end_ps[task] = release_ps[task];
  }
}

// Tasks that wait for each task, ascending; `begin` gets where those of each task begin.
//
// Before, it has two rows more than there are tasks, and all are 0.
inline void list_successors(Column after_begin, Span<const int32_t> after, Span<int64_t> begin, Span<int32_t> waiting) {
  int64_t tasks = after_begin.size - 1;
  for (int32_t earlier : after) begin[earlier + 2] += 1;
  for (int64_t task = 0; task < tasks; ++task) begin[task + 2] += begin[task + 1];
  for (int64_t task = 0; task < tasks; ++task) {
    for (int64_t row = after_begin[task]; row < after_begin[task + 1]; ++row) {
      waiting[begin[after[row] + 1]++] = int32_t(task);
    }
  }
}

// As `netsim.draws.Draws.__call__`, for each entry.
inline void draw_all(uint64_t state, Column flow, Column sequence, Span<uint64_t> drawn) {
  for (int64_t place = 0; place < flow.size; ++place) drawn[place] = draw(state, flow[place], sequence[place]);
}

// CRC-32 of seed, source and destination in eight bytes each, lowest first.
inline void crc32_hashes(int64_t seed, Column src, Column dst, Span<uint64_t> hashes) {
  uint32_t start = crc32(0, seed);
  for (int64_t place = 0; place < src.size; ++place) hashes[place] = crc32(crc32(start, src[place]), dst[place]);
}

}  // namespace netsim::exact
