// Which links a flow passes, and which flows pass a link.
#pragma once

#include "state.hpp"

namespace netsim::fluid {

// Number of links that a flow passes, the links of all its routes included.
template <class Flow>
inline int64_t links_of(const Streams& streams, const Flow& flow) {
  if (flow.down < 0) return 1;
  return 2 + streams.segment_begin[flow.segment + 1] - streams.segment_begin[flow.segment];
}

// A link of a flow, and the share of its bytes that pass it.
template <class Flow>
inline std::pair<int64_t, double> link_of(const Streams& streams, const Flow& flow, int64_t row) {
  if (row == 0) {
    return {flow.up, 1.0};
  }
  if (row == 1) {
    return {flow.down, 1.0};
  }
  int64_t place = streams.segment_begin[flow.segment] + row - 2;
  return {streams.link[place], streams.share[place]};
}

// The place in `Streams.passing` of the flow of the same link that was put there before, -1 if there is none.
inline int64_t earlier(const Streams& streams, int64_t place) {
  if ((place - 1) % BLOCK) return place - 1;
  int64_t block = streams.passing[place - 1];
  return block >= 0 ? (block + 1) * BLOCK - 1 : -1;
}

// Puts a flow behind the other flows of a host's link and returns its place.
inline int64_t append(const Streams& streams, int64_t number, int64_t index) {
  auto counts = streams.counts;
  auto& link = streams.links[number];
  int64_t place = link.latest + 1;
  if (place % BLOCK == 0) {
    int64_t block = counts[SPARE];
    if (block < 0) {
      block = counts[BLOCKS];
      counts[BLOCKS] += 1;
    } else {
      counts[SPARE] = streams.passing[block * BLOCK];
    }
    streams.passing[block * BLOCK] = link.latest < 0 ? -1 : link.latest / BLOCK;
    place = block * BLOCK + 1;
  }
  streams.passing[place] = index;
  link.latest = place;
  return place;
}

// Adds a flow to the flows of its links and of its segment.
inline void link_in(const Streams& streams, int64_t index) {
  auto& flow = streams.flows[index];
  flow.up_place = append(streams, flow.up, index);
  if (flow.down >= 0) {
    flow.down_place = append(streams, flow.down, index);
    flow.following = streams.segment_first[flow.segment];
    streams.segment_first[flow.segment] = index;
    streams.messages[index].ahead = -1;
    if (flow.following >= 0) streams.messages[flow.following].ahead = index;
  }
  for (int64_t row = 0; row < links_of(streams, flow); ++row) {
    streams.links[link_of(streams, flow, row).first].flows += 1;
  }
}

// Removes the flow at a place from the flows of a host's link; the latest flow gets its place.
inline void remove(const Streams& streams, int64_t number, int64_t place) {
  auto counts = streams.counts;
  auto& link = streams.links[number];
  int64_t latest = link.latest;
  int64_t moved = streams.passing[link.latest];
  streams.passing[place] = moved;
  if (streams.flows[moved].up == number) {
    streams.flows[moved].up_place = place;
  } else {
    streams.flows[moved].down_place = place;
  }
  link.latest = earlier(streams, latest);
  if (latest % BLOCK == 1) {
    streams.passing[latest - 1] = counts[SPARE];
    counts[SPARE] = latest / BLOCK;
  }
}

// Removes a flow from the flows of its links and of its segment.
inline void link_out(const Streams& streams, int64_t index) {
  auto& flow = streams.flows[index];
  remove(streams, flow.up, flow.up_place);
  if (flow.down >= 0) {
    remove(streams, flow.down, flow.down_place);
    int64_t ahead = streams.messages[index].ahead;
    if (flow.following >= 0) streams.messages[flow.following].ahead = ahead;
    if (ahead >= 0) {
      streams.flows[ahead].following = flow.following;
    } else {
      streams.segment_first[flow.segment] = flow.following;
    }
  }
  for (int64_t row = 0; row < links_of(streams, flow); ++row) {
    streams.links[link_of(streams, flow, row).first].flows -= 1;
  }
}

// Heap of the active flows, each by a time at or before its end; `first_end` makes the time of the first flow exact.
//
// A flow that gets slower keeps its time until it comes first: many are faster again by then. The times are in the heap
// itself: at hundreds of thousands of flows the records of the compared flows would be in no cache.

inline double end_of(const Stream& flow) { return flow.rate ? flow.since_ps + flow.left / flow.rate : INFINITY; }

inline void put(const Streams& streams, int64_t place, double due_ps, int64_t index) {
  auto& entry = streams.ends[place];
  entry.due_ps = due_ps;
  entry.flow = index;
  streams.place[index] = place;
}

// Whether a flow comes before the flow of an entry; of flows with the same time the older comes first.
inline bool is_before(double due_ps, int64_t index, const Departure& entry) {
  return due_ps < entry.due_ps || (due_ps == entry.due_ps && index < entry.flow);
}

// Moves a flow down from the first place.
inline void sink(const Streams& streams, double due_ps, int64_t index) {
  auto ends = streams.ends;
  int64_t size = streams.counts[ACTIVE];
  int64_t place = 0;
  while (2 * place + 1 < size) {
    int64_t below = 2 * place + 1;
    if (below + 1 < size && is_before(ends[below + 1].due_ps, ends[below + 1].flow, ends[below])) below += 1;
    if (is_before(due_ps, index, ends[below])) break;
    put(streams, place, ends[below].due_ps, ends[below].flow);
    place = below;
  }
  put(streams, place, due_ps, index);
}

// When the first flow has sent everything, infinite if none ever has.
inline double first_end(const Streams& streams) {
  if (!streams.counts[ACTIVE]) return INFINITY;
  auto& first = streams.ends[0];
  while (true) {
    auto& flow = streams.flows[first.flow];
    double empty_ps = end_of(flow);
    if (empty_ps <= first.due_ps) return empty_ps;
    flow.due_ps = empty_ps;
    sink(streams, empty_ps, first.flow);
  }
}

// Adds a flow whose end is not known yet.
inline void add_end(const Streams& streams, int64_t index) {
  streams.flows[index].due_ps = INFINITY;
  put(streams, streams.counts[ACTIVE], INFINITY, index);
  streams.counts[ACTIVE] += 1;
}

// Takes the first flow out of the heap and returns it.
inline int64_t take_first_end(const Streams& streams) {
  auto counts = streams.counts;
  int64_t index = streams.ends[0].flow;
  counts[ACTIVE] -= 1;
  auto& last = streams.ends[counts[ACTIVE]];
  if (counts[ACTIVE]) sink(streams, last.due_ps, last.flow);
  streams.place[index] = -1;
  return index;
}

// Moves a flow up in the heap if it will have sent everything before its time there.
inline void bring_forward(const Streams& streams, int64_t index) {
  auto& flow = streams.flows[index];
  double empty_ps = end_of(flow);
  if (empty_ps >= flow.due_ps) return;
  flow.due_ps = empty_ps;
  auto ends = streams.ends;
  int64_t place = streams.place[index];
  while (place > 0 && is_before(empty_ps, index, ends[(place - 1) >> 1])) {
    int64_t above = (place - 1) >> 1;
    put(streams, place, ends[above].due_ps, ends[above].flow);
    place = above;
  }
  put(streams, place, empty_ps, index);
}

}  // namespace netsim::fluid
