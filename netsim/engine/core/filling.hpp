// Max-min fair rates: progressive filling, and a check from the rates alone. Bertsekas, Gallager: Data Networks, 6.5.2.
//
// The rates of all flows rise together; when a link is full, the flows on it have their rate. The level at which a link
// is full only rises while other links settle. So a heap of levels finds the next full link if the level at its top is
// brought up to date, and every flow is settled once.
//
// When flows leave, the rates of all slower flows stay as they are: until the level reaches the slowest of those that
// leave, filling goes the same route with and without them, since their links are not full before. So filling may go on
// from there.
#pragma once

#include <functional>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "segments.hpp"

namespace netsim::ideal {

constexpr double INFINITE = std::numeric_limits<double>::infinity();
constexpr double EQUAL = 1 + 1e-12;
constexpr double RISING = -1;
constexpr double TOLERANCE = 1e-9;  // relative, of loads and of rates

// Flows on each segment.
struct Traffic {
  std::vector<int64_t> rising;  // how many have no rate yet
  std::vector<double> settled;  // sum of the rates of the others
};

// Rate of the rising flows at which a link is full, infinite if it has none.
inline double level(int64_t link, const Segments& fabric, Reals capacity, const Traffic& traffic) {
  double demand = 0, taken = 0;
  for (int64_t row = fabric.row_of_link[link]; row < fabric.row_of_link[link + 1]; ++row) {
    int64_t part = fabric.segment[row];
    double share = fabric.segment_share[row];
    demand += share * double(traffic.rising[part]);
    taken += share * traffic.settled[part];
  }
  return demand == 0 ? INFINITE : std::max(0.0, (capacity[link] - taken) / demand);
}

// Rising flows by segment.
struct Members {
  std::vector<int64_t> begin;  // first entry in `flows` of each segment, and the end of the last
  std::vector<int64_t> flows;
};

inline Members members_of(Wholes rising, Table<const int64_t> segments, const std::vector<int64_t>& counts) {
  Members members{std::vector<int64_t>(counts.size() + 1), {}};
  for (size_t part = 0; part < counts.size(); ++part) members.begin[part + 1] = members.begin[part] + counts[part];
  members.flows.resize(members.begin.back());
  auto free = members.begin;
  for (int64_t flow : rising)
    for (int64_t part : segments[flow]) members.flows[free[part]++] = flow;
  return members;
}

// Sets the rates of `rising` flows while all others keep theirs; capacity and rates have the same unit.
//
// `rising` includes every flow that is at least as fast as the slowest one affected.
inline void fill(Wholes active, Wholes rising, Table<const int64_t> segments, Span<double> rate, const Segments& fabric,
                 Reals capacity) {
  int64_t parts = fabric.first_row.size - 1;
  Traffic traffic{std::vector<int64_t>(parts), std::vector<double>(parts)};
  for (int64_t flow : rising) rate[flow] = RISING;
  for (int64_t flow : active) {
    for (int64_t part : segments[flow]) {
      if (rate[flow] == RISING) {
        traffic.rising[part] += 1;
      } else {
        traffic.settled[part] += rate[flow];
      }
    }
  }
  auto members = members_of(rising, segments, traffic.rising);
  using Full = std::pair<double, int64_t>;  // a level, and the link that is full there
  std::vector<Full> levels;
  for (int64_t link = 0; link < capacity.size; ++link) {
    double first = level(link, fabric, capacity, traffic);
    if (first < INFINITE) levels.emplace_back(first, link);
  }
  std::priority_queue<Full, std::vector<Full>, std::greater<>> heap({}, std::move(levels));
  while (!heap.empty()) {
    auto [known, link] = heap.top();
    heap.pop();
    double now = level(link, fabric, capacity, traffic);
    if (now == INFINITE) continue;
    if (now > known * EQUAL) {
      heap.emplace(now, link);
      continue;
    }
    for (int64_t row = fabric.row_of_link[link]; row < fabric.row_of_link[link + 1]; ++row) {
      int64_t part = fabric.segment[row];
      for (int64_t place = members.begin[part]; place < members.begin[part + 1] && traffic.rising[part]; ++place) {
        int64_t flow = members.flows[place];
        if (rate[flow] != RISING) continue;
        rate[flow] = now;
        for (int64_t passed : segments[flow]) {
          traffic.rising[passed] -= 1;
          traffic.settled[passed] += now;
        }
      }
    }
  }
}

// What flows have left to send: columns of `netsim.engine.fluid.flows.Flows`.
struct Rest {
  Reals rate;
  Span<int64_t> since_ps;
  Span<double> left_bytes, empty_ps;
};

// Changes the rates of some flows from `before` to those of `flows` as of now.
inline void change_rates(const Rest& flows, Wholes changed, Reals before, int64_t now_ps) {
  for (int64_t place = 0; place < changed.size; ++place) {
    int64_t flow = changed[place];
    double rate = flows.rate[flow];
    if (rate == before[place]) continue;
    double sent_bytes = before[place] * double(now_ps - flows.since_ps[flow]);
    flows.left_bytes[flow] = std::max(0.0, flows.left_bytes[flow] - sent_bytes);
    flows.since_ps[flow] = now_ps;
    flows.empty_ps[flow] = rate ? double(now_ps) + flows.left_bytes[flow] / rate : INFINITE;
  }
}

// Number of links above their capacity, and of flows without a bottleneck: a full link on which no flow is faster.
//
// Rates are max-min fair if and only if both are 0.
inline std::pair<int64_t, int64_t> violations(Wholes active, Table<const int64_t> segments, Reals rate,
                                              const Segments& fabric, Reals capacity) {
  int64_t parts = fabric.first_row.size - 1;
  std::vector<double> carried(parts), fastest(parts), bottleneck(parts, INFINITE);
  for (int64_t flow : active) {
    for (int64_t part : segments[flow]) {
      carried[part] += rate[flow];
      fastest[part] = std::max(fastest[part], rate[flow]);
    }
  }
  int64_t overfull = 0;
  for (int64_t link = 0; link < capacity.size; ++link) {
    double load = 0, highest = 0;
    for (int64_t row = fabric.row_of_link[link]; row < fabric.row_of_link[link + 1]; ++row) {
      load += fabric.segment_share[row] * carried[fabric.segment[row]];
      highest = std::max(highest, fastest[fabric.segment[row]]);
    }
    overfull += load > capacity[link] * (1 + TOLERANCE);
    if (!(load >= capacity[link] * (1 - TOLERANCE))) continue;
    for (int64_t row = fabric.row_of_link[link]; row < fabric.row_of_link[link + 1]; ++row) {
      int64_t part = fabric.segment[row];
      bottleneck[part] = std::min(bottleneck[part], highest);
    }
  }
  int64_t unjustified = 0;
  for (int64_t flow : active) {
    double least = INFINITE;
    for (int64_t part : segments[flow]) least = std::min(least, bottleneck[part]);
    unjustified += !(least <= rate[flow] * (1 + TOLERANCE));
  }
  return {overfull, unjustified};
}

}  // namespace netsim::ideal
