"""What a person sees while the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from trainer.observe.protocol import Sink

LINES = 10
SHOWN = {
    "loss": "loss {:.4f}",
    "held_out_loss": "held-out {:.4f}",
    "held_out_bits_per_byte": "{:.3f} bits/byte",
    "lr": "lr {:.2e}",
    "time.samples_per_s": "{:,.0f} samples/s",
}


def terminal(*, first_step: int, last_step: int, stream: TextIO = sys.stderr) -> Sink:
    """Returns a progress bar where `stream` is a terminal, and otherwise about ten plain lines over the run.

    Args:
        first_step: optimiser steps done before this process, 0 for a new run.
        last_step: optimiser steps at which the run ends.
        stream: where to show it.
    """
    kind = ProgressBar if stream.isatty() else LogLines
    return kind(first_step=first_step, last_step=last_step, stream=stream)


class ProgressBar(Sink):
    """One line that stays in place: bar, step, losses, learning rate, samples per second and time left.

    Args:
        first_step: optimiser steps done before this process.
        last_step: optimiser steps at which the run ends.
        stream: a terminal.
    """

    def __init__(self, *, first_step: int, last_step: int, stream: TextIO) -> None:
        self._summary = _Summary(last_step)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[summary]}"),
            console=Console(file=stream),
        )
        self._task = self._progress.add_task("training", total=last_step, completed=first_step, summary="starting")
        self._progress.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink.write`."""
        self._summary.take(values)
        self._progress.update(self._task, completed=step, summary=self._summary.line(step))

    def close(self) -> None:
        """See `Sink.close`."""
        self._progress.stop()


class LogLines(Sink):
    """A plain line for the first step, every tenth of the run and the last step.

    Args:
        first_step: optimiser steps done before this process.
        last_step: optimiser steps at which the run ends.
        stream: a log.
    """

    def __init__(self, *, first_step: int, last_step: int, stream: TextIO) -> None:
        self._summary = _Summary(last_step)
        self._last_step = last_step
        self._next = first_step + 1
        self._every = max(1, (last_step - first_step) // LINES)
        self._stream = stream

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink.write`."""
        self._summary.take(values)
        if step >= self._next or step == self._last_step:
            self._next = (step // self._every + 1) * self._every
            print(self._summary.line(step), file=self._stream, flush=True)

    def close(self) -> None:
        """See `Sink.close`."""


class _Summary:
    """The latest figure of each name and a running mean of the step time, told in one line."""

    def __init__(self, last_step: int) -> None:
        self._last_step = last_step
        self._values: dict[str, float] = {}
        self._step_s: float | None = None

    def take(self, values: Mapping[str, float]) -> None:
        self._values.update(values)
        latest = values.get("time.step_s", self._step_s)
        self._step_s = latest if self._step_s is None or latest is None else 0.9 * self._step_s + 0.1 * latest

    def line(self, step: int) -> str:
        parts = [f"step {step:>{len(str(self._last_step))}}/{self._last_step}"]
        parts += [form.format(self._values[name]) for name, form in SHOWN.items() if name in self._values]
        if self._step_s is not None and step < self._last_step:
            parts.append(f"{timedelta(seconds=round((self._last_step - step) * self._step_s))} left")
        return "  ".join(parts)
