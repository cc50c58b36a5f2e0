"""Service times and rates over time for compiled code."""

from numba import njit

from netsim.topology.failure import NEVER

MOST_BPS = 1 << 46
MOST_BYTES = 1 << 36
"""Below these `service_ps` does not overflow."""

_BIT_PICOSECONDS = 8 * 10**12
_SHIFT = 16


@njit(cache=True, error_model="numpy")
def service_ps(size_bytes, rate_bps):
    """See `netsim.units.service_ps`: ceil(8 * bytes * 1e12 / rate), by long division in digits of 16 bits."""
    whole, rest = _BIT_PICOSECONDS // rate_bps, _BIT_PICOSECONDS % rate_bps
    high, low = size_bytes >> _SHIFT, size_bytes & ((1 << _SHIFT) - 1)
    result = size_bytes * whole
    if high:
        part = high * rest
        result += (part // rate_bps) << _SHIFT
        part = (part % rate_bps) << _SHIFT
        result += part // rate_bps
        left = part % rate_bps + low * rest
    else:
        left = low * rest
    return result + (left + rate_bps - 1) // rate_bps


@njit(cache=True)
def rate_at(changes, link, time_ps):
    """Bits per second of a link at a moment; 0 is down."""
    row = changes.begin[link]
    while row + 1 < changes.begin[link + 1] and changes.time_ps[row + 1] <= time_ps:
        row += 1
    return changes.rate_bps[row]


@njit(cache=True)
def next_down(changes, link, time_ps):
    """The first moment from `time_ps` on at which a link is down, NEVER if there is none."""
    end_row = changes.begin[link + 1]
    for row in range(changes.begin[link], end_row):
        if not changes.rate_bps[row] and (row + 1 == end_row or changes.time_ps[row + 1] > time_ps):
            return max(changes.time_ps[row], time_ps)
    return NEVER
