// What the exact engine reads and fills in: a fabric, packets at its links, and what links and receivers see.
#pragma once

#include <algorithm>
#include <vector>

#include "../service.hpp"

namespace netsim::exact {

// An array that is only read.
using Column = Span<const int64_t>;

// As `netsim.engine.core.fabric.FabricArrays`.
struct Fabric {
  Column delay_ps, change_begin, change_ps, rate_bps, nominal_bps, at_switch, reverse, up, down, inside, leaf, pair;
  Column route_begin;
  Table<const int64_t> route_links;
  Column route_length, minimal, epoch_ps, usable_begin, usable;
};

// As `netsim.engine.exact.travel.RECEIVER`.
struct Receiver {
  int64_t exit, highest, end_ps, reordered;
};

// As `netsim.engine.protocol.LINK`.
struct LinkFigures {
  int64_t bytes, busy_ps, longest_ps, paused_ps;
};

// As `netsim.engine.exact.travel.Packets`.
struct Packets {
  int64_t bits;
  Column steps;
  Span<const int32_t> flow;
  Column size_bytes;
  int64_t full_bytes;

  int64_t number(int64_t tag) const { return tag >> bits; }
  int64_t step(int64_t tag) const { return steps[place(tag)]; }
  int64_t place(int64_t tag) const { return tag & ((int64_t(1) << bits) - 1); }
  int64_t bytes(int64_t number) const { return size_bytes.size ? size_bytes[number] : full_bytes; }
};

// As `netsim.engine.exact.travel.Arrivals`.
struct Arrivals {
  Column begin;
  Span<int64_t> fill, time_ps, tag;
};

// The rate of a link as time goes on.
class Pace {
 public:
  Pace(const Fabric& fabric, int64_t link, int64_t full_bytes) : fabric_(fabric), link_(link), full_bytes_(full_bytes) {
    begin_row(fabric.change_begin[link]);
  }
  // Service time of a packet that begins to leave at a moment, after all packets before it.
  int64_t service(int64_t size_bytes, int64_t begin_ps) {
    int64_t row = row_from(fabric_.change_begin, fabric_.change_ps, link_, row_, begin_ps);
    if (row != row_) begin_row(row);
    return size_bytes == full_bytes_ ? full_ps_ : service_ps(size_bytes, fabric_.rate_bps[row]);
  }
  // Row of the latest rate.
  int64_t row() const { return row_; }

 private:
  // A link that is down serves nothing.
  void begin_row(int64_t row) {
    row_ = row;
    full_ps_ = service_ps(full_bytes_, std::max<int64_t>(1, fabric_.rate_bps[row]));
  }
  const Fabric& fabric_;
  int64_t link_, full_bytes_, row_, full_ps_;
};

}  // namespace netsim::exact
