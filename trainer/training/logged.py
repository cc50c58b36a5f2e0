"""Which steps a run logs, and whether its metrics still tell of them."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from trainer.checkpoint.directory import step_folder
from trainer.observe.metrics import last_step


def due(step: int, intervals: Iterable[int | None]) -> bool:
    """Whether a step is the end of an interval; None stands for never."""
    return any(every is not None and step % every == 0 for every in intervals)


def logs(step: int, *, steps: int, intervals: Iterable[int | None]) -> bool:
    """Whether the figures of a step, from 1, go to the sinks: the first, the last, and those that end intervals."""
    return step in (1, steps) or due(step, intervals)


def missing_figures(run_dir: Path, started: int) -> str | None:
    """A line that names steps which the metrics, cut back, lack although a checkpoint of step `started` is intact.

    The checkpoint's own configuration says which steps were logged.
    """
    metrics = run_dir / "metrics.jsonl"
    held = last_step(metrics)
    saved = step_folder(run_dir / "checkpoints", started) / "config.yaml"
    if held >= started or not saved.exists():
        return None
    settings = yaml.safe_load(saved.read_text(encoding="utf-8"))
    intervals = settings["observe"]["log_every"], settings["evaluate"]["every"]
    missed = range(held + 1, started + 1)
    if not any(logs(step, steps=settings["optim"]["steps"], intervals=intervals) for step in missed):
        return None
    return (
        f"{metrics}: the figures of steps {missed[0]} to {started} are missing, though the checkpoint of step "
        f"{started} is intact; the run goes on without them (to keep them, stop it and restore the file from a copy)"
    )
