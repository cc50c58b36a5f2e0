// Events of a run for `python -m tests.first_difference`, recorded only in a build with NETSIM_TRACE.
#pragma once

#include "calendar.hpp"

#ifdef NETSIM_TRACE
#include <tuple>
#include <vector>
#endif

namespace netsim {

#ifdef NETSIM_TRACE

// As `netsim.engine.reference.trace.Traced`.
using Traced = std::tuple<int64_t, const char*, int64_t, int64_t, int64_t, bool, int64_t>;
inline std::vector<Traced> traced;

inline void trace(int64_t time_ps, const char* what, int64_t link, const Packet& packet, int64_t value) {
  traced.emplace_back(time_ps, what, link, flow_id_of(packet), serial_of(packet), packet.control, value);
}

inline void trace(int64_t time_ps, const char* what, int64_t link, const Packet& packet) {
  trace(time_ps, what, link, packet, packet.control ? 0 : packet.sequence);
}

inline void trace(int64_t time_ps, const char* what, int64_t link, int64_t flow_id, int64_t value) {
  traced.emplace_back(time_ps, what, link, flow_id, -1, false, value);
}

#else

template <class... Any>
inline void trace(const Any&...) {}

#endif

}  // namespace netsim
