import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.trainer.commands import DIGITS, refused
from trainer.config.sections import ProfileConfig
from trainer.observe.speed import ProfileWindow, resident_peak_bytes

LAST = 6


def profiled(
    folder: Path, window: tuple[int, int] | None, *, started: int = 0, rank: int = 0, until: int = LAST
) -> None:
    """Takes steps of a run, each of which multiplies matrices."""
    config = None if window is None else ProfileConfig(steps=window, shapes=True)
    profile = ProfileWindow(config, folder, rank, started)
    for step in range(started + 1, until + 1):
        with profile.step(step):
            torch.mm(torch.ones(3, 5), torch.ones(5, 7))


def steps_in(path: Path) -> list[str]:
    events = json.loads(path.read_text())["traceEvents"]
    products = [event for event in events if event.get("name") == "aten::mm"]
    marks = {event["name"] for event in events if event.get("name", "").startswith("step ") and "dur" in event}
    assert len(products) == len(marks)
    assert all(event["args"]["Input Dims"][:2] == [[3, 5], [5, 7]] for event in products)
    return sorted(marks)


def test_each_rank_writes_the_steps_of_the_window(tmp_path: Path) -> None:
    for rank in (0, 1):
        profiled(tmp_path, (3, 4), rank=rank)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank_00000.json", "rank_00001.json"]
    assert all(steps_in(path) == ["step 3", "step 4"] for path in tmp_path.iterdir())


def test_without_a_window_nothing_is_written(tmp_path: Path) -> None:
    profiled(tmp_path / "profile", None)
    assert not list(tmp_path.iterdir())


def test_a_run_that_resumes_before_the_end_of_the_window_writes_it_anew(tmp_path: Path) -> None:
    profiled(tmp_path, (2, 5))
    for number in (1, 2):
        (tmp_path / f"rank_{number:05d}.json").write_text("of ranks that are no longer there")
    profiled(tmp_path, (2, 5), started=3)
    assert [path.name for path in tmp_path.iterdir()] == ["rank_00000.json"]
    assert steps_in(tmp_path / "rank_00000.json") == ["step 4", "step 5"]


def test_a_run_that_dies_in_the_window_leaves_nothing_of_it(tmp_path: Path) -> None:
    profiled(tmp_path, (2, 5))
    profiled(tmp_path, (2, 5), started=1, until=3)
    assert not list(tmp_path.iterdir())


def test_a_run_that_resumes_after_the_window_keeps_it(tmp_path: Path) -> None:
    profiled(tmp_path, (2, 3))
    before = (tmp_path / "rank_00000.json").read_bytes()
    profiled(tmp_path, (2, 3), started=3)
    assert (tmp_path / "rank_00000.json").read_bytes() == before


@pytest.mark.parametrize("steps", [(4, 3), (0, 3), (3,)])
def test_a_window_that_is_none_is_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        ProfileConfig.model_validate({"steps": steps})


def test_a_window_beyond_the_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "check", DIGITS, "--world-size", "2", "optim.steps=20", "observe.profile={steps: [19, 21]}")
    said = "observe.profile.steps: [19, 21] ends after the last step, optim.steps 20; end at 20 at most"
    assert line.endswith(said)


def test_peak_memory_sees_what_was_let_go() -> None:
    before = resident_peak_bytes()
    torch.ones(64 * 2**20 // 4).sum()
    assert resident_peak_bytes() >= before
    held = torch.ones(256 * 2**20 // 4)
    assert resident_peak_bytes() > held.nbytes
