"""The order in which flows join the ring of their host's link."""

import numpy as np
from numba import njit

from netsim.draws import Purpose
from netsim.engine.compiled.draws import stream
from netsim.engine.exact.admission import Flows
from netsim.engine.exact.hashes import draws
from netsim.engine.exact.messages import Messages
from netsim.engine.exact.sorting import merge_sort
from netsim.engine.protocol import NicConfig

_SIGN = np.uint64(1 << 63)
"""Flipping it makes the order of signed integers that of the unsigned draws."""


def ring_order(
    flows: Flows, messages: Messages, nic: NicConfig, hosts: int, links: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flows by host's link and in the order in which they join its ring.

    Args:
        flows: All flows.
        messages: What they belong to.
        nic: Order of flows released together.
        hosts: Hosts of the fabric.
        links: Links of the fabric.
        seed: Seed of the run.

    Returns:
        Flows; begin of each link among them, and the end of the last; when each flow of the first array joins.
    """
    if nic.destinations == "random":
        drawn = draws(stream(seed, Purpose.DESTINATION_ORDER), flows.id, np.zeros_like(flows.id))
        turn = (drawn ^ _SIGN).view(np.int64)
    else:
        turn = ((messages.dst_host - messages.src_host) % hosts)[flows.message]
    link = messages.link[flows.message]
    begin = np.concatenate([[0], np.cumsum(np.bincount(link, minlength=links))])
    join_ps = messages.release_ps[flows.message] + flows.delay_ps
    order = np.empty(len(link), dtype=np.int64)
    _sort(link, turn, join_ps, flows.delay_ps, begin, order)
    return order, begin, join_ps[order]


@njit(cache=True)
def _sort(
    link: np.ndarray, turn: np.ndarray, join_ps: np.ndarray, delay_ps: np.ndarray, begin: np.ndarray, order: np.ndarray
) -> None:
    """By time; in one instant first the flows released then, by turn, then those put off until then, by number."""
    fill = begin[:-1].copy()
    for flow in range(len(link)):
        order[fill[link[flow]]] = flow
        fill[link[flow]] += 1
    most = np.diff(begin).max()
    key, place = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    spare_key, spare_place = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    runs = np.empty(most + 1, dtype=np.int64)
    for first in range(len(begin) - 1):
        flows = order[begin[first] : begin[first + 1]]
        size = len(flows)
        for n in range(size):
            key[n] = flows[n] if delay_ps[flows[n]] else turn[flows[n]]
        merge_sort(key[:size], flows, spare_key, spare_place, runs)
        for n in range(size):
            key[n], place[n] = join_ps[flows[n]] * 2 + (delay_ps[flows[n]] > 0), n
        merge_sort(key[:size], place[:size], spare_key, spare_place, runs)
        spare_place[:size] = flows
        for n in range(size):
            flows[n] = spare_place[place[n]]
