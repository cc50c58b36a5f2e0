"""Time of every collective: collectives.csv, and the figures and the picture made from it."""

import csv
from pathlib import Path
from typing import Any

import pytest

from netsim import Results
from netsim.report.collectives import operations_svg, operations_title
from netsim.report.comparison import write_report
from netsim.simulation.summary import operations
from tests.each import each
from tests.netsim.documents import collective_of, one_leaf
from tests.netsim.traces import TraceWriter

SERVICE_NS, DELAY_NS = 320, 500  # 4000 B at 100 Gbps
INSIDE_NS = 2 * DELAY_NS + SERVICE_NS  # what remains of a message below one leaf after its last packet has left


def rows(results: Results, folder: Path) -> list[dict[str, str]]:
    results.write(folder)
    with (folder / "collectives.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def replayed(trace: TraceWriter, folder: Path, **changes: Any) -> list[dict[str, str]]:
    workload = {"kind": "trace", "path": str(trace.write(folder / "trace.jsonl"))}
    return rows(one_leaf(workload, trace.header["world_size"], **changes), folder)


def times(row: dict[str, str]) -> tuple[float, float]:
    return float(row["start_ns"]), float(row["end_ns"])


def test_a_collective_lasts_from_the_first_that_comes_to_the_last_that_is_done(tmp_path):
    """Rank 0 sends ten packets after its gap; rank 1 has been there from the beginning. Then both go on at once."""
    trace = TraceWriter(2)
    trace.add(0, "send", 40_000, 0, peer=1, gap_ns=700)
    trace.add(1, "recv", 0, 40_000, peer=0)
    trace.pair(1, 0, 4000, gap_ns=100)
    first, second = replayed(trace, tmp_path)
    over = 700 + 10 * SERVICE_NS + INSIDE_NS
    assert times(first) == (0, over)
    assert times(second) == (over + 100, over + 100 + SERVICE_NS + INSIDE_NS)
    assert (first["op"], first["ranks"], first["bytes"]) == ("send", "2", "40000")
    assert float(first["member_ns"]) == over - 700 / 2
    assert float(second["member_ns"]) == SERVICE_NS + INSIDE_NS
    assert all(
        len(value.partition(".")[2]) == 3 for row in (first, second) for value in (row["start_ns"], row["end_ns"])
    )


def test_a_barrier_lasts_until_its_last_member_comes(tmp_path):
    trace = TraceWriter(5)
    for rank in range(5):
        trace.add(rank, "barrier", 0, 0, gap_ns=1000 if rank == 3 else 10 * (rank + 1))
    (barrier,) = replayed(trace, tmp_path)
    assert times(barrier) == (10, 1000)
    assert barrier["bytes"] == "0"


def test_asynchronous_collectives_overlap(tmp_path):
    """Both leave rank 0 at once and share its link packet by packet; the third record waits for the first."""
    trace = TraceWriter(3)
    trace.add(0, "send", 40_000, 0, peer=1, **{"async": True, "wait_seq": 2})
    trace.add(0, "send", 40_000, 0, peer=2)
    trace.add(0, "send", 4000, 0, peer=1)
    trace.add(1, "recv", 0, 40_000, peer=0)
    trace.add(1, "recv", 0, 4000, peer=0)
    trace.add(2, "recv", 0, 40_000, peer=0)
    found = replayed(trace, tmp_path)
    ends = sorted(times(row)[1] for row in found)
    assert [times(row)[0] for row in found[:2]] == [0, 0]
    assert ends[:2] == [19 * SERVICE_NS + INSIDE_NS, 20 * SERVICE_NS + INSIDE_NS]
    assert ends[2] == ends[1] + SERVICE_NS + INSIDE_NS


def test_payload_follows_the_closed_forms_and_adds_up_to_the_flows(tmp_path):
    sizes, matrix = [100, 200, 300, 401], [[7, 10, 20, 30], [1, 7, 2, 3], [4, 5, 7, 6], [8, 9, 10, 7]]
    trace = TraceWriter(4, {"alone": [2]})
    trace.all_reduce(1003)
    trace.all_gather(sizes)
    trace.reduce_scatter(sizes)
    trace.all_to_all(matrix)
    trace.broadcast(root=2, size_bytes=700)
    trace.all_reduce(10**6, group="alone")
    found = replayed(trace, tmp_path)
    assert {row["op"]: int(row["bytes"]) for row in found} == {
        "all_reduce": 2 * 3 * 1003,
        "all_gather": 3 * sum(sizes),
        "reduce_scatter": 3 * sum(sizes),
        "all_to_all": sum(map(sum, matrix)) - 4 * 7,
        "broadcast": 3 * 700,
    }
    with (tmp_path / "flows.csv").open(encoding="utf-8", newline="") as file:
        flows = list(csv.DictReader(file))
    assert sum(int(row["bytes"]) for row in found) == sum(int(flow["bytes"]) for flow in flows)
    assert max(times(row)[1] for row in found) == max(float(flow["end_ns"]) for flow in flows)


def test_a_row_says_what_the_trace_knows(tmp_path):
    name = 'a group, "odd"'
    trace = TraceWriter(4, {name: [1, 3]}, steps=(4, 5))
    trace.all_reduce(8, group=name, step=4, phase="backward", layer=3)
    trace.all_reduce(8, step=5, phase="optimizer")
    first, second = replayed(trace, tmp_path)
    assert list(first.values())[:10] == ["ecmp", "0", "0", "all_reduce", name, "2", "4", "backward", "3", "16"]
    assert list(second.values())[:10] == ["ecmp", "0", "1", "all_reduce", "world", "4", "5", "optimizer", "", "48"]
    columns = "transport,seed,collective,op,group,ranks,step,phase,layer,bytes,start_ns,end_ns,member_ns"
    assert ",".join(first) == columns


@each("start, start_ns", [("0ns", 0), ("1.5us", 1500)])
def test_a_collective_workload_is_one_collective_from_its_start(tmp_path, start, start_ns):
    workload = collective_of("all_to_all", "32KB")
    jobs = [{"workload": workload, "ranks": [0, 1, 2, 3], "start": start}]
    results = one_leaf(None, 4, jobs=jobs)
    (row,) = rows(results, tmp_path)
    assert (row["group"], row["step"], row["phase"], row["layer"]) == ("", "", "", "")
    assert (row["bytes"], row["ranks"]) == (str(4 * 3 * 8000), "4")
    assert times(row) == (start_ns, results.runs[0].completion_ps / 1000)


def test_the_flow_level_engine_tells_times_too(tmp_path):
    trace = TraceWriter(2)
    trace.pair(0, 1, 4000, gap_ns=700)
    trace.pair(0, 1, 8000, gap_ns=50)
    first, second = replayed(trace, tmp_path, transports=["ideal"])
    assert times(first) == (700, 700 + SERVICE_NS + INSIDE_NS)
    assert times(second) == (times(first)[1] + 50, times(first)[1] + 50 + 2 * SERVICE_NS + INSIDE_NS)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """An all-to-all that ecmp spreads badly over four spines, then rings that any transport carries alike."""
    trace = TraceWriter(16)
    trace.all_to_all([[40_000] * 16] * 16)
    trace.all_reduce(160_000)
    trace.all_to_all([[40_000] * 16] * 16)
    path = trace.write(tmp_path_factory.mktemp("mixed") / "trace.jsonl")
    topology = {"kind": "leaf_spine", "leaves": 4, "spines": 4, "hosts_per_leaf": 4}
    workload = {"kind": "trace", "path": str(path)}
    return one_leaf(workload, 16, topology=topology, transports=["ecmp", "ethereal", "ideal"], seeds=[0, 1])


def test_summary_of_an_operation_is_the_sum_over_its_collectives(mixed, tmp_path):
    found = rows(mixed, tmp_path)
    assert [(kind.name, kind.collectives) for kind in operations(mixed)] == [("all_to_all", 2), ("all_reduce", 1)]
    for kind in operations(mixed):
        for transport in ("ecmp", "ethereal", "ideal"):
            for seed, time_us in enumerate(kind.times_us[transport]):
                mine = [
                    row
                    for row in found
                    if (row["transport"], row["seed"], row["op"]) == (transport, str(seed), kind.name)
                ]
                assert time_us == pytest.approx(sum(float(row["member_ns"]) for row in mine) / 1000)
        assert kind.payload_bytes == sum(int(row["bytes"]) for row in mine)


def test_title_names_the_operation_that_loses_most_and_the_picture_is_the_same_every_time(mixed):
    exchange, _ = operations(mixed)
    behind = 100 * (exchange.mean_us("ecmp") / exchange.mean_us("ethereal") - 1)
    assert behind > 5
    assert operations_title(mixed).startswith(f"ecmp spends {behind:.0f} % longer in all_to_all than ethereal, ")
    assert operations_svg(mixed) == operations_svg(mixed)


@each("transports", [["ecmp"], ["ecmp", "ethereal"], ["ecmp", "ideal"]])
def test_where_no_transport_loses_the_title_says_what_takes_longest(transports, tmp_path):
    trace = TraceWriter(4)
    trace.all_reduce(160_000)
    trace.all_gather([4000] * 4)
    workload = {"kind": "trace", "path": str(trace.write(tmp_path / "trace.jsonl"))}
    equal = one_leaf(workload, 4, transports=transports)
    # Rings on one leaf: 6 rounds of 40 kB, then 3 of 4 kB, with two delays and the service of a packet more each.
    all_reduce, all_gather = 6 * (10 * SERVICE_NS + INSIDE_NS), 3 * (SERVICE_NS + INSIDE_NS)
    share = 100 * all_reduce / (all_reduce + all_gather)
    assert operations_title(equal) == f"all_reduce takes {share:.0f} % of the time of all operations"


def test_operations_that_move_nothing_are_drawn_without_complaint(tmp_path):
    trace = TraceWriter(3)
    trace.barrier()
    trace.barrier()
    workload = {"kind": "trace", "path": str(trace.write(tmp_path / "trace.jsonl"))}
    still = one_leaf(workload, 3, transports=["ecmp", "ethereal"])
    assert "<svg" in operations_svg(still)
    assert operations_title(still) == "barrier takes 0 % of the time of all operations"


@pytest.mark.usefixtures("blank_pictures_here")
def test_the_section_is_there_only_where_there_are_several_collectives(mixed, tmp_path):
    write_report(mixed, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert operations_title(mixed) in page
    assert "all_to_all, mean [min, max]" in page
    assert (tmp_path / "figures" / "operations.svg").exists()
    single = one_leaf(collective_of("all_to_all", "32KB"), 4)
    write_report(single, tmp_path)
    assert "Time by operation" not in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "figures" / "operations.svg").exists()
