// Exchanges of two experts of a layer, priced by visits and kept within the limit of the loads.
// L MoE layers, E experts per layer, G ranks of one expert-parallel group; loads are the choices that each expert
// computes, [L, E], and limits the most that a rank may compute, [L].
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "draws.hpp"
#include "visits.hpp"

namespace placement {

// A layer while its experts are exchanged: changes its ranks, which are a row of all ranks, [L, E].
class Layer {
 public:
  Layer(const Visits& visits, Table<int64_t> all_ranks, int64_t number, Span<double> loads, double limit)
      : visits_(visits),
        all_ranks_(all_ranks),
        ranks_(all_ranks[number]),
        number_(number),
        num_ranks_(visits.cost.rows),
        first_visit_(visits.begin[number]),
        located_(locate(visits, all_ranks, number)),
        prices_(ranks_.size, num_ranks_),
        outdated_(ranks_.size),
        loads_(loads),
        rank_loads_(num_ranks_),
        limit_(limit),
        reached_(num_ranks_),
        seen_(num_ranks_),
        tried_(visits.experts.columns) {
    for (int64_t expert = 0; expert < ranks_.size; ++expert) rank_loads_[ranks_[expert]] += loads[expert];
    for (int64_t expert = 0; expert < ranks_.size; ++expert) price(expert);
  }

  // Exchanges two experts if that costs at most `bar`, or gains where that is 0, and the loads stay in the limit.
  //
  // The prices of two experts add up to that of their exchange but for visits to both. Outdated prices decide which
  // exchanges are looked at, never which are taken.
  bool exchange(int64_t one, int64_t two, double bar) {
    int64_t here = ranks_[one], there = ranks_[two];
    if (here == there) return false;
    double shift = loads_[one] - loads_[two];
    int64_t heavier = shift > 0 ? there : here;
    double load = shift > 0 ? rank_loads_[there] + shift : rank_loads_[here] - shift;
    if (load > limit_ && load > rank_loads_[heavier]) return false;
    if (change_by_prices(one, two) > bar) return false;
    for (int64_t expert : {one, two})
      if (outdated_[expert]) price(expert);
    double change = change_by_prices(one, two);
    if (change > bar) return false;
    change += change_of_both(one, two);
    double scale = std::abs(prices_(one, here) + prices_(two, there));
    if (change > bar || (bar == 0.0 && change >= -LEAST_GAIN * scale)) return false;
    move(one, there);
    move(two, here);
    rank_loads_[here] -= shift;
    rank_loads_[there] += shift;
    std::fill(outdated_.begin(), outdated_.end(), true);
    return true;
  }

 private:
  double change_by_prices(int64_t one, int64_t two) {
    int64_t here = ranks_[one], there = ranks_[two];
    return prices_(one, there) - prices_(one, here) + prices_(two, here) - prices_(two, there);
  }

  // Calls on each visit to an expert, by its row.
  template <class Call>
  void for_visits(int64_t expert, Call call) {
    int64_t key = number_ * ranks_.size + expert;
    for (int64_t i = visits_.members_begin[key]; i < visits_.members_begin[key + 1]; ++i) call(visits_.members[i]);
  }

  // What an exchange costs beyond the prices of its two experts, from the visits to both.
  double change_of_both(int64_t one, int64_t two) {
    auto here = int16_t(ranks_[one]), there = int16_t(ranks_[two]);
    double excess = 0.0;
    for_visits(one, [&](int64_t row) {
      Span<int16_t> experts = visits_.experts[row];
      int64_t mine = -1, theirs = -1;
      for (int64_t choice = 0; choice < experts.size; ++choice) {
        if (experts[choice] == one) {
          mine = choice;
        } else if (experts[choice] == two) {
          theirs = choice;
        }
      }
      if (theirs < 0) return;
      std::copy_n(located_.held[row - first_visit_].data, experts.size, tried_.data());
      Span<int16_t> held = span_of(tried_);
      int64_t start = located_.start[row - first_visit_];
      double change = visit_cost(visits_, held, start);
      held[mine] = there;
      change -= visit_cost(visits_, held, start);
      held[theirs] = here;
      change += visit_cost(visits_, held, start);
      held[mine] = here;
      change -= visit_cost(visits_, held, start);
      excess += visits_.tokens[row] * change;
    });
    return excess;
  }

  void move(int64_t expert, int64_t rank) {
    ranks_[expert] = rank;
    for_visits(expert, [&](int64_t row) {
      Span<int16_t> experts = visits_.experts[row], held = located_.held[row - first_visit_];
      for (int64_t choice = 0; choice < experts.size; ++choice) {
        if (experts[choice] == expert) held[choice] = int16_t(rank);
      }
    });
  }

