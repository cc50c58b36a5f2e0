// Tabu search over the exchanges of two experts of a layer.
//
// What an exchange changes is kept in tables, so that judging one takes a few look-ups, and making one takes time only
// for the choice sets that hold either expert. A place is a rank or a node; a token pays for each place that holds any
// of its experts.
//
// N distinct choice sets of a layer, K choices, E experts, G ranks, V levels of places, P most places of a level.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "grid.hpp"

namespace placement {

// Choices of the tokens of a layer, and what they cost: see `moe.placement.solver.swaps.LayerProblem`.
struct Choices {
  Table<int64_t> sets;
  Span<int64_t> homes;
  Span<double> tokens;
  Table<int64_t> places;
  Cube<double> prices;
  Table<double> base;
  Span<double> loads;
  Span<int64_t> begins;   // first entry of each expert in `members`, [E + 1]
  Span<int64_t> members;  // sets that hold each expert
};

// Counts the tokens that visit each place, by level, home and place, [V, G, P].
inline void count_visits(const Choices& choices, Span<int64_t> ranks, Cube<double> visits) {
  std::vector<int64_t> seen(visits.columns);
  for (int64_t level = 0; level < visits.planes; ++level) {
    std::fill(seen.begin(), seen.end(), -1);
    for (int64_t row = 0; row < choices.sets.rows; ++row) {
      for (int64_t expert : choices.sets[row]) {
        if (expert < 0) continue;
        int64_t place = choices.places(level, ranks[expert]);
        if (seen[place] == row) continue;
        seen[place] = row;
        visits(level, choices.homes[row], place) += choices.tokens[row];
      }
    }
  }
}

// The visits of one level under an assignment that changes expert by expert.
class Level {
 public:
  Level(const Choices& choices, int64_t level, Span<int64_t> ranks)
      : choices_(choices),
        place_of_rank_(choices.places[level]),
        prices_(choices.prices[level]),
        place_(ranks.size),
        held_(choices.sets.rows, prices_.columns),
        gain_(prices_.columns, ranks.size),
        sole_(ranks.size),
        together_(ranks.size, ranks.size) {
    for (int64_t expert = 0; expert < ranks.size; ++expert) place_[expert] = place_of_rank_[ranks[expert]];
  }

  // Fills the tables, and adds the price of all visits to a total.
  void fill(double& total) {
    for (int64_t row = 0; row < choices_.sets.rows; ++row) {
      Span<int64_t> experts = choices_.sets[row];
      Span<int16_t> held = held_[row];
      for (int64_t expert : experts)
        if (expert >= 0) held[place_[expert]] += 1;
      for (int64_t where = 0; where < held.size; ++where) {
        if (held[where] > 0) {
          total += price(row, where);
        } else {
          count_gain(row, where, price(row, where));
        }
      }
      for (int64_t expert : experts) {
        if (expert >= 0 && held[place_[expert]] == 1) count_alone(row, expert, price(row, place_[expert]));
      }
    }
  }

  // Adds the cost of moving each expert to a rank alone, [E]; not where it stays on its place.
  void add_moves(int64_t rank, Span<double> moves) {
    int64_t where = place_of_rank_[rank];
    const double* gain = gain_[where].data;
    for (int64_t expert = 0; expert < moves.size; ++expert) {
      if (place_[expert] != where) moves[expert] += gain[expert] - sole_[expert];
    }
  }

  // Adds what the moves of two experts count twice as saved: visits of sets that hold both.
  void add_shared(int64_t one, int64_t other, double& total) {
    if (place_[one] != place_[other]) total += together_(one, other);
  }

  // Moves an expert to a rank and corrects the tables.
  void move(int64_t expert, int64_t rank) {
    int64_t near = place_[expert], far = place_of_rank_[rank];
    if (near == far) return;
    for (int64_t i = choices_.begins[expert]; i < choices_.begins[expert + 1]; ++i) {
      int64_t row = choices_.members[i];
      int16_t left = held_(row, near)--, joined = held_(row, far)++;
      double leaving = price(row, near), coming = price(row, far);
      if (left == 1) {
        count_alone(row, expert, -leaving);
        count_gain(row, near, leaving);
      } else if (left == 2) {
        count_alone(row, other_on(row, expert, near), leaving);
      }
      if (joined == 0) {
        count_alone(row, expert, coming);
        count_gain(row, far, -coming);
      } else if (joined == 1) {
        count_alone(row, other_on(row, expert, far), -coming);
      }
    }
    place_[expert] = far;
  }

 private:
  double price(int64_t row, int64_t where) { return choices_.tokens[row] * prices_(choices_.homes[row], where); }

  // The first other expert of a set on a place.
  int64_t other_on(int64_t row, int64_t expert, int64_t where) {
    for (int64_t other : choices_.sets[row])
      if (other >= 0 && other != expert && place_[other] == where) return other;
    return expert;  // never: there is another
  }

  // Adds the price of a visit that any expert of a set would cause on a place.
  void count_gain(int64_t row, int64_t where, double price) {
    for (int64_t expert : choices_.sets[row])
      if (expert >= 0) gain_(where, expert) += price;
  }

  // Adds the price of a visit for one expert of a set only; taken back where the price is negative.
  void count_alone(int64_t row, int64_t expert, double price) {
    sole_[expert] += price;
    for (int64_t other : choices_.sets[row]) {
      if (other < 0 || other == expert) continue;
      together_(expert, other) += price;
      together_(other, expert) += price;
    }
  }

