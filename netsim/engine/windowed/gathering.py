"""The packets that arrive in a window and region, taken out of the wheel and sorted by unit."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import State
from netsim.engine.event.transit import next_link
from netsim.engine.windowed.ahead import fetch_for_gathering
from netsim.engine.windowed.regions import OF_HOSTS, OF_SWITCHES, is_of_hosts
from netsim.engine.windowed.wheel import CHUNK, Wheel, due_now, put, use_chunks


@compiled
def gather(state: State, wheel: Wheel) -> None:
    """Takes the packets that arrive in the open window and region out of their bucket, and sorts them by unit."""
    window, units, now = wheel.window[0], wheel.units, due_now(wheel)
    bucket = wheel.buckets[now * window.regions + window.region]
    first, last, fill = np.int64(bucket.first), np.int64(bucket.last), np.int64(bucket.fill)
    bucket.first = -1
    found, touched, chunks, chunk = np.int64(0), np.int64(0), np.int64(0), first
    while chunk >= 0:
        chunks += 1
        size = fill if chunk == last else np.int64(CHUNK)
        following = np.int64(-1) if chunk == last else np.int64(wheel.next_chunk[chunk])
        window.in_flight -= size
        wheel.due[now] -= size
        for place in range(chunk * CHUNK, chunk * CHUNK + size):
            fetch_for_gathering(state, wheel, place, chunk * CHUNK + size, following * CHUNK)
            packet = wheel.packets[place]
            if packet.time_ps >= window.end_ps:
                put(wheel, packet, packet.unit, window.region, packet.time_ps)
                continue
            index = np.int64(packet.unit) if packet.unit >= 0 else next_link(state, packet, packet.time_ps)
            arrival, unit = wheel.found[found], units[index]
            arrival.time_ps, arrival.key, arrival.place, arrival.unit = packet.time_ps, packet.key, place, index
            found += 1
            if not unit.end:
                wheel.touched[touched] = index
                touched += 1
            unit.end += 1
        chunk = following
    if first >= 0:
        use_chunks(wheel, OF_HOSTS if is_of_hosts(window, window.region) else OF_SWITCHES, first, last, chunks)
    row = np.int64(window.arrivals)
    window.touched = touched
    window.arrivals += found
    for place in range(touched):
        unit = units[wheel.touched[place]]
        row += unit.end
        unit.begin = unit.end = row - unit.end
    for place in range(found):
        unit = units[wheel.found[place].unit]
        wheel.arrivals[unit.end] = wheel.found[place]
        unit.end += 1
