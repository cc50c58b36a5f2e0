"""The live view of a run in a terminal, or its lines in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from netsim.foundation.terminal import Terminal
from trainer.checkpoint.directory import complete_steps
from trainer.observe.protocol import Sink
from trainer.observe.units import duration, scaled, sparkline

HISTORY = 4096
"""Most records kept of a figure; beyond them every second one is dropped."""
_LATEST = 0.1
"""Weight of a step's time in the running mean."""


class RunningStatistics:
    """The state of a run for display: latest figures, their history, and the time that is left.

    Attributes:
        stepped_at: when the last step ended, in seconds of the clock; None before.
        step_s: running mean of the step time; None before.
    """

    def __init__(self, *, first_step: int, last_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.first_step, self.last_step, self.step = first_step, last_step, first_step
        self.values: dict[str, float] = {}
        self.stepped_at: float | None = None
        self.step_s: float | None = None
        self._clock, self._begun_at = clock, clock()
        self._courses: dict[str, list[float]] = {}

    def stepped(self, step: int, seconds: float) -> None:
        """Records the end of a step and its duration."""
        self.step, self.stepped_at = step, self._clock()
        self.step_s = seconds if self.step_s is None else (1 - _LATEST) * self.step_s + _LATEST * seconds

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the figures of a logged step."""
        self.step = step
        self.values.update(values)
        for name, value in values.items():
            course = self._courses.setdefault(name, [])
            course.append(value)
            if len(course) > HISTORY:
                del course[::2]

    def course(self, name: str, least: int) -> list[float]:
        """The latest values of a figure, oldest first: the later half, but at least `least` if there are so many."""
        course = self._courses.get(name, [])
        return course[-max(least, len(course) // 2) :]

    def left(self) -> str | None:
        """Time until the last step, as h:mm:ss; None where it is not known or over."""
        if self.step_s is None or self.step >= self.last_step:
            return None
        return str(timedelta(seconds=round((self.last_step - self.step) * self.step_s)))

    def elapsed(self) -> str:
        """Time since this process began, up to the last step, as h:mm:ss."""
        return str(timedelta(seconds=round((self.stepped_at or self._begun_at) - self._begun_at)))

    def silence_s(self) -> float:
        """Seconds since the last step if they exceed ten mean step times plus five seconds; 0 otherwise."""
        if self.stepped_at is None or self.step_s is None or self.step >= self.last_step:
            return 0.0
        silent = self._clock() - self.stepped_at
        return silent if silent > 10 * self.step_s + 5 else 0.0

    def share_waiting(self) -> float:
        """Share of the step time that went by waiting for data; 0 where it is not known."""
        wait, step = (self.values.get(f"time.{name}", math.nan) for name in ("data_wait_s", "step_s"))
        return wait / step if wait >= 0 and step > 0 else 0.0


FIGURE, CURVE = 11, 20
REFRESHES_PER_S = 4
_NAME, _CURVE, _FIGURE, _NOTE, _DONE, _ALARM = "dim", "cyan", "bold", "dim", "green", "bold red"
_GAP = "   "


class Dashboard(Sink):
    """A few lines that stay in place on a terminal; each appears once it has content. Eighty columns are enough."""

    def __init__(
        self, *, first_step: int, last_step: int, folder: Path, stream: TextIO, console: Console | None = None
    ) -> None:
        self._statistics = RunningStatistics(first_step=first_step, last_step=last_step)
        self._folder = folder
        self._saved: int | None = None
        self._live = Live(
            get_renderable=self._view,
            console=console or Terminal(file=stream),
            refresh_per_second=REFRESHES_PER_S,
        )
        self._live.start()

    def stepped(self, step: int, seconds: float) -> None:
        self._statistics.stepped(step, seconds)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._statistics.take(step, values)
        self._saved = max(complete_steps(self._folder / "checkpoints"), default=None)

    def close(self) -> None:
        if self._live.is_started:
            self._saved = max(complete_steps(self._folder / "checkpoints"), default=None)
        self._live.stop()

    def _view(self) -> RenderableType:
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style=_NAME, no_wrap=True, min_width=8)
        lines.add_column(no_wrap=True)
        lines.add_row(self._name(), self._progress())
        for name, content in (
            ("loss", self._losses()),
            ("held out", self._held_out()),
            ("experts", self._experts()),
            ("speed", self._speed()),
            ("steps", self._steps()),
            ("saved", self._saves()),
        ):
            if content is not None:
                lines.add_row(name, content)
        return lines

    def _name(self) -> str:
        return "training" if self._statistics.step < self._statistics.last_step else "trained"

    def _progress(self) -> RenderableType:
        statistics = self._statistics
        silent, left = statistics.silence_s(), statistics.left()
        if silent:
            rest = Text(f"no step for {duration(silent)}", _ALARM)
        elif left is not None:
            rest = Text(f"{left} left", _NOTE)
        else:
            rest = Text(f"in {statistics.elapsed()}" if statistics.step == statistics.last_step else "starting", _NOTE)
        line = Table.grid(padding=(0, 2))
        for _ in range(4):
            line.add_column(no_wrap=True)
        line.add_row(
            ProgressBar(
                total=statistics.last_step,
                completed=statistics.step,
                width=FIGURE + CURVE + 1,
                complete_style=_CURVE,
                finished_style=_DONE,
            ),
            Text(f"{statistics.step / statistics.last_step:.0%}", _FIGURE),
            Text(f"{statistics.step:,} of {statistics.last_step:,}"),
            rest,
        )
        return line

    def _losses(self) -> Text | None:
        return self._curve("loss", [self._figure("grad_norm", "gradient {:.3g}"), self._figure("lr", "lr {:.1e}")])

    def _held_out(self) -> Text | None:
        bits = self._figure("held_out_bits_per_byte", "{:.3f} bits/byte")
        return self._curve("held_out_loss", [bits, self._figure("held_out_perplexity", "perplexity {:.1f}")])

    def _experts(self) -> Text | None:
        drops = self._figure("dropped_fraction", "{:.1%} dropped")
        away = self._figure("crossnode_token_fraction", "{:.0%} to other nodes")
        return self._curve("expert_load_max_over_mean", [drops, away], form="{:.2f} x mean")

    def _speed(self) -> Text | None:
        values = self._statistics.values
        if "time.samples_per_s" not in values:
            return None
        parts = [self._figure("time.samples_per_s", "{:,.0f} samples/s", _FIGURE)]
        parts.append(self._figure("time.tokens_per_s", "{:,.0f} tokens/s"))
        if "time.model_flops_per_s" in values:
            parts.append(Text(scaled(values["time.model_flops_per_s"], "FLOP/s")))
        parts.append(self._figure("time.mfu", "MFU {:.1%}"))
        memory = values.get("memory.device_peak_bytes", values.get("memory.peak_bytes"))
        if memory is not None:
            parts.append(Text(f"{scaled(memory, 'B')} at most"))
        return _joined(parts)

    def _steps(self) -> Text | None:
        statistics = self._statistics
        if statistics.step_s is None:
            return None
        parts = [Text(duration(statistics.step_s), _FIGURE)]
        if statistics.share_waiting() >= 0.005:
            parts.append(Text(f"{statistics.share_waiting():.0%} waiting for data"))
        if statistics.values.get("time.step_spread", 1.0) >= 1.05:
            parts.append(self._figure("time.step_spread", "slowest rank {:.2f} x mean"))
        if statistics.values.get("skipped_steps"):
            parts.append(self._figure("skipped_steps", "{:,.0f} skipped", _ALARM))
        return _joined(parts)

    def _saves(self) -> Text | None:
        parts = [] if self._saved is None else [Text(f"step {self._saved:,}", _FIGURE)]
        if self._statistics.values.get("bad_samples"):
            parts.append(self._figure("bad_samples", "{:,.0f} bad samples", _ALARM))
        return _joined(parts) if parts else None

    def _curve(self, name: str, others: Sequence[Text], *, form: str = "{:.4f}") -> Text | None:
        """One line of a figure: latest value, history as a curve, and `others`; None where it is not known."""
        course = self._statistics.course(name, CURVE)
        if not course:
            return None
        figure = Text(form.format(course[-1]).ljust(FIGURE + 1), _FIGURE if math.isfinite(course[-1]) else _ALARM)
        return _joined([figure + Text(sparkline(course, CURVE).ljust(CURVE), _CURVE), *others])

    def _figure(self, name: str, form: str, style: str = "") -> Text:
        return Text(form.format(self._statistics.values[name]), style) if name in self._statistics.values else Text()


def _joined(parts: Sequence[Text]) -> Text:
    return Text(_GAP).join(part for part in parts if part)


LINES = 10
SHOWN = {
    "loss": "loss {:.4f}",
    "held_out_loss": "held-out {:.4f}",
    "held_out_bits_per_byte": "{:.3f} bits/byte",
    "grad_norm": "gradient {:.3g}",
    "lr": "lr {:.2e}",
    "held_out_perplexity": "perplexity {:.1f}",
    "time.samples_per_s": "{:,.0f} samples/s",
    "time.tokens_per_s": "{:,.0f} tokens/s",
    "expert_load_max_over_mean": "busiest expert {:.2f}x",
}


def terminal(*, first_step: int, last_step: int, folder: Path, stream: TextIO | None = None) -> Sink:
    """A dashboard where `stream` (None: stderr) is a terminal, and otherwise about ten plain lines over the run."""
    written: TextIO = sys.stderr if stream is None else stream
    if written.isatty():
        return Dashboard(first_step=first_step, last_step=last_step, folder=folder, stream=written)
    return LogLines(first_step=first_step, last_step=last_step, stream=written)


class LogLines(Sink):
    """A plain line for the first step, every tenth of the run and the last step."""

    def __init__(self, *, first_step: int, last_step: int, stream: TextIO) -> None:
        self._statistics = RunningStatistics(first_step=first_step, last_step=last_step)
        self._next = first_step + 1
        self._every = max(1, (last_step - first_step) // LINES)
        self._stream = stream

    def stepped(self, step: int, seconds: float) -> None:
        self._statistics.stepped(step, seconds)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._statistics.take(step, values)
        if step >= self._next or step == self._statistics.last_step:
            self._next = (step // self._every + 1) * self._every
            print(self._line(), file=self._stream, flush=True)

    def close(self) -> None:
        """Does nothing, since nothing is open."""

    def _line(self) -> str:
        statistics, values = self._statistics, self._statistics.values
        parts = [f"step {statistics.step:>{len(str(statistics.last_step))}}/{statistics.last_step}"]
        parts += [form.format(values[name]) for name, form in SHOWN.items() if name in values]
        if "time.mfu" in values:
            parts.append(f"MFU {values['time.mfu']:.1%}")
        if "memory.peak_bytes" in values:
            parts.append(scaled(values.get("memory.device_peak_bytes", values["memory.peak_bytes"]), "B"))
        if values.get("skipped_steps"):
            parts.append(f"{values['skipped_steps']:.0f} skipped")
        left = statistics.left()
        if left is not None:
            parts.append(f"{left} left")
        return "  ".join(parts)
