"""What the network simulator found, as the report reads it: values, the page, and a line for each way to be wrong."""

import hashlib
import json
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from netsim import simulate
from netsim.report.comparison import write_report
from trainer.__main__ import main
from trainer.experiment.report.simulation import Simulation, fabric_part

pytestmark = pytest.mark.usefixtures("blank_pictures")

COLUMNS: str = "transport,seed,collective,op,group,ranks,step,phase,layer,bytes,start_ns,end_ns,member_ns"
TRACE = Path(__file__).parents[3] / "files" / "collectives.jsonl"
Results = dict[str, Any]
Change = Callable[[Results], Any]


def results() -> Results:
    """ecmp ends 10 % after ethereal, each with two seeds."""
    completions = {"ecmp": (1200.0, 1000.0), "ethereal": (990.0, 1010.0)}
    runs = [
        {
            "transport": transport,
            "seed": seed,
            "engine": "simpy",
            "completion_ns": completion,
            "bound_ns": 900.0,
            "packet_hops": 1234,
            "max_queue_bytes": 4000,
            "reordered_packets": 0,
        }
        for transport, pair in completions.items()
        for seed, completion in enumerate(pair)
    ]
    trace = {"sha256": hashlib.sha256(TRACE.read_bytes()).hexdigest(), "config_sha256": None, "steps": [3]}
    return {"format": "flowfabric.results/1", "scenario": {}, "traces": [trace], "runs": runs}


def table() -> list[str]:
    """Lines of collectives.csv: in its two all-to-alls ecmp spends 3 and 2 ms, ethereal 2 ms with each seed."""
    lines = [COLUMNS]
    for transport, seed, exchange in (("ecmp", 0, 15), ("ecmp", 1, 10), ("ethereal", 0, 10), ("ethereal", 1, 10)):
        head = f"{transport},{seed}"
        lines += [
            f"{head},0,all_to_all,expert,8,1,forward,0,64000,0.000,{exchange}00000.000,{exchange}00000.000",
            f"{head},1,all_reduce,data,8,1,backward,,1000,500000.000,3505000.500,3000000.000",
            f"{head},2,all_to_all,expert,8,1,backward,0,64000,4000000.000,{40 + exchange}00000.000,{exchange}00000.000",
        ]
    return lines


