"""A collective trace as a program: order, gaps, asynchronous records, what each operation moves."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from netsim import Results, simulate
from netsim.simulation.compare import prepare
from netsim.simulation.scenario import read_scenario
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of
from tests.netsim.traces import TraceWriter

SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns
INSIDE = 2 * DELAY + SERVICE  # what remains of a message below one leaf after its last packet has left


def scenario(path: Path, hosts: int, **changes: Any) -> dict[str, Any]:
    """All hosts on one leaf, so that times have closed forms."""
    return scenario_of(1, 1, hosts, {"kind": "trace", "path": str(path)}) | changes


def completion_ps(trace: TraceWriter, folder: Path, hosts: int | None = None, **changes: Any) -> int:
    """Completion time of the replay, which must not beat its bound."""
    path = trace.write(folder / "trace.jsonl")
    run = simulate(scenario(path, hosts or trace.header["world_size"], **changes)).runs[0]
    assert run.bound_ps <= run.completion_ps
    return run.completion_ps


def moved(trace: TraceWriter, folder: Path, **changes: Any) -> Counter[tuple[int, int]]:
    """Bytes from rank to rank."""
    path = trace.write(folder / "trace.jsonl")
    read = read_scenario(scenario(path, trace.header["world_size"], **changes))
    sent: Counter[tuple[int, int]] = Counter()
    for task in prepare(read, "scenario").scene.tasks:
        if task.bytes:
            sent[task.src, task.dst] += task.bytes
    return sent


def test_all_to_all_moves_the_splits_but_the_own_block(tmp_path):
    matrix = [[9, 10, 20], [30, 9, 0], [50, 60, 9]]
    trace = TraceWriter(3)
    trace.all_to_all(matrix)
    assert moved(trace, tmp_path) == {
        (i, j): matrix[i][j] for i in range(3) for j in range(3) if i != j and matrix[i][j]
    }


@each("ranks", [2, 4, 5])
def test_ring_operations_move_what_their_closed_forms_say(tmp_path, ranks):
    sizes = [100 + rank for rank in range(ranks)]
    all_reduce, all_gather, reduce_scatter = TraceWriter(ranks), TraceWriter(ranks), TraceWriter(ranks)
    all_reduce.all_reduce(1003)
    all_gather.all_gather(sizes)
    reduce_scatter.reduce_scatter(sizes)
    assert sum(moved(all_reduce, tmp_path).values()) == 2 * (ranks - 1) * 1003
    assert sum(moved(all_gather, tmp_path).values()) == (ranks - 1) * sum(sizes)
    assert sum(moved(reduce_scatter, tmp_path).values()) == (ranks - 1) * sum(sizes)


def test_broadcast_reaches_all_from_its_root_within_its_group(tmp_path):
    trace = TraceWriter(6, {"odd": [1, 3, 5]})
    trace.broadcast(root=3, size_bytes=700, group="odd")
    assert moved(trace, tmp_path) == {(3, 5): 700, (3, 1): 700}


def test_send_meets_recv_by_pair_and_tag(tmp_path):
    """The receiver posts its receives in another order than they are sent, told apart by tag."""
    trace = TraceWriter(2)
    trace.add(0, "send", 4000, 0, peer=1, tag=1, **{"async": True, "wait_seq": 2})
    trace.add(0, "send", 8000, 0, peer=1, tag=2)
    trace.add(1, "recv", 0, 8000, peer=0, tag=2)
    trace.add(1, "recv", 0, 4000, peer=0, tag=1)
    assert moved(trace, tmp_path) == {(0, 1): 12000}
    assert completion_ps(trace, tmp_path) == 3 * SERVICE + INSIDE


def test_synchronous_records_follow_each_other_and_gaps_add(tmp_path):
    trace = TraceWriter(2)
    trace.pair(0, 1, 4000, gap_ns=700)
    trace.pair(0, 1, 8000, gap_ns=50)
    trace.pair(1, 0, 4000)
    assert completion_ps(trace, tmp_path) == 750_000 + 4 * SERVICE + 3 * INSIDE


def test_asynchronous_record_overlaps_until_its_wait(tmp_path):
    """Ten packets under way while a gap of two and a half of them passes; the third record waits for them."""
    gap_ns = 800
    trace = TraceWriter(3)
    late = {"async": True, "wait_seq": 2}
    trace.add(0, "send", 40_000, 0, peer=1, **late)
    trace.add(0, "send", 4000, 0, peer=2, gap_ns=gap_ns)
    trace.add(0, "send", 4000, 0, peer=2)
    trace.add(1, "recv", 0, 40_000, peer=0)
    trace.add(2, "recv", 0, 4000, peer=0)
    trace.add(2, "recv", 0, 4000, peer=0)
    # The NIC serves eleven packets without a pause; then the awaited send is over, and the last one starts.
    assert completion_ps(trace, tmp_path) == 11 * SERVICE + INSIDE + SERVICE + INSIDE
    trace.records[0].update({"wait_seq": 3})
    # Not waited for: the last send starts when the second is over; by then the NIC is idle, the first not yet there.
    second_over = 5 * SERVICE + INSIDE
    assert completion_ps(trace, tmp_path) == max(11 * SERVICE, second_over) + SERVICE + INSIDE
    trace.records[0].update({"async": False, "wait_seq": None})
    assert completion_ps(trace, tmp_path) == 10 * SERVICE + INSIDE + gap_ns * 1000 + 2 * (SERVICE + INSIDE)


def test_a_collective_starts_at_each_rank_when_that_rank_comes(tmp_path):
    """Rank 2 comes late; what it sends is late, what the others send each other is not."""
    trace = TraceWriter(3)
    block = 10 * 4000
    trace.all_to_all([[0, block, 0], [block, 0, 0], [0, block, 0]])
    trace.records[2]["gap_ns"] = 50_000
    path = trace.write(tmp_path / "trace.jsonl")
    flows = simulate(scenario(path, 3)).runs[0].flows
    ends = {(int(src), int(dst)): int(end) for _, _, src, dst, _, _, _, end, *_ in flows.tolist()}
    assert ends[0, 1] == ends[1, 0] == 10 * SERVICE + INSIDE
    assert ends[2, 1] == 50_000_000 + 10 * SERVICE + INSIDE


def test_a_barrier_costs_the_wait_for_the_last_and_nothing_else(tmp_path):
    trace = TraceWriter(7)
    for rank in range(7):
        trace.add(rank, "barrier", 0, 0, gap_ns=1000 if rank == 5 else 10)
    trace.pair(0, 1, 4000)
    assert completion_ps(trace, tmp_path) == 1_000_000 + SERVICE + INSIDE


def test_groups_of_one_rank_count_only_by_their_gap(tmp_path):
    trace = TraceWriter(2, {"alone": [0]})
    trace.all_reduce(10**9, group="alone", gap_ns=300)
    trace.pair(0, 1, 4000, gap_ns=100)
    assert completion_ps(trace, tmp_path) == 400_000 + SERVICE + INSIDE


def test_disjoint_groups_run_side_by_side(tmp_path):
    one, two = TraceWriter(4, {"a": [0, 1], "b": [2, 3]}), TraceWriter(4, {"a": [0, 1], "b": [2, 3]})
    one.all_reduce(80_000, group="a")
    two.all_reduce(80_000, group="a")
    two.all_reduce(80_000, group="b")
    assert completion_ps(one, tmp_path) == completion_ps(two, tmp_path)


def test_overlapping_groups_in_different_order_at_different_ranks(tmp_path):
    """Matching is by group: rank 1 reduces in a first and then in b, rank 2 the other way round with c."""
    trace = TraceWriter(3, {"a": [0, 1], "b": [1, 2]})
    trace.add(0, "all_reduce", 8000, 8000, group="a")
    trace.add(1, "all_reduce", 8000, 8000, group="a")
    trace.add(1, "all_reduce", 400, 400, group="b")
    trace.add(2, "all_reduce", 400, 400, group="b")
    assert moved(trace, tmp_path) == {(0, 1): 8000, (1, 0): 8000, (1, 2): 400, (2, 1): 400}


def two_steps() -> TraceWriter:
    trace = TraceWriter(2, steps=(4, 5))
    trace.pair(0, 1, 4000)
    trace.pair(0, 1, 12_000, step=5)
    return trace


def test_steps_are_replayed_one_after_the_other_or_as_chosen(tmp_path):
    trace = two_steps()
    both = completion_ps(trace, tmp_path)
    assert both == 4 * SERVICE + 2 * INSIDE
    path = tmp_path / "trace.jsonl"
    chosen = {"kind": "trace", "path": str(path), "steps": [5]}
    assert completion_ps(trace, tmp_path, workload=chosen) == 3 * SERVICE + INSIDE


def test_jobs_place_traces_on_ranks_and_share_the_fabric(tmp_path):
    """Two jobs of two ranks each send to the same host's link at once, from different hosts."""
    trace = TraceWriter(2)
    trace.pair(0, 1, 40_000)
    workload = {"kind": "trace", "path": str(trace.write(tmp_path / "trace.jsonl"))}
    content = scenario(tmp_path, 4)
    content.pop("workload")
    apart = content | {"jobs": [{"workload": workload, "ranks": [0, 1]}, {"workload": workload, "ranks": [2, 3]}]}
    assert simulate(apart).runs[0].completion_ps == 10 * SERVICE + INSIDE
    shared = content | {"jobs": [{"workload": workload, "ranks": [0, 3]}, {"workload": workload, "ranks": [2, 3]}]}
    assert simulate(shared).runs[0].completion_ps == 20 * SERVICE + INSIDE
    later = content | {"jobs": [{"workload": workload, "ranks": [2, 3], "start": "1us"}]}
    assert simulate(later).runs[0].completion_ps == 1_000_000 + 10 * SERVICE + INSIDE


