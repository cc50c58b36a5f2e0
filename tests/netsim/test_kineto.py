"""Profiles of torch as collective traces: what is read, what is refused, and what it takes in a simulation."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netsim.__main__ import main
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.convert import import_kineto
from netsim.workload.records import Record, read_trace
from netsim.workload.trace import TraceConfig, TraceWorkload
from tests.each import each
from tests.netsim.foreign import FILES, INSIDE, SERVICE, damaged, laid_out, run
from tests.netsim.kineto_profiles import ProfileWriter, step_of_two, write_step

pytestmark = pytest.mark.usefixtures("blank_pictures")

US = 10**6


def imported(folder: Path, out: Path) -> list[list[Record]]:
    import_kineto(folder, out)
    return [[record for _, record in program] for program in read_trace(out).programs]


def test_a_profile_says_operation_group_bytes_gaps_and_overlap(tmp_path):
    write_step(tmp_path / "profiles")
    programs = imported(tmp_path / "profiles", tmp_path / "trace.jsonl")
    mine = programs[0]
    ops = ["all_reduce", "all_to_all", "all_gather", "reduce_scatter", "broadcast", "send", "barrier"]
    assert [record.op for record in mine] == ops
    assert [record.op for record in programs[1]] == [*ops[:5], "recv", "barrier"]
    sizes = [(record.bytes_in, record.bytes_out) for record in mine]
    assert sizes == [(8000, 8000), (120, 120), (2000, 4000), (4000, 2000), (0, 1000), (4000, 0), (0, 0)]
    assert programs[1][5].bytes_out == 4000
    assert mine[1].in_splits == (40, 80)
    assert programs[1][1].in_splits == (80, 40)
    assert (mine[4].root, mine[5].peer, programs[1][5].peer) == (1, 1, 0)
    assert [record.gap_ns for record in mine] == [100_000, 20_000, 10_000, 10_000, 10_000, 10_000, 10_000]
    assert [record.wait_seq for record in mine] == [2, None, None, None, None, None, None]
    assert {record.step for record in mine} == {3}
    assert [record.phase for record in mine] == ["backward", *["forward"] * 5, "optimizer"]
    header = read_trace(tmp_path / "trace.jsonl").header
    assert header.groups == {"0": (0, 1), "pair": (1, 0)}
    assert (header.clock, header.ranks_per_node, header.source) == ("device", 2, "recorded")
    assert [mine[0].t_issue_ns, mine[0].t_done_ns, mine[1].t_issue_ns] == [0, 50_000, 20_000]


def test_the_gaps_of_a_profile_count_in_the_simulation(tmp_path):
    """Two all-reduces of two rounds of 4 kB each, with 100 us of computation before the first, 30 before the second."""
    for rank in range(2):
        writer = ProfileWriter(rank, 2, {"0": [0, 1]})
        writer.event("ProfilerStep#0", "user_annotation", 0, 400)
        writer.call("allreduce", (2000, 2000), 1, (100, 50))
        writer.call("allreduce", (2000, 2000), 2, (180, 50))
        writer.write(tmp_path / "profiles" / f"host_{rank}.pt.trace.json")
    imported(tmp_path / "profiles", tmp_path / "trace.jsonl")
    made = laid_out(TraceWorkload(TraceConfig(kind="trace", path=str(tmp_path / "trace.jsonl"))), 2)
    assert run(made, 2).completion_ps == 130 * US + 4 * (SERVICE + INSIDE)


def test_profiles_without_kernels_take_the_times_of_the_host_and_say_so(tmp_path, capsys):
    for rank in range(2):
        writer = ProfileWriter(rank, 2, {"0": [0, 1]})
        writer.call("all_to_all", (1000, 1000), 10, None)
        writer.call("allreduce", (1000, 1000), 40, None, more={"Process Group Ranks": "[0, ...]"})
        content = json.dumps(writer.content()).encode()
        (tmp_path / f"{rank}.json.gz").write_bytes(gzip.compress(content))
    assert main(["import", "kineto", str(tmp_path), "--out", str(tmp_path / "out" / "trace.jsonl")]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("4 collectives of 2 ranks: ")
    assert "2 profiles have no kernels of NCCL" in printed.err
    records = [record for _, record in read_trace(tmp_path / "out" / "trace.jsonl").programs[0]]
    assert [record.gap_ns for record in records] == [0, 25_000]
    assert records[0].in_splits == (2000, 2000)


def _argument(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Replaces an argument of the first collective; None removes it."""

    def change(content: dict[str, Any]) -> None:
        args = next(e["args"] for e in content["traceEvents"] if e["name"] == "record_param_comms")
        args[name] = value
        if value is None:
            del args[name]

    return change


