"""The order in which flows join the ring of their host's link."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.draws import Purpose
from netsim.engine.exact.admission import Flows
from netsim.engine.exact.hashes import SIGN, draws
from netsim.engine.exact.messages import Messages
from netsim.engine.exact.sorting import room_for, sort
from netsim.engine.protocol import NicConfig


class Rings(NamedTuple):
    """Rings of the hosts' links. F flows, L links."""

    order: np.ndarray  # [F] flows by link and in the order in which they join its ring
    begin: np.ndarray  # [L + 1] begin of each link in `order`, and the end of the last
    join_ps: np.ndarray  # [F] when each of `order` joins
    round_robin: bool  # flows take turns


def rings_of(flows: Flows, messages: Messages, nic: NicConfig, hosts: int, links: int, seed: int) -> Rings:
    """The rings of a run."""
    if len(flows.turn):
        turn = flows.turn
    elif nic.destinations == "random":
        drawn = draws(seed, Purpose.DESTINATION_ORDER, flows.key, np.zeros_like(flows.key))
        turn = (drawn ^ SIGN).view(np.int64)
    else:
        turn = ((messages.dst_host - messages.src_host) % hosts)[flows.message]
    link = messages.link[flows.message]
    begin = np.concatenate([[0], np.cumsum(np.bincount(link, minlength=links))])
    join_ps = messages.release_ps[flows.message] + flows.delay_ps
    order = np.empty(len(link), dtype=np.int64)
    _sort(link, turn, join_ps, flows.delay_ps, begin, order)
    return Rings(order, begin, join_ps[order], nic.scheduling == "round_robin")


@njit(cache=True)
def _sort(
    link: np.ndarray, turn: np.ndarray, join_ps: np.ndarray, delay_ps: np.ndarray, begin: np.ndarray, order: np.ndarray
) -> None:
    """Sorts flows by time; within an instant first flows released then, by turn, then delayed flows, by number."""
    fill = begin[:-1].copy()
    for flow in range(len(link)):
        order[fill[link[flow]]] = flow
        fill[link[flow]] += 1
    room = room_for(begin)
    key, place = np.empty_like(room.key), np.empty_like(room.key)
    for first in range(len(begin) - 1):
        flows = order[begin[first] : begin[first + 1]]
        size = len(flows)
        for n in range(size):
            key[n] = flows[n] if delay_ps[flows[n]] else turn[flows[n]]
        sort(key[:size], flows, room)
        for n in range(size):
            key[n], place[n] = join_ps[flows[n]] * 2 + (delay_ps[flows[n]] > 0), n
        sort(key[:size], place[:size], room)
        room.index[:size] = flows
        for n in range(size):
            flows[n] = room.index[place[n]]
