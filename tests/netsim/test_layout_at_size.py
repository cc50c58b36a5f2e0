"""Set-up in arrays equals the plain definitions: schedules, tasks, admission and the compiled flow level."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from netsim.collective.columns import IN_COLUMNS, message_columns
from netsim.collective.protocol import Message, Operation
from netsim.congestion.nscc import NsccConfig
from netsim.engine.event import engine as event
from netsim.engine.fluid.engine import FluidEngine
from netsim.engine.fluid.streaming import can_stream, stream
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.workload.program import Program
from tests.each import each
from tests.netsim.random_scenes import random_scene
from tests.netsim.scenes import fabric, flow, scene
from tests.netsim.schedules import ALGORITHMS


def one_by_one(program: Program, messages: Sequence[Message], ranks: Sequence[int], come: Sequence[int]) -> list[int]:
    """What `Program.carry_out` means, message by message."""
    first = len(program.tasks)
    awaited = [[task] for task in come] or [[] for _ in ranks]
    for message in messages:
        after = [*come[message.src : message.src + 1], *(first + earlier for earlier in message.after)]
        moved = program.move(ranks[message.src], ranks[message.dst], message.bytes, after)
        awaited[message.src].append(moved)
        awaited[message.dst].append(moved)
    return [program.wait(rank, tasks) for rank, tasks in zip(ranks, awaited, strict=True)]


@each("largest", [100, 500_000])
@each("size", [1, 2, 5, 7, 8])
@each("op, name", ALGORITHMS)
def test_messages_in_arrays_are_those_of_the_plain_definition(op, name, size, largest):
    random = Random(size)
    blocks = tuple(random.randrange(largest) for _ in range(1 if op == "broadcast" else size))
    matrix = tuple(tuple(random.randrange(9) for _ in range(size)) for _ in range(size))
    operation = Operation(op, size, blocks=blocks, matrix=matrix if op == "all_to_all" else ())
    plain = ALGORITHMS[op, name](operation)
    columns = IN_COLUMNS.get((op, name), lambda _: message_columns(plain))(operation)
    for come in ([], [random.randrange(2) for _ in range(size)]):
        ranks = random.sample(range(40), size)
        expected, found = Program(), Program()
        for program in (expected, found):
            program.wait(0, ())
            program.wait(1, (0,), 5)
        assert one_by_one(expected, plain, ranks, come) == list(found.carry_out(columns, ranks, come))
        assert list(expected.tasks) == list(found.tasks)


def test_tasks_may_be_added_after_their_columns_were_read():
    program = Program()
    program.move(0, 1, 10, ())
    before = program.tasks.columns()
    program.move(1, 0, 20, (0,))
    assert before.bytes.tolist() == [10]
    assert program.tasks.columns().bytes.tolist() == [10, 20]


def test_flows_that_have_ended_make_room_for_others(monkeypatch):
    """With room for two flows at first, a run is the same as with room for all."""
    program = Program()
    program.carry_out(IN_COLUMNS["all_reduce", "ring"](Operation("all_reduce", 8, blocks=(9_000,) * 8)), range(8), [])
    what = scene(fabric(4, 2, 2), program.tasks)
    whole = event.EventEngine(what, Ethereal(0, 2), 0).run()
    monkeypatch.setattr(event, "FEWEST_FLOWS", 2)
    assert event.EventEngine(what, Ethereal(0, 2), 0).run().equals(whole)


@each("seed", range(12))
def test_compiled_flow_level_equals_the_plain_one_where_messages_spread(seed):
    """To a nanosecond; both round ends of flows to picoseconds."""
    what = random_scene(Random(seed))
    if not can_stream(what, None):
        return
    plain, compiled = FluidEngine(what).run(), stream(what, None)
    assert np.abs(plain.task_end_ps - compiled.task_end_ps).max() <= 1000
    assert np.array_equal(plain.links["bytes"], compiled.links["bytes"])


def test_state_of_queue_pairs_changes_nothing_at_flow_level():
    """Messages of a queue pair that begin together are flows like any others."""
    what = scene(fabric(2, 2, 2), [flow(0, 2, 90_000), flow(0, 2, 30_000), flow(1, 2, 50_000)])
    kept = what._replace(congestion=NsccConfig(kind="nscc"))
    assert stream(kept, Ecmp(0, 2)).equals(stream(what, Ecmp(0, 2)))


@each("late_us", [0, 10, 50, 100, 200, 400])
def test_a_ring_whose_ranks_come_late_is_right_at_flow_level(late_us):
    """Packets part the messages of a rank that overlap; even sharing alone ends such a ring up to twice as late."""
    random, program = Random(1), Program()
    come = [program.wait(rank, (), int(random.random() * late_us * 10**6)) for rank in range(16)]
    ring = IN_COLUMNS["all_reduce", "ring"](Operation("all_reduce", 16, blocks=(1_584_000,) * 16))
    program.carry_out(ring, range(16), come)
    what = scene(fabric(4, 4, 4), program.tasks, payload="9000B")
    packets = event.EventEngine(what, Ecmp(0, what.most_paths), 0).run()
    flows = stream(what, Ecmp(0, what.most_paths))
    assert flows.completion_ps == pytest.approx(packets.completion_ps, rel=0.07)
