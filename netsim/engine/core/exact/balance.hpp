// `netsim.transport.ethereal` for groups of messages: the order of messages and of routes, and pieces.
#pragma once

#include "../cutting.hpp"
#include "../draws.hpp"
#include "sorting.hpp"

namespace netsim::exact {

// As `netsim.engine.exact.balance.Groups`.
struct Groups {
  Span<int64_t> member;
  Column begin, route_begin;
  Span<int64_t> route;

  int64_t count() const { return begin.size - 1; }
  Span<int64_t> members(int64_t group) const { return member.part(begin[group], begin[group + 1] - begin[group]); }
  Span<int64_t> routes(int64_t group) const {
    return route.part(route_begin[group], route_begin[group + 1] - route_begin[group]);
  }
};

// Orders the messages of each group by their turns, then by number.
inline void sort_members(const Groups& groups, Column turn) {
  int64_t longest = longest_segment(groups.begin);
  Room room(longest);
  std::vector<int64_t> key(longest);
  for (int64_t group = 0; group < groups.count(); ++group) {
    auto members = groups.members(group);
    for (int64_t place = 0; place < members.size; ++place) key[place] = turn[members[place]];
    sort({key.data(), members.size}, members, room);
  }
}

// Orders the routes of each group by draws.
inline void shuffle_routes(const Groups& groups, Column drawn_by, uint64_t path_draws) {
  int64_t longest = longest_segment(groups.route_begin);
  Room room(longest);
  std::vector<int64_t> key(longest);
  for (int64_t group = 0; group < groups.count(); ++group) {
    auto routes = groups.routes(group);
    for (int64_t place = 0; place < routes.size; ++place) {
      key[place] = int64_t(draw(path_draws, drawn_by[group], routes[place]) ^ SIGN);
    }
    sort({key.data(), routes.size}, routes, room);
  }
}

// Orders routes so that consecutive ones use consecutive links up, and repeated links their next route.
//
// Of each group `base` is the row of the first route of its leaves, `leaf` the leaf of its source, `place` the source's
// place at that leaf. Route w begins with link steps[w * stride].
inline void turn_routes(const Groups& groups, Column base, Column steps, int64_t stride, int64_t links, Column leaf,
                        Column place) {
  int64_t longest = longest_segment(groups.route_begin);
  Room room(longest);
  std::vector<int64_t> key(longest), number(longest), nth(longest), seen(links), appearance(links);
  for (int64_t group = 0; group < groups.count(); ++group) {
    auto routes = groups.routes(group);
    auto up = [&](int64_t turn) { return steps[(base[group] + routes[turn]) * stride]; };
    int64_t size = routes.size;
    int64_t different = 0;
    if (size == 1) continue;
    for (int64_t turn = 0; turn < size; ++turn) {
      int64_t link = up(turn);
      if (!seen[link]) appearance[link] = different++;
      nth[turn] = seen[link]++;
    }
    for (int64_t turn = 0; turn < size; ++turn) {
      int64_t link = up(turn);
      key[turn] = floor_mod(nth[turn] - leaf[group], seen[link]) * different + appearance[link];
      number[turn] = routes[turn];
    }
    for (int64_t turn = 0; turn < size; ++turn) seen[up(turn)] = 0;
    sort({key.data(), size}, {number.data(), size}, room);
    for (int64_t turn = 0; turn < size; ++turn) routes[turn] = number[(turn + place[group]) % size];
  }
}

// Flows of messages that are cut: the first of each message, and bytes and route of each flow.
struct PiecesOfMessages {
  Column begin;
  Span<int64_t> size_bytes, route;
};

// Counts the pieces of each message, and fills in a flow for each unless `flows` has no rows.
//
// The messages of a group take its routes in turn; those left over after the last whole turn are cut.
inline void cut(const Groups& groups, Column message_bytes, bool equally, const PiecesOfMessages& flows,
                Span<int64_t> pieces) {
  bool fills = flows.begin.size > 0;
  for (int64_t group = 0; group < groups.count(); ++group) {
    auto members = groups.members(group);
    auto routes = groups.routes(group);
    int64_t left = members.size % routes.size;
    int64_t whole = members.size - left;
    for (int64_t turn = 0; fills && turn < whole; ++turn) {
      flows.route[flows.begin[members[turn]]] += routes[turn % routes.size];
    }
    for (int64_t place = 0; place < left; ++place) {
      int64_t message = members[whole + place];
      int64_t count = 0;
      cut_message({place, left, message_bytes[message], routes.size}, equally,
                  [&](int64_t piece, int64_t size_bytes, int64_t turn) {
                    count += 1;
                    if (!fills) return;
                    flows.size_bytes[flows.begin[message] + piece] = size_bytes;
                    flows.route[flows.begin[message] + piece] += routes[turn];
                  });
      pieces[message] = count;
    }
  }
}

}  // namespace netsim::exact
