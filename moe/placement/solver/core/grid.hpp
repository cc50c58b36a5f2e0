// Tables that the kernels own.
#pragma once

#include <algorithm>
#include <vector>

#include "arrays.hpp"

namespace placement {

using netsim::Cube;
using netsim::Span;
using netsim::Table;

constexpr double LEAST_GAIN = 1e-12;  // of the price: below that a gain is rounding

template <class T>
class Grid {
 public:
  Grid(int64_t rows, int64_t columns, T value = {}) : entries_(rows * columns, value), rows_(rows), columns_(columns) {}
  T& operator()(int64_t row, int64_t column) { return entries_[row * columns_ + column]; }
  Span<T> operator[](int64_t row) { return table()[row]; }
  Table<T> table() { return {entries_.data(), rows_, columns_}; }

 private:
  std::vector<T> entries_;
  int64_t rows_, columns_;
};

template <class T>
Span<T> span_of(std::vector<T>& entries) {
  return {entries.data(), int64_t(entries.size())};
}

template <class T>
void copy(Table<T> from, Table<T> to) {
  std::copy_n(from.data, from.rows * from.columns, to.data);
}

}  // namespace placement
