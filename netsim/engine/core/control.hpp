// What a congestion control of `congestion/` builds on (`netsim.congestion.protocol`).
//
// CMake lists these controls in the order of their files: a header has one `struct NAME : Control<...>`. Python reads
// the records as `records.hpp`, a line `type a, b;` for fields of one type. It fills in the record NAMESettings from
// `constants`, and makes a record NAMEState for each flow, both of zeros at first; a control may do without either.
//
// A result is that of Python to the last bit: doubles in the order written, and `double(a) / b` where Python divides.
#pragma once

#include "state.hpp"

namespace netsim {

constexpr int64_t LONG_AGO = -(int64_t(1) << 62);

// A flow begins; `flow.links` are the hops of its path, `rules.full_wire` is a full packet. `packets` is one
// bandwidth-delay product, `window` the setting of that name.
struct Begin {
  int64_t round_trip_ps, packets, line_bps, start_ps, window;
};

// An acknowledgement, positive or negative, is at the sender, of whose packets `flow.in_flight` are still under way.
struct Ack {
  int64_t packets;
  bool marked, notified, refused;
  int64_t round_trip_ps, now_ps;
};

struct Nothing {};

// A flow under a control. A control that hides none of the functions keeps the window of the beginning.
//
// Of `flow`, a control sets `window`, and may keep what it likes in `packets_window`, which begins with the window,
// `alpha`, `cut_ps`, `seen` and `marked`: they are in the lines of the cache that every packet needs.
template <class SettingsOf = Nothing, class StateOf = Nothing>
struct Control {
  using Settings = SettingsOf;
  using State = StateOf;
  const Rules& rules;
  const Settings& settings;
  Flow& flow;
  State& own;

  void begin(const Begin&) const {}
  // The flow takes over what it keeps from the latest one of its queue pair.
  void begin_message() const {}
  int64_t gap_ps(int64_t, int64_t) const { return 0; }
  void on_ack(const Ack&) const {}
  void on_timeout(int64_t) const {}
};

}  // namespace netsim
