"""Training the runs of a comparison, each stage as a process of its own."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from netsim.foundation.files import replacing
from netsim.foundation.outputs import OPTION
from trainer.config.trust import options
from trainer.distributed.groups import STAGE
from trainer.distributed.process.child import Stopped, Supervisor
from trainer.distributed.process.stop import EX_TEMPFAIL
from trainer.distributed.process.tether import tethered
from trainer.experiment.comparison.candidate import SECONDS
from trainer.experiment.comparison.method import Method
from trainer.experiment.comparison.time_left import Piece, TimeLeft
from trainer.training.failure import RunFailed

LOG = "train.log"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Training:
    """Trains runs, whose processes share the threads that PyTorch would use alone."""

    def __init__(self, supervisor: Supervisor, ranks: int, jobs: int, time_left: TimeLeft) -> None:
        self._supervisor, self._ranks, self._time_left = supervisor, ranks, time_left
        self._threads = max(1, torch.get_num_threads() // (ranks * jobs))

    def run(self, method: Method, config: Path, folder: Path, seed: int, progress: Callable[[str], None]) -> None:
        """Trains what is left of a run; `progress` gets the last line that it has printed, again and again."""
        if self._supervisor.told_to_stop:
            raise Stopped
        folder.mkdir(parents=True, exist_ok=True)
        for stage in method.stages(folder, seed):
            if stage.finished:
                continue
            begun, piece = time.monotonic(), Piece(method.name, seed, stage)
            arguments = [*command(config, folder, seed, stage.name), OPTION]  # the log is there before the run
            code = self._process(piece, arguments, folder / LOG, progress)
            if not stage.trains:
                _add_seconds(folder / SECONDS, stage.name, time.monotonic() - begun)
            if code == EX_TEMPFAIL or (self._supervisor.told_to_stop and code):
                raise Stopped
            if code:
                what = f", stage {stage.name}," if stage.name else ""
                raise RunFailed(f"{folder}{what} ended with {code}: {last_line(folder / LOG)}; see {folder / LOG}")
            self._time_left.ended(piece)

    def _process(self, piece: Piece, arguments: list[str], log: Path, progress: Callable[[str], None]) -> int:
        program, name = tethered([sys.executable, *launched(self._ranks), *arguments]), piece.stage.name
        named = {STAGE: name} if name else {}
        environment = {"OMP_NUM_THREADS": str(self._threads), **os.environ, **named}

        def told() -> None:
            self._time_left.reached(piece)
            progress(last_line(log))

        with log.open("ab") as output:
            return self._supervisor.run(program, environment, output, meanwhile=told)


def folder_of(config: Path, seed: int) -> Path:
    """The folder of a run of a method, beside the file that is trained."""
    return config.parent / f"seed_{seed}"


def launched(ranks: int) -> list[str]:
    """Arguments of Python that start the trainer on so many ranks of this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [*launcher, "-m", "trainer"]


def settings(folder: Path, seed: int) -> list[str]:
    """The settings of a run that its file leaves open."""
    return [f"run.dir={json.dumps(str(folder))}", f"run.seed={seed}"]


def command(config: Path, folder: Path, seed: int, stage: str) -> list[str]:
    """The arguments of the command line that trains one stage of a run."""
    words = ["train", str(config), *settings(folder, seed), *options()]
    return [*words, "--stage", stage] if stage else words


def last_line(log: Path, most: int = 4096) -> str:
    """The last line that a log holds, without what moves a terminal's cursor."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line for line in ESCAPES.sub("", text).replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _add_seconds(path: Path, stage: str, seconds: float) -> None:
    seconds_by_stage: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    seconds_by_stage[stage] = seconds_by_stage.get(stage, 0.0) + seconds
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(seconds_by_stage) + "\n", encoding="utf-8")
