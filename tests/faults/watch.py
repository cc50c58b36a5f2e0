"""How far a run has come, and what it said."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_BEGINS = re.compile(r": (?:resumes after step (\d+)|starts); ")


class Begin(NamedTuple):
    """A time that the ranks began to train.

    Args:
        after: the step that they went on from, 0 at the first start.
        lost: steps that had been taken and had to be taken again.
        seconds: since the run was first started.
    """

    after: int
    lost: int
    seconds: float


class Watch:
    """Follows the metrics and the log of a run.

    Args:
        run_dir: folder of the run.
        log: what its nodes write.
        start_s: how long a start has taken on this machine.
    """

    def __init__(self, run_dir: Path, log: Path, start_s: float) -> None:
        self._metrics, self._log = run_dir / "metrics.jsonl", log
        self._start_s, self._made = start_s, time.monotonic()
        self._read = 0
        self.step = 0
        self.begins: list[Begin] = []

    def patience_s(self, starts: float, at_least: float) -> float:
        """How long something may take that takes no longer than some starts, however busy the machine is.

        Args:
            starts: the longest known start so many times.
            at_least: seconds.
        """
        return max(at_least, starts * max([self._start_s, *(begin.seconds for begin in self.begins[:1])]))

    def look(self) -> int:
        """Takes in what is new.

        Returns:
            The last step taken, as far as anything tells.
        """
        for after in self._new_begins():
            self.begins.append(Begin(after, max(0, self.step - after), time.monotonic() - self._made))
            self.step = after
        self.step = max(self.step, self._last_step())
        return self.step

    def _new_begins(self) -> Iterator[int]:
        with self._log.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for match in _BEGINS.finditer(whole.decode("utf-8", "replace")):
            yield int(match[1] or 0)

    def _last_step(self) -> int:
        """Of the metrics, whose last line may be about to be written."""
        if not self._metrics.exists():
            return 0
        lines = self._metrics.read_bytes().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else 0
