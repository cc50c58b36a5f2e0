"""Running stages one after the other, each as a process of its own."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.config.rules.objection import Objections, caught, refuse
from trainer.config.trust import options
from trainer.distributed.groups import Launch
from trainer.distributed.process.child import Stopped, Supervisor
from trainer.distributed.process.launcher import STAGE
from trainer.distributed.process.stop import EX_TEMPFAIL, SIGNALS
from trainer.distributed.process.verdict import conclude
from trainer.distributed.run_folder import check_writable
from trainer.experiment.stage.protocol import Stage
from trainer.experiment.stage.provenance import check_provenance


def check_stages(stages: Sequence[Stage], world_size: int) -> None:
    """Refuses stages that cannot be run, as far as is known before those that they read from are finished."""
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

    0, or the exit code of the first that failed: 75 if stopped. A wrong stage is refused before any has begun, as far
    as is known before those that it reads from are finished.
    """
    check_stages(stages, launch.world_size)
    with Supervisor().listening() as supervisor:
        for number, stage in enumerate(stages, start=1):
            place = f"stage {number} of {len(stages)}, {stage.name}"
            if stage.finished:
                _say(f"{place}: already finished", launch)
                continue
            if supervisor.told_to_stop:
                line = f"{place}: not started, since the run was told to stop; start it again to go on"
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
