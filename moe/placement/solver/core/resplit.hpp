// The division of the experts of two ranks anew, in all layers at once.
// M experts of two ranks may move, half of them on either rank; S states are the ways to divide them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "layers.hpp"

namespace placement {

// Two ranks, the experts of theirs that may move in each layer, those on the first before those on the second, [L, M],
// and which of them a state puts on the first rank, [S, M / 2], in lexicographic order; the first state is the present.
struct Division {
  int64_t first, second;
  Table<int64_t> movable;
  Table<int64_t> states;
};

// Makes the cost of states infinite under which one of the two ranks computes more than the limit of the layer.
inline void drop_overloads(const Traffic& traffic, Table<int64_t> ranks, const Division& division, int64_t layer,
                           Span<double> least) {
  Span<double> loads = traffic.loads[layer];
  Span<int64_t> movable = division.movable[layer];
  double limit = traffic.limits[layer], here = 0.0, there = 0.0, both = 0.0;
  for (int64_t expert = 0; expert < ranks.columns; ++expert) {
    if (ranks(layer, expert) == division.first) {
      here += loads[expert];
    } else if (ranks(layer, expert) == division.second) {
      there += loads[expert];
    }
  }
  for (int64_t expert : movable) {
    both += loads[expert];
    (ranks(layer, expert) == division.first ? here : there) -= loads[expert];
  }
  for (int64_t state = 1; state < division.states.rows; ++state) {
    double moved = 0.0;
    for (int64_t place : division.states[state]) moved += loads[movable[place]];
    if (here + moved > limit || there + both - moved > limit) least[state] = std::numeric_limits<double>::infinity();
  }
}

// The least of the sums of two rows, entry by entry.
inline double least_sum(const double* one, const double* other, int64_t size) {
  constexpr int64_t LANES = 4;
  double least[LANES];
  std::fill_n(least, LANES, std::numeric_limits<double>::infinity());
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
      double sum = one[i + lane] + other[i + lane];
      least[lane] = sum < least[lane] ? sum : least[lane];
    }
  }
  for (; i < size; ++i) least[0] = std::min(least[0], one[i] + other[i]);
  return *std::min_element(least, least + LANES);
}

// least[t] = min over s of start[s] + sum of links[j, s] over j in state t. States that begin alike share their sums, a
// row of `sums` for each length.
inline void find_least_sums(Span<double> start, Table<double> links, Table<int64_t> states, Table<double> sums,
                            Span<double> least) {
  int64_t num_states = states.rows, last = states.columns - 1;
  std::copy_n(start.data, num_states, sums[0].data);
  for (int64_t state = 0; state < num_states; ++state) {
    int64_t shared = 0;
    while (state > 0 && states(state, shared) == states(state - 1, shared)) ++shared;
    for (int64_t place = shared; place < last; ++place) {
      const double *shorter = sums[place].data, *link = links[states(state, place)].data;
      double* longer = sums[place + 1].data;
      for (int64_t origin = 0; origin < num_states; ++origin) longer[origin] = shorter[origin] + link[origin];
    }
    least[state] = least_sum(sums[last].data, links[states(state, last)].data, num_states);
  }
}

// Extra cost of a movable expert on the first rank over the second, without what two movable experts cost together,
// [L, M].
inline Grid<double> own_prices(const Traffic& traffic, Table<int64_t> ranks, const Division& division) {
  const auto& [first, second, movable, states] = division;
  int64_t num_layers = ranks.rows, num_experts = ranks.columns;
  Grid<double> departing(num_layers, num_experts), arrived(num_layers, num_experts), own_jumps(num_layers, num_experts);
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    for (int64_t expert = 0; expert < num_experts; ++expert) {
      int64_t rank = ranks(layer, expert);
      departing(layer, expert) = traffic.cost(first, rank) - traffic.cost(second, rank);
      arrived(layer, expert) = traffic.cost(rank, first) - traffic.cost(rank, second);
    }
  }
  for (int64_t row = 0; row < traffic.departures.rows; ++row) {
    auto [from_layer, to_layer, i, j, tokens] = jump(traffic.departures, row);
    own_jumps(from_layer, i) += double(tokens) * departing(to_layer, j);
    own_jumps(to_layer, j) += double(tokens) * arrived(from_layer, i);
  }
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    for (int64_t expert : movable[layer]) {
      departing(layer, expert) = traffic.cost(first, second);
      arrived(layer, expert) = traffic.cost(second, first);
    }
  }
  Grid<double> own(num_layers, movable.columns);
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    Span<int64_t> experts = movable[layer];
    Span<double> sums = own[layer];
    for (int64_t i = 0; i < experts.size; ++i) sums[i] = own_jumps(layer, experts[i]);
    for (int64_t other = 0; other < num_experts; ++other) {
      double out = layer + 1 < num_layers ? departing(layer + 1, other) : 0.0;
      if (out != 0.0) {
        Span<double> tokens = traffic.backward[layer][other];
        for (int64_t i = 0; i < experts.size; ++i) sums[i] += tokens[experts[i]] * out;
      }
      double in = layer > 0 ? arrived(layer - 1, other) : 0.0;
      if (in != 0.0) {
        Span<double> tokens = traffic.forward[layer - 1][other];
        for (int64_t i = 0; i < experts.size; ++i) sums[i] += tokens[experts[i]] * in;
      }
    }
  }
  return own;
}

