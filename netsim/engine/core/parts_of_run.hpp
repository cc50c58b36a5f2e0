// The state of a run, from the arrays of each part that Python hands over.
#pragma once

#include <optional>

#include "binding.hpp"
#include "state.hpp"

namespace netsim {

// The state of a run, of which Python hands over the arrays of each part.
struct Parts {
  std::optional<Queued> queued;
  State state;

  explicit Parts(const nb::tuple& arrays)
      : state{part_of<Network, 12>(arrays[0]), part_of<Hosts, 12>(arrays[1]), part_of<Program, 23>(arrays[2]),
              part_of<Routing, 28>(arrays[3]), nullptr} {
    if (!arrays[4].is_none()) state.queued = &queued.emplace(part_of<Queued, 10>(arrays[4]));
  }
};

}  // namespace netsim
