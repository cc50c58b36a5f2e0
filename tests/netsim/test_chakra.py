"""Chakra execution traces as a workload: what nodes become, against closed forms and Google's protocol buffers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from netsim.workload.chakra.nodes import read_node
from netsim.workload.chakra.workload import ChakraConfig, ChakraWorkload
from netsim.workload.program import Program
from tests.each import each
from tests.netsim.chakra_schema import EARLIER, SCALARS, TODAY, earlier_node, metadata, node, write
from tests.netsim.foreign import FILES, INSIDE, SERVICE, foreign, laid_out, run

COMP, SEND, RECV, COLL = 4, 5, 6, 7
ALL_REDUCE, ALL_GATHER, BROADCAST, ALL_TO_ALL, REDUCE_SCATTER, BARRIER = 0, 2, 5, 6, 7, 9


def program(path: Path, groups: Path | None = None) -> Program:
    config = ChakraConfig(kind="chakra", path=str(path), groups=str(groups) if groups else None)
    return laid_out(ChakraWorkload(config), 64)


def completion_ps(path: Path, hosts: int = 4) -> int:
    return run(program(path), hosts).completion_ps


def moved(made: Program) -> dict[tuple[int, int], int]:
    """Bytes from rank to rank."""
    total: dict[tuple[int, int], int] = {}
    for task in made.tasks:
        if task.bytes:
            total[task.src, task.dst] = total.get((task.src, task.dst), 0) + task.bytes
    return total


def send(identity: int, dst: int, size: int, after: tuple[int, ...] = (), tag: int = 0) -> Any:
    return node(identity, SEND, after, comm_dst=dst, comm_size=size, comm_tag=tag)


def recv(identity: int, src: int, size: int, after: tuple[int, ...] = (), tag: int = 0) -> Any:
    return node(identity, RECV, after, comm_src=src, comm_size=size, comm_tag=tag)


EXTREMES: dict[str, list[Any]] = {
    "double": [0.0, -1.5, 1e300, math.inf],
    "float": [0.0, -1.5, 0.25],
    "int32": [0, -1, 2**31 - 1, -(2**31)],
    "int64": [0, -1, 2**63 - 1, -(2**63)],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1],
    "sint32": [0, -1, 2**31 - 1, -(2**31)],
    "sint64": [0, -1, 2**63 - 1, -(2**63)],
    "fixed32": [0, 2**32 - 1],
    "fixed64": [0, 2**64 - 1],
    "sfixed32": [-1, 2**31 - 1],
    "sfixed64": [-1, 2**63 - 1],
    "bool": [False, True],
    "string": ["", "all_reduce", "Ünïcode"],
    "bytes": [b"", b"\x00\xff"],
}


@each("kind", [kind for kind, _ in SCALARS])
def test_attributes_of_every_type_are_read_as_they_were_written(kind):
    made = TODAY["Node"](id=2**64 - 1, name="n", type=1, ctrl_deps=[3, 300], data_deps=[2**63], duration_micros=7)
    for number, value in enumerate(EXTREMES[kind]):
        made.attr.add(name=f"a{number}", doc_string="about", **{f"{kind}_val": value})
    getattr(made.attr.add(name="list"), f"{kind}_list").values.extend(EXTREMES[kind])
    getattr(made.attr.add(name="none"), f"{kind}_list").SetInParent()
    read = read_node(made.SerializeToString(), earlier=False)
    assert (read.id, read.name, read.type, read.duration_us) == (2**64 - 1, "n", 1, 7)
    assert (list(read.control), list(read.data)) == ([3, 300], [2**63])
    single = {f"a{number}": value for number, value in enumerate(EXTREMES[kind])}
    assert dict(read.attributes) == {**single, "list": tuple(EXTREMES[kind]), "none": ()}


def test_computation_delays_what_depends_on_it_and_nothing_else(tmp_path):
    one = [node(1, COMP, duration_us=5), send(2, 1, 4000, (1,)), node(3, COMP, duration_us=7)]
    two = [recv(1, 0, 4000), node(2, COMP, (1,), duration_us=3)]
    path = write(tmp_path, one, two)
    assert completion_ps(path) == 5_000_000 + SERVICE + INSIDE + 3_000_000


def test_nodes_may_stand_in_any_order_and_control_counts_too(tmp_path):
    last = send(9, 1, 4000)
    last.ctrl_deps.extend([5, 77])  # 77 is a caller that a converter has removed
    one = [last, node(5, COMP, (4,), duration_us=2), node(4, COMP, duration_us=1)]
    assert completion_ps(write(tmp_path, one, [recv(1, 0, 4000)])) == 3_000_000 + SERVICE + INSIDE


def test_callers_that_wait_for_what_they_call_follow_data_alone(tmp_path):
    """As profilers record it: the kernel has its caller in ctrl_deps, and the caller's end waits for the kernel."""
    caller, kernel = node(1, COMP, (2,), duration_us=1), node(2, COMP, duration_us=2)
    kernel.ctrl_deps.append(1)
    path = write(tmp_path, [caller, kernel, send(3, 1, 4000, (1,))], [recv(1, 0, 4000)])
    workload = ChakraWorkload(ChakraConfig(kind="chakra", path=str(path)))
    assert run(laid_out(workload, 2), 2).completion_ps == 3_000_000 + SERVICE + INSIDE
    assert workload.notices == [f"{path}: ctrl_deps of 1 ranks contradict data_deps, which alone are followed there"]


