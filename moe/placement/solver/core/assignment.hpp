// The assignment of the experts of a layer to ranks at least cost, exactly, by successive shortest paths over ranks.
#pragma once

#include <algorithm>
#include <vector>

#include "grid.hpp"

namespace placement {

// Finds the ranks [E] for prices [G, E]; E / G experts on each rank.
inline void find_cheapest_ranks(Table<double> prices, Span<int64_t> ranks) {
  int64_t num_ranks = prices.rows, num_experts = prices.columns, slots = num_experts / num_ranks;
  std::fill_n(ranks.data, num_experts, -1);
  Grid<int64_t> members(num_ranks, slots);
  std::vector<int64_t> loads(num_ranks), via(num_ranks);
  std::vector<double> discounts(num_ranks), distance(num_ranks);
  std::vector<uint8_t> reached(num_ranks);
  for (int64_t newcomer = 0; newcomer < num_experts; ++newcomer) {
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      distance[rank] = prices(rank, newcomer) - discounts[rank];
      via[rank] = newcomer;
      reached[rank] = false;
    }
    int64_t nearest;
    while (true) {
      nearest = -1;
      for (int64_t rank = 0; rank < num_ranks; ++rank) {
        if (!reached[rank] && (nearest < 0 || distance[rank] < distance[nearest])) nearest = rank;
      }
      if (loads[nearest] < slots) break;
      reached[nearest] = true;
      for (int64_t expert : members[nearest]) {
        double pushed = distance[nearest] - prices(nearest, expert) + discounts[nearest];
        for (int64_t rank = 0; rank < num_ranks; ++rank) {
          if (reached[rank]) continue;
          double length = pushed + prices(rank, expert) - discounts[rank];
          if (length < distance[rank]) distance[rank] = length, via[rank] = expert;
        }
      }
    }
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      if (reached[rank]) discounts[rank] += distance[rank] - distance[nearest];
    }
    int64_t rank = nearest, slot = loads[nearest]++;
    while (true) {
      int64_t expert = via[rank], left = ranks[expert];
      members(rank, slot) = expert;
      ranks[expert] = rank;
      if (expert == newcomer) break;
      slot = 0;
      while (members(left, slot) != expert) ++slot;
      rank = left;
    }
  }
}

}  // namespace placement
