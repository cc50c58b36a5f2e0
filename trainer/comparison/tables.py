"""The tables of a comparison, the floor above the networks and the best of each column marked."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from moe.report.page import Facts, Table
from trainer.comparison.results import QUALITY, Comparison, Entry, spread

NOTHING = "–"
FLOOR = "two sets of real samples"
Column = tuple[str, Callable[[Entry], float | None], Callable[[float], str], bool]
"""Heading, figure of a network, how it is written, whether the least is the best and stands out."""


def finding(comparison: Comparison) -> str:
    """The sentence that a reader should take away."""
    first, last = comparison.evaluations[0], comparison.evaluations[-1]
    found = {number: best for number in (first, last) if (best := _best(comparison, number)) is not None}
    names = {entry.name for entry, _ in found.values()}
    times = [f"with {number} evaluation{'s' * (number > 1)} ({value:.3g})" for number, (_, value) in found.items()]
    text = f"{names.pop()} comes nearest to the data {' and '.join(times)}"
    if names:
        text = "; ".join(
            f"{best[0].name} comes nearest {time}" for best, time in zip(found.values(), times, strict=True)
        )
    return f"{text}; two sets of real samples are {fmean(comparison.floor):.3g} apart."


def facts(comparison: Comparison) -> Facts:
    """The best of few and of many evaluations, the floor and the budget."""
    large = []
    for number in (_shown(comparison)[0], _shown(comparison)[-1]):
        found = _best(comparison, number)
        if found is not None:
            large.append((f"Best at {number}", f"{found[1]:.3g}", found[0].name))
    large.append(("Real samples", f"{fmean(comparison.floor):.3g}", "two sets against each other"))
    large.append(("Examples seen", f"{comparison.steps * comparison.global_batch:,}", "by each method, at most"))
    return Facts(large)


def glance(comparison: Comparison) -> Table:
    """The figures that a choice is made by, means over the seeds."""
    measure = comparison.measure
    columns: list[Column] = [
        (f"at {number}", _quality(comparison, number), "{:.3f}".format, True) for number in _shown(comparison)
    ]
    columns += [
        ("wrong class", _wrong_class, "{:.1%}".format, True),
        ("straightness", lambda entry: fmean(entry.path_figure("straightness")), "{:.3f}".format, True),
        ("path energy", lambda entry: fmean(entry.path_figure("path_energy")), "{:.2f}".format, True),
        ("step, ms", lambda entry: fmean(entry.times()), "{:.1f}".format, True),
    ]
    floor = f"{fmean(comparison.floor):.3f}"
    columns = [column for column in columns if any(column[1](entry) is not None for entry in comparison.entries)]
    empty = [NOTHING] * (len(columns) - len(_shown(comparison)))
    rows, best = _rows(comparison, columns)
    judged = " Wrong class: what a classifier of the data says of samples of most evaluations, drawn with guidance."
    classes = judged if any(heading == "wrong class" for heading, *_ in columns) else ""
    return Table(
        ("method", *(heading for heading, *_ in columns)),
        [(FLOOR, *(floor for _ in _shown(comparison)), *empty), *rows],
        f"At N: {QUALITY[measure]} of samples drawn in N function evaluations, means over the seeds. The best of a "
        f"column is blue.{classes}",
        best={(row + 1, column) for row, column in best},
    )


def budget(comparison: Comparison) -> Table:
    """What each network cost."""
    columns: list[Column] = [
        ("steps in all", lambda entry: float(entry.steps), "{:,.0f}".format, False),
        ("training, s", lambda entry: entry.mean(lambda one: one.training_s), "{:.0f}".format, False),
        ("pairs drawn", lambda entry: float(entry.pairs) or None, "{:,.0f}".format, False),
        (
            "preparing, s",
            lambda entry: entry.mean(lambda one: one.preparing_s) or None,
            "{:.0f}".format,
            False,
        ),
    ]
    rows, _ = _rows(comparison, columns)
    return Table(
        ("method", *(heading for heading, *_ in columns)),
        rows,
        "Steps and training count what came before: a student has its teachers' too. Preparing is to draw pairs or to "
        "fit a path, processes that start included. Times are means over the seeds.",
    )


def _quality(comparison: Comparison, evaluations: int) -> Callable[[Entry], float | None]:
    def figure(entry: Entry) -> float | None:
        found = entry.quality(comparison.measure).get(evaluations)
        return fmean(found) if found else None

    return figure


def _wrong_class(entry: Entry) -> float | None:
    """Share of the samples of most evaluations that are not of the class asked for; None without classes."""
    measured = [one.evaluation["results"] for one in entry.outcomes]
    last = [[one for one in results if one["sampler"] == entry.sampler][-1]["figures"] for results in measured]
    return None if "class_accuracy" not in last[0] else fmean(1 - figures["class_accuracy"] for figures in last)


def _rows(comparison: Comparison, columns: Sequence[Column]) -> tuple[list[tuple[str, ...]], set[tuple[int, int]]]:
    """Cells of all networks, and which of them are the best of their columns."""
    values = [[figure(entry) for _, figure, _, _ in columns] for entry in comparison.entries]
    best = set[tuple[int, int]]()
    for column, (_, _, written, marked) in enumerate(columns):
        present = [row[column] for row in values]
        least = min((value for value in present if value is not None), default=math.nan)
        if marked and len(comparison.entries) > 1:
            best |= {
                (row, column + 1)
                for row, value in enumerate(present)
                if value is not None and written(value) == written(least)
            }
    rows = [
        (
            entry.name,
            *(
                NOTHING if value is None else written(value)
                for value, (_, _, written, _) in zip(row, columns, strict=True)
            ),
        )
        for entry, row in zip(comparison.entries, values, strict=True)
    ]
    return rows, best


def every_number(comparison: Comparison) -> Table:
    """Mean and range over the seeds at every number of evaluations."""
    numbers = comparison.evaluations
    floor = _range(comparison.floor)
    columns: list[Column] = [(str(number), _quality(comparison, number), "{:.4f}".format, True) for number in numbers]
    _, best = _rows(comparison, columns)
    rows = [(FLOOR, *(floor for _ in numbers))]
    for entry in comparison.entries:
        found = entry.quality(comparison.measure)
        rows.append((entry.name, *(_range(found[number]) if number in found else NOTHING for number in numbers)))
    return Table(
        ("function evaluations", *map(str, numbers)),
        rows,
        "Mean ± half of the range over the seeds, and over pairs of sets of real samples. – : the sampler cannot come "
        "out at that number.",
        best={(row + 1, column) for row, column in best},
    )


def _range(values: Sequence[float]) -> str:
    mean, low, high = spread(values)
    return (
        f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{(high - low) / 2:.3f}"
    )


def _best(comparison: Comparison, evaluations: int) -> tuple[Entry, float] | None:
    found = [
        (entry, fmean(quality[evaluations]))
        for entry in comparison.entries
        if evaluations in (quality := entry.quality(comparison.measure))
    ]
    return min(found, key=lambda one: one[1]) if found else None


def _shown(comparison: Comparison) -> list[int]:
    """Numbers of evaluations of the table at a glance: the least, a middle one and the largest."""
    numbers = comparison.evaluations
    return sorted({numbers[0], numbers[min(1, len(numbers) - 1)], numbers[len(numbers) // 2], numbers[-1]})
