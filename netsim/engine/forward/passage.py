"""What packets did at each link, unit by unit, from arrivals that the exact engine has sorted."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.compiled.service import service_ps
from netsim.engine.exact.stages import Arrivals, Packets
from netsim.engine.forward.queues import note


class Passages(NamedTuple):
    """Units at links, and the queues that their packets joined at switches; times count from the unit's release."""

    unit: np.ndarray  # of each passage
    link: np.ndarray  # its link
    first_ps: np.ndarray  # when the first packet arrives
    last_ps: np.ndarray  # when the last one has left
    packets: np.ndarray  # number of packets
    bytes: np.ndarray  # that the link carried
    busy_ps: np.ndarray  # how long it was busy
    longest_ps: np.ndarray  # longest queue that a packet joined
    tag: np.ndarray  # the last packet
    queue_unit: np.ndarray  # unit of each queue
    queue_time_ps: np.ndarray  # when a packet joined it
    queue_ps: np.ndarray  # the queue
    apart: bool  # whether no link had packets of two units at a time


@njit(cache=True)
def passages(
    fabric: FabricArrays,
    arrivals: Arrivals,
    packets: Packets,
    unit_of_flow: np.ndarray,
    release_ps: np.ndarray,
    width_ps: Integer,
) -> Passages:
    """Follows units through the links of some arrivals."""
    links, count = len(arrivals.begin) - 1, len(arrivals.tag)
    most = min(count, links * len(release_ps))
    unit, link_of, tag_of = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    first_ps, last_ps = np.empty(most, np.int64), np.empty(most, np.int64)
    amount, size = np.zeros(most, np.int64), np.zeros(most, np.int64)
    busy_ps, longest_ps = np.zeros(most, np.int64), np.zeros(most, np.int64)
    queue_unit = np.empty(count, np.int64)
    queue_time_ps, queue_ps = np.empty(count, np.int64), np.empty(count, np.int64)
    uniform, row, queues, apart = not len(packets.size_bytes), -1, 0, True
    for link in range(links):
        free, here, first_queue = np.int64(0), np.int64(-1), queues
        rate, at_switch = fabric.rate_bps[fabric.change_begin[link]], fabric.at_switch[link] != 0
        if arrivals.begin[link] == arrivals.begin[link + 1]:
            continue
        full_ps = service_ps(packets.full_bytes, rate)
        for place in range(arrivals.begin[link], arrivals.begin[link + 1]):
            now, tag = arrivals.time_ps[place], arrivals.tag[place]
            number = tag >> packets.bits
            of_packet = unit_of_flow[packets.flow[number]]
            if of_packet != here:
                if now < free or of_packet < here:
                    apart = False
                    break
                here, row, first_queue = of_packet, row + 1, queues
                unit[row], link_of[row], first_ps[row] = here, link, now - release_ps[here]
            bytes_of_packet, service = packets.full_bytes, full_ps
            if not uniform and packets.size_bytes[number] != packets.full_bytes:
                bytes_of_packet = packets.size_bytes[number]
                service = service_ps(bytes_of_packet, rate)
            free = max(now, free) + service
            amount[row] += 1
            size[row] += bytes_of_packet
            busy_ps[row] += service
            longest_ps[row] = max(longest_ps[row], free - now)
            tag_of[row], last_ps[row] = tag, free - release_ps[here]
            if at_switch:
                queue_time_ps[queues], queue_ps[queues] = now - release_ps[here], free - now
                queues = note(queue_time_ps, queue_ps, first_queue, queues + 1, width_ps)
                queue_unit[queues - 1] = here
    rows = row + 1
    return Passages(
        unit[:rows],
        link_of[:rows],
        first_ps[:rows],
        last_ps[:rows],
        amount[:rows],
        size[:rows],
        busy_ps[:rows],
        longest_ps[:rows],
        tag_of[:rows],
        queue_unit[:queues],
        queue_time_ps[:queues],
        queue_ps[:queues],
        apart,
    )
