"""The parts of the exact engine against laws of queues and against what they stand for."""

from binascii import crc32
from itertools import product
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from netsim.draws import Draws, Purpose
from netsim.engine import _core
from netsim.engine.core.fabric import fabric_arrays
from netsim.engine.exact.hashes import crc32_hashes, draws
from netsim.engine.exact.travel import RECEIVER, Arrivals, Packets
from netsim.engine.protocol import LINK
from netsim.engine.queue_series import QueueRecorder, no_queues, series_of
from netsim.foundation.units import service_ps as exact_service_ps
from tests.each import each
from tests.netsim.scenes import fabric, flow, scene

SERVICE = 320_000  # 4000 B at 100 Gbps
FABRIC = fabric_arrays(scene(fabric(1, 1, 2), [flow(0, 1, 1)]))
LINK_UP, LINK_DOWN, LINKS = 0, 3, len(FABRIC.delay_ps)


def through_one_link(arrival_ps: list[int], size_bytes: list[int]) -> tuple[list[int], list[int], np.void]:
    """Packets, each of its own flow, through the link of host 0.

    Returns:
        Packets in the order in which they leave; when; what the link saw.
    """
    count = len(arrival_ps)
    receivers = np.zeros(count, dtype=RECEIVER)
    receivers["exit"] = LINK_DOWN
    packets = Packets(
        1, np.full(1, -1, dtype=np.int64), np.arange(count, dtype=np.int32), np.array(size_bytes, dtype=np.int64), 4000
    )
    here = Arrivals(
        np.array([0] + [count] * LINKS, dtype=np.int64),
        np.zeros(LINKS, dtype=np.int64),
        np.array(arrival_ps, dtype=np.int64),
        np.arange(count, dtype=np.int64) << 1,
    )
    there = Arrivals(here.begin, np.zeros(LINKS, dtype=np.int64), np.empty(count, np.int64), np.empty(count, np.int64))
    record = np.zeros(LINKS, dtype=LINK)
    _core.serve(FABRIC, np.array([LINK_UP]), here, there, packets, receivers, record, no_queues())
    delay_ps = FABRIC.delay_ps[LINK_UP]
    return (there.tag >> 1).tolist(), (there.time_ps - delay_ps).tolist(), record[LINK_UP]


ARRIVALS = st.lists(st.integers(0, 40).map(lambda slot: slot * SERVICE // 4), min_size=1, max_size=60)


@given(ARRIVALS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_a_link_serves_in_order_of_arrival_and_never_two_packets_at_once(arrival_ps, draw):
    sizes = [draw.choice([1, 64, 4000, 3999]) for _ in arrival_ps]
    order, leave_ps, record = through_one_link(arrival_ps, sizes)
    assert order == sorted(range(len(sizes)), key=lambda packet: (arrival_ps[packet], packet))
    free = 0
    for packet, leaves in zip(order, leave_ps, strict=True):
        service = exact_service_ps(sizes[packet], 100 * 10**9)
        begin = leaves - service
        assert begin >= max(free, arrival_ps[packet])
        assert begin in (free, arrival_ps[packet])
        free = leaves
    assert record["bytes"] == sum(sizes)
    assert record["busy_ps"] == sum(exact_service_ps(size, 100 * 10**9) for size in sizes)
    assert record["max_queue_ps"] == max(
        leaves - arrival_ps[packet] for packet, leaves in zip(order, leave_ps, strict=True)
    )


@given(ARRIVALS)
@settings(deadline=None, max_examples=100)
def test_departures_are_the_closed_form(arrival_ps):
    """With equal services c the n-th packet leaves at (n + 1) c + the most of a_j - j c over j <= n."""
    _, leave_ps, _ = through_one_link(arrival_ps, [4000] * len(arrival_ps))
    in_order = sorted(arrival_ps)
    closed = [(n + 1) * SERVICE + max(in_order[j] - j * SERVICE for j in range(n + 1)) for n in range(len(in_order))]
    assert leave_ps == closed


@given(ARRIVALS, st.data())
@settings(deadline=None, max_examples=100)
def test_earlier_arrivals_never_make_a_later_departure(arrival_ps, data):
    in_order = sorted(arrival_ps)
    earlier = [time - data.draw(st.integers(0, time)) for time in in_order]
    earlier = [max(earlier[: place + 1]) for place in range(len(earlier))]
    sizes = [4000] * len(in_order)
    _, leave_ps, _ = through_one_link(in_order, sizes)
    _, sooner_ps, _ = through_one_link(earlier, sizes)
    assert all(soon <= late for soon, late in zip(sooner_ps, leave_ps, strict=True))


KEYS = {
    "spread": lambda draw, _: draw.randrange(10**9),
    "any": lambda draw, _: draw.randrange(-(2**63), 2**63),
    "ties": lambda draw, _: draw.randrange(5),
    "bursts": lambda draw, _: draw.choice([0, 2**60]) + draw.randrange(100),
    "in order": lambda _, place: place,
    "runs": lambda draw, place: place % 100 * 1000 + draw.randrange(999),
    "backwards": lambda _, place: -place,
}


@each("size, kind", product([0, 1, 2, 3, 33, 200, 1000], KEYS))
def test_sorts_as_python_does(kind, size):
    draw = Random(size)
    pairs = [(KEYS[kind](draw, place), place) for place in range(size)]
    if kind in ("ties", "bursts"):
        draw.shuffle(pairs)
    key, index = np.array(pairs, dtype=np.int64).reshape(size, 2).T.copy()
    _core.sort_pairs(key, index)
    assert list(zip(key.tolist(), index.tolist(), strict=True)) == sorted(pairs)


@given(
    st.one_of(st.integers(1, 10**9), st.integers(2**20 - 2, 2**20 + 2), st.integers(1, 10_000)),
    st.one_of(st.integers(10**6, 3_600 * 10**9), st.sampled_from([10**6, 10**9, 3 * 10**9, 3_600 * 10**9])),
)
@settings(deadline=None, max_examples=500)
def test_service_times_are_exact(size_bytes, rate_bps):
    assert _core.service_ps(size_bytes, rate_bps) == exact_service_ps(size_bytes, rate_bps)


@each("seed", range(8))
def test_queues_over_time_are_those_of_the_recorder(seed):
    draw = Random(seed)
    recorder, longest = QueueRecorder(), no_queues()
    count = draw.choice([0, 1, 300])
    times_ps = [draw.randrange(10 ** draw.randint(5, 14)) for _ in range(count)]
    queues_ps = [draw.randrange(1, 10**6) for _ in range(count)]
    for time_ps, queue_ps in zip(times_ps, queues_ps, strict=True):
        recorder.add(time_ps, queue_ps)
    _core.note_queues(longest, np.array(times_ps, dtype=np.int64), np.array(queues_ps, dtype=np.int64))
    mine, others = series_of(longest), recorder.series()
    assert mine.width_ps == others.width_ps
    assert mine.max_queue_ps.tolist() == others.max_queue_ps.tolist()


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
@settings(deadline=None, max_examples=50)
def test_hashes_are_those_of_the_transports(seed, src, dst):
    ends = np.array([src]), np.array([dst])
    packed = b"".join(value.to_bytes(8, "little") for value in (seed, src, dst))
    assert crc32_hashes(seed, *ends).tolist() == [crc32(packed)]
    assert draws(seed, Purpose.ECMP_PATH, *ends).tolist() == [Draws(seed, Purpose.ECMP_PATH)(src, dst)]