@each(
    "comm_type, expected",
    [
        (ALL_REDUCE, 2 * 3 * 4000),
        (ALL_GATHER, 4 * 3 * 4000),
        (REDUCE_SCATTER, 3 * 4000),
        (8, 3 * 4000),
        (ALL_TO_ALL, 4 * 3 * 1000),
        (BROADCAST, 3 * 4000),
        (BARRIER, 0),
    ],
)
def test_comm_size_is_the_input_buffer(tmp_path, comm_type, expected):
    path = write(tmp_path, *[[node(1, COLL, comm_type=comm_type, comm_size=4000)]] * 4)
    made = program(path)
    assert sum(moved(made).values()) == expected
    assert len(made.spans) == 1


def test_splits_held_bytes_and_root_where_they_are_given(tmp_path):
    sizes = [(0, 10, 20), (30, 0, 1), (2, 3, 0)]
    path = write(tmp_path / "a", *([node(1, COLL, comm_type=6, comm_size=sum(s), in_split=s)] for s in sizes))
    assert moved(program(path)) == {(i, j): sizes[i][j] for i in range(3) for j in range(3) if sizes[i][j]}
    path = write(tmp_path / "b", *([node(1, COLL, comm_type=7, comm_size=60, out_bytes=10 * r)] for r in (1, 2, 3)))
    assert moved(program(path)) == {(0, 1): 20 + 30, (1, 2): 10 + 30, (2, 0): 10 + 20}
    path = write(tmp_path / "c", *[[node(1, COLL, comm_type=5, comm_size=9, root_rank=2)]] * 3)
    assert set(moved(program(path)).values()) == {9}
    assert all(dst != 2 for _, dst in moved(program(path)))


def test_sends_meet_receives_by_pair_and_tag(tmp_path):
    one = [send(1, 1, 4000, tag=1), send(2, 1, 8000, tag=2), send(3, 1, 12_000, (2,), tag=1)]
    two = [recv(1, 0, 8000, tag=2), recv(2, 0, 4000, (1,), tag=1), recv(3, 0, 12_000, (2,), tag=1)]
    made = program(write(tmp_path, one, two))
    assert moved(made) == {(0, 1): 24_000}
    assert [(span.op, span.bytes) for span in made.spans] == [("send", 8000), ("send", 4000), ("send", 12_000)]


