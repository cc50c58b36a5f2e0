"""Two traces on one fabric: gaps that are shared, gaps that are not, and what is said of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from netsim.__main__ import main
from tests.netsim.documents import scenario_of
from tests.netsim.traces import TraceWriter

pytestmark = pytest.mark.usefixtures("blank_pictures")

SERVICE_NS, DELAY_NS = 320.0, 500.0  # 4,000 B at 100 Gbps
FIRST_GAP, SECOND_GAP = 5_000, 9_000


def trace(path: Path, packets: int, gap_ns: int, *, ops: int = 2, step: int = 0) -> Path:
    """One rank sends another so many packets `ops` times, each after a gap."""
    writer = TraceWriter(2, steps=(step,))
    for _ in range(ops):
        writer.pair(0, 1, packets * 4000, gap_ns=gap_ns)
    return writer.write(path)


def expected_ns(packets: int, gap_ns: int) -> float:
    return 2 * (gap_ns + packets * SERVICE_NS + 2 * DELAY_NS + SERVICE_NS)


def compared(
    folder: Path, first: Path, second: Path, *arguments: str, **workload: Any
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """results.json of both and the page of the first."""
    scenario = folder / "scenario.yaml"
    scenario.write_text(yaml.safe_dump(scenario_of(1, 1, 2, {"kind": "trace", "path": str(first), **workload})))
    out = folder / "out"
    assert main(["compare", str(scenario), "--against", str(second), "--out", str(out), "--jobs", "1", *arguments]) == 0
    one, other = (json.loads((place / "results.json").read_text()) for place in (out, out / "against"))
    return one, other, (out / "report.html").read_text()


def completion(document: dict[str, Any]) -> float:
    return document["runs"][0]["completion_ns"]


def test_the_second_recording_has_the_gaps_of_the_first(tmp_path, capsys):
    """One packet less, twice: two services of 320 ns saved, whatever the machine did in its gaps."""
    first = trace(tmp_path / "first.jsonl", 3, FIRST_GAP)
    second = trace(tmp_path / "second.jsonl", 2, SECOND_GAP, step=7)
    one, other, page = compared(tmp_path, first, second)
    assert completion(one) == expected_ns(3, FIRST_GAP)
    assert completion(other) == expected_ns(2, FIRST_GAP)
    said = "Both have the gaps of computation of first.jsonl"
    assert said in page
    assert said in capsys.readouterr().out
    assert f"{completion(other) / completion(one) - 1:+.2%}" in page


def test_own_gaps_are_kept_when_asked_and_the_page_says_so(tmp_path):
    first, second = (trace(tmp_path / f"{gap}.jsonl", 2, gap) for gap in (FIRST_GAP, SECOND_GAP))
    one, other, page = compared(tmp_path, first, second, "--gaps", "own")
    assert (completion(one), completion(other)) == (expected_ns(2, FIRST_GAP), expected_ns(2, SECOND_GAP))
    assert "keeps its own gaps of computation, as --gaps own asks; part of the difference may be noise" in page


def test_traces_of_other_structure_keep_theirs_and_the_page_says_where_they_differ(tmp_path):
    first = trace(tmp_path / "first.jsonl", 2, FIRST_GAP)
    second = trace(tmp_path / "second.jsonl", 2, SECOND_GAP, ops=1)
    _, other, page = compared(tmp_path, first, second)
    assert completion(other) == expected_ns(2, SECOND_GAP) / 2
    assert "their structures differ (2 records of rank 0 against 1)" in page


def test_equal_gaps_are_said_to_be_equal(tmp_path):
    first, second = (trace(tmp_path / f"{packets}.jsonl", packets, FIRST_GAP) for packets in (3, 2))
    _, other, page = compared(tmp_path, first, second)
    assert completion(other) == expected_ns(2, FIRST_GAP)
    assert "Both traces have the same gaps of computation" in page


def test_results_name_the_traces_and_fit_the_schema(tmp_path):
    first = trace(tmp_path / "first.jsonl", 3, FIRST_GAP)
    second = trace(tmp_path / "second.jsonl", 2, SECOND_GAP, step=7)
    schema = json.loads(Path("configs/schemas/results.schema.json").read_text())
    one, other, _ = compared(tmp_path, first, second, steps=[0])
    for path, step, document in ((first, 0, one), (second, 7, other)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert document["traces"] == [{"sha256": digest, "config_sha256": None, "steps": [step]}]
        jsonschema.validate(document, schema)


def test_gaps_of_another_program_are_refused(tmp_path, capsys):
    first, other = trace(tmp_path / "first.jsonl", 2, FIRST_GAP), trace(tmp_path / "other.jsonl", 2, FIRST_GAP, ops=3)
    with pytest.raises(AssertionError):
        compared(tmp_path, first, first, gaps=str(other))
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{other}: gaps: cannot give its gaps to {first}, which has another structure" in error


def test_a_scenario_without_a_trace_has_nothing_to_compare(tmp_path, capsys):
    path = trace(tmp_path / "first.jsonl", 2, FIRST_GAP)
    arguments = [
        "compare",
        "configs/scenarios/all_to_all_64.yaml",
        "--against",
        str(path),
        "--out",
        str(tmp_path / "x"),
    ]
    assert main(arguments) == 2
    assert "--against: needs a scenario whose one workload is a trace" in capsys.readouterr().err
