// Serves links one after the other, each when all links that feed it are done: sorts arrivals, computes departures.
//
// A packet leaves at max(its arrival, the departure before it) + its service time (D. V. Lindley: The theory of queues
// with a single server, 1952).
#pragma once

#include "../series.hpp"
#include "sorting.hpp"

namespace netsim::exact {

// A packet has passed its last link.
inline void receive(Receiver& receiver, int64_t number, int64_t arrives_ps) {
  if (number < receiver.highest) {
    receiver.reordered += 1;
  } else {
    receiver.highest = number;
  }
  receiver.end_ps = std::max(receiver.end_ps, arrives_ps);
}

// Serves the packets of a link in the order of their arrivals, which are sorted; fills in `there`, `figures` and
// `longest`. `since_ps` has when the first service at each of the link's rates began.
inline void serve_link(const Fabric& fabric, int64_t link, const Arrivals& here, const Arrivals& there,
                       const Packets& packets, Span<Receiver> receivers, LinkFigures& figures, const Longest& longest,
                       Span<int64_t> since_ps) {
  int64_t first = fabric.change_begin[link];
  auto rates = fabric.rate_bps.part(first, since_ps.size);
  int64_t nominal_bps = fabric.nominal_bps[link];
  bool varies = rates.size > 1 || rates[0] != nominal_bps;
  bool at_switch = fabric.at_switch[link];
  int64_t delay_ps = fabric.delay_ps[link];
  Pace pace(fabric, link, packets.full_bytes);
  int64_t free = 0, total_bytes = 0, busy = 0, peak = 0;
  for (int64_t place = here.begin[link]; place < here.begin[link + 1]; ++place) {
    int64_t now = here.time_ps[place];
    int64_t tag = here.tag[place];
    int64_t number = packets.number(tag);
    int64_t begin = std::max(now, free);
    int64_t size_bytes = packets.bytes(number);
    int64_t service = pace.service(size_bytes, begin);
    free = begin + service;
    total_bytes += size_bytes;
    busy += service;
    int64_t queue = free - now;
    if (at_switch) note_queue(longest, now, queue);
    if (varies) {
      int64_t& since = since_ps[pace.row() - first];
      if (since < 0) since = begin;
      queue = nominal_ps(rates, since_ps, nominal_bps, now, free);
    }
    peak = std::max(peak, queue);
    int64_t following = packets.step(tag);
    if (following >= 0) {
      tag += 1;
    } else {
      auto& receiver = receivers[packets.flow[number]];
      following = receiver.exit;
      if (following == link) {
        receive(receiver, number, free + delay_ps);
        continue;
      }
    }
    int64_t row = there.fill[following]++;
    there.time_ps[row] = free + delay_ps;
    there.tag[row] = tag;
  }
  figures = {total_bytes, busy, peak, figures.paused_ps};
}

// Serves links in order, all that feed one of them before it; fills in `there`, `figures` and `longest`.
inline void serve(const Fabric& fabric, Column links, const Arrivals& here, const Arrivals& there,
                  const Packets& packets, Span<Receiver> receivers, Span<LinkFigures> figures, const Longest& longest) {
  Room room(longest_segment(here.begin));
  std::vector<int64_t> since_ps;
  for (int64_t link : links) {
    int64_t begin = here.begin[link];
    int64_t count = here.begin[link + 1] - begin;
    sort(here.time_ps.part(begin, count), here.tag.part(begin, count), room);
    since_ps.assign(fabric.change_begin[link + 1] - fabric.change_begin[link], -1);
    serve_link(fabric, link, here, there, packets, receivers, figures[link], longest,
               {since_ps.data(), int64_t(since_ps.size())});
  }
}

// Remaining time of packets that have left links, without queues.
inline void remaining_ps(const Fabric& fabric, Column rate_bps, const Packets& packets, Span<const Receiver> receivers,
                         Column link, Column tag, Span<int64_t> rest_ps) {
  for (int64_t place = 0; place < link.size; ++place) {
    int64_t number = packets.number(tag[place]);
    int64_t step = packets.place(tag[place]);
    int64_t exit = receivers[packets.flow[number]].exit;
    int64_t following = link[place];
    rest_ps[place] = fabric.delay_ps[following];
    while (following != exit) {
      following = packets.steps[step] >= 0 ? packets.steps[step] : exit;
      step += 1;
      rest_ps[place] += service_ps(packets.bytes(number), rate_bps[following]) + fabric.delay_ps[following];
    }
  }
}

}  // namespace netsim::exact