def write(folder: Path, document: Any, lines: list[str] | None) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(document if isinstance(document, str) else json.dumps(document))
    if lines is not None:
        (folder / "collectives.csv").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The least that a report needs of a run."""
    folder = tmp_path / "run"
    (folder / "traces").mkdir(parents=True)
    shutil.copy(TRACE, folder / "traces" / "collectives.jsonl")
    record = {"step": 1, "loss": 0.5, "lr": 0.001, "time": {"samples_per_s": 100.0, "step_s": 0.1}}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def report(run_dir: Path, simulation: Path, option: str = "--simulation") -> tuple[int, Path]:
    out = run_dir.parent / "report" / "index.html"
    return main(["report", str(run_dir), option, str(simulation), "--out", str(out)]), out


def test_means_are_those_of_the_rows(tmp_path):
    simulation = Simulation.read(write(tmp_path / "netsim", results(), table()))
    assert simulation.mean_completion_ns("ecmp") == 1100
    assert simulation.mean_time_ns("ecmp", "all_to_all") == 2_500_000
    assert simulation.mean_time_ns("ethereal", "all_to_all") == 2_000_000
    assert simulation.mean_time_ns("ecmp", "all_reduce") == 3_000_000
    assert simulation.behind("ecmp", "ethereal", "all_to_all") == 0.25
    assert simulation.behind("ecmp", "ethereal", "all_reduce") == 0
    assert simulation.behind("ecmp", "ethereal", "broadcast") is None
    assert simulation.collectives[1].layer is None
    assert simulation.collectives[0].group == "expert"


@pytest.mark.parametrize("lines", [None, [COLUMNS]])
def test_a_folder_without_collectives_has_no_breakdown(lines, tmp_path):
    simulation = Simulation.read(write(tmp_path / "netsim", results(), lines))
    assert simulation.collectives == ()
    assert simulation.behind("ecmp", "ethereal", "all_to_all") is None


def test_the_page_says_how_far_ecmp_is_behind_on_the_all_to_alls(run_dir, tmp_path, capsys):
    folder = write(tmp_path / "netsim", results(), table())
    (folder / "figures").mkdir()
    (folder / "figures" / "operations.svg").write_text('<?xml version="1.0"?>\n<svg id="by-operation"></svg>')
    status, out = report(run_dir, folder)
    assert status == 0
    page, printed = out.read_text(), capsys.readouterr().out
    assert (
        "A rank spends 2.500 ms of a step in the all-to-alls of 8 ranks under ecmp and 2.000 ms under ethereal" in page
    )
    assert "ecmp is 25% behind." in page
    assert "<dt>ecmp behind ethereal</dt><dd>+25%<small>on the all-to-alls of the step</small>" in page
    assert "ecmp is 25% behind ethereal on the all-to-alls of the step, +10% over the whole of it" in page
    assert '<svg id="by-operation">' in page
    assert "ecmp +25.0% against ethereal" in printed


def test_several_steps_are_not_taken_for_one(run_dir, tmp_path, capsys):
    """Three steps of 1,100 ns on the whole: a step takes a third of that."""
    document = results()
    document["traces"][0]["steps"] = [3, 4, 5]
    status, out = report(run_dir, write(tmp_path / "netsim", document, table()))
    assert status == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{1100 / 3 / 1e6:.3f} ms, 1.222 x bound" in printed
    assert "simulated step, mean of 3" in printed
    assert "The collectives of 3 steps, one after the other, replayed" in out.read_text()
    assert "A rank spends 0.833 ms of a step in the all-to-alls" in out.read_text()


def test_a_simulation_of_another_run_is_refused(run_dir, tmp_path, capsys):
    for name, change, problem in (
        ("other", {"sha256": "0" * 64}, "traces.0.config_sha256: is not that of"),
        ("older", None, "traces: is missing: it is not known to be the traffic of"),
    ):
        document = results()
        if change is None:
            del document["traces"]
        else:
            document["traces"][0] |= change
        folder = write(tmp_path / name, document, None)
        status, out = report(run_dir, folder)
        line = capsys.readouterr().err
        assert status == 2
        assert not out.exists()
        assert line.count("\n") == 1
        assert f"{folder / 'results.json'}: {problem}" in line
        assert report(run_dir, folder, "--other-simulation")[0] == 0
        assert "the simulated fabric" not in out.read_text(), "another run's finding is not this run's"
        out.unlink()
        capsys.readouterr()


def test_a_replay_of_the_run_is_the_run_s_own(run_dir, tmp_path):
    """A replayed trace is another file, but keeps the hash of the run's configuration."""
    trace = run_dir / "traces" / "collectives.jsonl"
    header, *records = trace.read_text().splitlines()
    named = json.dumps(json.loads(header) | {"config_sha256": "a" * 64}, separators=(",", ":"))
    trace.write_text("".join(f"{line}\n" for line in (named, *records)))
    document = results()
    document["traces"][0] |= {"sha256": "b" * 64, "config_sha256": "a" * 64}
    assert report(run_dir, write(tmp_path / "netsim", document, None))[0] == 0


def test_without_the_table_the_page_speaks_of_the_step(run_dir, tmp_path, capsys):
    status, out = report(run_dir, write(tmp_path / "netsim", results(), None))
    assert status == 0
    page = out.read_text()
    assert "<dt>ecmp behind ethereal</dt><dd>+10%<small>on the step</small>" in page
    assert "all-to-alls" not in page + capsys.readouterr().out


def test_a_transport_that_is_not_behind_is_not_said_to_be(run_dir, tmp_path):
    document = results()
    for run in document["runs"]:
        run["completion_ns"] = 1000.0
    status, out = report(run_dir, write(tmp_path / "netsim", document, None))
    assert status == 0
    assert "on the simulated fabric ecmp is not behind ethereal" in out.read_text()


