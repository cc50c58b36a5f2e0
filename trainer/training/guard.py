"""Rules by which a step is skipped, and by which a run ends before its last step."""

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from netsim.foundation.files import write_json
from netsim.foundation.refusal import Failure
from trainer.config.sections import GuardConfig


class RunFailed(Failure):
    """A run that cannot continue although its configuration is valid."""


class Guard:
    """Accepts or skips each step by figures that are the same on every rank, so that all ranks agree.

    A skipped step still counts: the schedule and the order of the data advance. Its gradients are dropped; weights,
    optimiser state, moving average and the routers' biases are unchanged.
    """

    def __init__(self, config: GuardConfig, folder: Path) -> None:
        """`folder` is where rank 0 notes skipped steps."""
        self._config, self._folder = config, folder
        self._losses: deque[float] = deque(maxlen=config.spike_window)
        self._norms: deque[float] = deque(maxlen=config.spike_window)
        self.skipped = 0
        """Steps skipped since the run began."""
        self.in_a_row = 0
        """Steps skipped since the last one that was taken."""
        self._last_skipped = 0

    @property
    def failure(self) -> str | None:
        """The message that ends the run, once too many steps in a row were skipped; None before."""
        if self.in_a_row < self._config.abort_after:
            return None
        return (
            f"guard.abort_after: the last {self.in_a_row} steps were skipped; {self._note_of(self._last_skipped)} says "
            "what the last one was made of"
        )

    def objection(self, losses: Sequence[float], norm: float) -> str | None:
        """Why a step has to be skipped, by each rank's mean loss and the global gradient norm; None: it is taken."""
        broken = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        if broken:
            return f"the loss is not finite on {_ranks(broken)}"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if self._config.spike_factor is not None and len(self._losses) == self._config.spike_window:
            for name, value, earlier in (("loss", fmean(losses), self._losses), ("gradient norm", norm, self._norms)):
                usual = median(earlier)
                if value > self._config.spike_factor * usual > 0:
                    return f"the {name} is {value:.4g}, {value / usual:.1f} times the median of {len(earlier)} steps"
        return None

    def taken(self, losses: Sequence[float], norm: float) -> None:
        """Updates the running statistics by a step that was taken."""
        self.in_a_row = 0
        self._losses.append(fmean(losses))
        self._norms.append(norm)

    def skip(self, step: int) -> None:
        """Counts a step that was not taken."""
        self._last_skipped = step
        self.skipped += 1
        self.in_a_row += 1

    def note(self, step: int, reason: str, norm: float, losses: Any, examples: Any) -> Path:
        """Writes ``guard/step_00000012.json`` with the losses and example ids of each micro batch, by rank."""
        path = self._note_of(step)
        path.parent.mkdir(exist_ok=True)
        content = {
            "step": step,
            "reason": reason,
            "gradient_norm": _plain(norm),
            "losses": [[_plain(loss) for loss in of_rank] for of_rank in losses],
            "examples": examples,
        }
        write_json(path, content, allow_nan=False)
        return path

    def _note_of(self, step: int) -> Path:
        return self._folder / f"step_{step:08d}.json"

    def state(self) -> dict[str, Any]:
        """The running statistics for the next steps as plain values, the same on every rank."""
        return {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "losses": list(self._losses),
            "norms": list(self._norms),
        }

    def load(self, state: dict[str, Any] | None) -> None:
        """Restores a result of :meth:`state`; None: starts afresh."""
        if state is not None:
            self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
            self._losses.extend(state["losses"])
            self._norms.extend(state["norms"])


def _ranks(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"


def _plain(value: float) -> float | str:
    """JSON has no infinity and no NaN; they are written as words."""
    return value if math.isfinite(value) else str(value)
