// The windowed engine as Python sees it.
#include "parts_of_run.hpp"
#include "windowed.hpp"

namespace netsim {
namespace {

int64_t run_windows(const nb::tuple& arrays, const nb::tuple& of_shares, const nb::tuple& of_wheels, int64_t thread,
                    int64_t resumed) {
  Parts parts(arrays);
  auto shares = part_of<Shares, 8>(of_shares);
  auto wheels = part_of<Wheels, 26>(of_wheels);
  nb::gil_scoped_release others_go_on;
  return windowed::run(parts.state, shares, wheels, thread, resumed);
}

}  // namespace

void bind_windows(nb::module_& module) {
  module.def("run_windows", &run_windows, "Simulates window by window, as one of several threads; see `run_events`.");
}

}  // namespace netsim
