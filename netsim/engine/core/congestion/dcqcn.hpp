// DCQCN of a flow (`netsim.congestion.dcqcn`), whose arithmetic is repeated step by step.
#pragma once

#include "../control.hpp"

namespace netsim {

struct DcqcnSettings {
  double gain;
  int64_t estimate_ps, increase_ps, increase_bytes, fast_steps;
  double additive_bps, hyper_bps, slowest_bps;
};

struct DcqcnState {
  double rate_bps, target_bps, line_bps;
  int64_t estimated_ps, increased_ps, timer_steps, byte_steps, counted_bytes;
};

struct Dcqcn : Control<DcqcnSettings, DcqcnState> {
  void begin(const Begin& begin) const {
    flow.window = UNLIMITED;
    flow.alpha = 1.0;
    own.rate_bps = own.target_bps = own.line_bps = double(begin.line_bps);
    own.estimated_ps = own.increased_ps = begin.start_ps;
  }

  int64_t gap_ps(int64_t wire, int64_t now_ps) const {
    catch_up(now_ps);
    own.counted_bytes += wire;
    while (own.counted_bytes >= settings.increase_bytes) {
      own.counted_bytes -= settings.increase_bytes;
      own.byte_steps += 1;
      increase();
    }
    if (own.rate_bps >= own.line_bps) return 0;
    return int64_t(8.0 * wire * 1e12 / own.rate_bps);
  }

  void on_ack(const Ack& ack) const {
    catch_up(ack.now_ps);
    if (ack.notified) {
      own.target_bps = own.rate_bps;
      own.rate_bps = std::max<double>(settings.slowest_bps, own.rate_bps * (1.0 - flow.alpha / 2.0));
      flow.alpha = (1.0 - settings.gain) * flow.alpha + settings.gain;
      own.estimated_ps = own.increased_ps = ack.now_ps;
      own.timer_steps = own.byte_steps = own.counted_bytes = 0;
    }
  }

  // Applies all timers that have run out by now, each in its own order.
  void catch_up(int64_t now_ps) const {
    while (own.estimated_ps + settings.estimate_ps <= now_ps) {
      own.estimated_ps += settings.estimate_ps;
      flow.alpha = (1.0 - settings.gain) * flow.alpha;
    }
    if (own.rate_bps >= own.line_bps && own.target_bps >= own.line_bps) {
      int64_t begun_ps = now_ps - (now_ps - own.increased_ps) % settings.increase_ps;
      own.increased_ps = std::max<int64_t>(own.increased_ps, begun_ps);
      return;
    }
    while (own.increased_ps + settings.increase_ps <= now_ps) {
      own.increased_ps += settings.increase_ps;
      own.timer_steps += 1;
      increase();
    }
  }

  // Fast recovery, then additive, then hyper increase, by how many steps each counter has made.
  void increase() const {
    int64_t least = std::min<int64_t>(own.timer_steps, own.byte_steps);
    int64_t most = std::max<int64_t>(own.timer_steps, own.byte_steps);
    if (least > settings.fast_steps) {
      own.target_bps += settings.hyper_bps;
    } else if (most > settings.fast_steps) {
      own.target_bps += settings.additive_bps;
    }
    own.target_bps = std::min<double>(own.target_bps, own.line_bps);
    own.rate_bps = (own.rate_bps + own.target_bps) / 2.0;
  }
};

}  // namespace netsim
