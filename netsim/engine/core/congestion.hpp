// Congestion control of flows (`netsim.congestion`): the controls of `congestion/`, called by their number.
#pragma once

#include <stdexcept>

#include "controls.hpp"

namespace netsim {

// A record of a congestion control. A control without fields has one empty record for all.
template <class Record>
Record& record_of(const Records& records, int64_t index) {
  if constexpr (std::is_empty_v<Record>) {
    static Record nothing;
    return nothing;
  } else {
    return static_cast<Record*>(records.data)[index];
  }
}

// A flow under a control.
template <class One>
One under(const Rules& rules, const Hosts& hosts, int64_t index) {
  const auto& settings = record_of<typename One::Settings>(hosts.settings, 0);
  return {{rules, settings, hosts.flows[index], record_of<typename One::State>(hosts.own, index)}};
}

// Calls `call` with a flow under the scenario's congestion control.
template <class... All, class Call>
void with_control(Controls<All...>, const Rules& rules, const Hosts& hosts, int64_t index, const Call& call) {
  int32_t number = 0;
  (void)((rules.congestion == number++ && (call(under<All>(rules, hosts, index)), true)) || ...);
}

// Sets the state at the start of a flow.
inline void begin(const Rules& rules, const Hosts& hosts, int64_t index, const Begin& start) {
  auto& flow = hosts.flows[index];
  flow.window = start.window;
  flow.packets_window = double(start.window);
  flow.cut_ps = 0;
  with_control(AllControls(), rules, hosts, index, [&]<class One>(const One& control) {
    bool fits =
        std::is_empty_v<typename One::Settings> || hosts.settings.record_bytes == sizeof(typename One::Settings);
    fits &= std::is_empty_v<typename One::State> || hosts.own.record_bytes == sizeof(typename One::State);
    if (!fits) throw std::invalid_argument("records of congestion control have another size");
    control.begin(start);
  });
}

// A flow takes over the state of an earlier one.
inline void go_on(const Rules& rules, const Hosts& hosts, int64_t index, int64_t latest) {
  auto& flow = hosts.flows[index];
  auto& earlier = hosts.flows[latest];
  flow.window = earlier.window;
  flow.packets_window = earlier.packets_window;
  flow.alpha = earlier.alpha;
  flow.seen = earlier.seen;
  flow.marked = earlier.marked;
  flow.cut_ps = earlier.cut_ps;
  with_control(AllControls(), rules, hosts, index, [&]<class One>(const One& control) {
    control.own = record_of<typename One::State>(hosts.own, latest);
    control.begin_message();
  });
}

// Least time from the packet that leaves now to the next.
inline int64_t gap_ps(const Rules& rules, const Hosts& hosts, int64_t index, int64_t wire, int64_t now) {
  int64_t gap = 0;
  with_control(AllControls(), rules, hosts, index, [&](const auto& control) { gap = control.gap_ps(wire, now); });
  return gap;
}

// An acknowledgement, positive or negative, has arrived at the sender.
inline void on_ack(const Rules& rules, const Hosts& hosts, int64_t index, const Ack& ack) {
  with_control(AllControls(), rules, hosts, index, [&](const auto& control) { control.on_ack(ack); });
}

// The retransmission timer has run out: packets are taken as lost.
inline void on_timeout(const Rules& rules, const Hosts& hosts, int64_t index, int64_t now) {
  with_control(AllControls(), rules, hosts, index, [&](const auto& control) { control.on_timeout(now); });
}

// A credit has arrived at the sender.
inline void on_credit(const Rules& rules, const Hosts& hosts, int64_t index, int64_t granted) {
  under<Credit>(rules, hosts, index).on_credit(granted);
}

}  // namespace netsim
