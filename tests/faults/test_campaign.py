"""The campaign itself: it waits as long as the machine needs, and a run that fails is a complaint of that run alone."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults import __main__ as command
from tests.faults import campaign
from tests.faults.campaign import Outcome, Plan, Reference, disturbed
from tests.faults.watch import Watch


class Endless:
    """A cluster whose run never ends."""

    nodes = ()

    def tend(self) -> bool:
        return False


@contextmanager
def endless(*_: Any, **__: Any) -> Iterator[Endless]:
    yield Endless()
    raise OSError("a process that does not die")


def test_a_run_over_its_deadline_is_a_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "cluster", endless)
    monkeypatch.setattr(campaign, "SECONDS_AT_LEAST", 0.05)
    (tmp_path / "run.log").touch()
    plan = Plan(nodes=1, zero_stage=1, faults=((5, "rank killed"),), seed="never")
    outcome = disturbed(plan, Reference(tmp_path, start_s=0.01), tmp_path / "run")
    assert outcome.complaints == ["does not end within 0 s"]


def test_the_others_go_on_and_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The undisturbed run of some cannot be made; another is over its deadline; the rest are good."""
    begun: list[int] = []

    def undisturbed(folder: Path, _: int, zero_stage: int) -> Reference:
        if zero_stage == 2:
            raise TimeoutError("no undisturbed run")
        return Reference(folder, 1.0)

    def played(plan: Plan, _: Reference, folder: Path) -> Outcome:
        begun.append(int(folder.name.removeprefix("run_")))
        return Outcome(plan, [], [(0, 0)], [], ["does not end"] if len(begun) == 1 else [], 1.0)

    monkeypatch.setattr(command, "undisturbed", undisturbed)
    monkeypatch.setattr(command, "disturbed", played)
    assert command.main(["--runs", "8", "--seed", "3", "--out", str(tmp_path / "out")]) == 1
    written = json.loads((tmp_path / "out" / "campaign.json").read_text())
    assert len(written["runs"]) == 8
    complaints = [run["complaints"] for run in written["runs"]]
    assert complaints.count(["does not end"]) == 1
    assert ["no undisturbed run"] in complaints
    assert written["good"] == complaints.count([]) > 0
    assert capsys.readouterr().out.count("\nrun ") >= 7


def test_patience_grows_with_the_start_that_was_measured(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    watch = Watch(tmp_path / "run", log, start_s=2.0)
    assert watch.patience_s(10, at_least=5) == 20
    assert watch.patience_s(1, at_least=5) == 5
    time.sleep(0.01)
    with log.open("a") as file:
        file.write("runs/a: starts; 2 ranks\n")
    watch.look()
    assert watch.begins[0].seconds >= 0.01
    watch.begins[0] = watch.begins[0]._replace(seconds=30.0)  # a busy machine
    assert watch.patience_s(10, at_least=5) == 300
