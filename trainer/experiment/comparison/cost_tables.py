"""What a sample costs, in a table and in sentences."""

from collections.abc import Sequence
from statistics import fmean

from moe.report.page import Note, Table
from trainer.experiment.comparison.axes import CostAxis, axes, figures, transports
from trainer.experiment.comparison.cost import SampleCost
from trainer.experiment.comparison.results import Comparison, Entry
from trainer.experiment.comparison.tables import NOTHING, shown_numbers
from trainer.observe.units import scaled

EVERY = "every network"


def cheapest(comparison: Comparison) -> Note:
    """Who reaches the quality of real samples for the least of each measure."""
    floor = fmean(comparison.floor)
    quality = [
        (fmean(distances), entry, number)
        for entry in comparison.entries
        for number, distances in entry.quality(comparison.measure).items()
    ]
    good = [(entry, number) for distance, entry, number in quality if distance <= floor]
    if not good:
        distance, entry, number = min(quality, key=lambda one: one[0])
        return Note(
            f"No network draws samples as near to the data as real ones ({floor:.3g}); the nearest are those of "
            f"{entry.name} in {_calls(number)} ({distance:.3g})."
        )
    least: dict[tuple[str, int], list[str]] = {}
    for axis in axes(comparison):
        known = [(figure, entry, number) for entry, number in good if (figure := axis.of(entry, number)) is not None]
        if not known or not any(figures(comparison, axis)):
            continue
        figure, entry, number = min(known, key=lambda one: one[0])
        least.setdefault((entry.name, number), []).append(_amount(axis, figure))
    winners = [f"{name} in {_calls(number)}: {_listed(amounts)}" for (name, number), amounts in least.items()]
    return Note(f"As near to the data as real samples ({floor:.3g}), for the least of each: {'; '.join(winners)}.")


def _calls(number: int) -> str:
    return f"{number} network call{'s' * (number > 1)}"


def _amount(axis: CostAxis, figure: float) -> str:
    if axis.unit == "µs":
        return f"{scaled(1e-6 * figure, 's') if figure >= 1e6 else f'{figure:.3g} µs'}"
    return scaled(figure, axis.unit) if axis.unit else f"{scaled(figure, '').strip()} {axis.name}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def costs(comparison: Comparison) -> Table:
    """The four measures at the numbers that are shown; networks whose samples cost the same share rows."""
    shown, by = shown_numbers(comparison), transports(comparison)
    groups: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for entry in comparison.entries:
        rows = tuple(_cells(cost, by) for cost in _costs_at(entry, shown))
        groups.setdefault(rows, []).append(entry.name)
    times = [f"µs, {name}" for name in by] or ["µs"]
    return Table(
        ("what a sample costs", "network calls", "head calls", "multiply-adds", "bytes sent", "computing, µs", *times),
        [
            ((EVERY if len(groups) == 1 else ", ".join(names)) if place == 0 else "", *cells)
            for rows, names in groups.items()
            for place, cells in enumerate(rows)
        ],
        "Without guidance, and without the decoding of latents. Multiply-adds and bytes are of one sample; "
        "microseconds are those until the samples that ranks draw at once are there, computing included.",
    )


def _costs_at(entry: Entry, shown: Sequence[int]) -> list[SampleCost]:
    """Costs of a network at the numbers that are shown, or at all its own where it comes out at none of them."""
    return [cost for cost in entry.costs if cost.evaluations in shown] or list(entry.costs)


def _cells(cost: SampleCost, by: Sequence[str]) -> tuple[str, ...]:
    totals = [cost.total_us(name) for name in by or [None]]
    return (
        str(cost.calls["network"]),
        str(cost.calls["head"]) if "head" in cost.calls else NOTHING,
        NOTHING if cost.multiply_adds is None else scaled(cost.multiply_adds, "").strip(),
        scaled(cost.sent_bytes, "B"),
        *(NOTHING if time is None else _us(time) for time in (cost.compute_us, *totals)),
    )


def _us(time: float) -> str:
    return f"{time:,.0f}" if time >= 1000 else f"{time:.3g}"


def assumptions(comparison: Comparison) -> str:
    """What bytes and microseconds are those of; empty: neither is known."""
    fabric = comparison.fabric
    if fabric is None:
        return ""
    ranks = f"{fabric.ranks} rank{'s' * (fabric.ranks > 1)}"
    computing = (
        f"Microseconds are those until {ranks} have drawn {fabric.examples} samples each at once. Their computing is "
        f"an assumption: {fabric.teraflops:g} TFLOP/s a rank, two operations a multiply-add, no time for memory and "
        "for starting kernels."
    )
    if not transports(comparison):
        return f"Networks that are whole on every rank send nothing for a sample. {computing}"
    return (
        f"{computing} Experts are spread over as many ranks as divide their number; what a call of the network then "
        f"sends is written by formula, in float32 and evenly, and simulated on {fabric.scenario}. Calls follow one "
        "another, each beginning when the last rank has ended the one before, so that one was simulated and counts as "
        "often as the network is called. Guidance would double bytes and multiply-adds."
    )
