// The exact engine as Python sees it, and what other engines take from it.
#include <nanobind/stl/tuple.h>

#include "binding.hpp"
#include "exact/balance.hpp"
#include "exact/injection.hpp"
#include "exact/messages.hpp"
#include "exact/stages.hpp"

namespace netsim {
namespace {

using exact::Column;

void release_times(nb::handle delay_ps, nb::handle size_bytes, nb::handle after_begin, nb::handle after,
                   nb::handle end_ps, nb::handle release_ps) {
  exact::release_times(field(delay_ps), field(size_bytes), field(after_begin), field(after), field(end_ps),
                       field(release_ps));
}

void list_successors(nb::handle after_begin, nb::handle after, nb::handle begin, nb::handle waiting) {
  exact::list_successors(field(after_begin), field(after), field(begin), field(waiting));
}

void draw_all(int64_t seed, int64_t purpose, nb::handle flow, nb::handle sequence, nb::handle drawn) {
  exact::draw_all(stream(seed, purpose), field(flow), field(sequence), field(drawn));
}

void crc32_hashes(int64_t seed, nb::handle src, nb::handle dst, nb::handle hashes) {
  exact::crc32_hashes(seed, field(src), field(dst), field(hashes));
}

void sort_pairs(nb::handle key, nb::handle index) {
  Span<int64_t> keys = field(key);
  exact::Room room(std::max<int64_t>(1, keys.size));
  exact::sort(keys, field(index), room);
}

void sort_members(const nb::tuple& groups, nb::handle turn) {
  exact::sort_members(part_of<exact::Groups, 4>(groups), field(turn));
}

void shuffle_routes(const nb::tuple& groups, nb::handle drawn_by, int64_t seed, int64_t purpose) {
  exact::shuffle_routes(part_of<exact::Groups, 4>(groups), field(drawn_by), stream(seed, purpose));
}

void turn_routes(const nb::tuple& groups, nb::handle base, nb::handle steps, int64_t stride, int64_t links,
                 nb::handle leaf, nb::handle place) {
  exact::turn_routes(part_of<exact::Groups, 4>(groups), field(base), field(steps), stride, links, field(leaf),
                     field(place));
}

void cut(const nb::tuple& groups, nb::handle message_bytes, bool equally, nb::handle begin, nb::handle size_bytes,
         nb::handle route, nb::handle pieces) {
  exact::PiecesOfMessages flows{field(begin), field(size_bytes), field(route)};
  exact::cut(part_of<exact::Groups, 4>(groups), field(message_bytes), equally, flows, field(pieces));
}

void sort_rings(nb::handle link, nb::handle turn, nb::handle join_ps, nb::handle delay_ps, nb::handle begin,
                nb::handle order) {
  exact::sort_rings(field(link), field(turn), field(join_ps), field(delay_ps), field(begin), field(order));
}

void inject(const nb::tuple& fabric, const std::tuple<int64_t, int64_t, int64_t, int64_t>& rule, const nb::tuple& rings,
            const nb::tuple& cargo, nb::handle leaf, int64_t bits, int64_t stride, const nb::tuple& departures) {
  auto [choice, seed, purpose, gap_ps] = rule;
  auto of_fabric = part_of<exact::Fabric, 19>(fabric);
  auto of_rings = part_of<exact::Rings, 4>(rings);
  auto of_cargo = part_of<exact::Cargo, 6>(cargo);
  auto filled = part_of<exact::Departures, 3>(departures);
  Column leaves = field(leaf);
  nb::gil_scoped_release others_go_on;
  exact::inject(of_fabric, {choice, stream(seed, purpose), gap_ps}, of_rings, of_cargo, leaves, bits, stride, filled);
}

void serve(const nb::tuple& fabric, nb::handle links, const nb::tuple& here, const nb::tuple& there,
           const nb::tuple& packets, nb::handle receivers, nb::handle figures, const nb::tuple& longest) {
  auto of_fabric = part_of<exact::Fabric, 19>(fabric);
  auto arrivals = part_of<exact::Arrivals, 4>(here);
  auto following = part_of<exact::Arrivals, 4>(there);
  auto of_packets = part_of<exact::Packets, 5>(packets);
  Column served = field(links);
  Span<exact::Receiver> of_flows = field(receivers);
  Span<exact::LinkFigures> of_links = field(figures);
  Longest queues = part_of<QueuesOverTime, 2>(longest);
  nb::gil_scoped_release others_go_on;
  exact::serve(of_fabric, served, arrivals, following, of_packets, of_flows, of_links, queues);
}

void remaining_ps(const nb::tuple& fabric, nb::handle rate_bps, const nb::tuple& packets, nb::handle receivers,
                  nb::handle link, nb::handle tag, nb::handle rest_ps) {
  exact::remaining_ps(part_of<exact::Fabric, 19>(fabric), field(rate_bps), part_of<exact::Packets, 5>(packets),
                      field(receivers), field(link), field(tag), field(rest_ps));
}

void note_queues(const nb::tuple& longest, nb::handle time_ps, nb::handle queue_ps) {
  Longest series = part_of<QueuesOverTime, 2>(longest);
  Column times = field(time_ps);
  Column queues = field(queue_ps);
  for (int64_t row = 0; row < times.size; ++row) note_queue(series, times[row], queues[row]);
}

}  // namespace

void bind_exact(nb::module_& module) {
  module.def("service_ps", &service_ps,
             "See `netsim.foundation.units.service_ps`; for up to 2**60 bytes, 2**52 bits per second.");
  module.def("release_times", &release_times, "See `netsim.engine.exact.messages.release_times`.");
  module.def("list_successors", &list_successors, "Lists the tasks that wait for each task.");
  module.def("draw_all", &draw_all, "Draws of one seed for one purpose; see `netsim.draws.Draws.__call__`.");
  module.def("crc32_hashes", &crc32_hashes, "CRC-32 of a seed, sources and destinations.");
  module.def("sort_pairs", &sort_pairs, "Sorts by (key, index) in place.");
  module.def("sort_members", &sort_members, "Orders the messages of each group by turn, then by number.");
  module.def("shuffle_routes", &shuffle_routes, "Orders the routes of each group by draws.");
  module.def("turn_routes", &turn_routes, "Orders the routes of each group by their links up, one after the other.");
  module.def("cut", &cut, "Counts the pieces of messages, and fills in their flows unless `begin` is empty.");
  module.def("sort_rings", &sort_rings, "Sorts the flows of each link by the time at which they join its ring.");
  module.def("inject", &inject, "Serves every host's ring until it is empty.");
  module.def("serve", &serve, "Serves links in order, all that feed one of them before it.");
  module.def("remaining_ps", &remaining_ps, "Remaining time of packets that have left links, without queues.");
  module.def("note_queues", &note_queues, "Records queues in a series of the longest over time.");
}

}  // namespace netsim
