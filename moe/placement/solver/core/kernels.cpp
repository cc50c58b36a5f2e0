// The kernels of the searches as Python sees them: functions over arrays, which Python lays out and keeps.
#include <nanobind/nanobind.h>

#include "binding.hpp"
#include "exchanges.hpp"
#include "pairs.hpp"
#include "swaps.hpp"

namespace nb = nanobind;

namespace placement {
namespace {

using netsim::Field;

// Calls a kernel on views of arrays while other threads of Python go on.
template <class Kernel>
auto without_gil(Kernel kernel) {
  nb::gil_scoped_release others_go_on;
  return kernel();
}

Traffic traffic_of(nb::handle arrays) { return netsim::part_of<Traffic, 9>(arrays); }

Visits visits_of(nb::handle arrays) { return netsim::part_of<Visits, 11>(arrays); }

Choices choices_of(nb::handle arrays) { return netsim::part_of<Choices, 9>(arrays); }

void cheapest_ranks(nb::handle of_prices, nb::handle of_ranks) {
  Table<double> prices = Field(of_prices, 0);
  Span<int64_t> ranks = Field(of_ranks, 1);
  without_gil([&] { find_cheapest_ranks(prices, ranks); });
}

double count_total_cost(nb::handle of_traffic, nb::handle of_ranks) {
  Traffic traffic = traffic_of(of_traffic);
  Table<int64_t> ranks = Field(of_ranks);
  return without_gil([&] { return total_cost(traffic, ranks); });
}

void chain_layers(nb::handle of_traffic, nb::handle of_ranks) {
  Traffic traffic = traffic_of(of_traffic);
  Table<int64_t> ranks = Field(of_ranks);
  without_gil([&] { chain(traffic, ranks); });
}

void sweep_layers(nb::handle of_traffic, nb::handle of_ranks) {
  Traffic traffic = traffic_of(of_traffic);
  Table<int64_t> ranks = Field(of_ranks);
  without_gil([&] {
    std::vector<uint8_t> stale_layers(ranks.rows, true);
    sweep(traffic, ranks, stale_layers);
  });
}

double resplit_ranks(nb::handle of_traffic, nb::handle of_ranks, int64_t first, int64_t second, nb::handle of_movable,
                     nb::handle of_states) {
  Traffic traffic = traffic_of(of_traffic);
  Table<int64_t> ranks = Field(of_ranks, 0), movable = Field(of_movable, 1), states = Field(of_states, 2);
  return without_gil([&] { return resplit(traffic, ranks, {first, second, movable, states}); });
}

int64_t descend_pairs(nb::handle of_traffic, nb::handle of_settled, nb::handle of_ranks, nb::handle of_states,
                      uint32_t seed, int64_t budget) {
  Traffic traffic = traffic_of(of_traffic);
  Table<int64_t> settled = Field(of_settled, 0), ranks = Field(of_ranks, 1), states = Field(of_states, 2);
  return without_gil([&] { return descend_by_pairs(traffic, settled, ranks, states, seed, budget); });
}

double count_visits_cost(nb::handle of_visits, nb::handle of_ranks) {
  Visits visits = visits_of(of_visits);
  Table<int64_t> ranks = Field(of_ranks);
  return without_gil([&] { return visits_cost(visits, ranks); });
}

void rename_ranks(nb::handle of_visits, nb::handle of_ranks) {
  Visits visits = visits_of(of_visits);
  Table<int64_t> ranks = Field(of_ranks);
  without_gil([&] { rename(visits, ranks); });
}

void anneal_exchanges(nb::handle of_visits, nb::handle of_ranks, nb::handle of_loads, nb::handle of_limits, double heat,
                      int64_t tries, uint32_t seed) {
  Visits visits = visits_of(of_visits);
  Table<int64_t> ranks = Field(of_ranks, 0);
  Table<double> loads = Field(of_loads, 1);
  Span<double> limits = Field(of_limits, 2);
  without_gil([&] { anneal(visits, ranks, loads, limits, heat, tries, seed); });
}

void descend_exchanges(nb::handle of_visits, nb::handle of_ranks, nb::handle of_loads, nb::handle of_limits) {
  Visits visits = visits_of(of_visits);
  Table<int64_t> ranks = Field(of_ranks, 0);
  Table<double> loads = Field(of_loads, 1);
  Span<double> limits = Field(of_limits, 2);
  without_gil([&] { descend_by_exchanges(visits, ranks, loads, limits); });
}

bool search_swaps(nb::handle of_choices, double limit, double evenness, nb::handle of_ranks, int64_t steps,
                  uint64_t seed) {
  Choices choices = choices_of(of_choices);
  Span<int64_t> ranks = Field(of_ranks);
  return without_gil([&] { return search_by_swaps(choices, limit, evenness, ranks, steps, seed); });
}

void count_choice_visits(nb::handle of_choices, nb::handle of_ranks, nb::handle of_visits) {
  Choices choices = choices_of(of_choices);
  Span<int64_t> ranks = Field(of_ranks, 0);
  Cube<double> visits = Field(of_visits, 1);
  without_gil([&] { count_visits(choices, ranks, visits); });
}

}  // namespace
}  // namespace placement

NB_MODULE(_kernels, module) {
  using namespace placement;
  module.def("cheapest_ranks", &cheapest_ranks, "Assigns the experts of a layer: prices [G, E], ranks [E] to fill in.");
  module.def("total_cost", &count_total_cost, "Cost of the moves of a `Traffic` under ranks [L, E].");
  module.def("chain", &chain_layers, "Assigns each layer given those before it; changes ranks [L, E].");
  module.def("sweep", &sweep_layers, "Assigns layers given all others until none gains; changes ranks [L, E].");
  module.def("resplit", &resplit_ranks, "Divides experts of two ranks anew; returns the gain, changes ranks [L, E].");
  module.def("descend_pairs", &descend_pairs, "Sweeps and re-splits until neither gains; returns the work.");
  module.def("visits_cost", &count_visits_cost, "Cost of the moves and copies of `Visits` under ranks [L, E].");
  module.def("rename", &rename_ranks, "Renames the ranks of each layer after the one before; changes ranks [L, E].");
  module.def("anneal", &anneal_exchanges, "Takes exchanges of experts that cost little; changes ranks [L, E].");
  module.def("descend_exchanges", &descend_exchanges, "Exchanges experts until none gains; changes ranks [L, E].");
  module.def("search_swaps", &search_swaps, "Searches a layer by swaps; returns whether it met the limit.");
  module.def("count_visits", &count_choice_visits, "Adds up the visits of a layer's choice sets, [V, G, P].");
}
