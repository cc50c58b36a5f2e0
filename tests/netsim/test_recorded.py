"""Predicted over recorded step time, for recorded traces only."""

import pytest

from netsim import simulate
from netsim.__main__ import main
from netsim.report.tables import ratios, steps
from tests.netsim.documents import scenario_of
from tests.netsim.traces import TraceWriter

pytestmark = pytest.mark.usefixtures("blank_pictures")


def scenario(path, **more):
    return (
        scenario_of(
            1,
            1,
            2,
            {"kind": "trace", "path": str(path)},
            topology={"link_delay": "0ns"},
            packet={"payload": "1000B"},
            transports=["ecmp", "spray_random"],
            seeds=[0, 1],
        )
        | more
    )


def recorded(tmp_path, times_ns):
    """Two steps, each an all-to-all of 10 kB, recorded as taking so long."""
    trace = TraceWriter(2)
    trace.header["source"] = "recorded"
    trace.header["steps"] = [1, 2]
    for step, time_ns in enumerate(times_ns, start=1):
        first = len(trace.records)
        trace.all_to_all([[0, 10_000], [10_000, 0]])
        for record in trace.records[first:]:
            record.update(step=step, t_issue_ns=0, t_done_ns=time_ns)
    return trace.write(tmp_path / "trace.jsonl")


def test_a_step_is_compared_with_what_was_recorded(tmp_path):
    """10 packets of 80 ns, and one more on the second link: 880 ns."""
    results = simulate(scenario(recorded(tmp_path, [880, 1760])))
    assert [(step.number, step.recorded_us) for step in steps(results)] == [(1, 0.88), (2, 1.76)]
    for step in steps(results):
        assert step.predicted_us == pytest.approx({"ecmp": 0.88, "spray_random": 0.88})
    assert ratios(results) == pytest.approx({"ecmp": 2 / 3, "spray_random": 2 / 3})


def test_nothing_is_said_of_a_trace_by_formula_or_without_times(tmp_path):
    for change in ({"source": "formula"}, None):
        path = recorded(tmp_path, [880, 880])
        text = path.read_text()
        text = (
            text.replace('"recorded"', '"formula"') if change else text.replace('"t_done_ns": 880', '"t_done_ns": null')
        )
        path.write_text(text)
        assert ratios(simulate(scenario(path))) == {}


def test_compare_prints_it_and_the_page_says_it(tmp_path, capsys):
    import yaml

    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario(recorded(tmp_path, [880, 1760]))))
    assert main(["compare", str(path), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    told = "predicted / recorded step time, 2 steps of 0.00132 ms: ecmp 0.67, spray_random 0.67"
    assert told in capsys.readouterr().out
    assert f"P{told[1:]}." in (tmp_path / "out" / "report.html").read_text()
