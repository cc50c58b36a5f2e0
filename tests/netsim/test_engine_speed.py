"""The benchmark: its scenes are what they say, engines that compare have the same work, problems do not stop it."""

import json

import pytest

from tests.benchmarks import engine_speed
from tests.benchmarks.engine_cases import CASES, PACKET_BYTES, Case, Shape, all_to_all
from tests.benchmarks.engine_speed import Figures, Measurement, Unmeasured, bench, main, print_figures, write_figures
from tests.each import each

SMALL = Case("all-to-all, 8 hosts", Shape(2, 4, 2), all_to_all, 2, ("simpy", "exact"))


@pytest.fixture(scope="module")
def figures() -> Figures:
    return bench(1, [SMALL, SMALL._replace(name="odd", engines=("no such engine",))])


@each("case", CASES, ids=lambda case: case.name)
def test_small_twins_have_the_work_of_their_case(case):
    twin, scene = case.small, case.small.scene()
    assert scene.topology.hosts == 4
    assert {task.bytes for task in scene.tasks} == {twin.packets * PACKET_BYTES}
    assert scene.listens == case.closed_loop


def test_engines_that_compare_simulated_the_same(figures):
    simpy, exact = figures.measured
    across, hops = 8 * 4 * 2, 8 * 7 * 2 * 2
    assert simpy.data_hops == exact.data_hops == hops + 2 * across
    assert simpy.completion_ps == exact.completion_ps > 0
    assert simpy.flows == exact.flows == 56
    assert figures.ratio(simpy) is None
    assert figures.ratio(exact) == simpy.cpu_s / exact.cpu_s
    for one in figures.measured:
        assert min(one.all_cpu_s) <= one.cpu_s <= max(one.all_cpu_s)
        assert len(one.all_cpu_s) == 1
        assert one.resident_bytes > 10**7


def test_what_cannot_be_measured_is_said(figures):
    assert [(one.case, one.engine) for one in figures.unmeasured] == [("odd", "no such engine")]


def test_table_and_file_say_the_same(figures, tmp_path, capsys):
    print_figures(figures)
    printed = capsys.readouterr().out
    assert "not measured: no such engine, odd: " in printed
    assert "htsim" in printed
    write_figures(figures, tmp_path / "new" / "bench.json")
    content = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert content["format"] == "flowfabric.bench/1"
    assert [one["engine"] for one in content["measured"]] == ["simpy", "exact"]
    assert all(f"{one['cpu_s']:.4g}" in printed for one in content["measured"])
    assert content["not_measured"][0]["engine"] == "no such engine"
    assert "another machine" in content["reference"]["note"]


@each("whole", [True, False])
def test_the_command_fails_if_an_engine_does(whole, tmp_path, monkeypatch, capsys):
    one = Measurement("a", "simpy", 10, 0, 1, 5, 0.1, 0.5, (0.5,), 10**8)
    found = Figures([one], [] if whole else [Unmeasured("a", "exact", "its process died")])
    monkeypatch.setattr(engine_speed, "bench", lambda _: found)
    out = tmp_path / "bench.json"
    assert main(["--out", str(out)]) == (0 if whole else 1)
    assert json.loads(out.read_text())["measured"][0]["case"] == "a"
    assert ("its process died" in capsys.readouterr().out) != whole
