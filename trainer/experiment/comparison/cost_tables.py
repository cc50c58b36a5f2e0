"""What a sample costs, in a table and in sentences."""

from collections.abc import Sequence
from statistics import fmean

from moe.report.page import Note, Table
from trainer.experiment.comparison.axes import axes, counted, figures, microseconds, transports
from trainer.experiment.comparison.cost import SampleCost
from trainer.experiment.comparison.results import Comparison, Entry
from trainer.experiment.comparison.tables import NOTHING, shown_numbers


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
        if known and any(figures(comparison, axis)):
            figure, entry, number = min(known, key=lambda one: one[0])
            least.setdefault((entry.name, number), []).append(f"{axis.name} ({axis.written(figure)})")
    winners = [
        f"the fewest {_listed(found)} with {name} in {_calls(number)}" for (name, number), found in least.items()
    ]
    return Note(f"Samples as near to the data as real ones ({floor:.3g}) cost {'; '.join(winners)}.")


def _calls(number: int) -> str:
    return f"{number} network call{'s' * (number > 1)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def costs(comparison: Comparison) -> Table:
    """The four measures at the numbers that are shown; networks whose samples cost the same share a row."""
    by = transports(comparison)
    rows: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for entry in comparison.entries:
        for cost in _costs_at(entry, shown_numbers(comparison)):
            rows.setdefault((cost.evaluations, _cells(cost, by)), []).append(entry.name)
    head = ("head calls",) if any("head" in cost.calls for entry in comparison.entries for cost in entry.costs) else ()
    columns = ("network calls", *head, "multiply-adds", "bytes", "computing, µs")
    return Table(
        (*columns, *(f"with {name}, µs" for name in by), "networks"),
        [
            (str(number), *cells[1 - len(head) :], _names(names, comparison))
            for (number, cells), names in sorted(rows.items(), key=lambda one: one[0][0])
        ],
        f"What a sample costs, without guidance and without the decoding of latents. {assumptions(comparison)}",
        dense=True,
    )


def _names(names: Sequence[str], comparison: Comparison) -> str:
    """The networks of a row, or that they are all that there are."""
    return "all" if len(names) == len(comparison.entries) else ", ".join(names)


def _costs_at(entry: Entry, shown: Sequence[int]) -> list[SampleCost]:
    """Costs of a network at some numbers, or at all its own where it comes out at none of them."""
    return [cost for cost in entry.costs if cost.evaluations in shown] or list(entry.costs)


def _cells(cost: SampleCost, by: Sequence[str]) -> tuple[str, ...]:
    times = [cost.compute_us, *(cost.total_us(name) for name in by)]
    return (
        str(cost.calls.get("head", 0)),
        NOTHING if cost.multiply_adds is None else counted(cost.multiply_adds),
        counted(cost.sent_bytes),
        *(NOTHING if time is None else microseconds(time) for time in times),
    )


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
