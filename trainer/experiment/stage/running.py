"""Running stages one after the other, each as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from trainer.distributed.groups import STAGE, Launch
from trainer.distributed.process.stop import EX_TEMPFAIL, SIGNALS
from trainer.experiment.stage.kinds import Stage
from trainer.experiment.stage.provenance import check_provenance

HANDED_ON = (*SIGNALS, signal.SIGUSR1)


def check_stages(stages: Sequence[Stage], world_size: int) -> None:
    """Refuses stages that cannot be run, as far as can be told before those that they read from are finished.

    Args:
        stages: from :func:`trainer.experiment.stage.load_stages`.
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
        stages: from :func:`trainer.experiment.stage.load_stages`.
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
    with _Relay().listening() as relay:
        for number, stage in enumerate(stages, start=1):
            place = f"stage {number} of {len(stages)}, {stage.name}"
            if stage.finished:
                _say(f"{place}: is finished", launch)
                continue
            if relay.told_to_stop:
                _say(f"{place}: is not begun, for this was told to stop; start it again to go on", launch)
                return EX_TEMPFAIL
            _say(f"{place}: begins ({stage.verb})", launch)
            code = relay.run([str(path), *overrides, "--stage", stage.name], stage.name)
            if code:
                return code
    return 0


def _say(line: str, launch: Launch) -> None:
    if launch.rank == 0:
        print(line, file=sys.stderr, flush=True)


class _Relay:
    """Runs stages on this rank; what this process is told by signals, the stage that runs is told."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._told: set[int] = set()

    @property
    def told_to_stop(self) -> bool:
        """Whether this process was."""
        return not self._told.isdisjoint(SIGNALS)

    @contextmanager
    def listening(self) -> Iterator[Self]:
        """While entered, signals are handed on, also to a stage that is just being started; main thread only."""
        before = {number: signal.signal(number, self._hand_on) for number in HANDED_ON}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, arguments: Sequence[str], name: str) -> int:
        """Runs one stage.

        Args:
            arguments: of the train verb.
            name: of the stage.

        Returns:
            Its exit code; 75 also if it was told to stop before it listened: there was nothing to save.
        """
        command = [sys.executable, "-m", "trainer", "train", *arguments]
        self._child = subprocess.Popen(command, env={**os.environ, STAGE: name})
        while self._early:
            self._child.send_signal(self._early.pop(0))
        code = self._child.wait()
        self._child = None
        if -code in self._told.intersection(SIGNALS):
            return EX_TEMPFAIL
        return code if code >= 0 else 1

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self._told.add(number)
        if self._child is not None:
            self._child.send_signal(number)
        elif number in SIGNALS:  # SIGUSR1 asks what a stage does, and would end one that does not listen yet
            self._early.append(number)