  const Choices& choices_;
  Span<int64_t> place_of_rank_;
  Table<double> prices_;
  std::vector<int64_t> place_;  // of each expert
  Grid<int16_t> held_;          // experts of a set on each place, [N, P]
  Grid<double> gain_;           // price of the visits that an expert on a further place would cause, [P, E]
  std::vector<double> sole_;    // price of the visits for one expert only, [E]
  Grid<double> together_;       // price of the sole visits of sets with both of two experts, [E, E]
};

// Exchanges experts for a number of steps, and keeps the cheapest assignment that respects the limit.
//
// Each step makes the best exchange of experts that have not moved lately, even if it loses. Load above the limit is
// charged at a rate that rises while the limit is broken, and falls while it is kept. Returns whether an assignment
// within the limit was met; if not, the ranks [E] are as they were. `evenness` is the cost of a choice that a rank
// computes above the mean; draws of the seed say for how long an expert stays.
inline bool search_by_swaps(const Choices& choices, double limit, double evenness, Span<int64_t> ranks, int64_t steps,
                            uint64_t seed) {
  int64_t num_ranks = choices.base.rows, num_experts = choices.base.columns;
  Span<double> loads = choices.loads;
  std::vector<int64_t> now(ranks.begin(), ranks.end()), rested(num_experts);
  Grid<double> moves(num_ranks, num_experts), by_expert(num_experts, num_ranks);
  std::vector<double> relief(num_ranks), load(num_ranks), own(num_experts);
  std::vector<Level> levels;
  double total = 0.0;
  for (int64_t level = 0; level < choices.places.rows; ++level) levels.emplace_back(choices, level, ranks);
  for (Level& level : levels) level.fill(total);
  double all_loads = std::accumulate(loads.begin(), loads.end(), 0.0), mean = all_loads / double(num_ranks);
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    load[now[expert]] += loads[expert];
    total += choices.base(now[expert], expert);
  }
  auto above = [](double value, double most) { return std::max(value - most, 0.0); };
  double charge = std::max(total / std::max(all_loads, 1.0), 1e-300), least = 1e-12 * std::max(total, 1e-300);
  double excess = 0.0;
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    excess += above(load[rank], limit);
    total += evenness * above(load[rank], mean);
  }
  bool met = excess <= 0.0;
  double best = total;
  uint64_t state = seed;
  int64_t broken = 0;  // steps for which the limit has been broken, or kept where it is less than 0
  for (int64_t step = 1; step <= steps; ++step) {
    for (int64_t expert = 0; expert < num_experts; ++expert) own[expert] = choices.base(now[expert], expert);
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      Span<double> row = moves[rank], base = choices.base[rank];
      for (int64_t expert = 0; expert < num_experts; ++expert) row[expert] = base[expert] - own[expert];
      for (Level& level : levels) level.add_moves(rank, row);
      for (int64_t expert = 0; expert < num_experts; ++expert) by_expert(expert, rank) = row[expert];
      relief[rank] = evenness * above(load[rank], mean) + charge * above(load[rank], limit);
    }
    double chosen = std::numeric_limits<double>::infinity(), change = 0.0;
    int64_t one = -1, other = -1;
    for (int64_t first = 1; first < num_experts; ++first) {
      int64_t here = now[first];
      for (int64_t second = 0; second < first; ++second) {
        int64_t there = now[second];
        double difference = by_expert(first, there) + moves(here, second);
        if (here == there || difference - relief[here] - relief[there] >= chosen) continue;
        for (Level& level : levels) level.add_shared(first, second, difference);
        double shift = loads[second] - loads[first];
        double before = load[here], after = load[here] + shift;
        double before_there = load[there], after_there = load[there] - shift;
        difference += evenness *
                      (above(after, mean) + above(after_there, mean) - above(before, mean) - above(before_there, mean));
        double heavier = above(after, limit) + above(after_there, limit);
        heavier -= above(before, limit) + above(before_there, limit);
        double judged = difference + charge * heavier;
        if (judged >= chosen) continue;
        bool resting = rested[first] >= step || rested[second] >= step;
        if (resting && (excess + heavier > 1e-9 * mean || (met && total + difference >= best - least))) continue;
        chosen = judged, one = first, other = second, change = difference;
      }
    }
    if (one < 0) continue;
    int64_t here = now[one], there = now[other];
    for (Level& level : levels) {
      level.move(one, there);
      level.move(other, here);
    }
    now[one] = there, now[other] = here;
    load[here] += loads[other] - loads[one];
    load[there] += loads[one] - loads[other];
    total += change;
    excess = 0.0;
    for (int64_t rank = 0; rank < num_ranks; ++rank) excess += above(load[rank], limit);
    if (excess <= 0.0) {
      broken = std::min<int64_t>(broken, 0) - 1;
      if (!met || total < best - least) {
        met = true, best = total;
        std::copy(now.begin(), now.end(), ranks.data);
      }
    } else {
      broken = std::max<int64_t>(broken, 0) + 1;
    }
    if (broken >= 5) {
      charge *= 1.5, broken = 0;
    } else if (broken <= -5) {
      charge /= 1.5, broken = 0;
    }
    for (int64_t expert : {one, other}) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      rested[expert] = step + 2 + num_experts / 16 + int64_t(state >> 33) % (1 + num_experts / 8);
    }
  }
  return met;
}

}  // namespace placement
