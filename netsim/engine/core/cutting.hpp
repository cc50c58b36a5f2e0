// From messages to flows, as far as engines do it alike: pieces of messages, and checksums.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>

namespace netsim {

// A message that `netsim.transport.ethereal` cuts: its place among `messages` of `bytes` each over `routes`.
struct Cut {
  int64_t place, messages, bytes, routes;
};

// Equal pieces, which continue the turn of the message before; calls `take(piece, bytes, route)` for each.
template <class Take>
inline void cut_equally(const Cut& message, Take&& take) {
  int64_t pieces = message.routes / std::gcd(message.messages, message.routes);
  int64_t shortest = message.bytes / pieces;
  int64_t longer = message.bytes % pieces;
  for (int64_t piece = 0; piece < std::min(pieces, message.bytes); ++piece) {
    take(piece, shortest + (piece < longer), (message.place * pieces + piece) % message.routes);
  }
}

// As few pieces as possible: route k takes bytes [k, k + 1) * total / routes of the messages laid end to end.
template <class Take>
inline void cut_minimally(const Cut& message, Take&& take) {
  int64_t total = message.bytes * message.messages;
  int64_t begin = message.place * message.bytes;
  int64_t end = begin + message.bytes;
  int64_t piece = 0;
  for (int64_t route = begin * message.routes / total; begin < end; ++route) {
    int64_t border = std::min(end, (route + 1) * total / message.routes);
    if (border > begin) {
      take(piece, border - begin, route);
      piece += 1;
      begin = border;
    }
  }
}

// The pieces of a message, equal or as few as possible.
template <class Take>
inline void cut_message(const Cut& message, bool equally, Take&& take) {
  if (equally) {
    cut_equally(message, take);
  } else {
    cut_minimally(message, take);
  }
}

// What a byte does to a checksum: CRC-32 (ISO-HDLC), as `binascii.crc32` computes it, lowest bit first.
constexpr std::array<uint32_t, 256> CRC32_OF_BYTE = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    table[byte] = byte;
    for (int bit = 0; bit < 8; ++bit) table[byte] = (table[byte] >> 1) ^ (table[byte] & 1 ? 0xEDB88320 : 0);
  }
  return table;
}();

// Continues `checksum` with the eight bytes of a number, lowest byte first.
inline uint32_t crc32(uint32_t checksum, int64_t number) {
  checksum = ~checksum;
  for (int byte = 0; byte < 8; ++byte) {
    checksum = (checksum >> 8) ^ CRC32_OF_BYTE[(checksum ^ (uint64_t(number) >> (8 * byte))) & 0xFF];
  }
  return ~checksum;
}

}  // namespace netsim
