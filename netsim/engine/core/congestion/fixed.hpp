// A constant number of packets in flight (`netsim.congestion.window`).
#pragma once

#include "../control.hpp"

namespace netsim {

struct Fixed : Control<> {};

}  // namespace netsim
