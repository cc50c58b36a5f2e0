"""Choice of a packet's way at its host."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.draws import Purpose
from netsim.engine.compiled.annotations import Integer
from netsim.engine.compiled.draws import draw, stream
from netsim.transport.config import FlowletConfig, TransportConfig

FIXED, _RANDOM, _ROUND_ROBIN, _ROTATION, FLOWLET = range(5)
_RULES = {
    "spray_random": (_RANDOM, Purpose.SPRAY_PATH),
    "spray_round_robin": (_ROUND_ROBIN, Purpose.SPRAY_START),
    "drb": (_ROTATION, Purpose.ROTATION_START),
    "flowlet": (FLOWLET, Purpose.FLOWLET_PATH),
}
KINDS = ("ecmp", "subflows", "ethereal", *_RULES)
"""Transports that choose a packet's way at its departure, independently of the fabric."""


class Rule(NamedTuple):
    """Rule by which packets choose their way."""

    kind: int  # FIXED: packets follow their flow; or one of the other kinds above
    state: np.uint64  # state of the draws
    gap_ps: int  # shortest pause that begins a flowlet


def rule_of(transport: TransportConfig, seed: int) -> Rule:
    """The rule of a transport."""
    kind, purpose = _RULES.get(transport.kind, (FIXED, Purpose.ECMP_PATH))
    gap_ps = transport.gap if isinstance(transport, FlowletConfig) else 0
    return Rule(kind, np.uint64(stream(seed, purpose)), gap_ps)


@njit(cache=True)
def choose(
    rule: Rule,
    choices: Integer,
    key: Integer,
    serial: Integer,
    link: Integer,
    leaf: Integer,
    sent: tuple[Integer, Integer],
) -> Integer:
    """Index of the chosen way among the usable ones; not for FIXED, and only for the first packet of a flowlet.

    `sent` are the packets that the link has sent in all, and to that leaf, this one included.
    """
    ways = np.uint64(choices)
    if rule.kind == _ROUND_ROBIN:
        return np.int64((draw(rule.state, link, 0) % ways + np.uint64(sent[0])) % ways)
    if rule.kind == _ROTATION:
        return np.int64((draw(rule.state, link, leaf) % ways + np.uint64(sent[1])) % ways)
    return np.int64(draw(rule.state, key, serial) % ways)
