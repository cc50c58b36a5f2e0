"""What a person sees while the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from trainer.observe.dashboard import Dashboard
from trainer.observe.protocol import Sink
from trainer.observe.story import Story
from trainer.observe.units import scaled

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


def terminal(*, first_step: int, last_step: int, folder: Path, stream: TextIO = sys.stderr) -> Sink:
    """A dashboard where `stream` is a terminal, and otherwise about ten plain lines over the run."""
    if stream.isatty():
        return Dashboard(first_step=first_step, last_step=last_step, folder=folder, stream=stream)
    return LogLines(first_step=first_step, last_step=last_step, stream=stream)


class LogLines(Sink):
    """A plain line for the first step, every tenth of the run and the last step."""

    def __init__(self, *, first_step: int, last_step: int, stream: TextIO) -> None:
        self._story = Story(first_step=first_step, last_step=last_step)
        self._next = first_step + 1
        self._every = max(1, (last_step - first_step) // LINES)
        self._stream = stream

    def stepped(self, step: int, seconds: float) -> None:
        """See `Sink.stepped`."""
        self._story.stepped(step, seconds)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink.write`."""
        self._story.take(step, values)
        if step >= self._next or step == self._story.last_step:
            self._next = (step // self._every + 1) * self._every
            print(self._line(), file=self._stream, flush=True)

    def close(self) -> None:
        """See `Sink.close`."""

    def _line(self) -> str:
        story, values = self._story, self._story.values
        parts = [f"step {story.step:>{len(str(story.last_step))}}/{story.last_step}"]
        parts += [form.format(values[name]) for name, form in SHOWN.items() if name in values]
        if "time.mfu" in values:
            parts.append(f"MFU {values['time.mfu']:.1%}")
        if "memory.peak_bytes" in values:
            parts.append(scaled(values.get("memory.device_peak_bytes", values["memory.peak_bytes"]), "B"))
        if values.get("skipped_steps"):
            parts.append(f"{values['skipped_steps']:.0f} skipped")
        left = story.left()
        if left is not None:
            parts.append(f"{left} left")
        return "  ".join(parts)
