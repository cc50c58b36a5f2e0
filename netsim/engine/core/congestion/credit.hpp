// Receivers that ask for packets (`netsim.congestion.credit`, `netsim.engine.reference.credit`).
#pragma once

#include "../control.hpp"

namespace netsim {

struct CreditSettings {
  int64_t outstanding, grant;
  double pace;
};

// State of a flow: the first three fields are the sender's, the others the receiver's.
struct CreditState {
  int64_t credit, in_flight, known, unasked, ahead, arrived, trims, granted, grants;
  int32_t left, next_waiting, back_route;
  uint8_t waits;
};

struct Credit : Control<CreditSettings, CreditState> {
  void begin(const Begin& begin) const {
    own.credit = own.unasked = begin.window;
    int64_t most = settings.outstanding >= 0 ? settings.outstanding : (3 * begin.packets + 1) / 2;
    own.ahead = std::max<int64_t>(0, most - begin.window);
    show();
  }

  // The packet that leaves costs a credit.
  int64_t gap_ps(int64_t, int64_t) const {
    own.credit -= 1;
    own.in_flight += 1;
    show();
    return 0;
  }

  // Takes back the credit of packets that the acknowledgement shows to be lost.
  void on_ack(const Ack&) const {
    own.credit += std::max<int64_t>(0, own.in_flight - flow.in_flight - 1);
    own.in_flight = flow.in_flight;
    show();
  }

  // All in flight counts as lost, and one packet may always go.
  void on_timeout(int64_t) const {
    own.credit = std::max<int64_t>(1, own.credit + own.in_flight);
    own.in_flight = 0;
    show();
  }

  // A credit has arrived at the sender.
  void on_credit(int64_t granted) const {
    if (granted > own.known) {
      own.credit += granted - own.known;
      own.known = granted;
      show();
    }
  }

  // Keeps the window, which the sender looks at, up to date.
  void show() const { flow.window = own.credit > 0 ? UNLIMITED : 0; }

  // Packets to ask for: what is still to be sent and has not arrived, but no more than may be expected at once.
  int64_t owed() const {
    int64_t to_send = flow.packets + own.trims - own.unasked - own.granted;
    return std::min<int64_t>(std::min<int64_t>(to_send, own.left), own.ahead + own.arrived - own.granted);
  }
};

}  // namespace netsim
