"""The flow-level engine with every transport, and with links that fail."""

import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from netsim.engine.fluid.engine import FluidEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.refusal import Refusal
from netsim.topology.failure import FailureConfig
from netsim.transport.ecmp import Ecmp, Subflows
from netsim.transport.ethereal import Ethereal
from netsim.transport.protocol import Transport
from netsim.transport.reps import Reps
from netsim.transport.spray import DestinationRotation, SprayRandom, SprayRoundRobin
from netsim.transport.switched import Drill, JoinShortestQueue
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.scenes import all_to_all, fabric, flow, scene

SERVICE, DELAY = 320_000, 500_000
PINNED: dict[str, Callable[[int, int], Transport]] = {
    "ecmp": Ecmp,
    "ecmp crc32": lambda seed, paths: Ecmp(seed, paths, "crc32"),
    "subflows": lambda seed, paths: Subflows(seed, paths, 3),
    "ethereal": Ethereal,
    "ethereal minimal": lambda seed, paths: Ethereal(seed, paths, "minimal"),
    "ethereal staggered": lambda seed, paths: Ethereal(seed, paths, order="staggered"),
}
SPREADING: dict[str, Callable[[int, int], Transport]] = {
    "spray random": SprayRandom,
    "spray round robin": SprayRoundRobin,
    "drb": DestinationRotation,
    "reps": lambda seed, paths: Reps(seed, paths, 8, 10**9, 100_000),
    "jsq": JoinShortestQueue,
    "drill": Drill,
}


def messages(seed: int, hosts: int) -> list[Task]:
    """Messages of a few sizes between any hosts, some in one instant, some later, some after others."""
    draw = random.Random(seed)
    tasks = []
    for index in range(60):
        src, dst = draw.randrange(hosts), draw.randrange(hosts)
        after = (draw.randrange(index),) if index > 40 else ()
        tasks.append(Task(src, dst, draw.choice([1, 4000, 24_000, 50_001]), draw.choice([0, 0, 10**6]), after))
    return tasks


@each("name, seed", product(PINNED, range(3)))
def test_links_carry_what_they_carry_packet_by_packet(name, seed):
    """What a link carries does not depend on when; ids, sizes and messages of all flows are the same too."""
    what = scene(fabric(3, 4, 3), messages(seed, 9)[:40], header="60B")
    fluid = FluidEngine(what, PINNED[name](seed, what.most_paths)).run()
    packets = ReferenceEngine(what, PINNED[name](seed, what.most_paths), seed).run()
    assert list(fluid.links["bytes"]) == list(packets.links["bytes"])
    for column in ("id", "task", "src", "dst", "bytes"):
        assert list(fluid.flows[column]) == list(packets.flows[column])


@each("name", SPREADING)
def test_sprays_spread_evenly(name):
    what = scene(fabric(3, 4, 3), messages(7, 9))
    ideal = FluidEngine(what).run()
    spray = FluidEngine(what, SPREADING[name](0, what.most_paths)).run()
    assert list(spray.task_end_ps) == list(ideal.task_end_ps)
    assert list(spray.links["bytes"]) == list(ideal.links["bytes"])


class AskedEcmp(Ecmp):
    """Not known to be hashes alone, so the engine asks it message by message."""


@each("seed", range(3))
def test_hashing_all_messages_at_once_changes_nothing(seed):
    failures = [FailureConfig.model_validate({"link": "leaf1-spine0", "at": "1us", "noticed_after": "500ns"})]
    what = scene(fabric(3, 4, 3), messages(seed, 9), failures=failures)
    at_once = FluidEngine(what, Ecmp(seed, 4)).run()
    assert at_once.equals(FluidEngine(what, AskedEcmp(seed, 4)).run())


def test_two_flows_over_two_spines_take_twice_as_long_if_their_hashes_collide():
    size = 1000 * 4000
    what = scene(fabric(2, 2, 2), [flow(0, 2, size), flow(1, 3, size)])
    times = [FluidEngine(what, Ecmp(seed, 2)).run().completion_ps for seed in range(40)]
    alone = 1000 * SERVICE
    tail = 4 * DELAY + 3 * SERVICE
    assert set(times) == {alone + tail, 2 * alone + tail}
    assert 10 <= times.count(2 * alone + tail) <= 30


@each("name", ["ecmp", "subflows"])
def test_equal_flows_that_start_together_complete_with_the_most_loaded_link(name):
    what = scene(fabric(4, 4, 4), all_to_all(16, 12_000))
    outcome = FluidEngine(what, PINNED[name](3, 4)).run()
    load = max(outcome.links["bytes"] * 80)
    assert outcome.completion_ps == pytest.approx(load + 4 * DELAY + 3 * SERVICE, abs=2)


@each("seed", range(5))
def test_ethereal_is_the_ideal_if_it_cuts_nothing_and_no_faster_if_it_does(seed):
    """With pieces among whole flows all links carry the same, but a max-min share is a flow's, whatever its size."""
    for spines, cut in ((2, False), (4, False), (3, True)):
        what = scene(fabric(4, spines, 4), all_to_all(16, 240_000))
        ideal = FluidEngine(what).run()
        ethereal = FluidEngine(what, Ethereal(seed, spines)).run()
        assert list(ethereal.links["bytes"]) == list(ideal.links["bytes"])
        assert cut or ethereal.completion_ps == ideal.completion_ps
        assert ideal.completion_ps <= ethereal.completion_ps <= 1.02 * ideal.completion_ps