def test_rank_order_and_ranks_per_host_decide_what_crosses_the_fabric(tmp_path):
    """Neighbours talk: packed two a host they stay inside, dealt out over the leaves they cross."""
    trace = TraceWriter(4, {"a": [0, 1], "b": [2, 3]})
    trace.all_reduce(8000, group="a")
    trace.all_reduce(8000, group="b")
    path = trace.write(tmp_path / "trace.jsonl")
    topology = {"kind": "leaf_spine", "leaves": 2, "spines": 1, "hosts_per_leaf": 1, "ranks_per_host": 2}

    def on_fabric(results: Results) -> int:
        named = zip(results.links, results.runs[0].links, strict=True)
        return sum(record.bytes for link, record in named if "spine" in link.name)

    assert on_fabric(simulate(scenario(path, 0, topology=topology))) == 0
    dealt = scenario(path, 0, topology=topology, rank_order=[0, 2, 1, 3])
    assert on_fabric(simulate(dealt)) == 2 * 4 * 8000


def test_the_golden_trace_of_the_trainer_is_replayed_as_it_stands():
    path = Path("tests/files/collectives.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    gaps_ns = max(
        sum(line["gap_ns"] or 0 for line in lines if line["rank"] == rank) for rank in {line["rank"] for line in lines}
    )
    run = simulate(scenario(path, 2)).runs[0]
    assert run.completion_ps >= run.bound_ps >= gaps_ns * 1000
    crossing = sum(
        sum(size for peer, size in enumerate(line["in_splits"]) if peer != line["rank"])
        for line in lines
        if line["op"] == "all_to_all"
    )
    assert crossing <= int(run.flows["bytes"].sum())


def test_a_job_must_list_as_many_ranks_as_its_trace_has(tmp_path):
    trace = TraceWriter(2)
    trace.pair(0, 1, 4000)
    content = scenario(tmp_path, 4)
    workload = content.pop("workload") | {"path": str(trace.write(tmp_path / "trace.jsonl"))}
    with pytest.raises(ValueError, match=r"jobs\.0\.ranks: the workload has 2 ranks, the job lists 3; list 2 ranks"):
        simulate(content | {"jobs": [{"workload": workload, "ranks": [0, 1, 2]}]})


@each(
    "op, total",
    [
        ("all_to_all", 4 * 3 * 1000),
        ("all_reduce", 2 * 3 * 4000),
        ("reduce_scatter", 3 * 4000),
        ("all_gather", 4 * 3 * 4000),
        ("broadcast", 3 * 4000),
    ],
)
def test_bytes_per_rank_is_the_input_buffer(tmp_path, op, total):
    """Four ranks with 4000 B each, by the closed forms of the collectives."""
    collective = collective_of(op, "4000B")
    run = simulate(scenario(tmp_path, 4, workload=collective)).runs[0]
    assert int(run.flows["bytes"].sum()) == total
    assert run.completion_ps >= run.bound_ps
