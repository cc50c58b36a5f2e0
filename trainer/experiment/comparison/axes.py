"""What quality is shown against: four measures of what a sample costs."""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.experiment.comparison.cost import SampleCost
from trainer.experiment.comparison.results import Comparison, Entry
from trainer.observe.units import scaled


@dataclass(frozen=True)
class CostAxis:
    """One measure of costs.

    Attributes:
        name: in a word or two, in the plural.
        label: of an axis, with the unit.
        figure: of a sample; None if unknown.
    """

    name: str
    label: str
    figure: Callable[[SampleCost], float | None]
    written: Callable[[float], str]

    def of(self, entry: Entry, evaluations: int) -> float | None:
        """The figure of a network's samples at so many evaluations of the field; None if unknown."""
        cost = entry.cost(evaluations)
        return None if cost is None else self.figure(cost)


@dataclass(frozen=True)
class CallAxis(CostAxis):
    """Calls of the network, which are known of comparisons without costs too."""

    def of(self, entry: Entry, evaluations: int) -> float | None:
        """See `CostAxis.of`."""
        del entry
        return float(evaluations)


def counted(value: float) -> str:
    """A count with a decimal prefix, such as 1.21 M."""
    return scaled(value, "").strip().replace(" ", "\N{NO-BREAK SPACE}")


def microseconds(value: float) -> str:
    """A number of microseconds, such as 12.1 or 1,210."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


CALLS = CallAxis("network calls", "network calls of a sample", lambda cost: float(cost.evaluations), "{:.0f}".format)


def axes(comparison: Comparison) -> tuple[CostAxis, ...]:
    """The measures, those unknown of every network included; time is that of the first transport of the fabric."""
    transport = next(iter(transports(comparison)), None)
    by = "" if transport is None else f", with {transport}"
    return (
        CALLS,
        CostAxis("multiply-adds", "multiply-adds of a sample", lambda cost: _float(cost.multiply_adds), counted),
        CostAxis("bytes", "bytes that ranks send each other, for a sample", lambda cost: cost.sent_bytes, counted),
        CostAxis(
            "microseconds",
            f"microseconds until a sample is drawn{by}",
            lambda cost: cost.total_us(transport),
            microseconds,
        ),
    )


def transports(comparison: Comparison) -> list[str]:
    """Transports of the fabric in its order; empty where nothing is sent."""
    names = (name for entry in comparison.entries for cost in entry.costs for name in cost.network_us)
    return list(dict.fromkeys(names))


def figures(comparison: Comparison, axis: CostAxis) -> list[float]:
    """Every figure of a measure that is known."""
    return [
        figure
        for entry in comparison.entries
        for number in entry.quality(comparison.measure)
        if (figure := axis.of(entry, number)) is not None
    ]


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)