  // Prices an expert on each rank while all others stay, up to a constant.
  void price(int64_t expert) {
    double* prices = prices_[expert].data;
    std::fill_n(prices, num_ranks_, 0.0);
    outdated_[expert] = false;
    std::fill(seen_.begin(), seen_.end(), -1);
    for_visits(expert, [&](int64_t row) {
      Span<int16_t> experts = visits_.experts[row], held = located_.held[row - first_visit_];
      int64_t start = located_.start[row - first_visit_];
      double tokens = visits_.tokens[row];
      bool is_anchor = experts[0] == expert, comes = start >= 0;
      const double *out = visits_.cost[comes ? start : held[0]].data, *home = visits_.back[held[0]].data;
      if (!is_anchor) {
        for (int64_t rank = 0; rank < num_ranks_; ++rank) prices[rank] += tokens * (out[rank] + home[rank]);
      } else if (comes) {
        for (int64_t rank = 0; rank < num_ranks_; ++rank) prices[rank] += tokens * out[rank];
      }
      for (int64_t choice = 0; choice < experts.size; ++choice) {
        int64_t rank = held[choice];
        if (rank < 0 || seen_[rank] == row || experts[choice] == expert) continue;
        seen_[rank] = row;
        const double *there = visits_.cost[rank].data, *back = visits_.back[rank].data;
        if (!is_anchor) {
          prices[rank] -= tokens * (out[rank] + home[rank]);
        } else if (comes) {
          prices[rank] -= tokens * out[rank];
          double copy = out[rank];
          for (int64_t end = 0; end < num_ranks_; ++end) prices[end] += tokens * (copy + there[end]);
        } else {
          for (int64_t end = 0; end < num_ranks_; ++end) prices[end] += tokens * (back[end] + there[end]);
        }
      }
    });
    price_leaving(expert);
  }

  // Adds what the tokens of an expert pay to leave from each rank.
  void price_leaving(int64_t expert) {
    std::fill(reached_.begin(), reached_.end(), 0.0);
    std::fill(seen_.begin(), seen_.end(), -1);
    int64_t to_layer = number_, key = number_ * ranks_.size + expert;
    for (int64_t i = visits_.leavers_begin[key]; i < visits_.leavers_begin[key + 1]; ++i) {
      int64_t row = visits_.leavers[i];
      while (row >= visits_.begin[to_layer + 1]) ++to_layer;
      Span<int64_t> ranks = all_ranks_[to_layer];
      for (int64_t other : visits_.experts[row]) {
        if (other < 0 || seen_[ranks[other]] == row) continue;
        seen_[ranks[other]] = row;
        reached_[ranks[other]] += visits_.tokens[row];
      }
    }
    for (int64_t begin = 0; begin < num_ranks_; ++begin) {
      double price = prices_(expert, begin);
      for (int64_t rank = 0; rank < num_ranks_; ++rank) price += reached_[rank] * visits_.cost(begin, rank);
      prices_(expert, begin) = price;
    }
  }

  const Visits& visits_;
  Table<int64_t> all_ranks_;
  Span<int64_t> ranks_;
  int64_t number_, num_ranks_, first_visit_;
  Located located_;
  Grid<double> prices_;            // price of each expert on each rank while all others stay, up to a constant, [E, G]
  std::vector<uint8_t> outdated_;  // whether experts have moved since an expert was priced, [E]
  Span<double> loads_;
  std::vector<double> rank_loads_;  // choices that each rank computes, [G]
  double limit_;
  std::vector<double> reached_;  // scratch: tokens of an expert that leave for each rank, [G]
  std::vector<int64_t> seen_;    // scratch: last visit that has been to each rank, [G]
  std::vector<int16_t> tried_;   // scratch: ranks of a visit's choices, [K]
};

// Proposes `tries` exchanges in every layer and takes those that cost little. `heat` is the temperature in the
// acceptance rule of Metropolis, in units of cost.
inline void anneal(const Visits& visits, Table<int64_t> ranks, Table<double> loads, Span<double> limits, double heat,
                   int64_t tries, uint32_t seed) {
  Draws draws(seed);
  for (int64_t number : draws.permutation(ranks.rows)) {
    Layer layer(visits, ranks, number, loads[number], limits[number]);
    for (int64_t turn = 0; turn < tries; ++turn) {
      int64_t one = draws.integer(ranks.columns), two = draws.integer(ranks.columns);
      layer.exchange(one, two, -heat * std::log(1.0 - draws.real()));
    }
  }
}

// Marks the layers that tokens of a layer come from or go to.
inline void mark_linked(const Visits& visits, int64_t number, int64_t num_experts, std::vector<uint8_t>& stale) {
  for (int64_t row = visits.begin[number]; row < visits.begin[number + 1]; ++row) {
    if (visits.origin_layer[row] >= 0) stale[visits.origin_layer[row]] = true;
  }
  int64_t first = visits.leavers_begin[number * num_experts], end = visits.leavers_begin[(number + 1) * num_experts];
  for (int64_t i = first; i < end; ++i) {
    const int64_t* next = std::upper_bound(visits.begin.begin(), visits.begin.end(), visits.leavers[i]);
    stale[next - visits.begin.data - 1] = true;
  }
}

// Exchanges experts until no exchange in any layer gains.
inline void descend_by_exchanges(const Visits& visits, Table<int64_t> ranks, Table<double> loads, Span<double> limits) {
  std::vector<uint8_t> stale(ranks.rows, true);
  while (std::find(stale.begin(), stale.end(), true) != stale.end()) {
    for (int64_t number = 0; number < ranks.rows; ++number) {
      if (!stale[number]) continue;
      stale[number] = false;
      Layer layer(visits, ranks, number, loads[number], limits[number]);
      bool gained = true, changed = false;
      while (gained) {
        gained = false;
        for (int64_t one = 0; one < ranks.columns; ++one) {
          for (int64_t two = one + 1; two < ranks.columns; ++two) {
            if (layer.exchange(one, two, 0.0)) gained = changed = true;
          }
        }
      }
      if (changed) mark_linked(visits, number, ranks.columns, stale);
    }
  }
}

}  // namespace placement