def test_a_flow_whose_start_is_put_off_has_its_links_from_then_on():
    what = scene(fabric(1, 1, 2), [flow(0, 1, 40_000)])

    class Later(Transport):
        def admit(self, released, now_ps):
            return [each._replace(path=0, delay_ps=7_000_000) for each in super().admit(released, now_ps)]

    outcome = FluidEngine(what, Later(0, 1)).run()
    assert outcome.completion_ps == 7_000_000 + 11 * SERVICE + 2 * DELAY
    assert outcome.flows.start_ps[0] == 0


def failing(**fields: object) -> list[FailureConfig]:
    return [FailureConfig.model_validate(fields)]


def run_over_spine_0(failures: list[FailureConfig], size_bytes: int) -> tuple[Scene, Outcome]:
    """One flow between two leaves whose hash, of two spines, is the first."""
    what = scene(fabric(2, 2, 1), [flow(0, 1, size_bytes)], failures=failures)
    seed = next(seed for seed in range(99) if FluidEngine(what, Ecmp(seed, 2)).run().links.bytes[4])
    return what, FluidEngine(what, Ecmp(seed, 2)).run()


def test_a_link_that_slows_down_takes_its_flow_with_it():
    """100 packets, of which 25 at the full rate and 75 at a quarter."""
    failures = failing(link="leaf0-spine0", at="8us", rate="25Gbps")
    _, outcome = run_over_spine_0(failures, 100 * 4000)
    tail = 4 * DELAY + 2 * SERVICE + 4 * SERVICE
    assert outcome.completion_ps == 25 * SERVICE + 75 * 4 * SERVICE + tail


def test_a_flow_waits_for_a_link_that_is_down_until_it_is_up_again():
    failures = failing(link="leaf0-spine0", at="8us", until="1ms", noticed_after="never")
    _, outcome = run_over_spine_0(failures, 100 * 4000)
    assert outcome.completion_ps == 10**9 + 75 * SERVICE + 4 * DELAY + 3 * SERVICE


def test_a_flow_leaves_a_link_that_the_routing_knows_to_be_down():
    """25 packets before the failure, nothing until it is noticed, 75 packets over the other spine."""
    failures = failing(link="leaf0-spine0", at="8us", noticed_after="20us")
    what, outcome = run_over_spine_0(failures, 100 * 4000)
    assert outcome.completion_ps == 28_000_000 + 75 * SERVICE + 4 * DELAY + 3 * SERVICE
    carried = {link.name: int(size) for link, size in zip(what.topology.links, outcome.links["bytes"], strict=True)}
    assert carried["leaf0-spine0"] == carried["spine0-leaf1"] == 25 * 4000
    assert carried["leaf0-spine1"] == carried["spine1-leaf1"] == 75 * 4000
    assert carried["host0-leaf0"] == 100 * 4000


def test_what_spreads_does_so_over_the_paths_that_are_left():
    """Until 8 us half of the bytes take each spine, then none until the failure is noticed, then all take one."""
    failures = failing(switch="spine1", at="8us", noticed_after="2us")
    what = scene(fabric(2, 2, 1), [flow(0, 1, 100 * 4000)], failures=failures)
    outcome = FluidEngine(what).run()
    assert outcome.completion_ps == 10_000_000 + 75 * SERVICE + 4 * DELAY + 3 * SERVICE
    carried = {link.name: int(size) for link, size in zip(what.topology.links, outcome.links["bytes"], strict=True)}
    assert carried["leaf0-spine1"] == 12.5 * 4000
    assert carried["leaf0-spine0"] == 87.5 * 4000


def test_a_flow_that_nothing_will_ever_move_is_an_error():
    failures = failing(link="leaf0-spine0", at="8us", noticed_after="never")
    what = scene(fabric(2, 1, 1), [flow(0, 1, 100 * 4000)], failures=failures)
    with pytest.raises(Refusal, match=r"failures: 1 messages never arrive.*400000 B from rank 0 to rank 1"):
        FluidEngine(what).run()


def test_every_allocation_is_certified(monkeypatch):
    """A run with wrong rates fails."""
    what = scene(fabric(2, 2, 2), all_to_all(4, 4000))

    def too_little(*arguments: np.ndarray) -> None:
        _, rising, _, rate, _, capacity = arguments
        rate[rising] = capacity.min() / 100

    monkeypatch.setattr("netsim.engine._core.fill_rates", too_little)
    with pytest.raises(RuntimeError, match="0 links overfull, 12 flows unjustified"):
        FluidEngine(what, Ecmp(0, 2)).run()


def test_many_flows_that_end_one_by_one():
    """Messages of sizes 1..n from one host over one link end as processor sharing has it, in any order given."""
    sizes = np.arange(1, 41) * 4000
    order = np.random.default_rng(0).permutation(40)
    what = scene(fabric(1, 1, 41), [flow(0, 1 + int(place), int(sizes[place])) for place in order])
    outcome = FluidEngine(what).run()
    left = np.diff(sizes, prepend=0) * np.arange(40, 0, -1)
    assert list(outcome.task_end_ps) == list((np.cumsum(left) * 80 + 2 * DELAY + SERVICE)[order])
