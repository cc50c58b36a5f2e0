// Parts of paths that many flows share, and how long the last byte of a flow takes to pass them.
#pragma once

#include "service.hpp"

namespace netsim::ideal {

using Wholes = Span<const int64_t>;
using Reals = Span<const double>;

// Segments and links, in both directions: see `netsim.engine.fluid.flows.SegmentArrays`.
struct Segments {
  Wholes first_row;     // rows of `link` and `share` of each segment
  Wholes link;          // links of a segment; those of its first route come first, in order
  Reals share;          // share of the segment's traffic that the link carries
  Wholes first_route;   // number of links of the first route of each segment
  Wholes row_of_link;   // rows of `segment` and `segment_share` of each link
  Wholes segment;       // segments that a link is part of
  Reals segment_share;  // share of that segment's traffic that the link carries
};

// What determines the latency of a flow: see `netsim.engine.fluid.flows.Routes`.
struct Routes {
  Wholes delay_ps;
  Wholes rate_bps;
  int64_t payload_bytes;
  int64_t header_bytes;
};

// Latency of a flow's last byte: delays, and service of the last packet on all links but the first.
inline int64_t latency_ps(int64_t size_bytes, Wholes passed, const Segments& fabric, const Routes& routes) {
  int64_t last_bytes = floor_mod(size_bytes - 1, routes.payload_bytes) + 1 + routes.header_bytes;
  int64_t latency = routes.delay_ps[passed[0]];
  for (int64_t part : passed.part(1, passed.size - 1)) {
    for (int64_t link : fabric.link.part(fabric.first_row[part], fabric.first_route[part])) {
      latency += routes.delay_ps[link] + service_ps(last_bytes, routes.rate_bps[link]);
    }
  }
  return latency;
}

}  // namespace netsim::ideal
