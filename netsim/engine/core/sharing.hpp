// Progressive filling of the compiled flow-level engine: next rates of the affected flows, all others keeping theirs.
//
// The level at which a link is full only rises while other links settle. So a heap of levels finds the next full link
// if the level at its top is brought up to date. The affected flows of a link are lined up first, so that a full link
// meets them alone and not all of its flows.
#pragma once

#include "streams.hpp"

namespace netsim::fluid {

constexpr double EQUAL = 1.000000000001;

// Puts an affected flow first among the affected flows of its links and of its segment.
inline void line_up(const Streams& streams, int64_t place) {
  auto& flow = streams.affected[place];
  auto& up = streams.links[flow.up];
  flow.beside[FIRST] = up.newest;
  up.newest = place;
  if (flow.down >= 0) {
    flow.beside[BETWEEN] = streams.segment_newest[flow.segment];
    streams.segment_newest[flow.segment] = place;
    auto& down = streams.links[flow.down];
    flow.beside[LAST] = down.newest;
    down.newest = place;
  }
}

// Rate of the rising flows at which a link is full, infinite if it has none.
inline double full_at(SharedLink& link) {
  return link.rising ? std::max<double>(0.0, (link.capacity - link.taken) / link.demand) : INFINITY;
}

inline void put_level(const Streams& streams, int64_t place, double level, int64_t number) {
  auto& entry = streams.heap[place];
  entry.level = level;
  entry.link = number;
}

inline void sift_link(const Streams& streams, int64_t place, int64_t size) {
  auto heap = streams.heap;
  double level = heap[place].level;
  int64_t number = heap[place].link;
  while (2 * place + 1 < size) {
    int64_t below = 2 * place + 1;
    if (below + 1 < size && heap[below + 1].level < heap[below].level) below += 1;
    if (level <= heap[below].level) break;
    put_level(streams, place, heap[below].level, heap[below].link);
    place = below;
  }
  put_level(streams, place, level, number);
}

inline void keep(const Streams& streams, Rising& flow, int64_t number, double level) {
  if (flow.fresh >= 0) return;
  flow.fresh = level;
  flow.bottleneck = number;
  for (int64_t row = 0; row < links_of(streams, flow); ++row) {
    auto [passed, share] = link_of(streams, flow, row);
    auto& link = streams.links[passed];
    link.rising -= 1;
    link.demand -= share;
    link.taken += share * level;
    link.fastest = std::max<double>(link.fastest, level);
  }
}

// A link is full: its rising flows keep this rate. Returns how many there were.
inline int64_t hold_back(const Streams& streams, int64_t number, double level) {
  auto& link = streams.links[number];
  int64_t rising = link.rising;
  link.level = rising ? level : INFINITY;
  if (link.at_host) {
    int64_t place = link.newest;
    while (place >= 0 && link.rising) {
      auto& flow = streams.affected[place];
      keep(streams, flow, number, level);
      place = flow.beside[flow.up == number ? FIRST : LAST];
    }
    return rising;
  }
  for (int64_t row = streams.link_begin[number]; row < streams.link_begin[number + 1]; ++row) {
    if (!link.rising) break;
    int64_t place = streams.segment_newest[streams.segment[row]];
    while (place >= 0 && link.rising) {
      auto& flow = streams.affected[place];
      keep(streams, flow, number, level);
      place = flow.beside[BETWEEN];
    }
  }
  return rising;
}

// Sets the next rates of the affected flows, `known` of them filled before; returns how many links they touch.
inline int64_t fill(const Streams& streams, int64_t known, int64_t touched) {
  auto counts = streams.counts;
  auto links = streams.links;
  if (!known) counts[MARK] += 1;
  for (int64_t place = known; place < counts[AFFECTED]; ++place) {
    auto& flow = streams.affected[place];
    for (int64_t row = 0; row < links_of(streams, flow); ++row) {
      auto [number, share] = link_of(streams, flow, row);
      auto& link = links[number];
      if (link.mark != counts[MARK]) {
        link.mark = counts[MARK];
        link.kept = link.load;
        link.asked = 0.0;
        link.affected = 0;
        link.newest = -1;
        streams.touched[touched] = number;
        touched += 1;
      }
      link.kept -= share * flow.rate;
      link.asked += share;
      link.affected += 1;
    }
    line_up(streams, place);
  }
  for (int64_t place = 0; place < counts[AFFECTED]; ++place) streams.affected[place].fresh = -1.0;
  for (int64_t place = 0; place < touched; ++place) {
    auto& link = links[streams.touched[place]];
    link.taken = link.kept;
    link.demand = link.asked;
    link.rising = link.affected;
    link.fastest = 0.0;
    if (link.rising == link.flows) link.taken = link.most = 0.0;
    link.level = full_at(link);
    put_level(streams, place, link.level, streams.touched[place]);
  }
  int64_t size = touched;
  int64_t left = counts[AFFECTED];
  for (int64_t place = size / 2 - 1; place > -1; --place) sift_link(streams, place, size);
  while (left && size) {
    int64_t number = streams.heap[0].link;
    auto& link = links[number];
    double level = full_at(link);
    if (level > link.level * EQUAL && link.rising) {
      link.level = streams.heap[0].level = level;
    } else {
      left -= hold_back(streams, number, level);
      size -= 1;
      auto& last = streams.heap[size];
      put_level(streams, 0, last.level, last.link);
    }
    sift_link(streams, 0, size);
  }
  for (int64_t place = 0; place < size; ++place) links[streams.heap[place].link].level = INFINITY;
  return touched;
}

// Empties the lists of affected flows of all segments.
inline void disperse(const Streams& streams) {
  for (int64_t place = 0; place < streams.counts[AFFECTED]; ++place) {
    auto& flow = streams.affected[place];
    if (flow.down >= 0) streams.segment_newest[flow.segment] = -1;
  }
}

// Max-min fair rates, where flows have come or gone: compiled, and only as far as the change reaches.
//
// The rates of the affected flows rise together until a link is full, which settles the flows on it (progressive
// filling; Bertsekas, Gallager: Data Networks, 6.5.2), while all other flows keep theirs. Then every link whose load
// has changed is looked at: a flow there that is faster than those the link holds back, or that has lost the full link
// that held it back, is affected too, and filling begins again. When none is left, each flow has a full link on which
// no flow is faster, which is the condition for rates to be max-min fair.

constexpr double TOLERANCE = 1e-09;
constexpr int64_t FEW = 16;

inline void affect(const Streams& streams, int64_t index) {
  auto& flow = streams.flows[index];
  if (!flow.mark) {
    flow.mark = 1;
    if (flow.bottleneck >= 0) streams.links[flow.bottleneck].held -= 1;
    auto& rising = streams.affected[streams.counts[AFFECTED]];
    rising.flow = index;
    rising.rate = flow.rate;
    rising.up = flow.up;
    rising.segment = flow.segment;
    rising.down = flow.down;
    streams.counts[AFFECTED] += 1;
  }
}

// Makes a flow active; its rate is still to be settled.
inline void join(const Streams& streams, int64_t index) {
  auto& flow = streams.flows[index];
  link_in(streams, index);
  flow.rate = 0.0;
  flow.bottleneck = -1;
  add_end(streams, index);
  affect(streams, index);
}

// A flow that finds other flows on its first link sends its first packet after one packet of each of them.
//
// Each of the n other flows is ahead of even sharing by 1/(n + 1) of a packet; the newcomer is behind by the sum.
// Without this, messages of a rank that once overlap end in the same instant, start together at the next rank, and
// never come apart again, whereas in packets they come apart by one packet at every rank.
inline void wait_for_turn(const Streams& streams, int64_t index, int64_t packet_bytes, int64_t now_ps) {
  auto& newcomer = streams.flows[index];
  auto& link = streams.links[newcomer.up];
  if (link.flows < 2 || link.flows > FEW) return;
  int64_t others = 0;
  for (auto gives : {false, true}) {
    int64_t place = earlier(streams, newcomer.up_place);
    while (place >= 0) {
      int64_t other = streams.passing[place];
      auto& flow = streams.flows[other];
      if (flow.bottleneck == newcomer.up || streams.messages[other].start_ps == now_ps) {
        if (gives) {
          flow.left = std::max<double>(0.0, flow.left - flow.rate * (now_ps - flow.since_ps));
          flow.since_ps = now_ps;
          double ahead = std::min<double>(flow.left, double(packet_bytes) / (others + 1));
          flow.left -= ahead;
          newcomer.left += ahead;
          affect(streams, other);
        } else {
          others += 1;
        }
      }
      place = earlier(streams, place);
    }
  }
}

// Adds the flows that a link holds back to the affected flows.
inline void affect_held(const Streams& streams, int64_t number) {
  auto& link = streams.links[number];
  int64_t index;
  if (link.at_host) {
    int64_t place = link.latest;
    while (place >= 0) {
      index = streams.passing[place];
      if (streams.flows[index].bottleneck == number) affect(streams, index);
      place = earlier(streams, place);
    }
    return;
  }
  for (int64_t row = streams.link_begin[number]; row < streams.link_begin[number + 1]; ++row) {
    index = streams.segment_first[streams.segment[row]];
    while (index >= 0) {
      if (streams.flows[index].bottleneck == number) affect(streams, index);
      index = streams.flows[index].following;
    }
  }
}

// Takes the first flow that has sent everything off its links; the flows that they held back are affected.
inline int64_t take_first(const Streams& streams) {
  int64_t index = take_first_end(streams);
  auto& flow = streams.flows[index];
  link_out(streams, index);
  if (flow.mark) {
    streams.counts[LEFT] = 1;
  } else {
    streams.links[flow.bottleneck].held -= 1;
  }
  flow.bottleneck = -1;
  for (int64_t row = 0; row < links_of(streams, flow); ++row) {
    auto [number, share] = link_of(streams, flow, row);
    auto& link = streams.links[number];
    if (link.held && link.load >= link.capacity * (1 - TOLERANCE)) affect_held(streams, number);
    link.load = link.flows ? link.load - share * flow.rate : 0.0;
  }
  return index;
}

// Removes flows that have left meanwhile from the affected flows.
inline void forget_absent(const Streams& streams) {
  auto counts = streams.counts;
  int64_t kept = 0;
  if (!counts[LEFT]) return;
  for (int64_t place = 0; place < counts[AFFECTED]; ++place) {
    if (streams.place[streams.affected[place].flow] >= 0) {
      streams.affected[kept] = streams.affected[place];
      kept += 1;
    }
  }
  counts[AFFECTED] = kept;
  counts[LEFT] = 0;
}

// Whether the next rates on a link may concern a flow there that is not affected: its bounds, without its flows.
inline bool concerns(SharedLink& link, bool is_full) {
  bool holds_back = is_full && link.level >= 0 && link.level < INFINITY;
  bool too_fast = holds_back && link.most > link.level * (1 + TOLERANCE);
  bool freed = link.held > 0 && (!is_full || link.fastest > link.least * (1 + TOLERANCE));
  return too_fast || freed;
}

// Affects a flow of a link that is faster than the flows held back there, or that is no longer held back there.
//
// Returns:
//     Its rate if it is not affected, 0 otherwise.
inline double look_at(const Streams& streams, int64_t index, int64_t number, bool is_full) {
  auto& flow = streams.flows[index];
  auto& link = streams.links[number];
  if (flow.mark) return 0.0;
  bool holds_back = is_full && link.level >= 0 && link.level < INFINITY;
  bool too_fast = holds_back && flow.rate > link.level * (1 + TOLERANCE);
  bool freed = flow.bottleneck == number && (!is_full || link.fastest > flow.rate * (1 + TOLERANCE));
  if (too_fast || freed) {
    affect(streams, index);
    return 0.0;
  }
  return flow.rate;
}

// Adds flows that the next rates of the affected flows concern to the affected flows.
inline void look_around(const Streams& streams, int64_t touched) {
  for (int64_t place = 0; place < touched; ++place) {
    int64_t number = streams.touched[place];
    auto& link = streams.links[number];
    double full = link.capacity * (1 - TOLERANCE);
    bool is_full = link.taken >= full;
    if ((link.load < full && !is_full) || !concerns(link, is_full)) continue;
    double most = 0.0;
    if (link.at_host) {
      int64_t place = link.latest;
      while (place >= 0) {
        most = std::max<double>(most, look_at(streams, streams.passing[place], number, is_full));
        place = earlier(streams, place);
      }
    } else {
      for (int64_t row = streams.link_begin[number]; row < streams.link_begin[number + 1]; ++row) {
        int64_t index = streams.segment_first[streams.segment[row]];
        while (index >= 0) {
          most = std::max<double>(most, look_at(streams, index, number, is_full));
          index = streams.flows[index].following;
        }
      }
    }
    link.most = most;
  }
}

// Settles the rates of the affected flows and of all that they reach; False if a rate is not max-min fair.
inline bool settle(const Streams& streams, int64_t now_ps) {
  auto counts = streams.counts;
  int64_t known = 0;
  int64_t touched = 0;
  forget_absent(streams);
  if (!counts[AFFECTED]) return true;
  while (known < counts[AFFECTED]) {
    touched = fill(streams, known, touched);
    known = counts[AFFECTED];
    look_around(streams, touched);
  }
  disperse(streams);
  bool fair = true;
  for (int64_t place = 0; place < touched; ++place) {
    auto& link = streams.links[streams.touched[place]];
    link.load = link.taken;
    link.most = std::max<double>(link.most, link.fastest);
    fair &= link.load <= link.capacity * (1 + TOLERANCE);
  }
  for (int64_t place = 0; place < counts[AFFECTED]; ++place) {
    auto& rising = streams.affected[place];
    auto& flow = streams.flows[rising.flow];
    auto& link = streams.links[rising.bottleneck];
    flow.mark = 0;
    flow.bottleneck = rising.bottleneck;
    link.least = link.held ? std::min<double>(link.least, rising.fresh) : rising.fresh;
    link.held += 1;
    fair &= link.load >= link.capacity * (1 - TOLERANCE) && link.fastest <= rising.fresh * (1 + TOLERANCE);
    if (rising.fresh != flow.rate || flow.since_ps == now_ps) {
      flow.left = std::max<double>(0.0, flow.left - flow.rate * (now_ps - flow.since_ps));
      flow.rate = rising.fresh;
      flow.since_ps = now_ps;
      bring_forward(streams, rising.flow);
    }
  }
  counts[AFFECTED] = 0;
  counts[ALLOCATIONS] += 1;
  return fair;
}

}  // namespace netsim::fluid
