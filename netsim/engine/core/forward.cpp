// Fast-forward as Python sees it: functions over the arrays of a program's progress and of its units.
#include <nanobind/stl/tuple.h>

#include "binding.hpp"
#include "forward/kernel.hpp"
#include "forward/outcome.hpp"
#include "forward/passages.hpp"
#include "forward/wave.hpp"

namespace netsim {
namespace {

forward::Progress progress_of(const nb::tuple& progress) { return part_of<forward::Progress, 24>(progress); }

forward::Units units_of(const nb::tuple& units) { return part_of<forward::Units, 22>(units); }

void start_program(const nb::tuple& progress) { forward::start(progress_of(progress)); }

int64_t run_program(const nb::tuple& progress, const nb::tuple& units, const nb::tuple& kinds) {
  auto state = progress_of(progress);
  auto known = units_of(units);
  auto alone = part_of<forward::Kinds, 3>(kinds);
  nb::gil_scoped_release others_go_on;
  return forward::run(state, known, alone);
}

bool place_unit(const nb::tuple& progress, const nb::tuple& units, nb::handle links, int64_t unit, int64_t binding,
                int64_t begin_ps, nb::handle tasks) {
  return forward::place(progress_of(progress), units_of(units), field(links), unit, binding, begin_ps, field(tasks));
}

void remember_joint(const nb::tuple& progress, int64_t met, int64_t meets, int64_t after_ps, int64_t joint) {
  forward::remember(progress_of(progress), met, meets, after_ps, joint);
}

int64_t gather_wave(const nb::tuple& progress, const nb::tuple& ends, nb::handle found, nb::handle found_ps) {
  return forward::gather(progress_of(progress), part_of<forward::Ends, 5>(ends), field(found), field(found_ps));
}

std::tuple<int64_t, int64_t, bool> follow_units(const nb::tuple& fabric, const nb::tuple& arrivals,
                                                const nb::tuple& packets, nb::handle unit_of_flow,
                                                nb::handle release_ps, int64_t width_ps, const nb::tuple& passages) {
  auto of_fabric = part_of<exact::Fabric, 19>(fabric);
  auto at_links = part_of<exact::Arrivals, 4>(arrivals);
  auto of_packets = part_of<exact::Packets, 5>(packets);
  auto filled = part_of<forward::Passages, 12>(passages);
  forward::Follower follower(of_fabric, at_links, of_packets, field(unit_of_flow), field(release_ps), width_ps, filled);
  nb::gil_scoped_release others_go_on;
  return follower.run();
}

void thin_queues(nb::handle time_ps, nb::handle queue_ps, nb::handle begin, nb::handle kept, int64_t width_ps) {
  forward::thin({field(time_ps), field(queue_ps), width_ps}, field(begin), field(kept));
}

void count_flows(const nb::tuple& units, const nb::tuple& whole, nb::handle flows_of_next) {
  forward::count_flows(units_of(units), part_of<forward::Occurrences, 5>(whole), field(flows_of_next));
}

void fill_figures(const nb::tuple& units, nb::handle bound_links, const nb::tuple& whole, nb::handle first_flow,
                  nb::handle src, nb::handle dst, int64_t stride, const nb::tuple& figures, const nb::tuple& longest) {
  auto known = units_of(units);
  auto occurrences = part_of<forward::Occurrences, 5>(whole);
  auto filled = part_of<forward::Figures, 3>(figures);
  auto queues = part_of<QueuesOverTime, 2>(longest);
  exact::Column links = field(bound_links);
  exact::Column first = field(first_flow);
  Span<const int32_t> sources = field(src);
  Span<const int32_t> receivers = field(dst);
  nb::gil_scoped_release others_go_on;
  forward::fill(known, links, occurrences, first, sources, receivers, stride, filled, queues);
}

}  // namespace

void bind_forward(nb::module_& module) {
  module.def("start_program", &start_program, "Begins the tasks that wait for none.");
  module.def("run_program", &run_program, "Carries out a program until it stops; returns why.");
  module.def("place_unit", &place_unit, "Begins a unit; False, with nothing done, if its links are still in use.");
  module.def("remember_joint", &remember_joint, "Notes the unit that a unit and another that meets it are together.");
  module.def("gather_wave", &gather_wave, "Lists messages released now or soon, and when; returns how many.");
  module.def("follow_units", &follow_units, "Fills in passages: how many, how many queues, and whether all are apart.");
  module.def("thin_queues", &thin_queues, "Drops queues that are never the only longest of an interval, in place.");
  module.def("count_flows", &count_flows, "Counts the flows of every task, one entry further on.");
  module.def("fill_figures", &fill_figures, "Fills in flows, links, the last packets of hosts, and queues.");
}

}  // namespace netsim
