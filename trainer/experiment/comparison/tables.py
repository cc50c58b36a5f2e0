"""The finding and the tables of a comparison, the floor above the networks and the best of each column marked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from netsim.foundation.page import Facts, Note, Table
from trainer.experiment.comparison.charts import NOTHING, axes, counted, figures, microseconds, transports
from trainer.experiment.comparison.results import QUALITY, Comparison, Entry, SampleCost, spread

FLOOR = "two sets of real samples"
NAMED = 3
"""Networks that a sentence names at most."""
MARKED = "Blue: the best of a column, and what is as near to the data as real samples are to each other."


@dataclass(frozen=True)
class Column:
    """A figure of all networks.

    Attributes:
        values: figures of a network, one for each seed; empty where it has none.
        written: text of the values.
        middle: mean or median of the values, by which networks are compared.
        good: middles up to this value stand out, and always the least middle; None: nothing stands out.
        floor: text of the same figure between two sets of real samples.
    """

    heading: str
    values: Callable[[Entry], Sequence[float]]
    written: Callable[[Sequence[float]], str]
    middle: Callable[[Sequence[float]], float] = fmean
    good: float | None = -math.inf
    floor: str = NOTHING


def _table(
    comparison: Comparison, columns: Sequence[Column], caption: str, *, corner: str = "method", dense: bool = False
) -> Table:
    """A row for each network, and one for the floor if any column has it; columns without a figure are left out."""
    columns = [column for column in columns if any(column.values(entry) for entry in comparison.entries)]
    rows, best = list[tuple[str, ...]](), set[tuple[int, int]]()
    if any(column.floor != NOTHING for column in columns):
        rows.append((FLOOR, *(column.floor for column in columns)))
    above = len(rows)
    cells = [[column.values(entry) for column in columns] for entry in comparison.entries]
    for entry, row in zip(comparison.entries, cells, strict=True):
        texts = (column.written(values) if values else NOTHING for column, values in zip(columns, row, strict=True))
        rows.append((entry.name, *texts))
    for place, column in enumerate(columns):
        middles = [column.middle(row[place]) if row[place] else math.inf for row in cells]
        least = rows[above + middles.index(min(middles))][place + 1]
        if column.good is not None and len(cells) > 1:
            best |= {
                (above + row, place + 1)
                for row, value in enumerate(middles)
                if value <= column.good or rows[above + row][place + 1] == least
            }
    return Table((corner, *(column.heading for column in columns)), rows, caption, best=best, dense=dense)


def _middle(form: str, middle: Callable[[Sequence[float]], float] = fmean) -> Callable[[Sequence[float]], str]:
    return lambda values: form.format(middle(values))


def finding(comparison: Comparison) -> str:
    """Returns the main result: which networks come as near as real samples with few and with many evaluations."""
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
    return f"{_listed(names)} {'are' if len(names) > 1 else 'is'} as near to the data as real samples"


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
    floor = fmean(comparison.floor)
    columns = [
        Column(f"at {number}", _quality(comparison, number), _mean_distance, good=floor, floor=f"{floor:.3f}")
        for number in shown_numbers(comparison)
    ]
    wrong = [value for entry in comparison.entries for value in _wrong_class(entry)]
    columns += [
        Column("wrong class", _wrong_class, _middle("{:.1%}")),
        Column("straightness", lambda entry: entry.path_figure("straightness"), _middle("{:.3f}")),
        Column("path energy", lambda entry: entry.path_figure("path_energy"), _middle("{:.2f}")),
        Column("step, ms", comparison.step_times, _middle("{:.1f}", median), median),
    ]
    judged = (
        " Wrong class: share of the samples, drawn with guidance and the most evaluations, that a classifier of the "
        "data takes for another class."
    )
    pathless = [entry.name for entry in comparison.entries if not entry.path_figure("straightness")]
    unmoved = f" {', '.join(pathless)}: tokens are drawn one after the other, which are no paths." if pathless else ""
    return _table(
        comparison,
        columns,
        f"At N: {QUALITY[comparison.measure]} of samples drawn in N function evaluations, means over the seeds; "
        f"medians of times. {MARKED}{judged if wrong else ''}{unmoved}",
    )


def budget(comparison: Comparison) -> Table:
    """Training and preparation of each network."""

    def seconds(name: str, heading: str) -> Column:
        def values(entry: Entry) -> list[float]:
            values = [getattr(outcome, name) for outcome in entry.outcomes]
            return values if median(values) else []

        return Column(heading, values, _middle("{:.0f}", median), median, None)

    return _table(
        comparison,
        [
            Column("steps in all", lambda entry: [entry.steps], _middle("{:,.0f}"), good=None),
            seconds("training_s", "training, s"),
            Column("pairs drawn", lambda entry: [entry.pairs] if entry.pairs else [], _middle("{:,.0f}"), good=None),
            seconds("preparing_s", "preparing, s"),
        ],
        "Steps and training include what came before: those of a student include its teachers'. Preparing is drawing "
        "pairs or fitting a path, the start of processes included. Times are medians over the seeds.",
    )


def every_number(comparison: Comparison) -> Table:
    """Mean and range over the seeds at every number of evaluations."""
    good, floor = fmean(comparison.floor), _range(comparison.floor)
    return _table(
        comparison,
        [
            Column(str(number), _quality(comparison, number), _range, good=good, floor=floor)
            for number in comparison.evaluations
        ],
        f"Mean ± half of the range over the seeds, and over pairs of sets of real samples. {MARKED} – : the sampler "
        "cannot come out at that number.",
        corner="function evaluations",
        dense=True,
    )


def _quality(comparison: Comparison, evaluations: int) -> Callable[[Entry], Sequence[float]]:
    return lambda entry: entry.quality(comparison.measure).get(evaluations, [])


def _distance(value: float) -> str:
    return f"{value:.3f}" if value < 1000 else f"{value:,.0f}"


def _mean_distance(values: Sequence[float]) -> str:
    return _distance(fmean(values))


def _range(values: Sequence[float]) -> str:
    mean, low, high = spread(values)
    if len(values) == 1:
        return _distance(mean)
    return f"{_distance(mean)}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{_distance((high - low) / 2)}"


def _wrong_class(entry: Entry) -> list[float]:
    """Shares of samples with the most evaluations that miss their requested class; empty without classes."""
    measured = [one.evaluation["results"] for one in entry.outcomes]
    last = [[one for one in results if one["sampler"] == entry.sampler][-1]["figures"] for results in measured]
    return [1 - figures["class_accuracy"] for figures in last if "class_accuracy" in figures]


def _ranked(comparison: Comparison, evaluations: int) -> list[tuple[Entry, float]]:
    """Networks and their mean distances with so many evaluations, the nearest first."""
    quality = _quality(comparison, evaluations)
    ranked = [(entry, fmean(values)) for entry in comparison.entries if (values := quality(entry))]
    return sorted(ranked, key=lambda one: one[1])


def shown_numbers(comparison: Comparison) -> list[int]:
    """Returns the numbers of evaluations in short tables: the two least, a middle one and the largest."""
    numbers = comparison.evaluations
    return sorted({numbers[0], numbers[min(1, len(numbers) - 1)], numbers[len(numbers) // 2], numbers[-1]})


def cheapest(comparison: Comparison) -> Note:
    """Names the networks that reach the quality of real samples at the least cost, by each measure of cost."""
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
        f"the fewest {_listed(leaders)} with {name} in {_calls(number)}" for (name, number), leaders in least.items()
    ]
    return Note(f"Samples as near to the data as real ones ({floor:.3g}) cost {'; '.join(winners)}.")


def _calls(number: int) -> str:
    return f"{number} network call{'s' * (number > 1)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def costs(comparison: Comparison) -> Table:
    """The four measures of cost at the shown numbers of evaluations; networks of equal costs share a row."""
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
    """Lists the networks of a row, or says ``all`` where no other network exists."""
    return "all" if len(names) == len(comparison.entries) else ", ".join(names)


def _costs_at(entry: Entry, shown: Sequence[int]) -> list[SampleCost]:
    """Returns the costs of a network at the shown numbers of evaluations, or all its costs if it has none of these."""
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
    """Explains how bytes and microseconds are computed; empty if neither is known."""
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
