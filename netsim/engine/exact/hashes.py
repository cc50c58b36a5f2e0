"""Draws and checksums of many connections at once."""

import numpy as np
from numba import njit

from netsim.engine.compiled.draws import draw, stream

SIGN = np.uint64(1 << 63)
"""The sign bit. Flipping it gives signed integers the order of the unsigned draws."""
_POLYNOMIAL = 0xEDB88320
"""Of CRC-32 (ISO-HDLC), as `binascii.crc32` computes it, lowest bit first."""
_BYTES = 8


@njit(cache=True)
def draws(seed: int, purpose: int, flow: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    """See `netsim.draws.Draws.__call__`, for each entry."""
    state, drawn = stream(seed, purpose), np.empty(len(flow), dtype=np.uint64)
    for place in range(len(flow)):
        drawn[place] = draw(state, flow[place], sequence[place])
    return drawn


@njit(cache=True)
def crc32_hashes(seed: int, src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """CRC-32 of seed, source and destination in eight bytes each, lowest first."""
    table = np.empty(256, dtype=np.uint64)
    for byte in range(256):
        rest = np.uint64(byte)
        for _ in range(8):
            rest = (rest >> np.uint64(1)) ^ (np.uint64(_POLYNOMIAL) if rest & np.uint64(1) else np.uint64(0))
        table[byte] = rest
    start = _extended(np.uint64(0xFFFFFFFF), np.uint64(seed), table)
    hashes = np.empty(len(src), dtype=np.uint64)
    for place in range(len(src)):
        checksum = _extended(_extended(start, np.uint64(src[place]), table), np.uint64(dst[place]), table)
        hashes[place] = checksum ^ np.uint64(0xFFFFFFFF)
    return hashes


@njit(cache=True)
def _extended(checksum: np.uint64, value: np.uint64, table: np.ndarray) -> np.uint64:
    """The checksum after eight more bytes."""
    for byte in range(_BYTES):
        following = (value >> np.uint64(8 * byte)) & np.uint64(0xFF)
        checksum = (checksum >> np.uint64(8)) ^ table[(checksum ^ following) & np.uint64(0xFF)]
    return checksum
