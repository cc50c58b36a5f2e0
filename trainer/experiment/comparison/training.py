"""Training the runs of a comparison, each stage as a process of its own, and the time that is left."""

import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import yaml

from netsim.foundation.files import write_json, write_text
from netsim.foundation.outputs import OPTION
from netsim.foundation.refusal import Refusal
from netsim.foundation.terminal import Terminal
from trainer.config.document import read_document
from trainer.config.trust import options
from trainer.distributed.process.children import Stopped, Supervisor, killed_with_parent
from trainer.distributed.process.signals import EX_TEMPFAIL, SIGNALS, STAGE
from trainer.experiment.comparison.method import SECONDS, Method
from trainer.experiment.stage.protocol import Stage
from trainer.experiment.stage.running import difference
from trainer.observe.units import duration
from trainer.training.guard import RunFailed

LEAST_SHARE = 0.02
"""Share of a stage after which its own pace counts: the first steps are slow."""


@dataclass(frozen=True)
class Piece:
    """One stage of one run."""

    method: str
    seed: int
    stage: Stage

    @property
    def amount(self) -> int:
        """Number of its steps or pairs; 1 if it counts neither."""
        return self.stage.cost.steps or self.stage.cost.pairs or 1


@dataclass
class _Begun:
    """A piece in progress: its start time, and the shares done then and now."""

    since: float
    share_then: float
    share: float


class TimeLeft:
    """Remaining time of pieces of work, several of which run at once; thread-safe.

    A piece in progress is assumed to keep its pace. One that has not begun is assumed to take as long as the same stage
    of other seeds, or else, for each step or pair, as long as stages of its kind. Without either, there is no estimate.
    """

    def __init__(self, pieces: Sequence[Piece], jobs: int, now: Callable[[], float] = time.monotonic) -> None:
        self._left = {(piece.method, piece.seed, piece.stage.name): piece for piece in pieces}
        self._begun: dict[tuple[str, int, str], _Begun] = {}
        self._taken: dict[tuple[str, str], list[float]] = {}
        self._paces: dict[str, list[float]] = {}
        self._jobs, self._now, self._lock = jobs, now, threading.Lock()

    def reached(self, piece: Piece) -> None:
        """Records how much of a piece is done; the first call marks its begin."""
        share, key = piece.stage.share_done, (piece.method, piece.seed, piece.stage.name)
        with self._lock:
            self._begun.setdefault(key, _Begun(self._now(), share, share)).share = share

    def ended(self, piece: Piece) -> None:
        """Records that a piece is done."""
        key = piece.method, piece.seed, piece.stage.name
        with self._lock:
            self._left.pop(key, None)
            begun = self._begun.pop(key, None)
            if begun is not None and begun.share_then < 1:
                whole = (self._now() - begun.since) / (1 - begun.share_then)
                self._taken.setdefault((piece.method, piece.stage.name), []).append(whole)
                self._paces.setdefault(piece.stage.verb, []).append(whole / piece.amount)

    def dropped(self, method: str, seed: int) -> None:
        """Records that a run has failed; its other stages will not begin."""
        with self._lock:
            for key in [key for key in self._left if key[:2] == (method, seed)]:
                del self._left[key]
                self._begun.pop(key, None)

    def seconds(self) -> float | None:
        """Time left, in s; None if the time of a remaining piece cannot be estimated yet."""
        with self._lock:
            times = [self._of(key, piece) for key, piece in self._left.items()]
        known = [one for one in times if one is not None]
        if len(known) < len(times):
            return None
        return max(sum(known) / self._jobs, *known, 0.0)

    def _of(self, key: tuple[str, int, str], piece: Piece) -> float | None:
        begun = self._begun.get(key)
        if begun is not None and begun.share - begun.share_then >= LEAST_SHARE:
            pace = (self._now() - begun.since) / (begun.share - begun.share_then)
            return pace * (1 - begun.share)
        alike = self._taken.get((piece.method, piece.stage.name))
        paces = self._paces.get(piece.stage.verb)
        if alike is None and paces is None:
            return None
        whole = fmean(alike) if alike is not None else fmean(paces or ()) * piece.amount
        if begun is None:
            return whole
        passed = self._now() - begun.since
        remaining = whole * (1 - begun.share_then) - passed
        return remaining if remaining > 0 else None