def test_results_without_a_lower_bound_claim_none(tmp_path, monkeypatch):
    monkeypatch.setattr("netsim.simulation.prepare.is_core_built", lambda: False)
    simulated = simulate(
        {
            "format": "flowfabric.scenario/1",
            "topology": {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 2},
            "workload": {"kind": "collective", "op": "all_to_all", "bytes_per_rank": "16KB"},
            "transports": ["ecmp"],
            "seeds": [0],
        },
        overrides=["engine=simpy"],
    )
    simulated.write(tmp_path)
    write_report(simulated, tmp_path)
    part = fabric_part(tmp_path, Simulation.read(tmp_path), of_the_run=True)
    assert [value for _, value in part.rows] == [f"{simulated.runs[0].completion_ps / 1e9:.3f} ms"]


def test_what_the_simulator_writes_is_read(run_dir, tmp_path):
    """Both sides of the two files at once: a small all-to-all and a ring, written by the one and read by the other."""
    jobs = [
        {"workload": {"kind": "collective", "op": op, "bytes_per_rank": "160KB"}, "ranks": list(range(8))}
        for op in ("all_to_all", "all_reduce")
    ]
    simulated = simulate(
        {
            "format": "flowfabric.scenario/1",
            "topology": {"kind": "leaf_spine", "leaves": 4, "spines": 2, "hosts_per_leaf": 2},
            "jobs": jobs,
            "transports": ["ecmp", "ethereal", "ideal"],
            "seeds": [0, 1],
        }
    )
    folder = tmp_path / "netsim"
    simulated.write(folder)
    write_report(simulated, folder)
    read = Simulation.read(folder)
    for transport in ("ecmp", "ethereal", "ideal"):
        runs = [run for run in simulated.runs if run.transport == transport]
        for index, op in enumerate(("all_to_all", "all_reduce")):
            times_ps = [run.collectives[index].member_ps for run in runs]
            assert read.mean_time_ns(transport, op) == pytest.approx(sum(times_ps) / len(runs) / 1000, rel=1e-6)
    status, out = report(run_dir, folder, "--other-simulation")
    assert status == 0
    assert "This is not the run above" in out.read_text()
    assert out.read_text().count("<svg") == 5  # the curves of the run and four pictures of the simulation


def refused(capsys: pytest.CaptureFixture[str], run_dir: Path, simulation: Path) -> str:
    """The one line with which the report ends, and that it leaves nothing behind."""
    status, out = report(run_dir, simulation)
    printed = capsys.readouterr()
    assert status == 2
    assert not out.parent.exists() or not list(out.parent.iterdir())
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.endswith("; write it with `python -m netsim compare SCENARIO --out FOLDER`\n")
    return printed.err


def changed(change: Change) -> Results:
    document = results()
    change(document)
    return document


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("", "document: is not JSON"),
        (json.dumps(results())[:-40], "document: is not JSON"),
        ("[]", "document: "),
        (json.dumps(results()).replace("1200.0", "NaN"), "document: is not JSON (NaN is not a number in JSON)"),
        (changed(lambda d: d.pop("format")), "format: "),
        (changed(lambda d: d.update(format="flowfabric.results/2")), "format: "),
        (changed(lambda d: d.update(scenario=None)), "scenario: "),
        (changed(lambda d: d.pop("runs")), "runs: "),
        (changed(lambda d: d.update(runs=[])), "runs: "),
        (changed(lambda d: d["runs"].append(d["runs"][0])), "runs: ecmp with seed 0 occurs 2 times"),
        (changed(lambda d: d["runs"][1].pop("completion_ns")), "runs.1.completion_ns: "),
        (changed(lambda d: d["runs"][1].update(completion_ns="1000")), "runs.1.completion_ns: "),
        (changed(lambda d: d["runs"][2].update(completion_ns=-1.0)), "runs.2.completion_ns: "),
        (changed(lambda d: d["runs"][2].update(bound_ns=-1.0)), "runs.2.bound_ns: "),
        (changed(lambda d: d["runs"][0].update(seed=True)), "runs.0.seed: "),
        (changed(lambda d: d["runs"][0].update(packet_hops=1.5)), "runs.0.packet_hops: "),
        (changed(lambda d: d["runs"][3].update(transport="")), "runs.3.transport: "),
        (changed(lambda d: d["runs"][3].update(max_queue_bytes=-1)), "runs.3.max_queue_bytes: "),
    ],
)
def test_malformed_results_are_one_line_and_status_2(document, expected, run_dir, tmp_path, capsys):
    folder = write(tmp_path / "netsim", document, table())
    assert f"trainer report: {folder / 'results.json'}: {expected}" in refused(capsys, run_dir, folder)


