// `netsim.transport.ethereal` for groups of messages: the order of messages and of ways, and pieces.
#pragma once

#include "../cutting.hpp"
#include "../draws.hpp"
#include "sorting.hpp"

namespace netsim::exact {

// As `netsim.engine.exact.balance.Groups`.
struct Groups {
  Span<int64_t> member;
  Column begin, way_begin;
  Span<int64_t> way;

  int64_t count() const { return begin.size - 1; }
  Span<int64_t> members(int64_t group) const { return member.part(begin[group], begin[group + 1] - begin[group]); }
  Span<int64_t> ways(int64_t group) const {
    return way.part(way_begin[group], way_begin[group + 1] - way_begin[group]);
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

// Orders the ways of each group by draws.
inline void shuffle_ways(const Groups& groups, Column drawn_by, uint64_t path_draws) {
  int64_t longest = longest_segment(groups.way_begin);
  Room room(longest);
  std::vector<int64_t> key(longest);
  for (int64_t group = 0; group < groups.count(); ++group) {
    auto ways = groups.ways(group);
    for (int64_t place = 0; place < ways.size; ++place) {
      key[place] = int64_t(draw(path_draws, drawn_by[group], ways[place]) ^ SIGN);
    }
    sort({key.data(), ways.size}, ways, room);
  }
}

// Orders ways so that consecutive ones use consecutive links up, and repeated links their next way.
//
// Of each group `base` is the row of the first way of its leaves, `leaf` the leaf of its source, `place` the source's
// place at that leaf. Way w begins with link steps[w * stride].
inline void turn_ways(const Groups& groups, Column base, Column steps, int64_t stride, int64_t links, Column leaf,
                      Column place) {
  int64_t longest = longest_segment(groups.way_begin);
  Room room(longest);
  std::vector<int64_t> key(longest), number(longest), nth(longest), seen(links), appearance(links);
  for (int64_t group = 0; group < groups.count(); ++group) {
    auto ways = groups.ways(group);
    auto up = [&](int64_t turn) { return steps[(base[group] + ways[turn]) * stride]; };
    int64_t size = ways.size;
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
      number[turn] = ways[turn];
    }
    for (int64_t turn = 0; turn < size; ++turn) seen[up(turn)] = 0;
    sort({key.data(), size}, {number.data(), size}, room);
    for (int64_t turn = 0; turn < size; ++turn) ways[turn] = number[(turn + place[group]) % size];
  }
}

// Flows of messages that are cut: the first of each message, and bytes and way of each flow.
struct PiecesOfMessages {
  Column begin;
  Span<int64_t> size_bytes, way;
};

// Counts the pieces of each message, and fills in a flow for each unless `flows` has no rows.
//
// The messages of a group take its ways in turn; those left over after the last whole turn are cut.
inline void cut(const Groups& groups, Column message_bytes, bool equally, const PiecesOfMessages& flows,
                Span<int64_t> pieces) {
  bool fills = flows.begin.size > 0;
  for (int64_t group = 0; group < groups.count(); ++group) {
    auto members = groups.members(group);
    auto ways = groups.ways(group);
    int64_t left = members.size % ways.size;
    int64_t whole = members.size - left;
    for (int64_t turn = 0; fills && turn < whole; ++turn) {
      flows.way[flows.begin[members[turn]]] += ways[turn % ways.size];
    }
    for (int64_t place = 0; place < left; ++place) {
      int64_t message = members[whole + place];
      int64_t count = 0;
      cut_message({place, left, message_bytes[message], ways.size}, equally,
                  [&](int64_t piece, int64_t size_bytes, int64_t turn) {
                    count += 1;
                    if (!fills) return;
                    flows.size_bytes[flows.begin[message] + piece] = size_bytes;
                    flows.way[flows.begin[message] + piece] += ways[turn];
                  });
      pieces[message] = count;
    }
  }
}

}  // namespace netsim::exact
