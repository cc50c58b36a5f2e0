// The service time of `netsim.foundation.units`: the same number, without overflow.
#pragma once

#include <algorithm>
#include <cmath>

#include "calendar.hpp"

namespace netsim {

constexpr int64_t BIT_PICOSECONDS_PER_BYTE = 8000000000000;
constexpr int64_t SMALL_BYTES = 1048576;
constexpr int64_t DIGIT_BITS = 10;
constexpr int64_t SIZE_BITS = 60;

// The compiled `netsim.foundation.units.service_ps`, for 1 to 2**60 bytes and 1 to 2**52 bits per second.
inline int64_t service_ps(int64_t size_bytes, int64_t rate_bps) {
  if (size_bytes <= SMALL_BYTES) return (BIT_PICOSECONDS_PER_BYTE * size_bytes + (rate_bps - 1)) / rate_bps;
  int64_t whole = BIT_PICOSECONDS_PER_BYTE / rate_bps;
  int64_t rest = BIT_PICOSECONDS_PER_BYTE % rate_bps;
  int64_t quotient = 0;
  int64_t remainder = 0;
  for (int64_t shift = SIZE_BITS - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
    int64_t digit = (size_bytes >> shift) & ((int64_t(1) << DIGIT_BITS) - 1);
    remainder = (remainder << DIGIT_BITS) + rest * digit;
    quotient = (quotient << DIGIT_BITS) + remainder / rate_bps;
    remainder %= rate_bps;
  }
  return whole * size_bytes + quotient + (remainder > 0);
}

// Rates of links over time (`netsim.topology.failure.Rates`).

// Row of the rate of a link at a moment; `row` is that of an earlier moment.
inline int64_t row_from(Span<const int64_t> change_begin, Span<const int64_t> change_ps, int64_t link, int64_t row,
                        int64_t time_ps) {
  while (row + 1 < change_begin[link + 1] && change_ps[row + 1] <= time_ps) row += 1;
  return row;
}

// Row of the rate of a link at a moment.
inline int64_t row_at(const Network& network, int64_t link, int64_t time_ps) {
  return row_from(network.change_begin, network.change_ps, link, network.change_begin[link], time_ps);
}

// Bits per second of a link at a moment.
inline int64_t rate_at(const Network& network, int64_t link, int64_t time_ps) {
  return network.change_bps[row_at(network, link, time_ps)];
}

// Notes that a link begins to serve a packet.
inline void begin_service(const Network& network, int64_t link, int64_t time_ps) {
  int64_t row = row_at(network, link, time_ps);
  if (network.change_since_ps[row] < 0) network.change_since_ps[row] = time_ps;
}

// The work of a link from one moment to another as time at its nominal rate; see `Work.nominal_ps` of the reference.
//
// `since_ps` says when the first service at each rate of the link began: -1 if none has, and then it does not count.
inline int64_t nominal_ps(Span<const int64_t> rate_bps, Span<const int64_t> since_ps, int64_t nominal_bps,
                          int64_t begin_ps, int64_t end_ps) {
  double work_ps = 0.0;
  for (int64_t row = rate_bps.size - 1; row >= 0; --row) {
    if (since_ps[row] >= 0 && since_ps[row] < end_ps) {
      int64_t first_ps = std::max<int64_t>(since_ps[row], begin_ps);
      work_ps += (end_ps - first_ps) * (double(rate_bps[row]) / nominal_bps);
      end_ps = first_ps;
      if (end_ps == begin_ps) break;
    }
  }
  return int64_t(std::ceil(work_ps));
}

// The same of a link of a network.
inline int64_t work_ps(const Network& network, int64_t link, int64_t begin_ps, int64_t end_ps) {
  int64_t first = network.change_begin[link];
  int64_t rates = network.change_begin[link + 1] - first;
  int64_t nominal_bps = network.kinds[network.links[link].kind].rate_bps;
  return nominal_ps(network.change_bps.part(first, rates), network.change_since_ps.part(first, rates), nominal_bps,
                    begin_ps, end_ps);
}

// The first moment from `time_ps` on at which a link is down, NEVER if there is none.
inline int64_t next_down(const Network& network, int64_t link, int64_t time_ps) {
  int64_t last = network.change_begin[link + 1] - 1;
  for (int64_t row = network.change_begin[link]; row < last + 1; ++row) {
    if (!network.change_bps[row] && (row == last || network.change_ps[row + 1] > time_ps)) {
      return std::max<int64_t>(network.change_ps[row], time_ps);
    }
  }
  return NEVER;
}

}  // namespace netsim
