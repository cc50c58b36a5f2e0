// Swift of a flow (`netsim.congestion.swift`), whose arithmetic is repeated step by step.
#pragma once

#include <cmath>

#include "../control.hpp"

namespace netsim {

struct SwiftSettings {
  int64_t queueing_ps, hop_ps;
  double increase, decrease, largest_decrease, smallest_window;
  double flow_range, flow_gain, flow_offset;
};

struct SwiftState {
  int64_t latest_ps, target_ps;
};

struct Swift : Control<SwiftSettings, SwiftState> {
  void begin(const Begin& begin) const {
    own.latest_ps = begin.round_trip_ps;
    own.target_ps = begin.round_trip_ps + settings.queueing_ps + settings.hop_ps * flow.links;
    flow.cut_ps = LONG_AGO;
  }

  int64_t gap_ps(int64_t, int64_t) const {
    return flow.packets_window < 1.0 ? int64_t(own.latest_ps / flow.packets_window) : 0;
  }

  void on_ack(const Ack& ack) const {
    if (ack.marked && !ack.packets) {
      if (ack.now_ps - flow.cut_ps >= own.latest_ps) shrink(1.0 - settings.largest_decrease, ack.now_ps);
      return;
    }
    own.latest_ps = ack.round_trip_ps;
    double more_ps = settings.flow_gain / std::sqrt(flow.packets_window) + settings.flow_offset;
    int64_t target_ps = own.target_ps + int64_t(std::max<double>(0.0, std::min<double>(more_ps, settings.flow_range)));
    if (ack.round_trip_ps < target_ps) {
      flow.packets_window += settings.increase * ack.packets / std::max<double>(flow.packets_window, 1.0);
      flow.window = std::max<int64_t>(1, int64_t(flow.packets_window));
    } else if (ack.now_ps - flow.cut_ps >= ack.round_trip_ps) {
      double excess = double(ack.round_trip_ps - target_ps) / ack.round_trip_ps;
      shrink(std::max<double>(1.0 - settings.decrease * excess, 1.0 - settings.largest_decrease), ack.now_ps);
    }
  }

  void on_timeout(int64_t now_ps) const { shrink(1.0 - settings.largest_decrease, now_ps); }

  void shrink(double factor, int64_t now_ps) const {
    flow.packets_window = std::max<double>(settings.smallest_window, flow.packets_window * factor);
    flow.window = std::max<int64_t>(1, int64_t(flow.packets_window));
    flow.cut_ps = now_ps;
  }
};

}  // namespace netsim
