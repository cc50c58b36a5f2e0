// What is computed without packets, as Python sees it: max-min fair rates of flows, and the lower bound.
#include "binding.hpp"
#include "bound.hpp"
#include "filling.hpp"

namespace netsim {
namespace {

ideal::Segments segments_of(const nb::tuple& fabric) { return part_of<ideal::Segments, 7>(fabric); }

void fill_rates(nb::handle active, nb::handle rising, nb::handle segments, nb::handle rate, const nb::tuple& fabric,
                nb::handle capacity) {
  ideal::fill(field(active), field(rising), field(segments), field(rate), segments_of(fabric), field(capacity));
}

void change_rates(const nb::tuple& columns, nb::handle changed, nb::handle before, int64_t now_ps) {
  ideal::change_rates(part_of<ideal::Rest, 4>(columns), field(changed), field(before), now_ps);
}

nb::tuple violations(nb::handle active, nb::handle segments, nb::handle rate, const nb::tuple& fabric,
                     nb::handle capacity) {
  auto [overfull, unjustified] =
      ideal::violations(field(active), field(segments), field(rate), segments_of(fabric), field(capacity));
  return nb::make_tuple(overfull, unjustified);
}

void latencies(nb::handle bytes, nb::handle segments, const nb::tuple& fabric, const nb::tuple& routes,
               nb::handle latency_ps) {
  auto parts = segments_of(fabric);
  auto links = part_of<ideal::Routes, 4>(routes);
  ideal::Wholes sizes = field(bytes);
  Table<const int64_t> passed = field(segments);
  Span<int64_t> found = field(latency_ps);
  for (int64_t flow = 0; flow < found.size; ++flow) {
    found[flow] = ideal::latency_ps(sizes[flow], passed[flow], parts, links);
  }
}

int64_t bound(const nb::tuple& columns, const nb::tuple& of_ends, const nb::tuple& of_fabric, const nb::tuple& of_wire,
              nb::handle crossing, nb::handle sent_from) {
  auto tasks = part_of<ideal::Tasks, 6>(columns);
  auto ends = part_of<ideal::Ends, 6>(of_ends);
  auto fabric = part_of<ideal::Fabric, 6>(of_fabric);
  auto wire = part_of<ideal::Wire, 5>(of_wire);
  Table<int64_t> bytes = field(crossing);
  Span<int64_t> sent = field(sent_from);
  nb::gil_scoped_release others_go_on;
  auto passages = ideal::passages_of(tasks, ends, fabric, wire, bytes);
  ideal::Chain chain(tasks, ends, passages, sent.size);
  int64_t done = chain.follow();
  chain.sent_from(sent);
  return done;
}

}  // namespace

void bind_ideal(nb::module_& module) {
  module.def("fill_rates", &fill_rates, "Sets the rates of rising flows to max-min fair ones.");
  module.def("change_rates", &change_rates, "Notes what flows have left to send as their rates change.");
  module.def("violations", &violations, "How many links are overfull, and how many flows have no bottleneck.");
  module.def("latencies", &latencies, "How long the last bytes of flows take once they have been sent.");
  module.def("bound", &bound, "Earliest end of all tasks; fills in bytes between leaves and ends on first links.");
}

}  // namespace netsim
