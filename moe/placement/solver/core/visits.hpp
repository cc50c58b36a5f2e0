// What visits of tokens to layers cost, copies for further choices included.
// L MoE layers, E experts per layer, K choices of a token; ranks are those of each expert, [L, E].
#pragma once

#include <algorithm>
#include <vector>

#include "assignment.hpp"
#include "grid.hpp"

namespace placement {

// As `moe.placement.solver.visits.Visits`.
struct Visits {
  Table<int16_t> experts;
  Span<double> tokens;
  Span<int64_t> begin;
  Span<int64_t> origin_layer;
  Span<int64_t> origin;
  Span<int64_t> members;
  Span<int64_t> members_begin;
  Span<int64_t> leavers;
  Span<int64_t> leavers_begin;
  Table<double> cost;
  Table<double> back;
};

// Where the tokens of a layer's visits go and come from.
struct Located {
  Grid<int16_t> held;          // rank of each choice, the anchor's first, -1 where there is none, [visits, K]
  std::vector<int64_t> start;  // rank where the tokens come from, -1 for the rank of their anchor, [visits]
};

// Cost of the move and the copies of one token, whose choices are on the ranks `held` [K] (-1 where there is none). It
// comes from rank `start`, -1 for the rank of its anchor.
inline double visit_cost(const Visits& visits, Span<int16_t> held, int64_t start) {
  int64_t end = held[0];
  Span<double> out = visits.cost[start < 0 ? end : start], back = visits.back[end];
  double total = 0.0;
  for (int64_t choice = 0; choice < held.size; ++choice) {
    int64_t rank = held[choice];
    if (rank < 0) continue;
    bool first = true;
    for (int64_t other = 0; first && other < choice; ++other) first = held[other] != rank;
    if (first) total += out[rank] + back[rank];
  }
  return total;
}

inline Located locate(const Visits& visits, Table<int64_t> ranks, int64_t layer) {
  int64_t first = visits.begin[layer], count = visits.begin[layer + 1] - first, choices = visits.experts.columns;
  Located located{Grid<int16_t>(count, choices), std::vector<int64_t>(count)};
  Span<int64_t> here = ranks[layer];
  for (int64_t visit = 0; visit < count; ++visit) {
    Span<int16_t> experts = visits.experts[first + visit], held = located.held[visit];
    for (int64_t choice = 0; choice < choices; ++choice) {
      held[choice] = experts[choice] >= 0 ? int16_t(here[experts[choice]]) : int16_t(-1);
    }
    int64_t begin = visits.origin_layer[first + visit];
    located.start[visit] = begin >= 0 ? ranks(begin, visits.origin[first + visit]) : -1;
  }
  return located;
}

// Coherent cost of all tokens.
inline double visits_cost(const Visits& visits, Table<int64_t> ranks) {
  double total = 0.0;
  for (int64_t layer = 0; layer < ranks.rows; ++layer) {
    Located located = locate(visits, ranks, layer);
    for (int64_t visit = 0; visit < int64_t(located.start.size()); ++visit) {
      double cost = visit_cost(visits, located.held[visit], located.start[visit]);
      total += visits.tokens[visits.begin[layer] + visit] * cost;
    }
  }
  return total;
}

// Gives the ranks of each layer the names that cost least after the layer before it.
//
// Which experts share a rank stays. With one cost between all ranks and no jumps the names are optimal: a renaming of
// a layer and all later layers then changes only the moves into that layer, which is an assignment problem. Elsewhere
// the cost may rise.
inline void rename(const Visits& visits, Table<int64_t> ranks) {
  int64_t num_ranks = visits.cost.rows;
  std::vector<int64_t> names(num_ranks), seen(num_ranks);
  for (int64_t layer = 1; layer < ranks.rows; ++layer) {
    Located located = locate(visits, ranks, layer);
    Grid<double> prices(num_ranks, num_ranks);
    std::fill(seen.begin(), seen.end(), -1);
    for (int64_t visit = 0; visit < int64_t(located.start.size()); ++visit) {
      int64_t start = located.start[visit];
      if (start < 0) continue;
      double tokens = visits.tokens[visits.begin[layer] + visit];
      for (int64_t rank : located.held[visit]) {
        if (rank < 0 || seen[rank] == visit) continue;
        seen[rank] = visit;
        for (int64_t name = 0; name < num_ranks; ++name) prices(name, rank) += tokens * visits.cost(start, name);
      }
    }
    find_cheapest_ranks(prices.table(), span_of(names));
    for (int64_t later = layer; later < ranks.rows; ++later)
      for (int64_t& rank : ranks[later]) rank = names[rank];
  }
}

}  // namespace placement
