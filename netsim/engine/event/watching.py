"""What a run records over time on request, in compiled code: see `netsim.engine.watch`."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Hosts, Network, Record
from netsim.engine.queue_series import INTERVALS
from netsim.engine.watch import MOST_SAMPLES, SAMPLE

_COLUMNS = len(SAMPLE.names or ())
COUNT, SEEN, STRIDE = range(3)
"""Columns of `Hosts.sampled`: samples kept, acknowledgements so far, acknowledgements a sample."""
WIDTH, USED = range(2)
"""Entries of `Network.carried_shape`: binary logarithm of an interval's length in picoseconds; intervals in use."""


@compiled
def note_carried(network: Network, link: int, time_ps: int, size_bytes: int) -> None:
    """See `netsim.engine.watch.LinkRecorder.add`."""
    carried, shape = network.carried, network.carried_shape
    if not len(carried):
        return
    while time_ps >> shape[WIDTH] >= INTERVALS:
        for row in range(len(carried)):
            for pair in range(INTERVALS // 2):
                carried[row, pair] = carried[row, 2 * pair] + carried[row, 2 * pair + 1]
            for behind in range(INTERVALS // 2, INTERVALS):
                carried[row, behind] = 0
        shape[WIDTH] += 1
        shape[USED] = (shape[USED] + 1) // 2
    interval = time_ps >> shape[WIDTH]
    carried[link, interval] += size_bytes
    shape[USED] = max(shape[USED], interval + 1)


@compiled
def note_window(hosts: Hosts, rules: Record, flow: Record, round_trip_ps: int, now: int) -> None:
    """See `netsim.engine.watch.WindowRecorder.add`."""
    if not len(hosts.slots):
        return
    slot = hosts.slots[flow.task]
    if slot < 0 or flow.id != flow.task * rules.places:
        return
    sampled, samples = hosts.sampled, hosts.samples
    if sampled[slot, SEEN] % sampled[slot, STRIDE] == 0:
        if sampled[slot, COUNT] == MOST_SAMPLES:
            for row in range(MOST_SAMPLES // 2):
                for column in range(_COLUMNS):
                    samples[slot, row, column] = samples[slot, 2 * row, column]
            sampled[slot, COUNT] = MOST_SAMPLES // 2
            sampled[slot, STRIDE] *= 2
        if sampled[slot, SEEN] % sampled[slot, STRIDE] == 0:
            row = sampled[slot, COUNT]
            samples[slot, row, 0], samples[slot, row, 3] = now, round_trip_ps
            samples[slot, row, 1], samples[slot, row, 2] = np.int64(flow.window), np.int64(flow.in_flight)
            sampled[slot, COUNT] += 1
    sampled[slot, SEEN] += 1
