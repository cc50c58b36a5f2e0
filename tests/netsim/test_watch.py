"""What runs record over time: alike in every engine, complete, and of bounded length."""

from random import Random

import numpy as np

from netsim.engine.event.engine import EventEngine
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.reference.watching import LinkRecorder, WindowRecorder
from netsim.engine.watch import MOST_SAMPLES, WatchConfig
from netsim.transport.build import PACKET_TRANSPORTS
from tests.each import each
from tests.netsim.scenes import all_to_all, fabric, flow, scene

WATCH = WatchConfig(flows=((0, 5), (3, 1)))


def test_links_carry_over_time_what_they_carry_in_all():
    what = scene(fabric(2, 2, 4), all_to_all(8, 60_000))._replace(watch=WATCH)
    outcome = EventEngine(what, PACKET_TRANSPORTS["ecmp"](0, 2), 0).run()
    watched = outcome.watched
    assert watched is not None
    assert np.array_equal(watched.bytes.sum(axis=1), outcome.links["bytes"])
    assert (watched.bytes.shape[1] - 1) * watched.width_ps <= outcome.completion_ps
    rates = np.array([link.rate_bps for link in what.topology.links])
    largest = watched.bytes.max(axis=1)
    assert (8 * (largest - 4000) * 10**12 <= rates * watched.width_ps).all()


@each("classes", [1, 2])
def test_a_packet_that_is_on_a_link_when_a_run_ends_early_is_not_recorded_there(classes):
    """Links with queues count it when its last bit has left, whatever the engine knows before."""
    noise = [flow(src, 4, 200_000)._replace(background=True) for src in range(1, 4)]
    what = scene(fabric(2, 2, 4), [flow(0, 4, 20_000), *noise])._replace(watch=WATCH, classes=classes)
    runs = [engine(what, PACKET_TRANSPORTS["ecmp"](0, 2), 0).run() for engine in (ReferenceEngine, EventEngine)]
    assert runs[0].watched is not None
    assert runs[1].watched is not None
    assert runs[1].watched.equals(runs[0].watched)


def test_a_run_without_watching_records_nothing():
    what = scene(fabric(2, 2, 2), all_to_all(4, 4000))
    assert EventEngine(what, PACKET_TRANSPORTS["ecmp"](0, 2), 0).run().watched is None


def test_intervals_double_and_lose_nothing():
    random, recorder, sums = Random(0), LinkRecorder(3), [0, 0, 0]
    times = sorted(random.randrange(10**12) for _ in range(500))
    for time_ps in times:
        link, size = random.randrange(3), random.randrange(1, 9000)
        recorder.add(link, time_ps, size)
        sums[link] += size
    width_ps, carried = recorder.series()
    assert carried.sum(axis=1).tolist() == sums
    assert carried.shape[1] == times[-1] // width_ps + 1
    assert carried.shape[1] > 128


@each("seen", [10, MOST_SAMPLES, MOST_SAMPLES + 1, 5 * MOST_SAMPLES])
def test_samples_are_every_so_many_acknowledgements(seen):
    recorder = WindowRecorder()
    for time_ps in range(seen):
        recorder.add(time_ps, 1, 1, 1)
    times = recorder.samples()["time_ps"]
    (stride,) = {*np.diff(times).tolist()}
    assert times[0] == 0
    assert len(times) == -(-seen // stride)
    assert len(times) <= MOST_SAMPLES
    assert stride == 1 or len(times) > MOST_SAMPLES // 2