def _of_all_to_all(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        events = content["traceEvents"]
        next(e["args"] for e in events if e["args"].get("Collective name") == "all_to_allv")[name] = value

    return change


def _put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no place": (_put("distributedInfo", value=None), "distributedInfo: is missing: the rank is unknown"),
    "no rank": (_put("distributedInfo", "rank", value="0"), "distributedInfo.rank: is not a whole number ('0')"),
    "rank beyond": (
        _put("distributedInfo", "rank", value=2),
        "distributedInfo.rank: is not below world_size (2, of 2)",
    ),
    "rank twice": (_put("distributedInfo", "rank", value=1), "distributedInfo.rank: 1 is also that of rank0.json"),
    "other run": (_put("distributedInfo", "world_size", value=3), "distributedInfo.world_size: is 2, and 3 in another"),
    "no events": (_put("traceEvents", value=None), "traceEvents: is missing"),
    "no collectives": (_put("traceEvents", value=[]), "traceEvents: has no collectives with their sizes"),
    "negative time": (_put("traceEvents", 0, "ts", value=-1), "traceEvents.0.ts: is no time in microseconds (-1)"),
    "endless": (_put("traceEvents", 0, "dur", value=1e18), "traceEvents.0.dur: ends too late"),
    "no number": (_put("traceEvents", 1, "dur", value="1"), "traceEvents.1.dur: is no time in microseconds ('1')"),
    "unknown name": (
        _argument("Collective name", "gather"),
        "traceEvents.2.args.Collective name: is not a collective that can be simulated ('gather')",
    ),
    "no size": (_argument("In msg nelems", None), "traceEvents.2.args.In msg nelems: is missing"),
    "negative size": (_argument("In msg nelems", -4), "traceEvents.2.args.In msg nelems: is not a whole number (-4)"),
    "too large": (_argument("In msg nelems", 2**61), "traceEvents.2.args.In msg nelems: is too large"),
    "unknown type": (_argument("dtype", "Complex"), "traceEvents.2.args.dtype: is unknown ('Complex')"),
    "no ranks": (
        _argument("Process Group Ranks", "0 to 1"),
        "traceEvents.2.args.Process Group Ranks: is not a list of numbers ('0 to 1')",
    ),
    "ranks of others": (
        _argument("Process Group Ranks", "[1]"),
        "traceEvents.2.args.Process Group Ranks: does not list distinct ranks with 0 among them ([1])",
    ),
    "splits cut off": (
        _of_all_to_all("In split size", "[1, 2, ...]"),
        "traceEvents.4.args.In split size: is cut off behind 2 of 2 ranks with 3 rows of 10 elements, which",
    ),
    "rows beyond a list that is cut off": (
        _of_all_to_all("Out split size", "[31, ...]"),
        "traceEvents.4.args.Out split size: is cut off behind 1 of 2 ranks with 31 rows of 1 elements, which",
    ),
    "splits of others": (
        _of_all_to_all("In split size", "[1, 1, 1]"),
        "traceEvents.4.args.In split size: does not cut 30 elements for 2 ranks ([1, 1, 1])",
    ),
    "splits that do not divide": (
        _of_all_to_all("In split size", "[4, 3]"),
        "traceEvents.4.args.In split size: does not cut 30 elements for 2 ranks ([4, 3])",
    ),
}


@each("name", BROKEN)
def test_says_in_one_line_what_is_wrong_with_a_profile(name, tmp_path):
    change, expected = BROKEN[name]
    write_step(tmp_path)
    content = step_of_two(0).content()
    change(content)
    changed = tmp_path / "rank0.json"
    changed.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(Refusal) as error:
        import_kineto(tmp_path, tmp_path / "out.jsonl")
    other = tmp_path / "rank1.json"
    start = other if name in ("rank twice", "other run") else changed
    assert str(error.value).startswith(f"{start}: {expected}")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank0.json", "rank1.json"]


def test_profiles_of_different_programs_are_refused(tmp_path, capsys):
    for rank, sizes in enumerate((2000, 1000)):
        writer = ProfileWriter(rank, 2, {"0": [0, 1]})
        writer.call("allreduce", (sizes, sizes), 1, (100, 50))
        writer.write(tmp_path / f"{rank}.json")
    out = tmp_path / "out.jsonl"
    assert main(["import", "kineto", str(tmp_path), "--out", str(out)]) == 2
    assert "profiles: contradict each other: 4000 meets 8000 of rank 0" in capsys.readouterr().err
    for rank in range(2):
        (tmp_path / f"{rank}.json").unlink()
    for arguments, expected in (
        (["kineto", str(tmp_path)], "holds no profiles"),
        (["kineto", str(tmp_path / "none")], "holds no profiles"),
        (["nsys", str(tmp_path)], "FORMAT: no format is called nsys; write kineto"),
    ):
        assert main(["import", *arguments, "--out", str(out)]) == 2
        assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_golden_profiles_are_those_of_a_step():
    for rank in range(2):
        golden = json.loads((FILES / "kineto" / f"rank{rank}.json").read_text(encoding="utf-8"))
        assert golden == step_of_two(rank).content()


def test_damaged_profiles_are_refused_or_converted_whole(tmp_path):
    write_step(tmp_path)
    refused, lines = 0, []
    for content in damaged((tmp_path / "rank0.json").read_bytes(), 60):
        (tmp_path / "rank0.json").write_bytes(content)
        try:
            import_kineto(tmp_path, tmp_path / "out.jsonl")
        except Refusal as error:
            refused += 1
            lines.append(str(error))
    assert 20 < refused < 60, "both happen"
    assert not any("\n" in line for line in lines)


RECORDED = """
import os, sys, torch, torch.distributed as dist
from torch.profiler import ProfilerActivity, profile
os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1"}
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
    dist.all_reduce(torch.ones(1000))
recorded.export_chrome_trace(f"{sys.argv[1]}/profiles/rank0.json")
"""


@pytest.mark.slow
def test_a_real_profile_of_gloo_is_read_by_its_shapes(tmp_path):
    pytest.importorskip("torch")
    folder = tmp_path / "profiles"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", RECORDED, str(tmp_path)], check=True, capture_output=True)
    (record,) = imported(folder, tmp_path / "trace.jsonl")[0]
    assert (record.op, record.bytes_in, record.size1) == ("all_reduce", 4000, True)
