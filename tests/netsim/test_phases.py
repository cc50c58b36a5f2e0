"""Phases of steps with rollouts: their times add up to the run, and their share is that of the messages sent."""

import csv
from pathlib import Path

import pytest

from netsim.__main__ import main
from netsim.report.collectives import phases, rollout_sentence, time_share
from netsim.simulation.compare import simulate
from netsim.simulation.results import Results
from tests.netsim.documents import scenario_of
from tests.netsim.traces import TraceWriter

pytestmark = pytest.mark.usefixtures("blank_pictures")

GAP_NS = 1_000_000
SIZE = 4_000_000


def steps_with_rollouts() -> TraceWriter:
    """Three exchanges of rollouts, each after a millisecond of compute, against one in the backward pass."""
    trace = TraceWriter(2, steps=(0, 1))
    trace.header["format"] = "flowfabric.collectives/2"
    for step, rollouts in ((0, 3), (1, 0)):
        for _ in range(rollouts):
            trace.all_to_all([[0, SIZE], [SIZE, 0]], step=step, phase="rollout", gap_ns=GAP_NS)
        trace.all_to_all([[0, SIZE], [SIZE, 0]], step=step, phase="backward", gap_ns=GAP_NS)
    return trace


def scenario(trace: Path) -> dict[str, object]:
    return scenario_of(1, 1, 2, {"kind": "trace", "path": str(trace)}, transports=["ecmp", "ideal"])


@pytest.fixture
def simulated(tmp_path: Path) -> Results:
    return simulate(scenario(steps_with_rollouts().write(tmp_path / "trace.jsonl")))


def test_times_of_the_phases_add_up_to_the_run(simulated: Results) -> None:
    """An exchange of 4 MB over one link of 100 Gbps takes 320 us, whatever the transport does."""
    found = {one.name: one for one in phases(simulated)}
    assert list(found) == ["rollout", "backward"]
    for run in simulated.runs:
        whole = sum(one.times_us[run.transport][0] for one in found.values())
        assert whole == pytest.approx(run.completion_ps / 1e6, rel=1e-12)
        assert found["rollout"].times_us[run.transport][0] == pytest.approx(3 * (1000 + 320), rel=0.01)
    assert time_share(simulated) == pytest.approx(3 / 5, rel=1e-3)
    assert found["rollout"].payload_bytes == 3 * 2 * SIZE
    assert found["backward"].collectives == 2
    assert "rollouts take 60.0 % of the time and 60.0 % of the bytes" in rollout_sentence(simulated)


def test_the_share_of_rollouts_is_printed_drawn_and_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import yaml

    file, out = tmp_path / "scenario.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(scenario(steps_with_rollouts().write(tmp_path / "trace.jsonl"))))
    assert main(["compare", str(file), "--out", str(out), "--jobs", "1"]) == 0
    assert "rollouts take 60.0 % of the time and 60.0 % of the bytes of the steps under ecmp" in capsys.readouterr().out
    assert (out / "figures" / "phases.svg").exists()
    assert "Rollouts take 60 % of the time and 60 % of the bytes of a step" in (out / "report.html").read_text()
    with (out / "collectives.csv").open() as rows:
        assert [row["phase"] for row in csv.DictReader(rows)][:4] == ["rollout"] * 3 + ["backward"]


def test_steps_without_rollouts_say_nothing_of_phases(tmp_path: Path) -> None:
    trace = TraceWriter(2)
    trace.all_reduce(SIZE)
    trace.all_reduce(SIZE, phase="backward")
    results = simulate(scenario(trace.write(tmp_path / "trace.jsonl")))
    assert phases(results) == ()
    assert rollout_sentence(results) == ""
