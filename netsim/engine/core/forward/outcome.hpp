// From the occurrences of units to the figures of flows and links, and queues over time.
#pragma once

#include "../series.hpp"
#include "occurrences.hpp"

namespace netsim::forward {

// As `netsim.engine.protocol.FLOW`, whose fields follow each other without gaps.
struct [[gnu::packed]] FlowFigures {
  int64_t id;
  int32_t task, src, dst;
  int64_t bytes;
  int32_t packets;
  int64_t start_ps, end_ps;
  int32_t reordered, retransmitted;
};

// As `netsim.engine.forward.outcome.Occurrences`.
struct Occurrences {
  Column unit, binding, release_ps, begin, tasks;
};

// Figures of flows, those of each task in a row, and of links; for each link that hosts send on, the remaining passage
// of its last packet.
struct Figures {
  Span<FlowFigures> flows;
  Span<exact::LinkFigures> links;
  Span<int64_t> last_sent;
};

// Counts the flows of every task, each task in the entry of the next task.
inline void count_flows(const Units& units, const Occurrences& whole, Span<int64_t> flows_of_next) {
  for (int64_t occurrence = 0; occurrence < whole.unit.size; ++occurrence) {
    int64_t unit = whole.unit[occurrence];
    if (unit < 0) continue;
    for (int64_t flow = units.flow_begin[unit]; flow < units.flow_begin[unit + 1]; ++flow) {
      flows_of_next[whole.tasks[whole.begin[occurrence] + units.message[flow]] + 1] += 1;
    }
  }
}

// Fills in the flows of an occurrence, each task's from its first one on; ids are task * `stride` + piece.
inline void fill_flows(const Units& units, const Occurrences& whole, int64_t occurrence, Column first_flow,
                       Span<const int32_t> src, Span<const int32_t> dst, int64_t stride, Span<FlowFigures> flows) {
  int64_t unit = whole.unit[occurrence];
  int64_t begin_ps = whole.release_ps[occurrence];
  int64_t message = -1, place = 0;
  for (int64_t flow = units.flow_begin[unit]; flow < units.flow_begin[unit + 1]; ++flow) {
    int64_t task = whole.tasks[whole.begin[occurrence] + units.message[flow]];
    if (units.message[flow] != message) {
      message = units.message[flow];
      place = first_flow[task];
    }
    flows[place++] = {
        .id = task * stride + units.piece[flow],
        .task = int32_t(task),
        .src = src[task],
        .dst = dst[task],
        .bytes = units.bytes[flow],
        .packets = int32_t(units.packets[flow]),
        .start_ps = begin_ps + units.start_ps[units.message_begin[unit] + message],
        .end_ps = begin_ps + units.flow_end_ps[flow],
        .reordered = int32_t(units.reordered[flow]),
        .retransmitted = 0,
    };
  }
}

// Adds the figures of an occurrence at its links, the first of which is entry `binding` of `bound_links`.
inline void add_links(const Units& units, int64_t unit, Column bound_links, int64_t binding, const Figures& figures) {
  for (int64_t row = units.link_begin[unit]; row < units.link_begin[unit + 1]; ++row) {
    int64_t number = bound_links[binding + units.link[row]];
    auto& link = figures.links[number];
    link.bytes += units.link_bytes[row];
    link.busy_ps += units.busy_ps[row];
    link.longest_ps = std::max(link.longest_ps, units.longest_ps[row]);
    if (units.rest_ps[row] >= 0) figures.last_sent[number] = units.rest_ps[row];
  }
}

// Fills in flows, links, the last packets of hosts, and queues.
inline void fill(const Units& units, Column bound_links, const Occurrences& whole, Column first_flow,
                 Span<const int32_t> src, Span<const int32_t> dst, int64_t stride, const Figures& figures,
                 const Longest& longest) {
  for (int64_t occurrence = 0; occurrence < whole.unit.size; ++occurrence) {
    int64_t unit = whole.unit[occurrence];
    if (unit < 0) continue;
    fill_flows(units, whole, occurrence, first_flow, src, dst, stride, figures.flows);
    add_links(units, unit, bound_links, whole.binding[occurrence], figures);
    for (int64_t row = units.queue_begin[unit]; row < units.queue_begin[unit + 1]; ++row) {
      note_queue(longest, whole.release_ps[occurrence] + units.queue_time_ps[row], units.queue_ps[row]);
    }
  }
}

}  // namespace netsim::forward
