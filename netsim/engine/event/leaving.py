"""Marks of packets that leave a link, by the work that they leave behind, in compiled code.

A packet's last bit leaves at a time that is known when it joins the queue. What has come until then is known when the
next packet comes to the link, or else when the marked one is at the link's end.
"""

from netsim.engine.event.compiled import compiled
from netsim.engine.event.queues import marks
from netsim.engine.event.rates import rate_at
from netsim.engine.event.state import Flight, Network


@compiled
def await_mark(network: Network, flight: Flight, index: int, at: int) -> None:
    """Notes that a packet has joined the queue of a link, as the last one."""
    link = network.links[at]
    if link.at_switch and link.unmarked < 0 and not flight.packets[index].passes:
        link.unmarked = index


@compiled
def mark_left(network: Network, flight: Flight, at: int, now: int) -> None:
    """Marks those packets whose last bit has left a link by now, before anything else joins its queue."""
    link = network.links[at]
    kind = network.kinds[link.kind]
    while link.unmarked >= 0:
        packet = flight.packets[link.unmarked]
        leaves = packet.time_ps - kind.delay_ps
        if leaves > now:
            return
        link.unmarked = packet.next
        rate = rate_at(network, at, leaves) if link.varies else kind.rate_bps
        may_mark = rate and not packet.control and not packet.marked
        if may_mark and marks(network, link, kind, at, packet, max(0, link.free_ps - leaves), rate):
            packet.marked = 1
            network.totals[0].marked += 1
