"""The schedules of a run: its learning rate, and the steps that it logs."""

import math
from collections.abc import Iterable
from pathlib import Path

import yaml

from trainer.checkpoint.directory import step_folder
from trainer.config.sections import OptimConfig
from trainer.observe.metrics import last_step


def due(step: int, intervals: Iterable[int | None]) -> bool:
    """Whether a step is the end of an interval; None stands for never."""
    return any(every is not None and step % every == 0 for every in intervals)


def logs(step: int, *, steps: int, intervals: Iterable[int | None]) -> bool:
    """Whether a step's figures go to the sinks: of step 1, of the last step, and at the end of each interval."""
    return step in (1, steps) or due(step, intervals)


def missing_figures(run_dir: Path, started: int) -> str | None:
    """A line about logged steps up to the intact checkpoint of step `started` that the metrics lack; None if none.

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
        f"{started} is intact; the run continues without them (to keep them, stop it and restore the file from a copy)"
    )


def learning_rate(optim: OptimConfig, step: int) -> float:
    """The rate of `step`, from 1: linear warm-up, then half a cosine to the final rate at the last step."""
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.final_lr + (optim.lr - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def changed_schedule(optim: OptimConfig, steps_before: int, step: int) -> str | None:
    """A line about the changed learning rate of a run that resumes at `step` with another number of steps, or None."""
    if steps_before == optim.steps or step >= optim.steps:
        return None
    last = learning_rate(optim.model_copy(update={"steps": steps_before}), step)
    following = learning_rate(optim, step + 1)
    return (
        f"optim.steps: {optim.steps} in place of {steps_before} stretches the cosine: the learning rate goes from "
        f"{last:.3g} at step {step} to {following:.3g} at step {step + 1}, and falls to {optim.final_lr:g} at the end; "
        f"optim.lr={max(last, optim.final_lr):.3g} optim.final_lr={optim.final_lr:g} optim.warmup_steps=0 keep it low"
    )
