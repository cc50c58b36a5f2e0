"""Results of the evaluate verb for a policy that builds objects: a table, lines below it and a page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as TerminalTable

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import (
    AMBER,
    BLUE,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    INK,
    PINK,
    RED,
    SKY,
    SOFT,
    SOLID,
    Dots,
    Level,
    Line,
    Mark,
)
from netsim.foundation.page import Block, Facts, Figure, Section, Table, page
from trainer.evaluation.pareto import BEST, ParetoFigures, Points, cell, front, preference
from trainer.observe.measurement import FOOTER, Measurement, figures_table

HUES = (RED, BLUE, GREEN, PINK, AMBER, SKY)
"""Colours of the single objectives; preferences between them get mixed colours."""
MOST_PANELS = 3
"""Pairs of objectives that are drawn."""


_CELLS = (
    "By preference: how likely each cell is wanted to be the object, and how often it was built. Colours have one "
    "scale in a column."
)


def _finding(figures: ParetoFigures) -> str:
    reward, even = figures.mean(lambda one: one.reward), figures.mean(lambda one: one.even)
    variation, wanted = (
        figures.mean(lambda one: one.exact and one.exact.total_variation),
        figures.mean(lambda one: one.exact and one.exact.wanted),
    )
    said = f"Its objects are worth {reward:.3f} by their preference; those of even choices {even:.3f}"
    if variation is None:
        return f"{said}."
    return (
        f"{said}, and those of the distribution that it is to learn {wanted:.3f}. Its own distribution is "
        f"{variation:.3f} from that one, where 0 is the same and 1 as far as can be."
    )


def _facts(figures: ParetoFigures) -> list[tuple[str, str, str]]:
    built, even, whole = (figures.indicators.get(name) for name in ("built", "even", "all"))
    assert built is not None
    assert even is not None
    share = "" if whole is None else f"{built['hypervolume'] / (whole['hypervolume'] or 1.0):.2%} of all objects'; "
    facts = [
        ("Hypervolume", f"{built['hypervolume']:.4f}", f"{share}even choices {even['hypervolume']:.4f}"),
        ("R2", f"{built['r2']:.4f}", f"less is better; even choices {even['r2']:.4f}"),
        ("Front", f"{built['front']:,}", "points" + ("" if whole is None else f", of {whole['front']:,} there are")),
        ("Diversity", f"{figures.mean(lambda one: one.diversity):.3g}", f"distance between the best {BEST}"),
    ]
    exact = [one.exact for one in figures.preferences if one.exact is not None]
    if exact:
        variations, off = [one.total_variation for one in exact], max(one.log_partition_error for one in exact)
        facts.append(("Total variation", f"{np.mean(variations):.3f}", f"exact; at most {max(variations):.3f}"))
        facts.append(("log Z off by", f"{off:.3f}", "at most"))
    return facts


def _table(figures: ParetoFigures) -> Block:
    """All figures of all preferences."""
    columns = figures.columns()
    rows = [
        (preference(one), *(cell(value) for value in one.means), *(cell(figure(one)) for figure in columns.values()))
        for one in figures.preferences
    ]
    means = [cell(float(value)) for value in np.mean([one.means for one in figures.preferences], axis=0)]
    rows.append(("mean", *means, *(cell(figures.mean(figure)) for figure in columns.values())))
    caption = (
        f"Preference: weights of {', '.join(figures.names)}. Each objective and the reward by the preference are means "
        f"of what was built; even: the reward of what even choices lead to; best {BEST}: that of the best distinct "
        "objects, and diversity the mean distance between two of these."
    )
    if "TV" in columns:
        caption += (
            " Wanted: the reward under the distribution that the run is to learn; TV: total variation of the policy's "
            "own distribution from it, both exact; log Z off: error of the network's logarithm of the sum of all "
            "rewards."
        )
    return Table(("preference", *figures.names, *columns), rows, caption, dense=len(columns) + len(figures.names) > 9)


def _front_caption(figures: ParetoFigures) -> str:
    known = "" if figures.reachable is None else " Grey: all objects there are."
    lines = "The line bounds what is dominated, whose area is the hypervolume" if len(figures.names) == 2 else ""
    whole = ", and the dashed line the same of all objects" if lines and known else ""
    return (
        f"Each dot is an object by its rewards, the larger the more often it was built; its colour mixes those of the "
        f"objectives by the preferences that it was built for.{known} {lines}{whole}{'.' if lines else ''}"
    ).strip()


def _answers_caption(figures: ParetoFigures) -> str:
    known = "" if figures.reachable is None else " Crosses: under the distribution that is wanted, exact."
    return (
        f"Mean of each objective over the objects of a preference, against the weight of that objective.{known} "
        "Dotted: what even choices lead to, which no preference changes."
    )


def _fronts(figures: ParetoFigures) -> str:
    """For two objectives a panel of what was built and one of even choices; for more, a panel for each pair."""
    pairs = list(itertools.combinations(range(len(figures.names)), 2))[:MOST_PANELS]
    weights = np.repeat([one.weights for one in figures.preferences], figures.num, axis=0)
    sets: list[tuple[str, Points, NDArray[np.float64] | None, tuple[int, int]]]
    sets = [("" if place else "built", figures.built, weights, pair) for place, pair in enumerate(pairs)]
    if len(pairs) == 1:
        sets.append(("even choices, as many", figures.even, None, pairs[0]))
    points = np.concatenate([figures.built, figures.even, *([] if figures.reachable is None else [figures.reachable])])
    least, most = np.minimum(points.min(axis=0), 0.0), points.max(axis=0)
    margin = 0.04 * np.maximum(most - least, 1e-3)
    limits = [(float(low), float(high)) for low, high in zip(least - margin, most + margin, strict=True)]
    panels = []
    for number, (title, points, preferred, (x, y)) in enumerate(sets):
        marks = _front_marks(figures, points, preferred, [x, y])
        if not number:
            marks += [
                Dots([], [], HUES[k % len(HUES)], f"preference for {name}") for k, name in enumerate(figures.names)
            ]
        names, legend = (figures.names[x], figures.names[y]), "" if number else "best"
        panels.append(
            Panel(
                marks, title, x=names[0], y=names[1], x_limits=limits[x], y_limits=limits[y], grid="both", legend=legend
            )
        )
    return chart(panels, size=(11.0, 5.2 if len(panels) == 2 else 4.0), name="fronts")


def _front_marks(
    figures: ParetoFigures, points: Points, weights: NDArray[np.float64] | None, pair: Sequence[int]
) -> list[Mark]:
    """Objects by two rewards, the larger the more often built, coloured by the preferences they were built for."""
    marks: list[Mark] = []
    if figures.reachable is not None:
        x, y = np.unique(figures.reachable[:, pair], axis=0).T
        marks.append(Dots(x, y, GREY, size=7, alpha=0.5))
    places, which, counts = np.unique(points[:, pair], axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    sizes, order = 10 + 190 * np.sqrt(counts / max(len(points) / 8, counts.max())), np.argsort(-counts)
    colours: Any = SOFT
    if weights is not None:
        sums = np.stack([np.bincount(which, column, len(places)) for column in weights.T], axis=1)
        colours = _mixed(sums / counts[:, None])[order]
    x, y = places[order].T
    marks.append(Dots(x, y, colours, size=sizes[order], alpha=0.75))
    if len(figures.names) == 2:
        if figures.reachable is not None:
            x, y = _staircase(figures.reachable).T
            marks.append(Line(x, y, INK, dash=DASHED, width=1.0))
        x, y = _staircase(points).T
        marks.append(Line(x, y, INK, width=1.1))
    return marks


def _staircase(points: Points) -> Points:
    """The boundary of what points [N, 2] dominate."""
    best = points[front(points)]
    corners: list[tuple[float, float]] = [(float(best[0, 0]), 0.0)]
    for first, second in best.tolist():
        corners += [(first, corners[-1][1]), (first, second)]
    return np.array([*corners, (0.0, corners[-1][1])])


def _answers(figures: ParetoFigures) -> str:
    """A panel for each objective: its mean against its weight."""
    weights, means = (np.array([getattr(one, name) for one in figures.preferences]) for name in ("weights", "means"))
    wanted = np.array([one.exact.wanted_rewards for one in figures.preferences if one.exact is not None])
    panels = []
    for number, name in enumerate(figures.names):
        order = np.argsort(weights[:, number], kind="stable")
        at, colour = weights[order, number], HUES[number % len(HUES)]
        marks: list[Mark] = [Level(float(figures.even[:, number].mean()), "even choices", dash=DOTTED)]
        dash = SOLID if len(figures.names) == 2 else "none"
        marks.append(Line(at, means[order, number], colour, "built", dash, "o"))
        if len(wanted):
            marks.append(Dots(at, wanted[order, number], INK, "wanted", 36, "x"))
        legend = "" if number else "best"
        panels.append(Panel(marks, f"mean {name}", x=f"weight of {name}", legend=legend))
    return chart(panels, size=(11.0, 3.6), name="answers")


def _mixed(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours [N, 3] that mix those of the objectives by weights [N, K]."""
    hues = [bytes.fromhex(HUES[number % len(HUES)][1:]) for number in range(weights.shape[1])]
    return np.clip(weights @ (np.array([[*hue] for hue in hues]) / 255), 0.0, 1.0)


