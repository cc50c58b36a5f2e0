"""Running stages one after the other, each as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.engine.groups import STAGE, Launch
from trainer.process.stop import EX_TEMPFAIL, SIGNALS
from trainer.stages.provenance import check_provenance
from trainer.stages.stage import Stage

HANDED_ON = (*SIGNALS, signal.SIGUSR1)


def check_stages(stages: Sequence[Stage], world_size: int) -> None:
    """Refuses stages that cannot be run, as far as can be told before those that they read from are finished.

    Args:
        stages: from :func:`trainer.stages.load_stages`.
        world_size: ranks that run them.

    Raises:
        ValueError: a stage is wrong, or is finished and was made by something else than what is asked now.
    """
    for stage in stages:
        stage.check(world_size, stages)
    for stage in stages:
        if stage.finished:
            check_provenance(stage, stages)


def run_stages(stages: Sequence[Stage], path: Path, overrides: Sequence[str], launch: Launch) -> int:
    """Runs the stages that are not finished, each as a process of its own on every rank.

    Args:
        stages: from :func:`trainer.stages.load_stages`.
        path: the configuration file.
        overrides: as they were given.
        launch: what the launcher said.

    Returns:
        0 if all are done, otherwise the exit code of the first that was not: 75 if it was told to stop.

    Raises:
        ValueError: a stage is wrong; as far as can be told before those that it reads from are finished, no stage
            has then begun.
    """
    check_stages(stages, launch.world_size)
    for number, stage in enumerate(stages, start=1):
        if launch.rank == 0:
            doing = "is finished" if stage.finished else f"begins ({stage.verb})"
            print(f"stage {number} of {len(stages)}, {stage.name}: {doing}", file=sys.stderr, flush=True)
        if not stage.finished:
            code = _in_a_process([str(path), *overrides, "--stage", stage.name], stage.name)
            if code:
                return code
    return 0


def _in_a_process(arguments: Sequence[str], name: str) -> int:
    """Runs one stage on this rank; what this process is told by signals, that one is told."""
    command = [sys.executable, "-m", "trainer", "train", *arguments]
    early: list[int] = []
    told: set[int] = set()

    def hand_on(number: int, _: object) -> None:
        told.add(number)
        child.send_signal(number)

    before = {number: signal.signal(number, lambda told, _: early.append(told)) for number in HANDED_ON}
    try:
        child = subprocess.Popen(command, env={**os.environ, STAGE: name})
        for number in HANDED_ON:
            signal.signal(number, hand_on)
        for number in early:
            hand_on(number, None)
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if -code in told.intersection(SIGNALS):  # before it listened: there was nothing to save
        return EX_TEMPFAIL
    return code if code >= 0 else 1
