// Messages whose release is known before it comes: those that wait for delays alone.
#pragma once

#include "progress.hpp"

namespace netsim::forward {

// As `netsim.engine.forward.progress.Ends`.
struct Ends {
  Span<const int32_t> dst;
  Column link;
  Span<const double> byte_ps;
  int64_t payload, header;
};

// How long hosts are busy at least: each sends, or receives, its messages one after the other.
class Busy {
 public:
  Busy(const Progress& progress, const Ends& ends)
      : progress_(progress), ends_(ends), sending_ps_(ends.byte_ps.size), receiving_ps_(ends.byte_ps.size) {}
  // Until when both hosts of a message are busy at least, once it has been added to those before it.
  double add(int64_t task, int64_t release_ps) {
    int64_t size = progress_.bytes[task];
    int64_t wire = size + (size + ends_.payload - 1) / ends_.payload * ends_.header;
    double sent_ps = add(sending_ps_, progress_.first_link[task], wire, release_ps);
    return std::max(sent_ps, add(receiving_ps_, ends_.link[ends_.dst[task]], wire, release_ps));
  }

 private:
  double add(std::vector<double>& until_ps, int64_t link, int64_t wire, int64_t release_ps) {
    until_ps[link] = std::max(until_ps[link], double(release_ps)) + wire * ends_.byte_ps[link];
    return until_ps[link];
  }
  const Progress& progress_;
  const Ends& ends_;
  std::vector<double> sending_ps_, receiving_ps_;
};

// Entries of the heap at which delays end, by time.
inline std::vector<int64_t> delays_of(const Progress& progress) {
  std::vector<int64_t> delays;
  for (int64_t entry = 1; entry <= progress.totals[EVENTS]; ++entry) {
    if (progress.event[entry] == delay_is_over(progress.event[entry] >> 1)) delays.push_back(entry);
  }
  std::stable_sort(delays.begin(), delays.end(),
                   [&](int64_t one, int64_t other) { return progress.event_ps[one] < progress.event_ps[other]; });
  return delays;
}

// Adds messages that are released when the delay of a task is over to `found`, behind `count` others; returns how many
// there are then. Notes in `undo` the tasks that wait for one task less.
inline int64_t follow(const Progress& progress, int64_t task, Span<int64_t> found, int64_t count,
                      std::vector<int64_t>& undo) {
  int64_t depth = 0;
  auto reach = [&](int64_t reached) {
    if (!progress.bytes[reached]) {
      progress.stack[depth++] = reached;
    } else if (progress.due_ps[reached] < 0) {
      found[count++] = reached;
    }
  };
  reach(task);
  while (depth) {
    int64_t ended = progress.stack[--depth];
    for (int64_t row = progress.next_begin[ended]; row < progress.next_begin[ended + 1]; ++row) {
      int64_t following = progress.next[row];
      undo.push_back(following);
      progress.waits_for[following] -= 1;
      if (!progress.waits_for[following] && !progress.delay_ps[following]) reach(following);
    }
  }
  return count;
}

// Messages, by release, that are released now or while those before them still keep their hosts busy; returns how many.
//
// Nothing that is under way can change their releases. The progress is as before at the end.
inline int64_t gather(const Progress& progress, const Ends& ends, Span<int64_t> found, Span<int64_t> found_ps) {
  int64_t now = progress.totals[NOW];
  int64_t count = 0;
  double until_ps = double(now);
  Busy busy(progress, ends);
  auto delays = delays_of(progress);
  for (; count < progress.totals[RELEASED]; ++count) {
    found[count] = progress.released[count];
    found_ps[count] = now;
    until_ps = std::max(until_ps, busy.add(found[count], now));
  }
  std::vector<int64_t> undo;
  for (int64_t entry : delays) {
    int64_t time_ps = progress.event_ps[entry];
    if (time_ps >= until_ps) break;
    int64_t first = count;
    count = follow(progress, progress.event[entry] >> 1, found, count, undo);
    for (int64_t place = first; place < count; ++place) {
      found_ps[place] = time_ps;
      until_ps = std::max(until_ps, busy.add(found[place], time_ps));
    }
  }
  for (int64_t task : undo) progress.waits_for[task] += 1;
  return count;
}

}  // namespace netsim::forward
