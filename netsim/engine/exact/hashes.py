"""Draws and checksums of many connections at once."""

import numpy as np

from netsim.engine import _core

_SIGN = np.uint64(1 << 63)


def draws(seed: int, purpose: int, flow: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    """The draws of `netsim.draws.Draws` for each entry."""
    drawn = np.empty(len(flow), dtype=np.uint64)
    _core.draw_all(seed, purpose, flow, sequence, drawn)
    return drawn


def drawn_turns(seed: int, purpose: int, key: np.ndarray) -> np.ndarray:
    """The first draw of each key as a signed number that sorts like the unsigned draw."""
    return (draws(seed, purpose, key, np.zeros_like(key)) ^ _SIGN).view(np.int64)


def crc32_hashes(seed: int, src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """CRC-32 of seed, source and destination in eight bytes each, lowest first."""
    hashes = np.empty(len(src), dtype=np.uint64)
    _core.crc32_hashes(seed, src, dst, hashes)
    return hashes
