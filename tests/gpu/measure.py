"""A figure that was measured on a card, and what it must be."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Measure:
    """A figure.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: of the figure.
        bound: what it must not fall below, or exceed; None: it is only told.
        sense: which of the two.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    sense: Literal["at least", "at most"] = "at most"

    @property
    def met(self) -> bool:
        """Whether it is what it must be."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.sense == "at least" else self.value <= self.bound

    def line(self) -> str:
        """The figure for a person."""
        wanted = "" if self.bound is None else f"   {self.sense} {self.bound:g}: {'met' if self.met else 'MISSED'}"
        return f"  {self.name:64} {self.value:12.5g} {self.unit:8}{wanted}"

    def document(self) -> dict[str, Any]:
        """The figure for `gpu.json`."""
        return {**asdict(self), "met": self.met}


def milliseconds(act: Any, repetitions: int = 20) -> float:
    """Median device time of a call, after three calls that are not counted.

    Args:
        act: what is timed; called without arguments.
        repetitions: calls that are timed.
    """
    for _ in range(3):
        act()
    times = []
    for _ in range(repetitions):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        act()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return median(times)