// Cost of jumps less their price in `resplit`, which is wrong only for jumps both of whose ends have moved.
inline double misjudged_jumps(const Traffic& traffic, Table<int64_t> before, Table<int64_t> ranks) {
  double excess = 0.0;
  for (int64_t row = 0; row < traffic.departures.rows; ++row) {
    auto [from_layer, to_layer, i, j, tokens] = jump(traffic.departures, row);
    Span<double> old_cost = traffic.cost[before(from_layer, i)], new_cost = traffic.cost[ranks(from_layer, i)];
    int64_t there = before(to_layer, j), here = ranks(to_layer, j);
    excess += double(tokens) * (new_cost[here] - new_cost[there] - old_cost[here] + old_cost[there]);
  }
  return excess;
}

// Divides experts of two ranks anew in all layers at once, at least cost: Viterbi over the states.
//
// With y = 1 on the first rank and 0 on the second, tokens W between two movable experts cost
// W (there y (1 - y') + back (1 - y) y') = there W y + back W y' - (there + back) W y y', so a layer's own terms are
// linear and only the last one links layers. Jumps are priced as if their other end stayed; where that is wrong the
// true cost decides, and a division that does not lower it is not taken. Returns what the division saves, else 0.
inline double resplit(const Traffic& traffic, Table<int64_t> ranks, const Division& division) {
  const auto& [first, second, movable, states] = division;
  int64_t num_layers = movable.rows, count = movable.columns, num_states = states.rows;
  double both = traffic.cost(first, second) + traffic.cost(second, first), stay = 0.0;
  Grid<double> own = own_prices(traffic, ranks, division), least(num_layers, num_states);
  Grid<double> links(num_layers * count, num_states), sums(states.columns, num_states);
  std::vector<double> link(count);
  auto links_of = [&](int64_t layer) { return Table<double>{links[layer * count].data, count, num_states}; };
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    Table<double> here = links_of(layer);
    if (layer > 0) {
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t i = 0; i < count; ++i) {
          link[i] = -both * traffic.forward(layer - 1, movable(layer - 1, i), movable(layer, j));
        }
        for (int64_t state = 0; state < num_states; ++state)
          for (int64_t i : states[state]) here(j, state) += link[i];
      }
      find_least_sums(least[layer - 1], here, states, sums.table(), least[layer]);
    }
    for (int64_t state = 0; state < num_states; ++state) {
      for (int64_t j : states[state]) least(layer, state) += own(layer, j);
    }
    if (traffic.limits[layer] < std::numeric_limits<double>::infinity()) {
      drop_overloads(traffic, ranks, division, layer, least[layer]);
    }
    for (int64_t j : states[0]) stay += here(j, 0) + own(layer, j);
  }
  auto cheapest = [&](Span<double> of) { return std::min_element(of.data, of.data + of.size) - of.data; };
  int64_t state = cheapest(least[num_layers - 1]);
  double gain = stay - least(num_layers - 1, state), smallest = LEAST_GAIN * std::abs(stay);
  if (gain <= smallest) return 0.0;
  Grid<int64_t> before(ranks.rows, ranks.columns);
  copy(ranks, before.table());
  for (int64_t layer = num_layers - 1; layer >= 0; --layer) {
    for (int64_t expert : movable[layer]) ranks(layer, expert) = second;
    for (int64_t i : states[state]) ranks(layer, movable(layer, i)) = first;
    if (layer > 0) {
      Span<double> origins = least[layer - 1];
      for (int64_t j : states[state]) add(links_of(layer)[j], origins);
      state = cheapest(origins);
    }
  }
  gain -= misjudged_jumps(traffic, before.table(), ranks);
  if (gain <= smallest) {
    copy(before.table(), ranks);
    return 0.0;
  }
  return gain;
}

}  // namespace placement
