// Parts of the core that tests compare with independent ones.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "arrivals.hpp"
#include "binding.hpp"
#include "streams.hpp"

namespace netsim {
namespace {

enum Move : int64_t { TAKE, PUSH, REPLACE };

// Plays moves (kind, time, key, what) on a heap, and notes what was first at each time something was taken.
void play_heap(nb::handle calendar, nb::handle moves, nb::handle taken) {
  Heap heap = field(calendar);
  Table<int64_t> of_moves = field(moves);
  Span<int64_t> firsts = field(taken);
  int64_t count = 0;
  for (int64_t row = 0; row < of_moves.rows; ++row) {
    auto move = of_moves[row];
    if (move[0] != PUSH) {
      close(heap);
      firsts[count++] = heap[1].what;
      take_first(heap);
    }
    if (move[0] != TAKE) push(heap, move[1], move[2], move[3]);
  }
}

void sort_arrivals(nb::handle arrivals, nb::handle scratch, nb::handle places, int64_t begin, int64_t end,
                   int64_t end_ps) {
  windowed::sort(field(arrivals), field(scratch), field(places), begin, end, 0, end_ps);
}

Streams streams_of(const nb::tuple& arrays) { return part_of<Streams, 17>(arrays); }

}  // namespace

void bind_parts(nb::module_& module) {
  module.def("play_heap", &play_heap);
  module.def("sort_arrivals", &sort_arrivals);
  module.def("add_end", [](const nb::tuple& arrays, int64_t index) { fluid::add_end(streams_of(arrays), index); });
  module.def("bring_forward",
             [](const nb::tuple& arrays, int64_t index) { fluid::bring_forward(streams_of(arrays), index); });
  module.def("first_end", [](const nb::tuple& arrays) { return fluid::first_end(streams_of(arrays)); });
  module.def("take_first_end", [](const nb::tuple& arrays) { return fluid::take_first_end(streams_of(arrays)); });
}

}  // namespace netsim
