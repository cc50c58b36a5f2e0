"""The draws of `netsim.draws` for compiled code: the same numbers."""

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@njit(cache=True, inline="always")
def mix(value: np.uint64) -> np.uint64:
    """See `netsim.draws.mix`."""
    value = value + _GOLDEN
    value = (value ^ (value >> _30)) * _FIRST
    value = (value ^ (value >> _27)) * _SECOND
    return value ^ (value >> _31)


@njit(cache=True, inline="always")
def stream(seed: int, purpose: int) -> np.uint64:
    """State of the draws of one seed for one purpose."""
    return mix(mix(np.uint64(seed)) + np.uint64(purpose))


@njit(cache=True, inline="always")
def draw(state: np.uint64, flow: int, sequence: int) -> np.uint64:
    """See `netsim.draws.Draws.__call__`."""
    return mix(mix(np.uint64(state) + np.uint64(flow)) + np.uint64(sequence))