def test_ranks_that_come_in_opposite_orders_do_not_block_each_other(tmp_path):
    """Rank 0 can do a or c first and needs a for b; rank 1 does c first, then a."""
    groups = metadata(a=(0, 1), c=(0, 1))
    a, c = {"comm_type": BARRIER, "pg_name": "a"}, {"comm_type": BARRIER, "pg_name": "c"}
    one = [node(1, COLL, **a), node(2, COMP, (1,), duration_us=1), node(3, COLL, **c)]
    two = [node(1, COLL, **c), node(2, COMP, (1,), duration_us=1), node(3, COLL, (2,), **a)]
    assert completion_ps(write(tmp_path, one, two, first=groups)) == 2_000_000


def test_groups_come_from_the_files_or_from_a_list(tmp_path):
    members = [[node(1, COLL, comm_type=ALL_GATHER, comm_size=40, pg_name=str(rank % 2))] for rank in range(4)]
    expected = {(0, 2): 40, (2, 0): 40, (1, 3): 40, (3, 1): 40}
    path = write(tmp_path / "in", *members, first=metadata(**{"0": (0, 2), "1": (1, 3)}))
    assert moved(program(path)) == expected
    listed = tmp_path / "groups.json"
    listed.write_text(json.dumps({"0": [0, 2], "1": [1, 3]}))
    assert moved(program(write(tmp_path / "out", *members), listed)) == expected


def test_groups_of_one_move_nothing(tmp_path):
    nodes = [node(1, COLL, comm_type=ALL_REDUCE, comm_size=4000, pg_name="a"), node(2, COMP, (1,), duration_us=1)]
    made = program(write(tmp_path, nodes, first=metadata(a=(0,))))
    assert (moved(made), len(made.spans)) == ({}, 0)


def test_calls_on_the_processor_are_no_communication_of_their_own(tmp_path):
    nodes = [node(1, COLL, duration_us=4, is_cpu_op=True), node(2, COLL, (1,), comm_type=0, comm_size=8000)]
    made = program(write(tmp_path, nodes, nodes))
    assert moved(made) == {(0, 1): 8000, (1, 0): 8000}
    assert run(made, 2).completion_ps == 4_000_000 + 2 * (SERVICE + INSIDE)


def test_the_generation_before_is_told_apart_and_read(tmp_path):
    """ALL_GATHER is 2 in both, REDUCE_SCATTER 3 then and 7 today; runtime is an attribute, parents are one list."""
    earlier = [
        earlier_node(1, COMP, runtime=5, is_cpu_op=True),
        earlier_node(2, COLL, [1], comm_type=3, comm_size=8000, involved_dim=(True, True)),
        earlier_node(3, COLL, [2], comm_type=1, comm_size=8000),
    ]
    today = [
        node(1, COMP, duration_us=5),
        node(2, COLL, (1,), comm_type=REDUCE_SCATTER, comm_size=8000),
        node(3, COLL, (2,), comm_type=ALL_TO_ALL, comm_size=8000),
    ]
    expected = program(write(tmp_path / "today", today, today))
    with_metadata = EARLIER["Metadata"]()
    with_metadata.attribute.add(name="schema", type=4, s="1.0.1")
    for name, first in (("bare", b""), ("described", with_metadata)):
        made = program(write(tmp_path / name, earlier, earlier, first=first))
        assert list(made.tasks) == list(expected.tasks)
        assert made.spans == expected.spans
    for rank in range(2):
        file = tmp_path / "bare" / f"t.{rank}.et"
        file.write_bytes(file.read_bytes()[1:])  # no first message at all
    assert list(program(tmp_path / "bare").tasks) == list(expected.tasks)


