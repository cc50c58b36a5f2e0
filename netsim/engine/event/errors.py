"""Packets that are corrupted on cables, in compiled code: see `netsim.engine.reference.conditions`."""

import numpy as np

from netsim.engine.compiled.draws import draw
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, Whole
from netsim.engine.reference.conditions import MOST_REPEATS

FAULTLESS, LOSES, REPEATED = range(3)
"""What links do: they have no errors; they lose corrupted packets; they send them again."""

_ATTEMPT_BITS, _LINK_BITS = 48, 20


@compiled
def repeats(rules: Record, kind: Record, index: int, flow_key: int, serial: int, control: int) -> Whole:
    """How often a link of a kind has to send a packet again, or -1 if it is corrupted and the link does not repeat."""
    attempt = np.int64(0)
    if rules.errors == FAULTLESS or kind.round_trip_ps < 0:
        return attempt
    while attempt < MOST_REPEATS:
        key = ((attempt << 1 | control) << _ATTEMPT_BITS) | (serial << _LINK_BITS) | index
        drawn = draw(rules.error_draws, flow_key, int(key))
        if np.float64(drawn >> np.uint64(11)) * 2.0**-53 >= rules.error_rate:
            break
        if rules.errors == LOSES:
            return np.int64(-1)
        attempt += 1
    return attempt
