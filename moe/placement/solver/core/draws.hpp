// Draws of NumPy's legacy generator: words of MT19937, and the numbers that `numpy.random.RandomState` makes of them.
#pragma once

#include <bit>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace placement {

class Draws {
 public:
  explicit Draws(uint32_t seed) : words_(seed) {}

  // From 0 to `bound`, without it; at most 2^32. Words that are too large are drawn again.
  int64_t integer(int64_t bound) {
    uint64_t last = uint64_t(bound - 1);
    if (last == 0) return 0;
    uint64_t mask = (uint64_t(1) << std::bit_width(last)) - 1, drawn;
    do drawn = words_() & mask;
    while (drawn > last);
    return int64_t(drawn);
  }

  // From 0 to 1, without 1: 53 bits of two words.
  double real() {
    double high = double(words_() >> 5), low = double(words_() >> 6);
    return (high * 0x1p26 + low) * 0x1p-53;
  }

  // The numbers from 0 to `size`, without it, in an order that is drawn.
  std::vector<int64_t> permutation(int64_t size) {
    std::vector<int64_t> order(size);
    std::iota(order.begin(), order.end(), 0);
    for (int64_t last = size - 1; last > 0; --last) std::swap(order[last], order[integer(last + 1)]);
    return order;
  }

 private:
  std::mt19937 words_;
};

}  // namespace placement
