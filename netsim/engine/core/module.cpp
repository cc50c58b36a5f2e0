// The compiled core as Python sees it: functions over the arrays of a state, which Python lays out and keeps.
#include "event.hpp"
#include "fluid.hpp"
#include "parts_of_run.hpp"

namespace netsim {
namespace {

int64_t run_events(const nb::tuple& arrays, const nb::tuple& in_flight, int64_t resumed) {
  Parts parts(arrays);
  auto flight = part_of<Flight, 8>(in_flight);
  nb::gil_scoped_release others_go_on;
  return event::run(parts.state, flight, resumed);
}

int64_t run_streams(const nb::tuple& arrays, const nb::tuple& of_streams) {
  Parts parts(arrays);
  auto streams = part_of<Streams, 17>(of_streams);
  nb::gil_scoped_release others_go_on;
  return fluid::run(parts.state, streams);
}

#ifdef NETSIM_TRACE
// The events since the last call.
nb::list take_trace() {
  nb::list events;
  for (const auto& [time_ps, what, link, flow, serial, control, value] : traced) {
    events.append(nb::make_tuple(time_ps, what, link, flow, serial, control, value));
  }
  traced.clear();
  return events;
}
#endif

}  // namespace
}  // namespace netsim

NB_MODULE(_core, module) {
  netsim::bind_exact(module);
  netsim::bind_forward(module);
  netsim::bind_ideal(module);
  netsim::bind_parts(module);
  netsim::bind_windows(module);
  netsim::nb::list controls;
  for (const char* name : netsim::CONTROL_NAMES) controls.append(name);
  module.attr("controls") = netsim::nb::tuple(controls);
  module.def("run_events", &netsim::run_events, "Simulates events until Python is needed; returns why, a `Stop`.");
  module.def("run_streams", &netsim::run_streams, "Simulates at the flow level; returns why it stops, a `Stop`.");
#ifdef NETSIM_TRACE
  module.def("take_trace", &netsim::take_trace, "The events since the last call; see `netsim.engine.reference.trace`.");
#endif
}
