"""The service time of `netsim.units` for compiled code: the same number, without overflow."""

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.compiled.fabric import FabricArrays

_BIT_PICOSECONDS_PER_BYTE = 8 * 10**12
_SMALL_BYTES = 1 << 20
_DIGIT_BITS, _SIZE_BITS = 10, 60


@njit(cache=True)
def service_ps(size_bytes: Integer, rate_bps: Integer) -> Integer:
    """The compiled `netsim.units.service_ps`, for 1 to 2**60 bytes and 1 to 2**52 bits per second."""
    if size_bytes <= _SMALL_BYTES:
        return (_BIT_PICOSECONDS_PER_BYTE * size_bytes + (rate_bps - 1)) // rate_bps
    whole, rest = _BIT_PICOSECONDS_PER_BYTE // rate_bps, _BIT_PICOSECONDS_PER_BYTE % rate_bps
    quotient = remainder = 0
    for shift in range(_SIZE_BITS - _DIGIT_BITS, -1, -_DIGIT_BITS):
        digit = (size_bytes >> shift) & ((1 << _DIGIT_BITS) - 1)
        remainder = (remainder << _DIGIT_BITS) + rest * digit
        quotient = (quotient << _DIGIT_BITS) + remainder // rate_bps
        remainder %= rate_bps
    return whole * size_bytes + quotient + (remainder > 0)


@njit(cache=True)
def rate_step(fabric: FabricArrays, link: Integer, step: Integer, time_ps: Integer) -> Integer:
    """Row of `FabricArrays.rate_bps` for a link at a moment; `step` is the row of an earlier moment."""
    while step + 1 < fabric.change_begin[link + 1] and fabric.change_ps[step + 1] <= time_ps:
        step += 1
    return step


@njit(cache=True)
def nominal_ps(
    rate_bps: np.ndarray,
    since_ps: np.ndarray,
    rows: tuple[Integer, Integer],
    nominal_bps: Integer,
    begin_ps: Integer,
    end_ps: Integer,
) -> Integer:
    """The compiled `Work.nominal_ps` of the reference engine; `since_ps` is -1 for rates without a service yet."""
    work_ps = 0.0
    for row in range(rows[1] - 1, rows[0] - 1, -1):
        if since_ps[row] >= 0 and since_ps[row] < end_ps:
            first_ps = max(since_ps[row], begin_ps)
            work_ps += (end_ps - first_ps) * (rate_bps[row] / nominal_bps)
            end_ps = first_ps
            if end_ps == begin_ps:
                break
    return np.int64(np.ceil(work_ps))
