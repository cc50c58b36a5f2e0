// Links of the event engine: packets that join their queues.
#pragma once

#include "draws.hpp"
#include "series.hpp"
#include "service.hpp"
#include "trace.hpp"

namespace netsim {

constexpr int64_t GOES = 0;
constexpr int64_t LOST = 1;
constexpr int64_t TRIMMED = 2;
constexpr int64_t WAITS = 3;

// Records that a link carries a packet, and the queue that the packet joined when it came.
inline void count(const Network& network, Link& link, Packet& packet, int64_t service, int64_t queue, int64_t work,
                  int64_t came) {
  auto& totals = network.totals;
  if (link.at_switch) {
    note_queue({network.longest, totals.width_bits, totals.used}, came, queue);
  }
  link.busy_ps += service;
  link.bytes += packet.wire;
  link.longest_ps = std::max<int64_t>(link.longest_ps, work);
  if (packet.control) {
    totals.control_hops += 1;
  } else {
    totals.hops += 1;
  }
}

inline void drop(const Network& network, const Packet& packet, int64_t link, int64_t now) {
  network.totals.dropped += 1;
  trace(now, "dropped", link, packet);
}

inline void trim(const Network& network, const Packet& packet, int64_t link, int64_t now) {
  network.totals.trimmed += 1;
  trace(now, "trimmed", link, packet);
}

inline void mark(const Network& network, Packet& packet, int64_t link, int64_t now) {
  packet.marked = 1;
  network.totals.marked += 1;
  trace(now, "marked", link, packet);
}

// Service time of a packet at a rate.
inline int64_t service_of(const Rules& rules, Link& link, const LinkKind& kind, int64_t wire, int64_t rate) {
  if (!link.varies) {
    if (wire == rules.full_wire) return kind.full_ps;
    if (wire == rules.ack_wire) return kind.ack_ps;
  }
  return service_ps(wire, rate);
}

// As `netsim.engine.reference.conditions.Conditions.marks`.
inline bool marks(const Network& network, Link& link, const LinkKind& kind, int64_t index, Packet& packet,
                  int64_t backlog, int64_t rate) {
  const auto& rules = network.rules;
  int64_t low = kind.mark_ps;
  int64_t high = kind.mark_all_ps;
  if (link.varies) {
    low = service_ps(rules.mark_above, rate);
    high = service_ps(rules.mark_all_above, rate);
  }
  if (backlog <= low) return false;
  if (backlog > high) return true;
  double chance = rules.mark_at_most * (double(backlog - low) / (high - low));
  int64_t key = flow_key(network, flow_id_of(packet));
  uint64_t drawn = draw(rules.mark_draws, key, (serial_of(packet) << LINK_BITS) | index);
  return uniform(drawn) < chance;
}

// Adds a packet to the queue of a link. Returns its fate, and when its last bit leaves.
inline std::pair<int64_t, int64_t> join(const Network& network, Packet& packet, int64_t index, int64_t now) {
  const auto& rules = network.rules;
  auto& link = network.links[index];
  const auto& kind = network.kinds[link.kind];
  int64_t start = std::max<int64_t>(link.free_ps, now);
  int64_t rate = kind.rate_bps;
  int64_t service;
  if (link.varies) {
    rate = rate_at(network, index, start);
    int64_t down = next_down(network, index, now);
    service = rate ? service_ps(packet.wire, rate) : 0;
    if (!rate || down < start + service || down <= start) {
      if (!link.at_switch) link.free_ps = start + service_ps(packet.wire, kind.rate_bps);
      drop(network, packet, index, now);
      return {LOST, now};
    }
  } else {
    service = service_of(rules, link, kind, packet.wire, rate);
  }
  int64_t leaves = start + service;
  int64_t again = 0;
  if (link.at_switch) {
    int64_t room = !link.varies || rules.room_bytes < 0 ? kind.room_ps : service_ps(rules.room_bytes, rate);
    if (leaves - now > room) {
      if (rules.trims && !packet.control) {
        trim(network, packet, index, now);
        return {TRIMMED, now};
      }
      drop(network, packet, index, now);
      return {LOST, now};
    }
    bool may_mark = rules.marks && !rules.marks_leaving && !packet.control && !packet.marked;
    if (may_mark && marks(network, link, kind, index, packet, start - now, rate)) {
      mark(network, packet, index, now);
    }
  }
  if (rules.errors != FAULTLESS) {
    int64_t key = flow_key(network, flow_id_of(packet));
    again = repeats(rules, kind, index, key, serial_of(packet), packet.control);
    if (again > 0) {
      service += again * (service + kind.round_trip_ps);
      leaves = start + service;
    }
  }
  link.free_ps = leaves;
  int64_t work = leaves - now;
  if (link.varies) {
    begin_service(network, index, start);
    work = work_ps(network, index, now, leaves);
  }
  count(network, link, packet, service, leaves - now, work, now);
  if (again < 0) {
    drop(network, packet, index, now);
    return {LOST, now};
  }
  return {GOES, leaves};
}

// Sends a packet of the control lane over a link: see `netsim.congestion.flow_control`.
inline std::pair<int64_t, int64_t> cross(const Network& network, Packet& packet, int64_t index, int64_t now) {
  const auto& rules = network.rules;
  auto& totals = network.totals;
  auto& link = network.links[index];
  int64_t service;
  if (link.varies) {
    int64_t rate = rate_at(network, index, now);
    service = rate ? service_ps(packet.wire, rate) : 0;
    if (!rate || next_down(network, index, now) < now + service) {
      drop(network, packet, index, now);
      return {LOST, now};
    }
  } else {
    service = service_ps(packet.wire, network.kinds[link.kind].rate_bps);
  }
  int64_t leaves = now + service;
  if (rules.acks_take_time) {
    link.lane_free_ps = std::max<int64_t>(link.lane_free_ps, now) + service;
    leaves = link.lane_free_ps;
    link.free_ps = std::max<int64_t>(link.free_ps, now) + service;
    link.busy_ps += service;
  }
  link.bytes += packet.wire;
  totals.control_hops += 1;
  return {GOES, leaves};
}

}  // namespace netsim
