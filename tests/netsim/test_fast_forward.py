"""Fast-forward gives the reference engine's outcome to the last bit, and skips what repeats."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from netsim import simulate
from netsim.collective.columns import message_columns
from netsim.collective.protocol import Operation
from netsim.engine.forward.engine import ForwardEngine
from netsim.engine.forward.refusal import refusal
from netsim.engine.forward.unit import thin
from netsim.engine.protocol import NicConfig, Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.refusal import Refusal
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig
from netsim.workload.program import Program, keys_of
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of
from tests.netsim.plain_schedules import direct_all_to_all
from tests.netsim.plain_schedules import ring_all_reduce as all_reduce
from tests.netsim.repeated_scenes import DRAWN, ROUTINGS, repeated_scene
from tests.netsim.scenes import fabric, flow, scene

CONFIG: TypeAdapter[Any] = TypeAdapter(TransportConfig)
STAGGERED = {"kind": "ethereal", "order": "staggered"}
SMALL = scenario_of(
    2, 2, 2, collective_of("all_reduce", "100KB"), transports=[STAGGERED, "ecmp", "spray_random"], seeds=[0, 1]
)


def plain(what: Scene, routing: object, seed: int = 0) -> Outcome:
    return ReferenceEngine(what, build_transport(CONFIG.validate_python(routing), seed, what.most_paths), seed).run()


def assert_equal(what: Scene, routing: object = "ecmp", seed: int = 0) -> float:
    """Checks that both runs are equal, and returns the fraction of messages that were skipped."""
    transport = CONFIG.validate_python(routing)
    assert refusal(what, transport) is None
    most_paths = what.most_paths

    def rest(scene: Scene) -> Outcome:
        return ReferenceEngine(scene, build_transport(transport, seed, most_paths), seed).run()

    followed = ForwardEngine(what, transport, seed, most_paths).run()
    assert followed.whole(rest).equals(plain(what, routing, seed))
    sizes = what.tasks.columns().bytes
    assert 0 <= followed.skipped.bytes <= sizes.sum()
    return followed.skipped.messages / (sizes > 0).sum()


def rings(ranks: int, whole: int, times: int, starts_ps: tuple[int, ...] = (0,)) -> list[Task]:
    """All-reduces by rings, one after the other, that ranks enter at different times."""
    return list(repeated(ranks, whole, times, ring_all_reduce, starts_ps).tasks)


def repeated(
    ranks: int,
    whole: int,
    times: int,
    algorithm: Callable[[int, int], Any],
    starts_ps: tuple[int, ...] = (0,),
    gap_ps: int = 0,
) -> Program:
    """Equal collectives, one after the other, that ranks enter at different times, with a gap between them."""
    program = Program()
    come = [program.wait(rank, (), starts_ps[rank % len(starts_ps)]) for rank in range(ranks)]
    for _ in range(times):
        over = program.carry_out(message_columns(algorithm(ranks, whole)), range(ranks), come)
        come = [program.wait(rank, (end,), gap_ps) for rank, end in enumerate(over)]
    return program


def ring_all_reduce(ranks: int, whole: int) -> Any:
    blocks = tuple(whole // ranks + (rank < whole % ranks) for rank in range(ranks))
    return all_reduce(Operation("all_reduce", ranks, blocks))


def all_to_all(ranks: int, whole: int) -> Any:
    return direct_all_to_all(Operation("all_to_all", ranks, matrix=((whole // ranks,) * ranks,) * ranks))


@each("seed", range(24))
def test_random_programs_equal_the_reference(seed):
    draw = Random(seed)
    what, routing = repeated_scene(draw), draw.choice(ROUTINGS)
    if refusal(what, CONFIG.validate_python(routing)) is None:
        assert_equal(what, routing, seed)


@each("seed", range(24))
def test_random_programs_whose_equal_collectives_draw_alike_equal_the_reference(seed):
    draw = Random(seed)
    what, routing = repeated_scene(draw, alike=True), draw.choice(DRAWN)
    if refusal(what, CONFIG.validate_python(routing)) is None:
        assert_equal(what, routing, seed)


@each("routing", ["ecmp", "spray_random", "drb", "spray_round_robin", "ethereal", "mprdma-4"])
@each("algorithm", [ring_all_reduce, all_to_all])
def test_equal_collectives_that_draw_alike_are_simulated_once(algorithm, routing):
    what = scene(fabric(2, 2, 2), [])
    program = repeated(4, 64_000, 6, algorithm, gap_ps=10**8)
    keys = keys_of(program.tasks.columns(), program.collectives)
    what = what._replace(tasks=program.tasks.with_keys(keys), nic=NicConfig(destinations="random"))
    assert assert_equal(what, routing) >= 0.5


@each("routing", [STAGGERED, "ecmp"])
@each("leaves, hosts, whole", [(1, 3, 30_001), (2, 2, 64_007), (3, 3, 36_000), (4, 2, 5)])
def test_rings_with_uneven_blocks_are_skipped_almost_whole(routing, leaves, hosts, whole):
    what = scene(fabric(leaves, 3, hosts), rings(leaves * hosts, whole, times=2))
    assert assert_equal(what, routing) > 0.6


def test_messages_that_meet_on_one_link_are_followed():
    """Ranks that begin late still send when their predecessor's block arrives, so that two blocks take turns."""
    late = (0, 3_000_000, 0, 900_000)
    what = scene(fabric(2, 2, 2), rings(4, 64_000, times=4, starts_ps=late))
    assert assert_equal(what, STAGGERED) > 0.4


