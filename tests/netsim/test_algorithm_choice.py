"""Algorithms chosen by size, ranks and fabric: estimates beside simulations, NCCL's model, tables, and what is told."""

import json
from pathlib import Path

import pytest
import yaml

from netsim import simulate
from netsim.__main__ import main
from netsim.collective.build import Schedules
from netsim.collective.config import Algorithms
from netsim.collective.fastest import estimates, fastest
from netsim.collective.group import Group, size_of
from netsim.collective.nccl import candidates, nccl
from netsim.foundation.page import Table
from netsim.report.tables import algorithm_sections
from netsim.topology.mapping import capacity, rank_map
from netsim.topology.protocol import Topology
from netsim.workload.collective import operation
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of
from tests.netsim.scenes import fabric

pytestmark = pytest.mark.usefixtures("blank_pictures")

PAYLOAD = 4000


def group_of(topology: Topology) -> Group:
    """All ranks of a fabric."""
    return Group(topology, rank_map(topology, range(capacity(topology))), PAYLOAD, 0)


def scenario(ranks: int, op: str, size: str, algorithms: object, **topology: object) -> dict[str, object]:
    sections = {"algorithms": algorithms, "transports": ["spray_round_robin"], "engine": "simpy"}
    return scenario_of(2, 4, ranks // 2, collective_of(op, size), topology, **sections)


@each("op", ["all_reduce", "all_gather", "reduce_scatter", "broadcast"])
@each("size_bytes", [4, 1000, 64_000, 500_000])
def test_the_choice_is_near_the_best_of_all_simulated_candidates(op, size_bytes):
    """Eight ranks; `python -m tests.benchmarks.algorithms` has 64 ranks and sizes up to 1 GB."""
    group = group_of(fabric(2, 4, 4))
    whole = size_of(operation(op, 8, size_bytes))
    times = {
        name: simulate(scenario(8, op, f"{size_bytes}B", {op: name})).runs[0].completion_ps
        for name in estimates(op, group, whole)
    }
    assert times[fastest(op, group, whole)] <= 1.2 * min(times.values())


def test_estimates_of_rounds_without_contention_are_exact():
    """Recursive doubling of 4 B among 8: one round inside each pair of a leaf, one more in the leaf, one across."""
    group = group_of(fabric(2, 4, 4))
    service, delay = 320, 500_000
    near, far = 2 * (service + delay), 4 * (service + delay)
    assert estimates("all_reduce", group, 4)["recursive_doubling"] == 2 * near + far


def test_small_sums_of_1024_ranks_take_under_150_us():
    group = group_of(fabric(32, 32, 32))
    found = estimates("all_reduce", group, 4)
    assert max(found[fastest("all_reduce", group, 4)], found[nccl("all_reduce", group, 4)]) < 150e6 < found["ring"]


def test_nccl_takes_the_tree_for_small_and_the_ring_for_large_vectors():
    group = group_of(fabric(2, 4, 4))
    assert [nccl("all_reduce", group, size) for size in (4, 10**9)] == ["double_tree", "ring"]
    small = {(c.algorithm, c.protocol): c.time_us for c in candidates("all_reduce", group, 4)}
    # 6.8 us of LL and up and down three network steps of 5 us; 6.6 us and 14 steps of the ring, at the tree's latency
    assert small["double_tree", "LL"] == pytest.approx(6.8 + 2 * 3 * 5.0, rel=1e-3)
    assert small["ring", "LL"] == pytest.approx(6.6 + 14 * 5.0, rel=1e-3)
    large = {(c.algorithm, c.protocol): c.time_us for c in candidates("all_reduce", group, 10**9)}
    latency = 8.4 + 14 * 14.0
    assert large["ring", "Simple"] == pytest.approx(1.4 * latency + 1e6 / 12.5 / (8 / 14), rel=1e-6)


def test_a_table_decides_by_the_last_row_that_holds_and_the_files_say_what_was_taken(tmp_path):
    rows = [{"algorithm": "ring"}, {"from_ranks": 8, "algorithm": "tree"}, {"from_bytes": "1KB", "algorithm": "direct"}]
    table = tmp_path / "own.yaml"
    table.write_text(yaml.safe_dump({"format": "flowfabric.algorithms/1", "all_reduce": rows}))
    for ranks, size, taken in ((4, "100B", "ring"), (8, "100B", "tree"), (8, "2KB", "direct")):
        results = simulate(scenario(ranks, "all_reduce", size, {"table": str(table)}))
        (used,) = results.to_dict()["algorithms"]
        assert (used["algorithm"], used["ranks"], used["collectives"]) == (taken, ranks, 1)
        ((algorithms,),) = (section.blocks for section in algorithm_sections(results))
        assert isinstance(algorithms, Table)
        assert [row[3] for row in algorithms.rows] == [taken]


def test_the_shipped_table_says_what_nccl_computes():
    shape = {"ranks_per_host": 8, "host_rate": "3200Gbps", "intra_host_rate": "28800Gbps"}
    for hosts in (1, 2, 4, 8, 32):
        topology = fabric(1, 1, hosts, **shape)
        group = group_of(topology)
        table = read_shipped()
        for size in (4, 10**5, 10**7, 10**11):
            assert table.algorithm("all_reduce", group, size) == nccl("all_reduce", group, size)


def read_shipped():
    from netsim.collective.table import read_table

    return read_table(Path("configs/tables/nccl_ndr.yaml"))


def test_one_page_has_both_choices_of_algorithms(tmp_path, capsys):
    file, out = tmp_path / "scenario.yaml", tmp_path / "out"
    document = scenario(8, "all_reduce", "4B", {"all_reduce": "ring"})
    workloads = [document.pop("workload"), collective_of("all_gather", "1KB")]
    document["jobs"] = [{"workload": workload, "ranks": [*range(8)]} for workload in workloads]
    file.write_text(yaml.safe_dump(document))
    assert main(["compare", str(file), "--against", "algorithms=nccl", "--out", str(out), "--jobs", "1"]) == 0
    ring, tree = (json.loads((place / "results.json").read_text()) for place in (out, out / "against"))
    taken = [{use["op"]: use["algorithm"] for use in one["algorithms"]} for one in (ring, tree)]
    assert [one["all_reduce"] for one in taken] == ["ring", "double_tree"]
    change = tree["runs"][0]["completion_ns"] / ring["runs"][0]["completion_ns"] - 1
    page = (out / "report.html").read_text()
    assert f"{change:+.2%}" in page
    assert "Against algorithms=nccl" in page
    assert "<td>all_reduce, spray_round_robin</td>" in page
    assert f"{change:+.2%}" in capsys.readouterr().out


@each(
    "arguments, said",
    [
        (["algorithms=nccll"], "algorithms: it names no choice of algorithms ('nccll'); write auto, nccl"),
        (["algorithms={all_reduce: table}"], "algorithms: all_reduce asks a table and there is none; add table"),
        (["algorithms={table: none.yaml}"], "none.yaml: file: cannot be read"),
        (["algorithms={all_reduce: rung}"], "algorithms.all_reduce: must be 'ring', 'tree'"),
        (["--against", "algorithms={}"], "--against: algorithms={} changes nothing"),
        (["--against", "transports=[ecmp]"], "leaves other transports to compare"),
    ],
)
def test_wrong_choices_are_refused_in_one_line(arguments, said, tmp_path, capsys):
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump(scenario(4, "all_reduce", "4B", {})))
    assert main(["compare", str(file), *arguments, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "first use" not in line]
    assert len(told) == 1
    assert said in told[0]
    assert not (tmp_path / "out").exists()


@each(
    "content, said",
    [
        ({"all_reduce": [{"algorithm": "ring"}]}, "format: is missing"),
        ({"format": "flowfabric.algorithms/1"}, "the table has no rows"),
        ({"format": "flowfabric.algorithms/1", "all_reduce": [{"algorithm": "two_phase"}]}, "all_reduce.0.algorithm"),
        (
            {"format": "flowfabric.algorithms/1", "all_reduce": [{"from_byte": "1KB", "algorithm": "ring"}]},
            "from_bytes",
        ),
        ({"format": "flowfabric.algorithms/1", "all_reduce": [{"from_bytes": 4, "algorithm": "ring"}]}, "needs a unit"),
        ([1], "is a list"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(content, said, tmp_path, capsys):
    table, file = tmp_path / "own.yaml", tmp_path / "scenario.yaml"
    table.write_text(yaml.safe_dump(content))
    file.write_text(yaml.safe_dump(scenario(4, "all_reduce", "4B", {"table": str(table)})))
    assert main(["compare", str(file), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "first use" not in line]
    assert len(told) == 1
    assert said in told[0]
    assert str(table) in told[0]


def test_software_takes_its_time_before_each_step_of_a_ring():
    """Four ranks of one leaf: a launch, then in each of six rounds a step and a packet over two links."""
    document = scenario(8, "all_reduce", "16KB", {"all_reduce": "ring", "launch": "7us", "step": "3us"})
    document["jobs"] = [{"workload": document.pop("workload"), "ranks": [0, 1, 2, 3]}]
    assert simulate(document).runs[0].completion_ps == 7_000_000 + 6 * (3_000_000 + 2 * (320_000 + 500_000))


def test_steps_inside_a_host_have_a_time_of_their_own():
    """The second message of the first round waits for the first one on the link that both share."""
    shape = {"leaves": 1, "hosts_per_leaf": 1, "ranks_per_host": 2, "intra_host_rate": "100Gbps"}
    document = scenario(8, "all_reduce", "8KB", {"all_reduce": "ring", "step": "3us", "inside_step": "1us"}, **shape)
    assert simulate(document).runs[0].completion_ps == 2 * 1_000_000 + 3 * 320_000


def test_the_choice_counts_the_software_of_each_step():
    """Of 1 MB among 8 ranks a ring has 14 steps; with a millisecond for each, three of recursive doubling are best."""
    topology = fabric(2, 4, 4)
    mapping = rank_map(topology, range(8))
    chosen = [fastest("all_reduce", Group(topology, mapping, PAYLOAD, 0, (step, 0)), 10**7) for step in (0, 10**9)]
    assert chosen == ["ring", "recursive_doubling"]


def test_columns_without_software_have_no_delays():
    topology = fabric(1, 1, 4)
    made = Schedules(Algorithms(), rank_map(topology, range(4)), "scenario", topology)
    assert made(operation("all_reduce", 4, 100), range(4)).delay_ps is None
