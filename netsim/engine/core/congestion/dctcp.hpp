// DCTCP of a flow (`netsim.congestion.dctcp`), whose arithmetic is repeated step by step.
#pragma once

#include "../control.hpp"

namespace netsim {

struct DctcpSettings {
  double gain, alpha;
};

struct Dctcp : Control<DctcpSettings> {
  void begin(const Begin&) const { flow.alpha = settings.alpha; }

  void on_ack(const Ack& ack) const {
    int64_t counted = ack.marked ? std::max<int64_t>(ack.packets, 1) : ack.packets;
    flow.seen += counted;
    if (ack.marked) {
      flow.marked += counted;
      if (ack.now_ps - ack.round_trip_ps >= flow.cut_ps) {
        flow.packets_window = std::max<double>(1.0, flow.packets_window * (1.0 - flow.alpha / 2.0));
        flow.cut_ps = ack.now_ps;
      }
    }
    if (flow.seen >= flow.packets_window) {
      double share = double(flow.marked) / flow.seen;
      flow.alpha = (1.0 - settings.gain) * flow.alpha + settings.gain * share;
      if (!flow.marked) flow.packets_window += 1.0;
      flow.seen = flow.marked = 0;
    }
    flow.window = int64_t(flow.packets_window);
  }

  void on_timeout(int64_t) const {
    flow.packets_window = 1.0;
    flow.window = 1;
    flow.seen = flow.marked = 0;
  }
};

}  // namespace netsim
