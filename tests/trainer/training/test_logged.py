"""Metrics that end before the checkpoint that a run resumes from are told, and others are not."""

import json
from pathlib import Path

import pytest
import yaml

from tests.each import each
from trainer.checkpoint.directory import step_folder
from trainer.training.schedule import missing_figures


def run(folder: Path, *, lines: int | None, every: int, evaluated: int | None = None, steps: int = 40) -> Path:
    """A run with a checkpoint after step 25, whose metrics are those up to a step; None: there are none."""
    saved = step_folder(folder / "checkpoints", 25)
    saved.mkdir(parents=True)
    settings = {"observe": {"log_every": every}, "evaluate": {"every": evaluated}, "optim": {"steps": steps}}
    (saved / "config.yaml").write_text(yaml.safe_dump(settings))
    if lines is not None:
        logged = [step for step in range(1, lines + 1) if step == 1 or step % every == 0]
        (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in logged))
    return folder


@pytest.mark.parametrize("lines", [None, 0])
def test_missing_and_emptied_metrics_are_told(lines: int | None, tmp_path: Path) -> None:
    line = missing_figures(run(tmp_path, lines=lines, every=10), 25)
    assert line is not None
    assert line.startswith(f"{tmp_path / 'metrics.jsonl'}: the figures of steps 1 to 25 are missing")
    assert "\n" not in line


@pytest.mark.parametrize(("lines", "first"), [(10, 11), (19, 11), (1, 2)])
def test_shorter_metrics_are_told(lines: int, first: int, tmp_path: Path) -> None:
    line = missing_figures(run(tmp_path, lines=lines, every=10), 25)
    assert line is not None
    assert f"of steps {first} to 25 are missing" in line


@each("every", [1, 5, 10, 100])
def test_metrics_that_hold_all_that_was_logged_are_not(every: int, tmp_path: Path) -> None:
    assert missing_figures(run(tmp_path, lines=25, every=every), 25) is None


def test_evaluated_steps_and_the_last_one_are_logged_too(tmp_path: Path) -> None:
    assert missing_figures(run(tmp_path / "a", lines=20, every=10, evaluated=25), 25) is not None
    assert missing_figures(run(tmp_path / "b", lines=20, every=10, steps=25), 25) is not None


def test_a_run_that_starts_misses_nothing(tmp_path: Path) -> None:
    assert missing_figures(tmp_path, 0) is None
