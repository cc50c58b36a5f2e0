// The draws of `netsim.draws`: the same numbers.
#pragma once

#include "state.hpp"

namespace netsim {

// As `netsim.draws.mix`.
inline uint64_t mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

// State of the draws of one seed for one purpose.
inline uint64_t stream(int64_t seed, int64_t purpose) { return mix(mix(uint64_t(seed)) + uint64_t(purpose)); }

// As `netsim.draws.Draws.__call__`.
inline uint64_t draw(uint64_t state, int64_t flow, int64_t sequence) {
  return mix(mix(state + uint64_t(flow)) + uint64_t(sequence));
}

// The sign bit: flipping it gives signed integers the order of unsigned draws.
constexpr uint64_t SIGN = uint64_t(1) << 63;

// (drawn + turn) mod count, without overflow.
inline int64_t pick(uint64_t drawn, int64_t turn, int64_t count) {
  uint64_t size = uint64_t(count);
  return int64_t((drawn % size + uint64_t(turn) % size) % size);
}

// A draw as a real number from 0 to 1, without 1.
inline double uniform(uint64_t drawn) { return double(drawn >> 11) * 0x1p-53; }

// What draws take for messages and flows (`netsim.workload.tasks.Tasks.keys`).

// As `netsim.transport.protocol.Release.key`.
inline int64_t message_key(const Network& network, int64_t task) {
  return network.keys.size ? network.keys[task] : task;
}

// As `netsim.transport.protocol.Transport.key_of`.
inline int64_t flow_key(const Network& network, int64_t flow_id) {
  if (!network.keys.size) return flow_id;
  int64_t task = flow_id / network.rules.places;
  return flow_id + (network.keys[task] - task) * network.rules.places;
}

// Packets that are corrupted on cables (`netsim.engine.reference.conditions`).

constexpr int64_t ATTEMPT_BITS = 48, LINK_BITS = 20;
constexpr int64_t MOST_REPEATS = 64;

// How often a link of a kind has to send a packet again, or -1 if it is corrupted and the link does not repeat.
inline int64_t repeats(const Rules& rules, const LinkKind& kind, int64_t index, int64_t flow_key, int64_t serial,
                       int64_t control) {
  int64_t attempt = 0;
  if (rules.errors == FAULTLESS || kind.round_trip_ps < 0) return attempt;
  while (attempt < MOST_REPEATS) {
    int64_t key = (((attempt << 1) | control) << ATTEMPT_BITS) | (serial << LINK_BITS) | index;
    uint64_t drawn = draw(rules.error_draws, flow_key, key);
    if (uniform(drawn) >= rules.error_rate) break;
    if (rules.errors == LOSES) return -1;
    attempt += 1;
  }
  return attempt;
}

}  // namespace netsim