LOG, TRAINED = "train.log", "method.yaml"
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
        program, name = killed_with_parent([sys.executable, *launched(self._ranks), *arguments]), piece.stage.name
        named = {STAGE: name} if name else {}
        environment = {"OMP_NUM_THREADS": str(self._threads), **os.environ, **named}

        def report() -> None:
            self._time_left.reached(piece)
            progress(last_line(log))

        with log.open("ab") as output:
            return self._supervisor.run(program, environment, output, meanwhile=report)


def keep(methods: Sequence[Method], out: Path, option: str) -> None:
    """Writes each method's configuration; refuses to replace different settings, and names `option` as the remedy."""
    for method in methods:
        path = trained_file(out, method)
        differing = path.exists() and difference(read_document(path), yaml.safe_load(method.to_yaml()))
        if differing:
            name, was, now = differing
            remedy = f"give another {option}, or delete {path.parent}"
            raise Refusal(path, name, f"was {was} when its runs were trained, and is {now} now", remedy)
    for method in methods:
        write_text(trained_file(out, method), method.to_yaml())


def trained_file(out: Path, method: Method) -> Path:
    """Path of the configuration by which a method is trained, in the folder of its runs."""
    return out / method.name / TRAINED


def train_all(methods: Sequence[Method], out: Path, seeds: Sequence[int], ranks: int, jobs: int) -> dict[str, str]:
    """Trains what is not finished; returns the methods that failed, and why."""
    work = [
        (method, seed)
        for seed, method in itertools.product(seeds, methods)
        if not all(stage.finished for stage in method.stages(folder_of(trained_file(out, method), seed), seed))
    ]
    kept = len(methods) * len(seeds) - len(work)
    if kept:
        print(f"{kept} runs are finished already", file=sys.stderr)
    supervisor, failed, finished = Supervisor(SIGNALS), dict[str, str](), list[str]()
    pieces = [
        Piece(method.name, seed, stage)
        for method, seed in work
        for stage in method.stages(folder_of(trained_file(out, method), seed), seed)
        if not stage.finished
    ]
    left = TimeLeft(pieces, jobs)
    training = Training(supervisor, ranks, jobs, left)

    with Terminal(stderr=True).status("") as status:

        def train(method: Method, seed: int) -> None:
            name, begun, config = f"{method.name}, seed {seed}", time.monotonic(), trained_file(out, method)

            def show(line: str) -> None:
                status.update(f"{name}: {line}{_about(left.seconds())}")

            try:
                training.run(method, config, folder_of(config, seed), seed, show)
            except RunFailed as error:
                failed[method.name] = str(error)
                left.dropped(method.name, seed)
                return
            finished.append(name)
            took, ending = duration(time.monotonic() - begun), _about(left.seconds())
            print(f"trained {len(finished)} of {len(work)}: {name}, {took}{ending}", file=sys.stderr, flush=True)

        with supervisor.listening(), ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(train, *one) for one in work]
            for future in futures:
                future.result()
    return failed


def _about(seconds: float | None) -> str:
    return f"; about {duration(seconds)} left" if seconds else ""


def folder_of(config: Path, seed: int) -> Path:
    """The folder of a run of a method, beside the file that is trained."""
    return config.parent / f"seed_{seed}"


def launched(ranks: int) -> list[str]:
    """Arguments of Python that start the trainer on so many ranks of this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [*launcher, "-m", "trainer"]


def settings(folder: Path, seed: int) -> list[str]:
    """Returns the overrides that complete a run's file: its folder and its seed."""
    return [f"run.dir={json.dumps(str(folder))}", f"run.seed={seed}"]


def command(config: Path, folder: Path, seed: int, stage: str) -> list[str]:
    """The arguments of the command line that trains one stage of a run."""
    words = ["train", str(config), *settings(folder, seed), *options()]
    return [*words, "--stage", stage] if stage else words


def last_line(log: Path, most: int = 4096) -> str:
    """Returns the last line of a log, without the escape sequences of a terminal."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line for line in ESCAPES.sub("", text).replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _add_seconds(path: Path, stage: str, seconds: float) -> None:
    seconds_by_stage: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    seconds_by_stage[stage] = seconds_by_stage.get(stage, 0.0) + seconds
    write_json(path, seconds_by_stage, indent=None)
