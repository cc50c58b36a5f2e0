"""How far a conversion is, for a person at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from netsim.foundation.terminal import Terminal


class Tell(Protocol):
    """Says that more examples are done."""

    def __call__(self, num: int, *, kept: bool = False) -> None:
        """Adds examples; those `kept` by an earlier start say nothing about how long the others take."""
        ...


@contextmanager
def told(out: Path, num: int) -> Iterator[Tell]:
    """Shows on a terminal how many of `num` examples are done and the time left; nothing elsewhere."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = Progress(*columns, console=Terminal(stderr=True), disable=not sys.stderr.isatty())
    task = shown.add_task(str(out), total=num)
    with shown:

        def tell(num: int, *, kept: bool = False) -> None:
            if kept:
                shown.reset(task, total=shown.tasks[task].total, completed=int(shown.tasks[task].completed) + num)
            else:
                shown.advance(task, num)

        yield tell
