"""Layouts that cells of a sweep have in common: which, and that results do not depend on who laid them out."""

import json
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory

import pytest

from netsim.simulation.scenario import Scenario, read_scenario
from netsim.sweep import job as jobs
from netsim.sweep.job import Job, LastLayout, Lent, attempt_together, layout_key
from netsim.sweep.sweep_file import identify
from netsim.workers import Handle, Shared, attached
from tests.each import each
from tests.netsim.documents import SCENARIO

ALIKE = [
    "seeds=[1,2]",
    "transports=[drb]",
    "recovery.kind=selective",
    "topology.failures=[{link: leaf0-spine1, rate: 1Gbps}]",
]
OTHERS = [
    "workload.bytes_per_rank=8KB",
    "topology.spines=1",
    "topology.link_delay=1us",
    "packet.payload=1KB",
    "algorithms.all_reduce=tree",
    "rank_order=[3,2,1,0]",
    "algorithms.step=1us",
    "draws=collective",
]


def cell(*changes: str) -> Scenario:
    return read_scenario(SCENARIO | {"engine": "simpy"}, changes)


def key(scenario: Scenario) -> str:
    return layout_key(scenario, identify(scenario))


def job(*changes: str, run: tuple[int, int] | None = (0, 0)) -> Job:
    scenario = cell(*changes)
    return Job(repr(changes), "cell", scenario, identify(scenario), key(scenario), run)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process takes the part of several, one after the other: see `another`."""
    another(monkeypatch)
    yield
    jobs._last.clear()


def another(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another process, which has prepared nothing."""
    jobs._last.clear()
    monkeypatch.setattr(jobs, "_layout", LastLayout())


def without_wall_time(files: object) -> object:
    assert isinstance(files, dict), files
    results = json.loads(files["results.json"])
    for run in results["runs"]:
        run["wall_s"] = 0
    return {**files, "results.json": results}


@each("change", ALIKE)
def test_runs_that_differ_in_control_and_failures_share_a_layout(change):
    assert key(cell(change)) == key(cell())


@each("change", OTHERS)
def test_what_changes_the_messages_changes_the_key(change):
    assert key(cell(change)) != key(cell())


def test_a_lent_layout_is_not_laid_out_again(processes, monkeypatch):  # noqa: ARG001
    first, handle = attempt_together(job(), None, True)
    assert handle is not None
    expected = {change: attempt_together(job(change), None, False)[0] for change in ALIKE}
    another(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr("netsim.simulation.prepare._lay_out", None)
        for change in ALIKE:
            answer, again = attempt_together(job(change), handle, True)
            assert without_wall_time(answer) == without_wall_time(expected[change])
            assert again is None
    lent = Lent()
    lent.keep("key", handle)
    lent.close()
    another(monkeypatch)
    answer, again = attempt_together(job(), handle, False)  # it has been freed meanwhile
    assert without_wall_time(answer) == without_wall_time(first)


def test_a_cell_that_is_wrong_is_refused_though_its_layout_is_lent(processes, monkeypatch):  # noqa: ARG001
    _, handle = attempt_together(job(), None, True)
    assert handle is not None
    another(monkeypatch)
    down = "topology.failures=[{switch: leaf1}]"
    answer, _ = attempt_together(job(down, run=None), handle, True)
    assert not isinstance(answer, dict)
    assert "no path leads" in answer.problem
    lent = Lent()
    lent.keep("key", handle)
    lent.close()


def test_the_latest_layouts_are_kept_and_the_others_freed():
    lent, handles = Lent(), list[Handle]()
    for number in range(6):
        shared = Shared([number])
        shared.leave()
        handles.append(shared.handle)
        lent.keep(str(number), shared.handle)
        lent.of("0")
    assert [number for number in range(6) if lent.of(str(number))] == [0, 3, 4, 5]
    for number in (1, 2):
        with pytest.raises(FileNotFoundError):
            attached(handles[number])
    lent.close()
    with pytest.raises(FileNotFoundError):
        SharedMemory(handles[0].name)