def test_json_says_the_same(tmp_path):
    nodes = [node(1, COMP, duration_us=5), node(2, COLL, (1,), comm_type=0, comm_size=8000, pg_name="")]
    graph = [
        {"Id": 1, "Name": "c", "NodeType": 4, "data_deps": [], "runtime": 5, "is_cpu_op": True},
        {"Id": 2, "NodeType": 7, "ctrlDeps": [9], "data_deps": [1], "comm_type": 0, "comm_size": 8000},
    ]
    for rank in range(2):
        (tmp_path / f"j.{rank}.json").write_text(json.dumps({"workload_graph": graph, "ngpus": 2}))
    made, expected = program(tmp_path), program(write(tmp_path / "et", nodes, nodes))
    assert list(made.tasks) == list(expected.tasks)


def test_a_prefix_picks_one_trace_of_several(tmp_path):
    write(tmp_path, [send(1, 1, 10)], [recv(1, 0, 10)], name="a")
    write(tmp_path, [send(1, 1, 20)], [recv(1, 0, 20)], name="b.c")
    assert moved(program(tmp_path / "a")) == {(0, 1): 10}
    assert moved(program(tmp_path / "b.c")) == {(0, 1): 20}


def test_work_without_a_duration_is_noticed(tmp_path):
    path = write(tmp_path, [node(1, COMP, num_ops=10**9), node(2, COMP, duration_us=1, num_ops=5)])
    workload = ChakraWorkload(ChakraConfig(kind="chakra", path=str(path)))
    assert workload.size(1) == 1
    assert workload.notices == [f"{path}: 1 nodes COMP_NODE state their work but no duration, and take no time"]


def test_the_golden_trace_is_read_as_it_stands():
    assert sum(moved(program(FILES / "chakra")).values()) == 2 * 2 * 9000 + 4000


@each("ranks", [4, 8, 16])
@each("name, rounds", [("all_gather", 1), ("all_reduce", 2)])
def test_the_traces_of_astra_sim_take_what_rings_take(ranks, name, rounds):
    """1 MiB in each rank's input buffer; a ring of one leaf, every link busy with one message at a time."""
    path = foreign("astra_sim") / name / f"{ranks}npus_1MB"
    made = program(path)
    block = 2**20 if name == "all_gather" else 2**20 // ranks
    messages = rounds * (ranks - 1)
    assert sum(moved(made).values()) == ranks * messages * block
    once = block * SERVICE // 4000 + INSIDE  # the last packet waits at the leaf for a whole one before it
    assert run(made, ranks).completion_ps == messages * once


def test_sends_do_not_wait_for_their_receivers(tmp_path):
    """A ring in which every rank sends before it receives, as ASTRA-sim's custom collectives are written.

    Their nodes carry a comm_type that has nothing to do with them.
    """
    ranks, rounds, reduction_us = 4, 6, 7
    programs = []
    for rank in range(ranks):
        nodes = []
        for step in range(rounds):
            here = 3 * step
            before = (here - 1,) if step else ()
            nodes.append(node(here, SEND, before, comm_type=5, comm_size=4000, comm_dst=(rank + 1) % ranks, comm_tag=0))
            source = (rank - 1) % ranks
            nodes.append(node(here + 1, RECV, (here,), comm_type=6, comm_size=4000, comm_src=source, comm_tag=0))
            nodes.append(node(here + 2, COMP, (here + 1,), duration_us=reduction_us))
        programs.append(nodes)
    made = program(write(tmp_path, *programs))
    assert {span.op for span in made.spans} == {"send"}
    assert len(made.spans) == ranks * rounds
    assert run(made, ranks).completion_ps == rounds * (SERVICE + INSIDE + reduction_us * 10**6)


def test_astra_sims_custom_collective_takes_what_its_rounds_take():
    path = foreign("astra_sim") / "custom_collectives" / "custom_ring_allreduce_8npus_1MB"
    if not path.is_dir():
        pytest.skip("ASTRA-sim's custom collective is absent")
    once = 131072 * SERVICE // 4000 + INSIDE  # the last packet waits at the leaf for a whole one before it
    reductions = 7 * 7 * 10**6
    assert run(program(path), 8).completion_ps == 14 * once + reductions
