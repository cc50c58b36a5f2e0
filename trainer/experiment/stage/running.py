"""Running stages one after the other, each as a process of its own, unless earlier ones were made by other settings."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from netsim.foundation.refusal import Refusal
from trainer.config.rules.objection import Objections, caught, refuse
from trainer.config.trust import options
from trainer.distributed.groups import Launch
from trainer.distributed.process.children import Stopped, Supervisor
from trainer.distributed.process.exit_status import conclude
from trainer.distributed.process.signals import EX_TEMPFAIL, SIGNALS, STAGE
from trainer.distributed.run_folder import check_writable
from trainer.experiment.stage.protocol import Stage


def check_provenance(stage: Stage, stages: Sequence[Stage]) -> None:
    """Refuses a finished stage that was made by other settings than the current ones."""
    remedy = f"give another run.dir, or delete {stage.folder} and the folders of the stages that read from it"
    for read in stage.awaited(stages):
        problem = f"is finished, and stage {read.name}, from which it was made, is not"
        raise Refusal(stage.folder, "stage", problem, remedy)
    path, made, now = stage.provenance()
    differing = difference(made, now)
    if differing is not None:
        name, was, wanted = differing
        raise Refusal(
            path, name, f"stage {stage.name} was made with {was}, and the configuration now asks for {wanted}", remedy
        )


def check_read(stage: Stage, stages: Sequence[Stage]) -> None:
    """Refuses a stage, run alone, that reads from a finished one which was made by other settings."""
    for read in stage.read_from(stages):
        check_read(read, stages)
        if read.finished:
            check_provenance(read, stages)


def difference(made: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Dotted key and both values of the first setting that differs between two documents; None if they are equal."""
    made, now = flat(made), flat(now)
    differing = (name for name in sorted(made.keys() | now.keys()) if made.get(name) != now.get(name))
    return next(((name, made.get(name), now.get(name)) for name in differing), None)


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted key."""
    values: dict[str, Any] = {}
    for key, inner in value.items():
        values |= flat(inner, f"{before}{key}.") if isinstance(inner, dict) else {before + key: inner}
    return values


def check_stages(stages: Sequence[Stage], world_size: int) -> None:
    """Refuses stages that cannot be run, as far as can be checked before the stages they read from are finished."""
    refuse(*of_stages(stages, world_size))


def of_stages(stages: Sequence[Stage], world_size: int) -> Iterator[Objections]:
    """The rules of :func:`check_stages`."""
    for stage in stages:
        yield caught(check_writable, stage.folder)
        yield stage.objections(world_size, stages)
    for stage in stages:
        yield _of_provenance(stage, stages)


def _of_provenance(stage: Stage, stages: Sequence[Stage]) -> Objections:
    if stage.finished:
        check_provenance(stage, stages)
    yield from ()


def run_stages(stages: Sequence[Stage], path: Path, overrides: Sequence[str], launch: Launch) -> int:
    """Runs the stages that are not finished, each as a process of its own on every rank.

    Returns 0, or the exit code of the first that failed: 75 if stopped. Refuses a wrong stage before any has begun,
    unless the error can only be found once the stages that it reads from are finished.
    """
    check_stages(stages, launch.world_size)
    with Supervisor().listening() as supervisor:
        for number, stage in enumerate(stages, start=1):
            place = f"stage {number} of {len(stages)}, {stage.name}"
            if stage.finished:
                _say(f"{place}: already finished", launch)
                continue
            if supervisor.told_to_stop:
                line = f"{place}: not started, since the run was stopped; start it again to resume"
                conclude(EX_TEMPFAIL, line)
                return EX_TEMPFAIL
            _say(f"{place}: starts ({stage.verb})", launch)
            code = run_stage(supervisor, [str(path), *overrides], stage.name)
            if code:
                return code
    return 0


def run_stage(supervisor: Supervisor, arguments: Sequence[str], name: str) -> int:
    """Runs one stage as a process of its own and returns its exit code."""
    command = [sys.executable, "-m", "trainer", "train", *arguments, "--stage", name, *options()]
    try:
        code = supervisor.run(command, {**os.environ, STAGE: name})
    except Stopped:
        return EX_TEMPFAIL
    if -code in supervisor.received.intersection(SIGNALS):
        return 128 - code
    return code if code >= 0 else 1


def _say(line: str, launch: Launch) -> None:
    if launch.rank == 0:
        print(line, file=sys.stderr, flush=True)
