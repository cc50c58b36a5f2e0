"""Results: what is in the files, that they do not depend on how they were made, and the report."""

import csv
import gzip
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from netsim import Results, simulate
from netsim.__main__ import main
from netsim.simulation import results as results_module

pytestmark = pytest.mark.usefixtures("blank_pictures")

GOLDEN_SCENARIO, GOLDEN_RESULTS = Path("tests/files/scenario.yaml"), Path("tests/files/results.json")
OUTSIDE = ("wall_s", "engine", "certified_allocations", "skipped_messages", "skipped_bytes", "sha256")
"""What does not belong to the result of a run, but to who computed it."""
SCHEMA = json.loads(Path("configs/schemas/results.schema.json").read_text())


@pytest.fixture(scope="module")
def results() -> Results:
    return simulate(GOLDEN_SCENARIO)


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    results.write(folder)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_written_and_golden_results_satisfy_the_schema(written):
    for path in (written / "results.json", GOLDEN_RESULTS):
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)


def test_runs_are_the_golden_ones_whatever_machine_made_those(results):
    golden = json.loads(GOLDEN_RESULTS.read_text())
    assert results.to_dict()["scenario"] == golden["scenario"]
    assert [run["sha256"] for run in results.to_dict()["runs"]] == [run["sha256"] for run in golden["runs"]]


def test_hash_is_over_the_canonical_run_as_anyone_can_compute_it():
    for run in json.loads(GOLDEN_RESULTS.read_text())["runs"]:
        kept = {key: run[key] for key in sorted(run) if key not in OUTSIDE}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest() == run["sha256"]


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(written, tmp_path):
    events = []
    simulate(GOLDEN_SCENARIO, jobs=4, progress=events.append).write(tmp_path)
    for name in ("links.csv", "flows.csv", "collectives.csv"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    timeless = [re.sub(r'"wall_s": [\d.]+', "", (f / "results.json").read_text()) for f in (tmp_path, written)]
    assert timeless[0] == timeless[1]
    assert (
        sorted(e.seed for e in events if e.run is None) == sorted(e.seed for e in events if e.run) == [0] * 5 + [7] * 5
    )
    assert {event.runs for event in events} == {10}


def test_tables_agree_with_the_summary_and_with_each_other(results, written):
    links, flows = rows(written / "links.csv"), rows(written / "flows.csv")
    for run in results.to_dict()["runs"]:
        mine = [row for row in links if (row["transport"], row["seed"]) == (run["transport"], str(run["seed"]))]
        assert len(mine) == len(results.links)
        assert max(int(row["bytes"]) for row in mine) == run["max_link_bytes"]
        assert max(int(row["max_queue_bytes"]) for row in mine) == run["max_queue_bytes"]
        own = [row for row in flows if (row["transport"], row["seed"]) == (run["transport"], str(run["seed"]))]
        assert len(own) == run["flows"]
        assert sum(int(row["packets"]) for row in own) == run["packets"]
        assert sum(int(row["reordered_packets"]) for row in own) == run["reordered_packets"]
        durations = sorted(float(row["end_ns"]) - float(row["start_ns"]) for row in own)
        assert run["fct_ns"]["max"] == pytest.approx(durations[-1], abs=1e-3)
        assert run["fct_ns"]["p50"] == pytest.approx(durations[(len(durations) + 1) // 2 - 1], abs=1e-3)
        if run["engine"] != "fluid":
            assert run["completion_ns"] >= run["bound_ns"]
            assert max(float(row["end_ns"]) for row in own) == run["completion_ns"]
    assert all(re.fullmatch(r"\d+\.\d{3}", row[key]) for row in flows for key in ("start_ns", "end_ns"))


def test_many_flows_are_written_compressed_and_the_same(results, written, tmp_path, monkeypatch):
    plain = (written / "flows.csv").read_bytes()
    (tmp_path / "flows.csv").write_text("of an earlier run")
    monkeypatch.setattr(results_module, "PLAIN_FLOWS", 10)
    results.write(tmp_path)
    packed = (tmp_path / "flows.csv.gz").read_bytes()
    assert gzip.decompress(packed) == plain
    assert not (tmp_path / "flows.csv").exists()
    results.write(tmp_path)
    assert (tmp_path / "flows.csv.gz").read_bytes() == packed
    monkeypatch.undo()
    results.write(tmp_path)
    assert (tmp_path / "flows.csv").read_bytes() == plain
    assert not (tmp_path / "flows.csv.gz").exists()


def test_members_of_a_collective_agree_with_its_times(results):
    for run in results.runs:
        for span, members, times in zip(results.spans, run.members, run.collectives, strict=True):
            come, over = members.T.tolist()
            assert len(come) == span.ranks
            assert (min(come), max(over)) == times[:2]
            assert (sum(over) - sum(come)) // len(come) == times.member_ps


def test_compare_writes_everything_and_prints_the_table(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(["compare", str(GOLDEN_SCENARIO), "seeds=[3]", "--out", str(out), "--jobs", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert all(name in printed.out for name in ("ecmp", "ethereal-equal", "ideal (flow level)", "mean [min, max]"))
    assert max(len(line) for line in printed.out.splitlines()) <= 120
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    drawn = ("completion", "flows", "links", "loads", "operations", "queues", "timeline")
    pictures = [f"figures/{name}.svg" for name in drawn]
    tables = ["collectives.csv", *pictures, "flows.csv", "links.csv"]
    assert files == [*tables, "report.html", "results.json", "trace.json"]
    report = (out / "report.html").read_text()
    assert report.count("<svg") == len(pictures)
    assert not re.search(r'(src|href)="https?:', report)
    assert json.loads((out / "results.json").read_text())["scenario"]["seeds"] == [3]


def test_the_same_command_again_replaces_the_files_by_the_same(tmp_path):
    command = ["compare", str(GOLDEN_SCENARIO), "seeds=[3]", "--out", str(tmp_path), "--jobs", "1"]
    contents = []
    for _ in range(2):
        assert main(command) == 0
        tables = [
            tmp_path / name for name in ("links.csv", "flows.csv", "collectives.csv", "report.html", "trace.json")
        ]
        contents.append([path.read_bytes() for path in (*tables, *sorted((tmp_path / "figures").iterdir()))])
    assert all(first == second for first, second in pairwise(contents))


def test_debug_shows_where(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out"), "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("netsim compare: ")


def test_a_failure_that_is_not_the_users_is_status_1(tmp_path, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Results, "write", fail)
    assert main(["compare", str(GOLDEN_SCENARIO), "seeds=[0]", "--out", str(tmp_path), "--jobs", "1"]) == 1
    assert capsys.readouterr().err == "netsim compare: OSError: disk full; use --debug to see where\n"


def test_help_teaches(capsys):
    assert main(["compare", "--help"]) == 0
    text = capsys.readouterr().out
    assert "python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/a2a" in text
    assert "results.json" in text
    assert "100Gbps" in text
