// What packets did at each link, unit by unit, from arrivals that the exact engine has sorted.
#pragma once

#include <tuple>

#include "../exact/layout.hpp"

namespace netsim::forward {

using exact::Column;

// As `netsim.engine.forward.passage.Passages`.
struct Passages {
  Span<int64_t> unit, link, first_ps, last_ps, packets, bytes, busy_ps, longest_ps, tag;
  Span<int64_t> queue_unit, queue_time_ps, queue_ps;
};

// Queues over time, thinned to those that can be the longest of an interval of `width_ps` or more, wherever it begins.
struct Queues {
  Span<int64_t> time_ps, queue_ps;
  int64_t width_ps;

  // Adds a queue to those from `begin` on, `end` the end, and drops those that are never the only longest of an
  // interval; returns the new end.
  //
  // A queue between two others at least as long, at most an interval apart, can be dropped: every interval of that
  // length that holds it holds one of them.
  int64_t add(int64_t begin, int64_t end, int64_t newest_ps, int64_t newest) const {
    while (end - begin >= 2 && queue_ps[end - 1] <= newest && queue_ps[end - 2] >= queue_ps[end - 1] &&
           newest_ps - time_ps[end - 2] <= width_ps) {
      end -= 1;
    }
    time_ps[end] = newest_ps;
    queue_ps[end] = newest;
    return end + 1;
  }
};

// Thins the queues of many units in place; `kept` gets the begin of what is left of each, and the end of the last.
inline void thin(const Queues& queues, Column begin, Span<int64_t> kept) {
  int64_t end = 0;
  for (int64_t unit = 0; unit + 1 < begin.size; ++unit) {
    kept[unit] = end;
    for (int64_t entry = begin[unit]; entry < begin[unit + 1]; ++entry) {
      end = queues.add(kept[unit], end, queues.time_ps[entry], queues.queue_ps[entry]);
    }
  }
  kept[begin.size - 1] = end;
}

// Follows units through links.
class Follower {
 public:
  Follower(const exact::Fabric& fabric, const exact::Arrivals& arrivals, const exact::Packets& packets,
           Column unit_of_flow, Column release_ps, int64_t width_ps, const Passages& passages)
      : fabric_(fabric),
        arrivals_(arrivals),
        packets_(packets),
        unit_of_flow_(unit_of_flow),
        release_ps_(release_ps),
        passages_(passages),
        queues_{passages.queue_time_ps, passages.queue_ps, width_ps} {}
  // Follows all units: the number of passages, and of queues; whether no link had packets of two units at a time.
  std::tuple<int64_t, int64_t, bool> run() {
    bool apart = true;
    for (int64_t link = 0; link + 1 < arrivals_.begin.size; ++link) apart &= follow(link);
    return {row_ + 1, queue_, apart};
  }

 private:
  // Follows units through one link; false if a unit's packet comes before the packets of another unit have left.
  bool follow(int64_t link) {
    int64_t free = 0, here = -1, first_queue = queue_;
    exact::Pace pace(fabric_, link, packets_.full_bytes);
    for (int64_t place = arrivals_.begin[link]; place < arrivals_.begin[link + 1]; ++place) {
      int64_t now = arrivals_.time_ps[place];
      int64_t tag = arrivals_.tag[place];
      int64_t number = packets_.number(tag);
      int64_t unit = unit_of_flow_[packets_.flow[number]];
      if (unit != here) {
        if (now < free || unit < here) return false;
        here = unit;
        first_queue = queue_;
        begin_passage(link, here, now);
      }
      int64_t size_bytes = packets_.bytes(number);
      int64_t service = pace.service(size_bytes, 0);
      free = std::max(now, free) + service;
      note(size_bytes, service, free - now);
      passages_.tag[row_] = tag;
      passages_.last_ps[row_] = free - release_ps_[here];
      if (fabric_.at_switch[link]) {
        queue_ = queues_.add(first_queue, queue_, now - release_ps_[here], free - now);
        passages_.queue_unit[queue_ - 1] = here;
      }
    }
    return true;
  }
  void begin_passage(int64_t link, int64_t unit, int64_t now) {
    row_ += 1;
    passages_.unit[row_] = unit;
    passages_.link[row_] = link;
    passages_.first_ps[row_] = now - release_ps_[unit];
    passages_.packets[row_] = passages_.bytes[row_] = passages_.busy_ps[row_] = passages_.longest_ps[row_] = 0;
  }
  void note(int64_t size_bytes, int64_t service, int64_t queue_ps) const {
    passages_.packets[row_] += 1;
    passages_.bytes[row_] += size_bytes;
    passages_.busy_ps[row_] += service;
    passages_.longest_ps[row_] = std::max(passages_.longest_ps[row_], queue_ps);
  }
  const exact::Fabric& fabric_;
  const exact::Arrivals& arrivals_;
  const exact::Packets& packets_;
  Column unit_of_flow_, release_ps_;
  const Passages& passages_;
  Queues queues_;
  int64_t row_ = -1, queue_ = 0;
};

}  // namespace netsim::forward