def test_what_cannot_be_told_apart_is_simulated_plainly():
    """Two senders meet on their receiver's link after a collective that repeats."""
    tasks = rings(4, 40_000, times=3)
    last = len(tasks) - 1
    tasks += [Task(0, 3, 90_000, 0, (last,)), Task(1, 3, 90_000, 100_000, (last,)), Task(3, 0, 4000, 0, (last + 1,))]
    assert assert_equal(scene(fabric(2, 2, 2), tasks), STAGGERED) > 0.3
    at_once = [flow(0, 3, 90_000), flow(1, 3, 90_000, 100_000), Task(3, 0, 4000, 0, (0,))]
    assert assert_equal(scene(fabric(2, 2, 2), at_once), STAGGERED) == 0


@each(
    "fields, routing, why",
    [
        ({}, "spray_random", "draws depend on the number"),
        ({}, "drb", "paths are taken in turn"),
        ({}, "flowlet", "keeps state from message to message"),
        ({}, "ethereal", "draws depend on the number"),
        ({"destinations": "random"}, "mprdma-4", "draws depend on the number"),
    ],
)
def test_what_depends_on_numbers_of_messages_is_refused(fields, routing, why):
    what = scene(fabric(2, 2, 2), rings(4, 4000, times=1), **fields)
    assert why in str(refusal(what, CONFIG.validate_python(routing)))


@each("seed", range(5))
def test_thinned_queues_have_the_same_longest_in_every_interval_wherever_they_begin(seed):
    draw = np.random.default_rng(seed)
    time_ps, queue_ps = np.sort(draw.integers(0, 200, 60)), draw.integers(1, 5, 60)
    width = int(draw.integers(3, 30))
    kept_ps, kept, begin = thin(time_ps.copy(), queue_ps.copy(), np.array([0, 25, 60]), width)
    for unit, (first, last) in enumerate(((0, 25), (25, 60))):
        mine = slice(int(begin[unit]), int(begin[unit + 1]))
        for wide in (width, width + 1, 4 * width):
            for shift in range(wide):
                whole = longest(time_ps[first:last] + shift, queue_ps[first:last], wide)
                assert longest(kept_ps[mine] + shift, kept[mine], wide) == whole
    assert len(kept) < 60


def longest(time_ps: np.ndarray, queue_ps: np.ndarray, width_ps: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for interval, queue in zip((time_ps // width_ps).tolist(), queue_ps.tolist(), strict=True):
        found[interval] = max(found.get(interval, 0), queue)
    return found


def test_results_are_the_same_on_and_off_but_for_what_was_skipped(tmp_path: Path):
    on, off = (simulate(SMALL | {"fast_forward": value}) for value in (True, False))
    for results, name in ((on, "on"), (off, "off")):
        results.write(tmp_path / name)
    for name in ("links.csv", "flows.csv", "collectives.csv"):
        assert (tmp_path / "on" / name).read_bytes() == (tmp_path / "off" / name).read_bytes()
    mine, others = on.to_dict()["runs"], off.to_dict()["runs"]
    for run, other in zip(mine, others, strict=True):
        assert (run["sha256"], run["engine"]) == (other["sha256"], other["engine"])
    skipped = {(run["transport"], run["seed"]): run["skipped_bytes"] for run in mine}
    assert skipped["ethereal", 0] > 0 < skipped["ecmp", 1]
    assert skipped["spray_random", 0] == 0
    assert not any(run["skipped_messages"] or run["skipped_bytes"] for run in others)


def test_a_limit_of_simulated_time_says_the_same_on_and_off():
    said = []
    for value in (True, False):
        with pytest.raises(Refusal) as raised:
            simulate(SMALL | {"fast_forward": value, "limits": {"simulated": "9us"}, "transports": ["ecmp"]})
        said.append(str(raised.value))
    assert said[0] == said[1]
