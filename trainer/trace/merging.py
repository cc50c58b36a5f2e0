"""Merging the traces of a run in a process beside it: python -m trainer.trace.merging FOLDER [routing]"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from moe.collective_trace import rank_path, read_header
from netsim.foundation.refusal import DiskFull, Refusal
from trainer.distributed.process.children import killed_with_parent
from trainer.trace.merge import merge
from trainer.trace.routing_files import merge_routing

PATIENCE_S = 5.0
"""For a merge when the run was told to stop."""
NICENESS = 10


class Merging:
    """Merges what the ranks recorded, in a process that ends with this one.

    ``collectives.jsonl`` is the last file that it writes. So long as it is missing or holds other steps, the traces are
    not merged, and the next start of the run merges them. What was merged of other steps before is kept in a folder
    named after them, such as ``steps_00000017-00000019``.
    """

    def __init__(self, folder: Path, *, routing: bool) -> None:
        """Starts a process, and returns at once; `routing`: the ranks recorded the routing as well."""
        self._folder = folder
        _keep_former(folder)
        command = killed_with_parent(
            [sys.executable, "-m", "trainer.trace.merging", str(folder), *["routing"] * routing]
        )
        # Its own session: a signal to the run's ranks does not end it.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    @classmethod
    def outstanding(cls, folder: Path, *, routing: bool) -> "Merging | None":
        """Starts if an earlier process of the run left traces that are not merged; the arguments are the same."""
        begun = rank_path(folder, 0).exists() and _steps(folder / "collectives.jsonl") != _steps(rank_path(folder, 0))
        return cls(folder, routing=routing) if begun else None

    def finish(self, *, stopped: bool) -> None:
        """Waits until it is done, and prints the result.

        If the run is being stopped, a merge that is not done within :data:`PATIENCE_S` is left to its next start.
        Raises Refusal if the files cannot be merged, DiskFull, and RuntimeError if the process ended early.
        """
        try:
            told, _ = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            if stopped:
                self._process.kill()
                self._process.communicate()
                print(f"{self._folder}: not yet merged; the next start merges it", file=sys.stderr, flush=True)
                return
            print(f"{self._folder}: waits for the merge of what was recorded", file=sys.stderr, flush=True)
            told, _ = self._process.communicate()
        if not told:
            raise RuntimeError(f"{self._folder}: the process that merges ended with {self._process.returncode}")
        answer = json.loads(told)
        if "refused" in answer:
            raise Refusal(*answer["refused"])
        if "full" in answer:
            raise DiskFull(answer["full"])
        if not answer["steady"]:
            print(
                f"{self._folder}: the recorded steps are not alike, so none may be typical; "
                "give two or more steps in a row (trace.steps), not the first two; "
                "where steps share rollouts, those of a cycle and one more",
                file=sys.stderr,
            )


def _steps(trace: Path) -> tuple[int, ...]:
    """Optimiser steps that a trace holds; none where it is missing or damaged."""
    try:
        return read_header(trace).steps
    except Refusal:
        return ()


def _keep_former(folder: Path) -> None:
    """Moves merged traces of other steps to a folder named after these; a trace of the same steps makes room."""
    merged = folder / "collectives.jsonl"
    former = _steps(merged)
    if not former or former == _steps(rank_path(folder, 0)):
        merged.unlink(missing_ok=True)
        return
    kept = folder / f"steps_{former[0]:08}-{former[-1]:08}"
    kept.mkdir(exist_ok=True)
    for file in (folder / "routing.npz", merged):  # the collectives last: until then the new traces are not merged
        if file.exists():
            file.replace(kept / file.name)


def main(arguments: Sequence[str]) -> None:
    """Merges a folder (and its ``routing``); prints as JSON whether it is steady or why it was refused."""
    folder = Path(arguments[0])
    try:
        world_size = read_header(rank_path(folder, 0)).world_size
        if "routing" in arguments[1:]:
            merge_routing(folder, world_size)
        print(json.dumps({"steady": merge(folder, world_size)}))
    except Refusal as error:
        print(json.dumps({"refused": [error.file, error.field, error.problem, error.remedy]}))
    except DiskFull as error:
        print(json.dumps({"full": str(error)}))


if __name__ == "__main__":
    os.nice(NICENESS)  # the ranks compute meanwhile
    main(sys.argv[1:])