def cell(line: int, column: str, value: str) -> list[str]:
    """The table with one cell changed."""
    lines = table()
    cells = lines[line - 1].split(",")
    cells[COLUMNS.split(",").index(column)] = value
    lines[line - 1] = ",".join(cells)
    return lines


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "file: is empty or its last line is cut off"),
        (table()[1:], "line 1: does not name the columns transport,seed,"),
        ([table()[0].replace("start_ns", "start_us"), *table()[1:]], "line 1: does not name the columns"),
        ([*table()[:-1], table()[-1][:-20]], "line 13: "),
        ([*table(), "ecmp,0"], "line 14: does not have 13 cells (2)"),
        (table()[:-1], "collectives: lacks 1 of ethereal with seed 1"),
        (cell(3, "end_ns", "nan"), "line 3: end_ns: "),
        (cell(3, "end_ns", ""), "line 3: end_ns: "),
        (cell(3, "end_ns", "49.999"), "line 3: end_ns: 49.999 lies before start_ns, 500000.000"),
        (cell(4, "start_ns", "-1.000"), "line 4: start_ns: "),
        (cell(5, "bytes", "many"), "line 5: bytes: "),
        (cell(6, "ranks", "0"), "line 6: ranks: "),
        (cell(7, "op", ""), "line 7: op: "),
        (cell(8, "layer", "-1"), "line 8: layer: "),
        (cell(9, "transport", "drill"), "line 9: transport: drill with seed 0 is not a run of results.json"),
        (cell(9, "seed", "2"), "line 9: transport: ethereal with seed 2 is not a run of results.json"),
        (cell(10, "collective", "1"), "line 10: collective: is not the run's next, 2 (1)"),
        (cell(11, "group", '"expert'), "line 13: is not a line of the table"),
    ],
)
def test_malformed_collectives_are_one_line_and_status_2(lines, expected, run_dir, tmp_path, capsys):
    folder = write(tmp_path / "netsim", results(), lines)
    assert f"trainer report: {folder / 'collectives.csv'}: {expected}" in refused(capsys, run_dir, folder)


def test_a_cut_off_table_and_one_that_is_no_text_are_one_line_and_status_2(run_dir, tmp_path, capsys):
    folder = write(tmp_path / "netsim", results(), table())
    path = folder / "collectives.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "collectives.csv: file: is empty or its last line is cut off" in refused(capsys, run_dir, folder)
    path.write_bytes(b"\xff" + whole)
    assert "collectives.csv: file: is not UTF-8 text" in refused(capsys, run_dir, folder)
    path.unlink()
    path.mkdir()
    assert "collectives.csv: file: cannot be read (Is a directory)" in refused(capsys, run_dir, folder)


def test_the_page_tells_the_share_of_rollouts(run_dir, tmp_path, capsys):
    """Under ethereal, the first: the first exchange ends at 1 ms, the sum at 3.5 ms, the second exchange at 5 ms."""
    lines = [line.replace(",0,all_to_all,expert,8,1,forward,", ",0,all_to_all,expert,8,1,rollout,") for line in table()]
    folder = write(tmp_path / "netsim", results(), lines)
    (folder / "figures").mkdir()
    (folder / "figures" / "phases.svg").write_text('<?xml version="1.0"?>\n<svg id="by-phase"></svg>')
    simulation = Simulation.read(folder)
    assert simulation.phase_times_ns("ethereal") == {"rollout": 1_000_000, "backward": 4_000_000}
    assert simulation.phase_bytes() == {"rollout": 64_000, "backward": 65_000}
    status, out = report(run_dir, folder)
    assert status == 0
    page, printed = unescape(out.read_text()), " ".join(capsys.readouterr().out.split())
    assert '<svg id="by-phase">' in page
    assert "<dt>Rollouts</dt><dd>20%<small>of the simulated step's time</small>" in page
    assert "rollouts take 20.0% of the time and 49.6% of the bytes of the simulated step" in page
    assert "rollouts in the simulated" in printed
