"""Data that arrives at hosts in one window, which may end messages and let tasks begin."""

import numpy as np

from netsim.engine.event.calendar import END_PS
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import ASKED
from netsim.engine.event.kernel import NEEDS_ROOM
from netsim.engine.event.state import Record, State, Whole
from netsim.engine.event.transit import receive
from netsim.engine.windowed.gathering import gather
from netsim.engine.windowed.pending import activate, touch_woken
from netsim.engine.windowed.records import GOES_ON
from netsim.engine.windowed.regions import is_of_hosts
from netsim.engine.windowed.sorting import sort
from netsim.engine.windowed.wheel import Wheel, Wheels, lacks_room_for_arrivals


@compiled
def deal_with_receivers(state: State, wheels: Wheels, wheel: Wheel) -> Whole:
    """Lets the hosts of all regions of a thread receive what has come; returns why the loop must stop."""
    window = wheel.window[0]
    while is_of_hosts(window, window.region):
        if lacks_room_for_arrivals(wheels, wheel):
            return NEEDS_ROOM
        gather(state, wheels, wheel)
        _deal_with_region(state, wheel)
        touch_woken(wheel, np.int64(window.region))
        window.region += window.threads
    if window.regions > 1:
        window.touched, window.region = 0, window.regions // 2 + window.thread
    _order_receipts(wheel)
    return GOES_ON


@compiled
def _deal_with_region(state: State, wheel: Wheel) -> None:
    """Sorts the arrivals at hosts, and turns data into acknowledgements.

    If the run ends with a message in the middle of a window, data must wait: it is received in the order in which it
    comes to all hosts, see `receive_next`.
    """
    window, waits = wheel.window[0], state.network.rules[0].ends_early > 0
    first_ps = window.number * window.length_ps
    for place in range(window.touched):
        index = np.int64(wheel.touched[place])
        unit = wheel.units[index]
        if unit.at_host:
            begin, end = np.int64(unit.begin), np.int64(unit.end)
            sort(wheel.arrivals, wheel.found, wheel.places, begin, end, first_ps, window.end_ps)
            if waits:
                _collect(wheel, begin, end)
            else:
                _receive(state, wheel, unit)
            activate(wheel, index)
    window.at_hosts = window.arrivals


@compiled
def _order_receipts(wheel: Wheel) -> None:
    """Sorts the data that waits at all receivers."""
    window = wheel.window[0]
    rows = np.int64(0), np.int64(window.receipts)
    sort(wheel.receipts, wheel.found, wheel.places, *rows, window.number * window.length_ps, window.end_ps)


@compiled
def _receive(state: State, wheel: Wheel, unit: Record) -> None:
    """What is not acknowledged is gone, but a receiver that asks for packets takes note of it, see `windowed.hosts`."""
    kept, asks = np.int64(unit.begin), state.network.rules[0].congestion == ASKED
    for row in range(unit.begin, unit.end):
        arrival = wheel.arrivals[row]
        packet = wheel.packets[arrival.place]
        if packet.control or receive(state, packet, state.hosts.flows[packet.flow], arrival.time_ps) or asks:
            wheel.arrivals[kept] = arrival
            kept += 1
    unit.end = kept


@compiled
def _collect(wheel: Wheel, begin: int, end: int) -> None:
    """Adds data to the receipts of the window."""
    window = wheel.window[0]
    for row in range(begin, end):
        if not wheel.packets[wheel.arrivals[row].place].control:
            wheel.receipts[window.receipts] = wheel.arrivals[row]
            window.receipts += 1


@compiled
def next_receipt(wheel: Wheel) -> tuple[Whole, Whole]:
    """When the next data that waits comes to its receiver, END_PS if none waits, and its key."""
    window = wheel.window[0]
    if window.received == window.receipts:
        return END_PS, np.int64(0)
    receipt = wheel.receipts[window.received]
    return receipt.time_ps, receipt.key


@compiled
def receive_next(state: State, wheel: Wheel) -> None:
    """Data that waits becomes an acknowledgement."""
    window = wheel.window[0]
    receipt = wheel.receipts[window.received]
    window.received += 1
    packet = wheel.packets[receipt.place]
    receive(state, packet, state.hosts.flows[packet.flow], receipt.time_ps)
