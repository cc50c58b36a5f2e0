// Sorts segments of pairs of a key and an index, such as the packets of one link by (arrival, number).
#pragma once

#include <utility>

#include "layout.hpp"

namespace netsim::exact {

// Largest bucket that is sorted by insertion.
constexpr int64_t CROWD = 32;

// Length of the longest of the segments with the boundaries `begin`, at least 1.
inline int64_t longest_segment(Column begin) {
  int64_t longest = 1;
  for (int64_t segment = 0; segment + 1 < begin.size; ++segment) {
    longest = std::max(longest, begin[segment + 1] - begin[segment]);
  }
  return longest;
}

// Scratch space for sorting segments up to a length.
struct Room {
  explicit Room(int64_t longest) : key(longest), index(longest), count(longest + 1) {}
  std::vector<int64_t> key, index, count;
};

// Whether two pairs are out of order, without branches, which the processor could not predict.
inline bool swapped(int64_t first_key, int64_t first_index, int64_t second_key, int64_t second_index) {
  return (second_key < first_key) | ((second_key == first_key) & (second_index < first_index));
}

// Bucket of a key; unsigned, because the distance of two signed keys may need all 64 bits.
inline uint64_t bucket_of(int64_t key, int64_t least, int shift) { return (uint64_t(key) - uint64_t(least)) >> shift; }

// Sorts by insertion where every pair is at most one bucket away from its place.
inline void insert_in_order(Span<int64_t> key, Span<int64_t> index, const Room& from) {
  for (int64_t place = 0; place < key.size; ++place) {
    int64_t free = place;
    while (free && swapped(key[free - 1], index[free - 1], from.key[place], from.index[place])) {
      key[free] = key[free - 1];
      index[free] = index[free - 1];
      free -= 1;
    }
    key[free] = from.key[place];
    index[free] = from.index[place];
  }
}

// As many buckets of equal width as pairs; false, with nothing done, if one of them is crowded.
inline bool sort_by_buckets(Span<int64_t> key, Span<int64_t> index, int64_t least, int64_t most, Room& room) {
  int64_t size = key.size;
  int shift = 0;
  while (bucket_of(most, least, shift) >= uint64_t(size)) ++shift;
  auto& count = room.count;
  std::fill_n(count.begin(), size + 1, 0);
  for (int64_t place = 0; place < size; ++place) count[bucket_of(key[place], least, shift) + 1] += 1;
  int64_t crowd = 0;
  for (int64_t bucket = 1; bucket <= size; ++bucket) {
    crowd = std::max(crowd, count[bucket]);
    count[bucket] += count[bucket - 1];
  }
  if (crowd > CROWD) return false;
  for (int64_t place = 0; place < size; ++place) {
    int64_t& free = count[bucket_of(key[place], least, shift)];
    room.key[free] = key[place];
    room.index[free] = index[place];
    free += 1;
  }
  insert_in_order(key, index, room);
  return true;
}

// Arrays of pairs that are merged from or to.
struct Pairs {
  int64_t* key;
  int64_t* index;
  void copy(int64_t place, const Pairs& from, int64_t other) const {
    key[place] = from.key[other];
    index[place] = from.index[other];
  }
};

// Merges [begin, middle) and [middle, end).
inline void merge(const Pairs& from, int64_t begin, int64_t middle, int64_t end, const Pairs& to) {
  int64_t left = begin;
  int64_t right = middle;
  for (int64_t place = begin; place < end; ++place) {
    if (left == middle ||
        (right < end && swapped(from.key[left], from.index[left], from.key[right], from.index[right]))) {
      to.copy(place, from, right++);
    } else {
      to.copy(place, from, left++);
    }
  }
}

// Merges neighbours among the ascending runs until one is left: size * log2(runs) steps, whatever the keys.
inline void sort_by_merging(Span<int64_t> key, Span<int64_t> index, Room& room) {
  int64_t size = key.size;
  int64_t runs = 0;
  auto& begin = room.count;
  begin[0] = 0;
  for (int64_t place = 1; place < size; ++place) {
    if (swapped(key[place - 1], index[place - 1], key[place], index[place])) begin[++runs] = place;
  }
  begin[++runs] = size;
  Pairs from{key.data, index.data};
  Pairs to{room.key.data(), room.index.data()};
  while (runs > 1) {
    for (int64_t run = 0; run < runs; run += 2) {
      merge(from, begin[run], begin[run + 1], begin[std::min(run + 2, runs)], to);
      begin[run >> 1] = begin[run];
    }
    runs = (runs + 1) >> 1;
    begin[runs] = size;
    std::swap(from, to);
  }
  if (from.key != key.data) {
    std::copy_n(from.key, size, key.data);
    std::copy_n(from.index, size, index.data);
  }
}

// Sorts by (key, index) in place; in linear time if keys are spread evenly or are in order already.
inline void sort(Span<int64_t> key, Span<int64_t> index, Room& room) {
  bool in_order = true;
  int64_t least = key.size ? key[0] : 0;
  int64_t most = least;
  for (int64_t place = 1; place < key.size; ++place) {
    in_order &= !swapped(key[place - 1], index[place - 1], key[place], index[place]);
    least = std::min(least, key[place]);
    most = std::max(most, key[place]);
  }
  if (!in_order && !sort_by_buckets(key, index, least, most, room)) sort_by_merging(key, index, room);
}

}  // namespace netsim::exact
