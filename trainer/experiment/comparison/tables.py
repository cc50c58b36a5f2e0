"""The tables of a comparison, the floor above the networks and the best of each column marked."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import NamedTuple

from netsim.foundation.page import Facts, Note, Table
from trainer.experiment.comparison.charts import axes, counted, figures, microseconds, transports
from trainer.experiment.comparison.results import QUALITY, Comparison, Entry, SampleCost, spread

NOTHING = "–"
FLOOR = "two sets of real samples"
NAMED = 3
"""Networks that a sentence names at most."""


class Column(NamedTuple):
    """A figure of all networks.

    Attributes:
        figure: of a network; None where it has none.
        good: figures up to it stand out, as does the least in any case; None: nothing does.
    """

    heading: str
    figure: Callable[[Entry], float | None]
    written: Callable[[float], str]
    good: float | None = -math.inf


def finding(comparison: Comparison) -> str:
    """What a reader should take away: who is as near as real samples with few and with many evaluations."""
    floor = fmean(comparison.floor)
    numbers: dict[str, list[int]] = {}
    for number in (comparison.evaluations[0], comparison.evaluations[-1]):
        numbers.setdefault(_nearest(comparison, number, floor), []).append(number)
    clauses = [f"{_with(*at)} {text}" for text, at in numbers.items()]
    text = f"{'; '.join(clauses)}. Two sets of real samples are {floor:.3g} apart."
    return text[0].upper() + text[1:]


def _nearest(comparison: Comparison, evaluations: int, floor: float) -> str:
    ranked = _ranked(comparison, evaluations)
    near = [entry.name for entry, value in ranked if value <= floor]
    if not near:
        return f"{ranked[0][0].name} comes nearest to the data ({ranked[0][1]:.3g})"
    others = len(near) - NAMED
    names = [*near[:NAMED], f"{others} other{'s' * (others > 1)}"] if others > 0 else near
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{listed} {'are' if len(names) > 1 else 'is'} as near to the data as real samples"


def _with(*numbers: int) -> str:
    return f"with {' and '.join(map(str, numbers))} evaluation{'s' * (numbers[-1] > 1)}"


def facts(comparison: Comparison) -> Facts:
    """The best of few and of many evaluations, the floor and the budget."""
    large = []
    for number in (shown_numbers(comparison)[0], shown_numbers(comparison)[-1]):
        for entry, value in _ranked(comparison, number)[:1]:
            large.append((f"Best at {number}", f"{value:.3g}", entry.name))
    large.append(("Real samples", f"{fmean(comparison.floor):.3g}", "two sets against each other"))
    large.append(("Examples seen", f"{comparison.steps * comparison.global_batch:,}", "by each method, at most"))
    return Facts(large)


def glance(comparison: Comparison) -> Table:
    """The figures that a choice is made by: means over the seeds, or medians of times."""
    columns = [
        Column(f"at {number}", _quality(comparison, number), _distance, fmean(comparison.floor))
        for number in shown_numbers(comparison)
    ]
    columns += [
        Column("wrong class", _wrong_class, "{:.1%}".format),
        Column("straightness", _of_paths("straightness"), "{:.3f}".format),
        Column("path energy", _of_paths("path_energy"), "{:.2f}".format),
        Column("step, ms", lambda entry: _median(comparison.step_times(entry)), "{:.1f}".format),
    ]
    floor = f"{fmean(comparison.floor):.3f}"
    columns = [column for column in columns if any(column.figure(entry) is not None for entry in comparison.entries)]
    empty = [NOTHING] * (len(columns) - len(shown_numbers(comparison)))
    rows, best = _rows(comparison, columns)
    judged = (
        " Wrong class: share of the samples, drawn with guidance and the most evaluations, that a classifier of the "
        "data takes for another class."
    )
    classes = judged if any(column.heading == "wrong class" for column in columns) else ""
    return Table(
        ("method", *(column.heading for column in columns)),
        [(FLOOR, *(floor for _ in shown_numbers(comparison)), *empty), *rows],
        f"At N: {QUALITY[comparison.measure]} of samples drawn in N function evaluations, means over the seeds; "
        f"medians of times. {_MARKED}{classes}{_unmoved(comparison)}",
        best={(row + 1, column) for row, column in best},
    )


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _unmoved(comparison: Comparison) -> str:
    """Which networks have no paths, in a sentence; empty if all have."""
    names = [entry.name for entry in comparison.entries if not entry.path_figure("straightness")]
    return f" {', '.join(names)}: tokens are drawn one after the other, which are no paths." if names else ""


def budget(comparison: Comparison) -> Table:
    """What each network cost."""
    columns = [
        Column("steps in all", lambda entry: float(entry.steps), "{:,.0f}".format, None),
        Column("training, s", lambda entry: entry.median(lambda one: one.training_s), "{:.0f}".format, None),
        Column("pairs drawn", lambda entry: float(entry.pairs) or None, "{:,.0f}".format, None),
        Column("preparing, s", lambda entry: entry.median(lambda one: one.preparing_s) or None, "{:.0f}".format, None),
    ]
    rows, _ = _rows(comparison, columns)
    return Table(
        ("method", *(column.heading for column in columns)),
        rows,
        "Steps and training include what came before: those of a student include its teachers'. Preparing is drawing "
        "pairs or fitting a path, the start of processes included. Times are medians over the seeds.",
    )


_MARKED = "Blue: the best of a column, and what is as near to the data as real samples are to each other."


def _quality(comparison: Comparison, evaluations: int) -> Callable[[Entry], float | None]:
    def figure(entry: Entry) -> float | None:
        distances = entry.quality(comparison.measure).get(evaluations)
        return fmean(distances) if distances else None

    return figure


def _of_paths(name: str) -> Callable[[Entry], float | None]:
    def figure(entry: Entry) -> float | None:
        return fmean(values) if (values := entry.path_figure(name)) else None

    return figure


def _distance(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:,.0f}"


def _wrong_class(entry: Entry) -> float | None:
    """Share of the samples of most evaluations that are not of the class asked for; None without classes."""
    measured = [one.evaluation["results"] for one in entry.outcomes]
    last = [[one for one in results if one["sampler"] == entry.sampler][-1]["figures"] for results in measured]
    return None if "class_accuracy" not in last[0] else fmean(1 - figures["class_accuracy"] for figures in last)


def _rows(comparison: Comparison, columns: Sequence[Column]) -> tuple[list[tuple[str, ...]], set[tuple[int, int]]]:
    """Cells of all networks, and which of them stand out."""
    values = [[column.figure(entry) for column in columns] for entry in comparison.entries]
    best = set[tuple[int, int]]()
    for place, column in enumerate(columns):
        present = [row[place] for row in values]
        least = min((value for value in present if value is not None), default=math.nan)
        if column.good is not None and len(comparison.entries) > 1:
            best |= {
                (row, place + 1)
                for row, value in enumerate(present)
                if value is not None and (value <= column.good or column.written(value) == column.written(least))
            }
    rows = [
        (
            entry.name,
            *(NOTHING if value is None else column.written(value) for value, column in zip(row, columns, strict=True)),
        )
        for entry, row in zip(comparison.entries, values, strict=True)
    ]
    return rows, best


def every_number(comparison: Comparison) -> Table:
    """Mean and range over the seeds at every number of evaluations."""
    numbers = comparison.evaluations
    floor = _range(comparison.floor)
    good = fmean(comparison.floor)
    columns = [Column(str(number), _quality(comparison, number), "{:.4f}".format, good) for number in numbers]
    _, best = _rows(comparison, columns)
    rows = [(FLOOR, *(floor for _ in numbers))]
    for entry in comparison.entries:
        distances = entry.quality(comparison.measure)
        rows.append(
            (entry.name, *(_range(distances[number]) if number in distances else NOTHING for number in numbers))
        )
    return Table(
        ("function evaluations", *map(str, numbers)),
        rows,
        f"Mean ± half of the range over the seeds, and over pairs of sets of real samples. {_MARKED} – : the sampler "
        "cannot come out at that number.",
        dense=True,
        best={(row + 1, column) for row, column in best},
    )


def _range(values: Sequence[float]) -> str:
    mean, low, high = spread(values)
    if len(values) == 1:
        return _distance(mean)
    return f"{_distance(mean)}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{_distance((high - low) / 2)}"


def _ranked(comparison: Comparison, evaluations: int) -> list[tuple[Entry, float]]:
    """Networks and their mean distances with so many evaluations, the nearest first."""
    quality = _quality(comparison, evaluations)
    ranked = [(entry, value) for entry in comparison.entries if (value := quality(entry)) is not None]
    return sorted(ranked, key=lambda one: one[1])


def shown_numbers(comparison: Comparison) -> list[int]:
    """Numbers of evaluations of the tables that show some: the two least, a middle one and the largest."""
    numbers = comparison.evaluations
    return sorted({numbers[0], numbers[min(1, len(numbers) - 1)], numbers[len(numbers) // 2], numbers[-1]})


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
