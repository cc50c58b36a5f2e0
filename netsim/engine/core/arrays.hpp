// Views of the arrays that Python owns: the core reads and writes them in place, and keeps nothing between two calls.
#pragma once

#include <cstdint>
#include <type_traits>

namespace netsim {

template <class T>
struct Span {
  T* data;
  int64_t size;
  T& operator[](int64_t index) const { return data[index]; }
  T* begin() const { return data; }
  T* end() const { return data + size; }
  // The entries from `first` on, `count` of them.
  Span part(int64_t first, int64_t count) const { return {data + first, count}; }
  operator Span<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {data, size};
  }
};

template <class T>
struct Table {
  T* data;
  int64_t rows, columns;
  T& operator()(int64_t row, int64_t column) const { return data[row * columns + column]; }
  Span<T> operator[](int64_t row) const { return {data + row * columns, columns}; }
};

template <class T>
struct Cube {
  T* data;
  int64_t planes, rows, columns;
  T& operator()(int64_t plane, int64_t row, int64_t column) const {
    return data[(plane * rows + row) * columns + column];
  }
  Table<T> operator[](int64_t plane) const { return {data + plane * rows * columns, rows, columns}; }
};

// Records of a type that only their user knows.
struct Records {
  void* data;
  int64_t record_bytes;
};

// The remainder that is not negative.
inline int64_t floor_mod(int64_t number, int64_t size) {
  int64_t rest = number % size;
  return rest < 0 ? rest + size : rest;
}

constexpr int64_t LINE_BYTES = 64;

// Hints that a record will be needed soon: `offset` bytes behind its begin.
template <class T>
inline void prefetch(const Span<T>& records, int64_t index, int64_t offset = 0) {
  __builtin_prefetch(reinterpret_cast<const char*>(records.data + index) + offset, 1, 3);
}

template <class T>
inline void prefetch_to_read(const Span<T>& records, int64_t index, int64_t offset = 0) {
  __builtin_prefetch(reinterpret_cast<const char*>(records.data + index) + offset, 0, 3);
}

}  // namespace netsim
