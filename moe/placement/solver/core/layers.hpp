// Prices of a layer by counts, and its best response to the others: for tokens with one choice.
// L MoE layers, E experts per layer, G ranks of one expert-parallel group; ranks are those of each expert, [L, E].
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "assignment.hpp"
#include "grid.hpp"

namespace placement {

// Tokens that jump over layers, a row of `Traffic.departures` or `Traffic.arrivals`.
struct Jump {
  int64_t from_layer, to_layer, from, to, tokens;
};

// As `moe.placement.solver.traffic.Traffic`.
struct Traffic {
  Cube<double> forward;
  Cube<double> backward;
  Table<int64_t> departures;
  Span<int64_t> departures_begin;
  Table<int64_t> arrivals;
  Span<int64_t> arrivals_begin;
  Table<double> cost;
  Table<double> loads;
  Span<double> limits;
};

inline Jump jump(Table<int64_t> jumps, int64_t row) {
  return {jumps(row, 0), jumps(row, 1), jumps(row, 2), jumps(row, 3), jumps(row, 4)};
}

// Adds terms to sums, entry by entry.
inline void add(Span<double> terms, Span<double> sums) {
  for (int64_t i = 0; i < terms.size; ++i) sums[i] += terms[i];
}

// Coherent cost of all tokens.
inline double total_cost(const Traffic& traffic, Table<int64_t> ranks) {
  double total = 0.0;
  for (int64_t layer = 0; layer + 1 < ranks.rows; ++layer) {
    Span<int64_t> next = ranks[layer + 1];
    for (int64_t i = 0; i < ranks.columns; ++i) {
      Span<double> cost = traffic.cost[ranks(layer, i)], tokens = traffic.forward[layer][i];
      for (int64_t j = 0; j < ranks.columns; ++j) total += tokens[j] * cost[next[j]];
    }
  }
  for (int64_t row = 0; row < traffic.departures.rows; ++row) {
    auto [from_layer, to_layer, i, j, tokens] = jump(traffic.departures, row);
    total += double(tokens) * traffic.cost(ranks(from_layer, i), ranks(to_layer, j));
  }
  return total;
}

// Prices some experts on a rank, the sums in registers: see `priced`.
template <int64_t some, class PriceOf>
void price_some(Table<double> tokens, PriceOf price_of, int64_t here, int64_t first, double* prices) {
  double sums[some] = {};
  for (int64_t there = 0; there < tokens.rows; ++there) {
    double price = price_of(here, there);
    if (price == 0.0) continue;
    const double* terms = &tokens(there, first);
    for (int64_t i = 0; i < some; ++i) sums[i] += price * terms[i];
  }
  std::copy_n(sums, some, prices);
}

// What tokens exchanged with each rank, [G, E], cost on each rank, [G, E]; price_of gives that of one here and there.
template <class PriceOf>
Grid<double> priced(Table<double> tokens, PriceOf price_of) {
  constexpr int64_t MOST = 8;
  Grid<double> prices(tokens.rows, tokens.columns);
  for (int64_t here = 0; here < tokens.rows; ++here) {
    int64_t first = 0;
    for (; first + MOST <= tokens.columns; first += MOST) {
      price_some<MOST>(tokens, price_of, here, first, &prices(here, first));
    }
    for (; first < tokens.columns; ++first) price_some<1>(tokens, price_of, here, first, &prices(here, first));
  }
  return prices;
}

// Cost of the moves into a layer for each possible rank of each of its experts, [G, E].
inline Grid<double> arriving(const Traffic& traffic, Table<int64_t> ranks, int64_t layer) {
  Grid<double> tokens(traffic.cost.rows, ranks.columns);
  if (layer > 0) {
    for (int64_t i = 0; i < ranks.columns; ++i) add(traffic.forward[layer - 1][i], tokens[ranks(layer - 1, i)]);
  }
  for (int64_t row = traffic.arrivals_begin[layer]; row < traffic.arrivals_begin[layer + 1]; ++row) {
    Jump one = jump(traffic.arrivals, row);
    tokens(ranks(one.from_layer, one.from), one.to) += double(one.tokens);
  }
  return priced(tokens.table(), [&](int64_t here, int64_t there) { return traffic.cost(there, here); });
}

// Cost of the moves out of a layer for each possible rank of each of its experts, [G, E].
inline Grid<double> leaving(const Traffic& traffic, Table<int64_t> ranks, int64_t layer) {
  Grid<double> tokens(traffic.cost.rows, ranks.columns);
  if (layer + 1 < ranks.rows) {
    for (int64_t j = 0; j < ranks.columns; ++j) add(traffic.backward[layer][j], tokens[ranks(layer + 1, j)]);
  }
  for (int64_t row = traffic.departures_begin[layer]; row < traffic.departures_begin[layer + 1]; ++row) {
    Jump one = jump(traffic.departures, row);
    tokens(ranks(one.to_layer, one.to), one.from) += double(one.tokens);
  }
  return priced(tokens.table(), [&](int64_t here, int64_t there) { return traffic.cost(here, there); });
}

// Choices that each rank computes, [G], under ranks [E] of experts with loads [E].
inline std::vector<double> rank_loads(Span<int64_t> ranks, Span<double> loads, int64_t num_ranks) {
  std::vector<double> totals(num_ranks);
  for (int64_t expert = 0; expert < ranks.size; ++expert) totals[ranks[expert]] += loads[expert];
  return totals;
}

// Exchanges two experts of a layer as long as that gains: changes ranks [E], which keep the limit all along.
inline void exchange_within_limit(Table<double> prices, Span<int64_t> ranks, Span<double> loads, double limit) {
  std::vector<double> totals = rank_loads(ranks, loads, prices.rows);
  bool gained = true;
  while (gained) {
    gained = false;
    for (int64_t one = 0; one < ranks.size; ++one) {
      double best = 0.0;
      int64_t partner = -1, here = ranks[one];
      for (int64_t two = 0; two < ranks.size; ++two) {
        int64_t there = ranks[two];
        if (here == there) continue;
        double change = prices(there, one) - prices(here, one) + prices(here, two) - prices(there, two);
        double shift = loads[one] - loads[two];
        if (change < best && totals[there] + shift <= limit && totals[here] - shift <= limit) {
          best = change, partner = two;
        }
      }
      if (partner < 0) continue;
      if (best < -LEAST_GAIN * (std::abs(prices(here, one)) + std::abs(prices(here, partner)))) {
        double shift = loads[one] - loads[partner];
        int64_t there = ranks[partner];
        ranks[one] = there, ranks[partner] = here;
        totals[there] += shift;
        totals[here] -= shift;
        gained = true;
      }
    }
  }
}

// Assigns the experts of a layer at least cost; where that breaks the limit, by exchanges from the present ranks.
inline std::vector<int64_t> respond(const Traffic& traffic, Table<double> prices, Table<int64_t> ranks, int64_t layer) {
  Span<double> loads = traffic.loads[layer];
  double limit = traffic.limits[layer];
  std::vector<int64_t> best(ranks.columns);
  find_cheapest_ranks(prices, span_of(best));
  if (limit == std::numeric_limits<double>::infinity()) return best;
  std::vector<double> totals = rank_loads(span_of(best), loads, prices.rows);
  if (*std::max_element(totals.begin(), totals.end()) <= limit) return best;
  std::copy_n(ranks[layer].data, ranks.columns, best.data());
  exchange_within_limit(prices, span_of(best), loads, limit);
  return best;
}

// Assigns each layer but the first at least cost given the layers before it.
inline void chain(const Traffic& traffic, Table<int64_t> ranks) {
  for (int64_t layer = 1; layer < ranks.rows; ++layer) {
    Grid<double> prices = arriving(traffic, ranks, layer);
    std::vector<int64_t> best = respond(traffic, prices.table(), ranks, layer);
    std::copy(best.begin(), best.end(), ranks[layer].data);
  }
}

// Marks the layers whose prices depend on a layer that has changed.
inline void mark_neighbours(const Traffic& traffic, std::vector<uint8_t>& stale_layers, int64_t layer) {
  for (int64_t other = 0; other < int64_t(stale_layers.size()); ++other) {
    bool near = std::abs(other - layer) == 1;
    if (near || (other != layer && traffic.departures.rows > 0)) stale_layers[other] = true;
  }
}

// Assigns the stale layers at least cost given all others, forwards and backwards, until no layer gains and none is
// stale. The cost never rises.
inline void sweep(const Traffic& traffic, Table<int64_t> ranks, std::vector<uint8_t>& stale_layers) {
  int64_t last = 2 * ranks.rows - 1;
  while (std::find(stale_layers.begin(), stale_layers.end(), true) != stale_layers.end()) {
    for (int64_t turn = 0; turn <= last; ++turn) {
      int64_t layer = std::min(turn, last - turn);
      if (!stale_layers[layer]) continue;
      stale_layers[layer] = false;
      Grid<double> prices = arriving(traffic, ranks, layer), out = leaving(traffic, ranks, layer);
      for (int64_t rank = 0; rank < traffic.cost.rows; ++rank) add(out[rank], prices[rank]);
      std::vector<int64_t> best = respond(traffic, prices.table(), ranks, layer);
      double before = 0.0, after = 0.0;
      for (int64_t expert = 0; expert < ranks.columns; ++expert) {
        before += prices(ranks(layer, expert), expert);
        after += prices(best[expert], expert);
      }
      if (after < before * (1 - LEAST_GAIN)) {
        std::copy(best.begin(), best.end(), ranks[layer].data);
        mark_neighbours(traffic, stale_layers, layer);
      }
    }
  }
}

}  // namespace placement
