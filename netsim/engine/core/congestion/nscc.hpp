// NSCC of a flow (`netsim.congestion.nscc`), whose arithmetic is repeated step by step.
#pragma once

#include "../control.hpp"

namespace netsim {

struct NsccSettings {
  double trim_share;
  int64_t network_ps, target_ps, gate;
};

// `Flow.alpha` is the scale; the other names are those of `netsim.congestion.nscc`.
struct NsccState {
  double window_bytes, average_ps, rise, most, achieved, received, ignored, to_ignore, prompt, line_bps;
  int64_t base_ps, network_ps, target_ps, adapts_ps, adjusted_ps;
  uint8_t fast, trimmed;
};

struct Nscc : Control<NsccSettings, NsccState> {
  // Gains and bounds: see `netsim.congestion.nscc`.
  static constexpr double BIT_TIME = 8e12;
  static constexpr double REFERENCE_PS = 12e6, REFERENCE_BYTES = 150'000, PROMPT_PS = 1e6;
  static constexpr double PROPORTIONAL = 4.0, FAIR = 5.0, STEADY = 0.15, FAST = 0.25;
  static constexpr double DECREASE = 0.8, LARGEST_DECREASE = 0.5, AVERAGE = 0.0125, VERY_LONG = 4.0,
                          LARGEST_WINDOW = 1.5;
  static constexpr int64_t PERIOD_PACKETS = 8;

  void begin(const Begin& begin) const {
    own.line_bps = double(begin.line_bps);
    own.network_ps = settings.network_ps > 0 ? settings.network_ps : begin.round_trip_ps;
    own.target_ps = settings.target_ps > 0 ? settings.target_ps : int64_t(settings.trim_share * own.network_ps);
    flow.alpha = own.network_ps * own.line_bps / BIT_TIME / REFERENCE_BYTES;
    own.base_ps = begin.round_trip_ps;
    own.most = largest();
    double first = rules.fixed_window > 0 ? rules.fixed_window * packet() : own.most;
    own.window_bytes = std::max<double>(first, packet());
    show();
  }

  // Restarts the count of bytes that get through.
  void begin_message() const {
    own.achieved = 0.0;
    own.adapts_ps = 0;
    own.trimmed = 0;
  }

  void on_ack(const Ack& ack) const {
    if (ack.round_trip_ps < own.base_ps) {
      own.base_ps = ack.round_trip_ps;
      own.most = largest();
    }
    if (ack.refused) {
      refuse(ack.now_ps);
    } else {
      accept(ack);
    }
    show();
  }

  void on_timeout(int64_t) const {
    own.window_bytes = packet();
    flow.window = 1;
  }

  double packet() const { return double(rules.full_wire); }

  double largest() const {
    return std::max<double>(LARGEST_WINDOW * (own.base_ps * own.line_bps / BIT_TIME), packet());
  }

  // Keeps the window in packets, which the sender looks at, up to date.
  void show() const { flow.window = std::max<int64_t>(1, int64_t(own.window_bytes / packet())); }

  bool adapt(bool loss, bool marked, int64_t now_ps, double in_flight) const {
    bool done = marked && own.ignored < own.to_ignore;
    if (!done && now_ps > own.adapts_ps) {
      if (own.adapts_ps && (loss || own.trimmed) && own.achieved * settings.gate < own.most) {
        own.window_bytes = std::max<double>(own.achieved, packet());
        own.to_ignore = in_flight;
        own.ignored = 0.0;
        own.trimmed = 0;
        done = true;
      }
      own.achieved = 0.0;
      own.adapts_ps = now_ps + own.base_ps + own.target_ps;
    }
    if (done) own.rise = own.received = 0.0;
    return done;
  }

  void bound() const { own.window_bytes = std::min<double>(std::max<double>(own.window_bytes, packet()), own.most); }

  void refuse(int64_t now_ps) const {
    own.ignored += packet();
    own.average_ps = AVERAGE * own.network_ps + (1.0 - AVERAGE) * own.average_ps;
    own.trimmed = 1;
    if (!adapt(true, true, now_ps, (flow.in_flight + 1) * packet())) {
      own.window_bytes -= packet();
      bound();
    }
  }

  void adjust(int64_t now_ps) const {
    own.window_bytes += own.rise / own.window_bytes;
    if (now_ps - own.adjusted_ps >= own.network_ps) {
      own.window_bytes += STEADY * (packet() * flow.alpha);
      own.adjusted_ps = now_ps;
    }
    own.rise = own.received = 0.0;
  }

  void shrink(int64_t now_ps) const {
    own.fast = 0;
    own.prompt = 0.0;
    if (own.average_ps > own.target_ps && now_ps - flow.cut_ps > own.base_ps) {
      double excess = (own.average_ps - own.target_ps) / own.average_ps;
      own.window_bytes *= std::max<double>(1.0 - DECREASE * excess, LARGEST_DECREASE);
      flow.cut_ps = now_ps;
    }
  }

  void grow(double acked, int64_t delay) const {
    if (delay < PROMPT_PS) {
      own.prompt += acked;
      if (own.fast || own.prompt > own.window_bytes) {
        own.window_bytes += acked * (FAST * flow.alpha);
        own.fast = 1;
        return;
      }
    } else {
      own.prompt = 0.0;
    }
    own.fast = 0;
    double scaled = packet() * flow.alpha;
    own.rise += PROPORTIONAL * scaled / REFERENCE_PS * acked * (own.target_ps - delay);
  }

  void accept(const Ack& ack) const {
    double acked = ack.packets * packet();
    own.achieved += acked;
    own.received += acked;
    own.ignored += acked;
    int64_t delay = ack.round_trip_ps - own.base_ps;
    if (!ack.marked && delay > own.target_ps) {
      own.average_ps = AVERAGE * (0.25 * own.base_ps) + (1.0 - AVERAGE) * own.average_ps;
    } else {
      own.average_ps = AVERAGE * delay + (1.0 - AVERAGE) * own.average_ps;
    }
    bool very_long = delay > VERY_LONG * own.target_ps;
    if (adapt(very_long, ack.marked, ack.now_ps, flow.in_flight * packet())) return;
    if (ack.marked) {
      if (delay >= own.target_ps) shrink(ack.now_ps);
    } else if (delay >= own.target_ps) {
      own.rise += FAIR * (packet() * flow.alpha) * acked;
    } else {
      grow(acked, delay);
    }
    bound();
    if (own.received > PERIOD_PACKETS * packet() || ack.now_ps - own.adjusted_ps > own.network_ps) {
      adjust(ack.now_ps);
      bound();
    }
  }
};

}  // namespace netsim
