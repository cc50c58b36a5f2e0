"""What a person sees while text is encoded."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from netsim.foundation.terminal import Terminal
from trainer.data.text.inputs import Chunk


class EncodingProgress:
    """On a terminal: the share of the bytes of the files that are done, tokens a second, time left."""

    def __init__(self, sizes: Sequence[int], first: int) -> None:
        """Describes the work by sizes of all files, in bytes, and number of the file at which this start resumes."""
        self._before = [0, *itertools.accumulate(sizes)]
        self._tokens, self._begun = 0, time.perf_counter()
        self._progress = Progress(
            TextColumn("encoding"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Terminal(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(
            "", total=self._before[-1], completed=self._before[min(first, len(sizes))], speed=""
        )

    def __enter__(self) -> EncodingProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, chunk: Chunk, tokens: int) -> None:
        """Shows that a chunk is done, and how many tokens more it is."""
        self._tokens += tokens
        last = chunk.pieces[-1]
        done = self._before[last.file] + (last.end if last.read_bytes is None else last.read_bytes)
        speed = self._tokens / (time.perf_counter() - self._begun)
        self._progress.update(self._task, completed=done, speed=f"{speed:,.0f} tokens/s")