@dataclass(frozen=True)
class ParetoMeasurement(Measurement):
    """The figures of a policy."""

    figures: ParetoFigures

    def to_dict(self) -> dict[str, Any]:
        return self.figures.to_dict()

    def table(self) -> TerminalTable:
        """A row for each preference, and their mean."""
        figures = self.figures
        title = f"{figures.num:,} objects of {figures.checkpoint} for each preference, exponent {figures.exponent:g}"
        columns = figures.columns()
        rows = [(preference(one), *(cell(figure(one)) for figure in columns.values())) for one in figures.preferences]
        rows.append(("mean", *(cell(figures.mean(figure)) for figure in columns.values())))
        return figures_table((" ".join(figures.names), *columns), rows, title=title, ends=[len(rows) - 2])

    def remarks(self) -> list[str]:
        """The indicators of all preferences together, and what the columns are."""
        of, lines = self.figures.indicators, []
        built, even, whole = of["built"], of["even"], of.get("all")
        if self.figures.rewards_are:
            lines.append(f"rewards are {self.figures.rewards_are}")
        of_all = (
            "" if whole is None else f", {built['hypervolume'] / (whole['hypervolume'] or 1.0):.2%} of all objects'"
        )
        of_even = f"even choices: {even['hypervolume']:.4f}, {even['r2']:.4f}"
        lines.append(
            f"hypervolume {built['hypervolume']:.4f} above 0{of_all}; R2 {built['r2']:.4f} from 1, less is better "
            f"({of_even})"
        )
        lines.append(
            f"reward: mean by the preference; even: of even choices; best {BEST}: of the best distinct objects, whose "
            "mean distance is the diversity"
        )
        if whole is None:
            lines.append("there are too many objects to list: how near the policy is to what is wanted is not known")
        else:
            lines.append(
                "wanted: under the distribution that the run is to learn; TV: total variation of the policy's from it, "
                "exact"
            )
        return lines

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        """The page, the same for the same figures; the picture shows which cells of a grid are wanted and built."""
        figures = self.figures
        sections = [Section("At a glance", [Facts(_facts(figures))])]
        if len(figures.names) > 1:
            sections.append(Section("The front that it reaches", [Figure(_fronts(figures), _front_caption(figures))]))
            sections.append(
                Section("It builds by the preference", [Figure(_answers(figures), _answers_caption(figures))])
            )
        if picture is not None and figures.has_picture:
            sections.append(Section("What it builds, cell by cell", [Figure(picture, _CELLS)]))
        sections.append(Section("By preference", [_table(figures)]))
        return page(
            f"Objects built by {run_dir}",
            _finding(figures),
            sections,
            kicker=f"{', '.join(figures.names)}; {figures.checkpoint}, {figures.num:,} objects of each of "
            f"{len(figures.preferences)} preferences, exponent {figures.exponent:g}, seed {figures.seed}"
            + (f"; rewards are {figures.rewards_are}" if figures.rewards_are else ""),
            footer=FOOTER,
            verb="evaluate",
        )
