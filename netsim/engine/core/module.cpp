// The compiled core as Python sees it: functions over the arrays of a state, which Python lays out and keeps.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <optional>
#include <tuple>
#include <utility>

#include "binding.hpp"
#include "event.hpp"
#include "fluid.hpp"
#include "windowed.hpp"

namespace netsim {

template <>
constexpr bool is_single<Rules> = true;
template <>
constexpr bool is_single<Totals> = true;
template <>
constexpr bool is_single<Notes> = true;
template <>
constexpr bool is_single<Window> = true;
template <>
constexpr bool is_single<Packet> = true;

namespace {

// The state of a run, of which Python hands over the arrays of each part.
struct Parts {
  std::optional<Queued> queued;
  State state;

  explicit Parts(const nb::tuple& arrays)
      : state{part_of<Network, 12>(arrays[0]), part_of<Hosts, 12>(arrays[1]), part_of<Program, 23>(arrays[2]),
              part_of<Routing, 28>(arrays[3]), nullptr} {
    if (!arrays[4].is_none()) state.queued = &queued.emplace(part_of<Queued, 10>(arrays[4]));
  }
};

int64_t run_events(const nb::tuple& arrays, const nb::tuple& in_flight, int64_t resumed) {
  Parts parts(arrays);
  auto flight = part_of<Flight, 3>(in_flight);
  nb::gil_scoped_release others_go_on;
  return event::run(parts.state, flight, resumed);
}

int64_t run_windows(const nb::tuple& arrays, const nb::tuple& of_shares, const nb::tuple& of_wheels, int64_t thread,
                    int64_t resumed) {
  Parts parts(arrays);
  auto shares = part_of<Shares, 8>(of_shares);
  auto wheels = part_of<Wheels, 26>(of_wheels);
  nb::gil_scoped_release others_go_on;
  return windowed::run(parts.state, shares, wheels, thread, resumed);
}

int64_t run_streams(const nb::tuple& arrays, const nb::tuple& of_streams) {
  Parts parts(arrays);
  auto streams = part_of<Streams, 17>(of_streams);
  nb::gil_scoped_release others_go_on;
  return fluid::run(parts.state, streams);
}

}  // namespace
}  // namespace netsim

NB_MODULE(_core, module) {
  netsim::bind_exact(module);
  netsim::bind_forward(module);
  netsim::bind_ideal(module);
  netsim::bind_parts(module);
  module.def("run_events", &netsim::run_events, "Simulates events until Python is needed; returns why, a `Stop`.");
  module.def("run_windows", &netsim::run_windows, "The same window by window, as one of several threads.");
  module.def("run_streams", &netsim::run_streams, "Simulates at the flow level; returns why it stops, a `Stop`.");
}
