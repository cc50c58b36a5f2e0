"""The page that a person chooses a method from."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from moe.files import replacing
from moe.report.page import Block, Facts, Figure, Listing, Section, Table, page
from trainer.comparison.charts import bars, quality_chart
from trainer.comparison.pictures import pictures
from trainer.comparison.results import QUALITY, Comparison, Entry, spread

NOTHING = "–"
Column = tuple[str, Callable[[Entry], float | None], Callable[[float], str], bool]
"""Heading, figure of a network, how it is written, whether the least is the best and stands out."""


def write_page(comparison: Comparison, real: NDArray[np.floating], out: Path) -> None:
    """Draws the page from the figures and from what lies beside the runs.

    Args:
        comparison: the figures.
        real: [N, *shape] examples of the data, shown behind points.
        out: HTML file to write.
    """
    document = page(
        "Choosing a method",
        _finding(comparison),
        [
            _glance(comparison),
            Section(
                "Quality against function evaluations",
                [Figure(quality_chart(comparison), _caption(comparison)), _every_number(comparison)],
            ),
            Section(
                "How direct the paths are, and what a step costs", [Figure(bars(comparison), _BARS)], _paths(comparison)
            ),
            Section("What they draw", [Figure(picture, "") for picture in pictures(comparison.entries, real)], _DRAWN),
            _methods(comparison),
            _reproduce(comparison),
        ],
        kicker=f"{_data(comparison)}; {comparison.steps:,} optimiser steps of {comparison.global_batch}, "
        f"{_seeds(comparison)}",
        footer="Every figure on this page is in compare.json beside it; nothing is loaded from a network.",
    )
    with replacing(out) as temporary:
        temporary.write_text(document, encoding="utf-8")


_BARS = "Bars are means over the seeds, dots the seeds. Step time is that of the network itself, its teachers left out."
_DRAWN = (
    "Samples of the first seed from the same noise, of few and of many evaluations. Behind points lie real ones in "
    "grey; paths lead from noise (grey) to samples (black)."
)


def _data(comparison: Comparison) -> str:
    data = comparison.data
    return " ".join(str(data[key]) for key in ("kind", "name", "path") if data.get(key) is not None)


def _seeds(comparison: Comparison) -> str:
    number = len(comparison.seeds)
    return f"{number} seeds" if number > 1 else "one seed"


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


def _finding(comparison: Comparison) -> str:
    words = []
    for number in (_shown(comparison)[0], _shown(comparison)[-1]):
        best = _best(comparison, number)
        if best is not None:
            entry, value = best
            times = f"{number} evaluation{'s' * (number > 1)}"
            words.append(f"with {times} {entry.name} comes nearest to the data ({value:.3g})")
    text = "; ".join(dict.fromkeys(words))
    return f"{text[0].upper()}{text[1:]}; two sets of real samples are {fmean(comparison.floor):.3g} apart."


def _glance(comparison: Comparison) -> Section:
    measure = comparison.measure
    columns: list[Column] = [
        (f"at {number}", _quality(comparison, number), "{:.3f}".format, True) for number in _shown(comparison)
    ]
    columns += [
        ("straightness", lambda entry: fmean(entry.path_figure("straightness")), "{:.3f}".format, True),
        ("path energy", lambda entry: fmean(entry.path_figure("path_energy")), "{:.2f}".format, True),
        ("step, ms", lambda entry: fmean(entry.times()), "{:.1f}".format, True),
        ("steps in all", lambda entry: float(entry.steps), "{:,.0f}".format, False),
        ("training, s", lambda entry: entry.mean(lambda one: one.training_s), "{:.0f}".format, False),
        ("pairs drawn", lambda entry: float(entry.pairs) or None, "{:,.0f}".format, False),
        (
            "drawing, s",
            lambda entry: entry.mean(lambda one: one.drawing_s) if entry.pairs else None,
            "{:.0f}".format,
            False,
        ),
    ]
    empty = [NOTHING] * (len(columns) - len(_shown(comparison)))
    floor = f"{fmean(comparison.floor):.3f}"
    rows, best = _rows(comparison, columns)
    table = Table(
        ("method", *(heading for heading, *_ in columns)),
        [("two sets of real samples", *(floor for _ in _shown(comparison)), *empty), *rows],
        f"At N: {QUALITY[measure]} of samples drawn in N function evaluations, means over the seeds. The best of a "
        "column is blue. Steps, training and drawing count what came before: a student has its teachers' too.",
        best={(row + 1, column) for row, column in best},
    )
    facts = []
    for number in (_shown(comparison)[0], _shown(comparison)[-1]):
        found = _best(comparison, number)
        if found is not None:
            facts.append((f"Best at {number}", f"{found[1]:.3g}", found[0].name))
    facts.append(("Real samples", f"{fmean(comparison.floor):.3g}", "two sets against each other"))
    facts.append(("Examples seen", f"{comparison.steps * comparison.global_batch:,}", "by each method, at most"))
    blocks: list[Block] = [Facts(facts), table]
    return Section("At a glance", blocks)


def _quality(comparison: Comparison, evaluations: int) -> Callable[[Entry], float | None]:
    def figure(entry: Entry) -> float | None:
        found = entry.quality(comparison.measure).get(evaluations)
        return fmean(found) if found else None

    return figure


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


def _every_number(comparison: Comparison) -> Table:
    """Mean and range over the seeds at every number of evaluations."""
    numbers = comparison.evaluations
    floor = _range(comparison.floor)
    columns: list[Column] = [(str(number), _quality(comparison, number), "{:.4f}".format, True) for number in numbers]
    _, best = _rows(comparison, columns)
    rows = [("two sets of real samples", *(floor for _ in numbers))]
    for entry in comparison.entries:
        found = entry.quality(comparison.measure)
        rows.append((entry.name, *(_range(found[number]) if number in found else NOTHING for number in numbers)))
    return Table(
        ("function evaluations", *map(str, numbers)),
        rows,
        "Mean [least, largest of the seeds]. – : the sampler cannot come out at that number.",
        best={(row + 1, column) for row, column in best},
    )


def _range(values: Sequence[float]) -> str:
    mean, low, high = spread(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _caption(comparison: Comparison) -> str:
    samplers = sorted({entry.sampler for entry in comparison.entries})
    own = "" if len(samplers) == 1 else " Samplers other than the base's belong to their methods and are listed below."
    return (
        f"{QUALITY[comparison.measure]} of {comparison.num:,} samples; lines are means over the seeds, bands from the "
        f"least to the largest, the grey band that of real samples. Both axes are logarithmic; lower is better.{own}"
    )


def _paths(comparison: Comparison) -> str:
    return (
        "Straightness is the mean squared departure of the velocity from the straight way between the ends, in units "
        "of that way: where it is 0, one step of Euler's method is exact. Path energy is the mean squared velocity "
        "along the paths, in squared units of the data; no way between the same ends needs less than the mark. Both "
        f"are of a hundred steps of Euler's method. {_jobs(comparison)}"
    )


def _jobs(comparison: Comparison) -> str:
    ranks = f"on {comparison.ranks} rank{'s' * (comparison.ranks > 1)}"
    if comparison.jobs == 1:
        return f"Steps were timed {ranks}, one run at a time."
    return f"Steps were timed {ranks}, {comparison.jobs} runs at a time, which slow each other: look at their ratios."


def _methods(comparison: Comparison) -> Section:
    rows, seen = [], set[str]()
    for entry in comparison.entries:
        if entry.config not in seen:
            seen.add(entry.config)
            rows.append((Path(entry.config).stem, entry.about, entry.sampler, entry.config))
    blocks: list[Block] = [Table(("method", "what it is", "sampler", "configuration"), rows, words=True)]
    if comparison.left_out:
        out = Table(("left out", "why"), list(comparison.left_out.items()), words=True)
        blocks.append(out)
    return Section("The methods", blocks)


def _reproduce(comparison: Comparison) -> Section:
    first = comparison.entries[0]
    run = first.outcomes[0]
    lines = [
        f"python -m trainer {comparison.command}",
        "",
        f"# one run, here the first: {first.name}",
        f"python -m trainer train {first.trained} run.seed={run.seed} run.dir={run.run_dir}",
        "",
        "# its figures",
        f"python -m trainer evaluate {run.run_dir} --num {comparison.num} --seed {run.seed} "
        f"--evaluations {','.join(map(str, comparison.evaluations))} --out evaluation.json",
    ]
    data = _data(comparison)
    text = (
        f"Data, model, optimiser and budget are those of {comparison.base} ({data}); of each method come its flow and "
        "its stages. Runs with one seed see the same examples in the same order and begin with the same weights."
    )
    return Section("How to reproduce it", [Listing("\n".join(lines), "What is finished is not trained again.")], text)
