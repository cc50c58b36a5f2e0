// Sweeps of layers and re-splits of pairs of ranks, until neither gains.
#pragma once

#include <vector>

#include "draws.hpp"
#include "layers.hpp"
#include "resplit.hpp"

namespace placement {

// What may gain again: layers, and pairs of ranks by the tries that each is worth.
struct Stale {
  std::vector<uint8_t> layers;
  Grid<int64_t> pairs;
  int64_t tries;
};

// Marks the layers and pairs of ranks that may gain again after experts have moved.
inline void mark_changes(const Traffic& traffic, Table<int64_t> before, Table<int64_t> ranks, Stale& stale) {
  for (int64_t layer = 0; layer < ranks.rows; ++layer) {
    bool changed = false;
    for (int64_t expert = 0; expert < ranks.columns; ++expert) {
      int64_t moved_from = before(layer, expert), moved_to = ranks(layer, expert);
      if (moved_from == moved_to) continue;
      changed = true;
      for (int64_t rank : {moved_from, moved_to}) {
        for (int64_t other = 0; other < traffic.cost.rows; ++other) {
          stale.pairs(rank, other) = stale.pairs(other, rank) = stale.tries;
        }
      }
    }
    if (changed) mark_neighbours(traffic, stale.layers, layer);
  }
}

// All experts of two ranks, those of the first in front, [L, M].
inline Grid<int64_t> all_of(Table<int64_t> ranks, int64_t first, int64_t second, int64_t half) {
  Grid<int64_t> movable(ranks.rows, 2 * half);
  for (int64_t layer = 0; layer < ranks.rows; ++layer) {
    int64_t i = 0, j = half;
    for (int64_t expert = 0; expert < ranks.columns; ++expert) {
      if (ranks(layer, expert) == first) {
        movable(layer, i++) = expert;
      } else if (ranks(layer, expert) == second) {
        movable(layer, j++) = expert;
      }
    }
  }
  return movable;
}

// Draws experts of two ranks in one layer and follows the traffic from them to both sides, [L, M].
inline Grid<int64_t> drawn_of(const Traffic& traffic, Table<int64_t> ranks, int64_t first, int64_t second, int64_t half,
                              Draws& draws) {
  int64_t num_layers = ranks.rows;
  Grid<int64_t> movable(num_layers, 2 * half);
  std::vector<double> score(ranks.columns);
  int64_t origin = draws.integer(num_layers);
  for (int64_t turn = 0; turn < num_layers; ++turn) {
    int64_t layer = origin + turn < num_layers ? origin + turn : num_layers - 1 - turn;
    for (double& one : score) one = turn > 0 ? 0.0 : draws.real();
    for (int64_t i = 0; turn > 0 && i < 2 * half; ++i) {
      add(layer > origin ? traffic.forward[layer - 1][movable(layer - 1, i)]
                         : traffic.backward[layer][movable(layer + 1, i)],
          span_of(score));
    }
    for (int64_t i = 0; i < 2 * half; ++i) {
      int64_t rank = i < half ? first : second, chosen = -1;
      for (int64_t expert = 0; expert < ranks.columns; ++expert) {
        if (ranks(layer, expert) == rank && (chosen < 0 || score[expert] > score[chosen])) chosen = expert;
      }
      movable(layer, i) = chosen;
      score[chosen] = -1.0;
    }
  }
  return movable;
}

// Sweeps layers and re-splits pairs of ranks until neither gains; returns the work, about additions of re-splits.
//
// The search begins where the ranks differ from settled ones, a local optimum, and stops early after work of `budget`;
// the cost never rises. States are those of `Division`. Of two ranks that have more experts than can move, some are
// drawn.
inline int64_t descend_by_pairs(const Traffic& traffic, Table<int64_t> settled, Table<int64_t> ranks,
                                Table<int64_t> states, uint32_t seed, int64_t budget) {
  constexpr int64_t TRIES = 2;  // draws of movable experts for a pair of ranks that have more than can move
  int64_t num_ranks = traffic.cost.rows, half = states.columns;
  bool complete = num_ranks * half == ranks.columns;
  Stale stale{std::vector<uint8_t>(ranks.rows), Grid<int64_t>(num_ranks, num_ranks), complete ? 1 : TRIES};
  Grid<int64_t> before(ranks.rows, ranks.columns);
  copy(settled, before.table());
  Draws draws(seed);
  int64_t work = 0;
  bool gained = true;
  while (gained) {
    mark_changes(traffic, before.table(), ranks, stale);
    copy(ranks, before.table());
    sweep(traffic, ranks, stale.layers);
    mark_changes(traffic, before.table(), ranks, stale);
    stale.layers.assign(ranks.rows, false);
    gained = false;
    for (int64_t first = 0; first < num_ranks; ++first) {
      for (int64_t second = first + 1; second < num_ranks; ++second) {
        while (stale.pairs(first, second) > 0 && work < budget) {
          stale.pairs(first, second) -= 1;
          work += ranks.rows * half * (states.rows * states.rows + 4 * ranks.columns);
          Grid<int64_t> movable =
              complete ? all_of(ranks, first, second, half) : drawn_of(traffic, ranks, first, second, half, draws);
          copy(ranks, before.table());
          if (resplit(traffic, ranks, {first, second, movable.table(), states}) > 0) {
            gained = true;
            mark_changes(traffic, before.table(), ranks, stale);
            if (complete) stale.pairs(first, second) = 0;
          }
        }
      }
    }
  }
  return work;
}

}  // namespace placement
