"""Axes of a picture: values along an edge, the marks on it, and the frame of a panel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from moe.report.drawing import RULE, SOFT, Drawing, text_width


def plain(value: float) -> str:
    """A number in as few digits as tell marks apart."""
    return f"{value:,.6g}"


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.6g} %"


@dataclass(frozen=True)
class Scale:
    """A straight map from values to places along an axis.

    Attributes:
        low: Value at the start.
        high: Value at the end, above `low`.
        start: Place of `low`.
        end: Place of `high`; below `start` for an axis that points up.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self, most: int = 5, *, whole: bool = False) -> list[float]:
        """Round values along the axis: multiples of 1, 2 or 5 times a power of ten.

        Args:
            most: Marks at most, 1 or more.
            whole: Whether only whole numbers may be marked.

        Returns:
            The values, ascending.
        """
        step = 10.0 ** floor(log10((self.high - self.low) / most))
        factors = (1, 2, 5, 10, 20, 50)
        step = max(step, 1.0) if whole else step
        step *= next(factor for factor in factors if (self.high - self.low) / (step * factor) <= most)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class Panel:
    """A rectangle with an axis below and one at its left.

    Attributes:
        drawing: The picture that it is a part of.
        x: Scale to the right.
        y: Scale up.
    """

    drawing: Drawing
    x: Scale
    y: Scale

    def mark_y(self, label: str, *, form: Callable[[float], str] = plain, most: int = 5, whole: bool = False) -> None:
        """Draw the marks of the left axis as thin lines across the panel, and its name above it."""
        for value in self.y.marks(most, whole=whole):
            place = self.y(value)
            self.drawing.segments([(self.x.start, place, self.x.end, place)], RULE)
            self.drawing.text(self.x.start - 7, place + 4.5, form(value), anchor="end", size=12, colour=SOFT)
        self.drawing.text(self.x.start, self.y.end - 9, label, size=13, colour=SOFT)

    def mark_x(self, label: str, *, form: Callable[[float], str] = plain, whole: bool = False) -> None:
        """Draw the marks of the axis below, and its name under them."""
        bottom = self.y.start
        most = max(int((self.x.end - self.x.start) / 70), 2)
        values = self.x.marks(most, whole=whole)
        self.drawing.segments([(self.x(value), bottom, self.x(value), bottom + 4) for value in values], SOFT)
        self.drawing.segments([(self.x.start, bottom, self.x.end, bottom)], SOFT)
        for value in values:
            self.drawing.text(self.x(value), bottom + 18, form(value), anchor="middle", size=12, colour=SOFT)
        if label:
            middle = (self.x.start + self.x.end) / 2
            self.drawing.text(middle, bottom + 36, label, anchor="middle", size=13, colour=SOFT)


def name_column(names: Sequence[str]) -> float:
    """Width of a column of names beside a panel."""
    return max(text_width(name) for name in names) + 12
