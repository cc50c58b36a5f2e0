"""Results of the evaluate verb for a policy that builds objects: a table, lines below it and a page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table as TerminalTable

from moe.report.figures import INK, STYLE, to_svg
from netsim.foundation.page import Block, Facts, Figure, Section, Table, page
from trainer.evaluation.pareto.figures import BEST, ParetoFigures, Points, cell, front, preference
from trainer.observe.measurement import Measurement

HUES = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of the single objectives; between them colours are mixed."""
FLOOR, GRID, REACHABLE = "#5b6875", "#eef1f4", "#c9d1d9"
MOST_PANELS = 3
"""Pairs of objectives that are drawn."""


def pareto_page(found: ParetoFigures, *, run_dir: str, picture: bytes | None) -> str:
    """Composes the page, the same for the same figures; the PNG shows which cells of a grid are wanted and built."""
    sections = [Section("At a glance", [Facts(_facts(found))])]
    if len(found.names) > 1:
        sections.append(Section("The front that it reaches", [Figure(_fronts(found), _front_caption(found))]))
        sections.append(Section("It builds what it is asked for", [Figure(_answers(found), _answers_caption(found))]))
    if picture is not None:
        sections.append(Section("What it builds, cell by cell", [Figure(picture, _CELLS)]))
    sections.append(Section("By preference", [_table(found)]))
    return page(
        f"What {run_dir} builds",
        _finding(found),
        sections,
        kicker=f"{', '.join(found.names)}; {found.checkpoint}, {found.num:,} objects of each of "
        f"{len(found.preferences)} preferences, exponent {found.exponent:g}, seed {found.seed}"
        + (f"; rewards are {found.rewards_are}" if found.rewards_are else ""),
        footer="Every figure on this page is in the JSON of the same evaluation; nothing is loaded from a network.",
        verb="evaluate",
    )


_CELLS = (
    "By preference: how likely each cell is wanted to be the object, and how often it was built. Colours have one "
    "scale in a column."
)


def _finding(found: ParetoFigures) -> str:
    reward, even = found.mean(lambda one: one.reward), found.mean(lambda one: one.even)
    variation, wanted = (
        found.mean(lambda one: one.exact and one.exact.total_variation),
        found.mean(lambda one: one.exact and one.exact.wanted),
    )
    said = f"Its objects are worth {reward:.3f} by the preference they were asked for; those of even choices {even:.3f}"
    if variation is None:
        return f"{said}."
    return (
        f"{said}, and those of the distribution that it is to learn {wanted:.3f}. Its own distribution is "
        f"{variation:.3f} from that one, where 0 is the same and 1 as far as can be."
    )


def _facts(found: ParetoFigures) -> list[tuple[str, str, str]]:
    built, even, whole = (found.indicators.get(name) for name in ("built", "even", "all"))
    assert built is not None
    assert even is not None
    share = "" if whole is None else f"{built['hypervolume'] / (whole['hypervolume'] or 1.0):.2%} of all objects'; "
    facts = [
        ("Hypervolume", f"{built['hypervolume']:.4f}", f"{share}even choices {even['hypervolume']:.4f}"),
        ("R2", f"{built['r2']:.4f}", f"less is better; even choices {even['r2']:.4f}"),
        ("Front", f"{built['front']:,}", "points" + ("" if whole is None else f", of {whole['front']:,} there are")),
        ("Diversity", f"{found.mean(lambda one: one.diversity):.3g}", f"distance between the best {BEST}"),
    ]
    exact = [one.exact for one in found.preferences if one.exact is not None]
    if exact:
        variations, off = [one.total_variation for one in exact], max(one.log_partition_error for one in exact)
        facts.append(("Total variation", f"{np.mean(variations):.3f}", f"exact; at most {max(variations):.3f}"))
        facts.append(("log Z off by", f"{off:.3f}", "at most"))
    return facts


def _table(found: ParetoFigures) -> Block:
    """All figures of all preferences."""
    columns = found.columns()
    rows = [
        (preference(one), *(cell(value) for value in one.means), *(cell(figure(one)) for figure in columns.values()))
        for one in found.preferences
    ]
    means = [cell(float(value)) for value in np.mean([one.means for one in found.preferences], axis=0)]
    rows.append(("mean", *means, *(cell(found.mean(figure)) for figure in columns.values())))
    caption = (
        f"Preference: weights of {', '.join(found.names)}. Each objective and the reward by the preference are means "
        f"of what was built; even: the reward of what even choices lead to; best {BEST}: that of the best distinct "
        "objects, and diversity the mean distance between two of these."
    )
    if "TV" in columns:
        caption += (
            " Wanted: the reward under the distribution that the run is to learn; TV: total variation of the policy's "
            "own distribution from it, both exact; log Z off: error of the network's logarithm of the sum of all "
            "rewards."
        )
    return Table(("preference", *found.names, *columns), rows, caption, dense=len(columns) + len(found.names) > 9)


def _front_caption(found: ParetoFigures) -> str:
    known = "" if found.reachable is None else " Grey: all objects there are."
    lines = "The line bounds what is dominated, whose area is the hypervolume" if len(found.names) == 2 else ""
    whole = ", and the dashed line the same of all objects" if lines and known else ""
    return (
        f"Each dot is an object by its rewards, the larger the more often it was built; its colour mixes those of the "
        f"objectives by the preferences that it was built for.{known} {lines}{whole}{'.' if lines else ''}"
    ).strip()


def _answers_caption(found: ParetoFigures) -> str:
    known = "" if found.reachable is None else " Crosses: under the distribution that is wanted, exact."
    return (
        f"Mean of each objective over the objects of a preference, against the weight of that objective.{known} "
        "Dotted: what even choices lead to, which no preference changes."
    )


def _fronts(found: ParetoFigures) -> str:
    """For two objectives a panel of what was built and one of even choices; for more, a panel for each pair."""
    pairs = list(itertools.combinations(range(len(found.names)), 2))[:MOST_PANELS]
    weights = np.repeat([one.weights for one in found.preferences], found.num, axis=0)
    sets: list[tuple[str, Points, NDArray[np.float64] | None, tuple[int, int]]]
    if len(pairs) == 1:
        sets = [("built", found.built, weights, pairs[0]), ("even choices, as many", found.even, None, pairs[0])]
    else:
        sets = [("built" if place == 0 else "", found.built, weights, pair) for place, pair in enumerate(pairs)]
    seen = [found.built, found.even] + ([] if found.reachable is None else [found.reachable])
    least, most = (bound(np.concatenate(seen), axis=0) for bound in (np.min, np.max))
    with mpl.rc_context(STYLE):
        figure = Drawing(figsize=(11.0, 5.2 if len(sets) == 2 else 4.0), layout="constrained")
        for axes, (title, points, asked, pair) in zip(figure.subplots(1, len(sets)), sets, strict=True):
            _front_panel(axes, found, points, asked, pair)
            axes.set_title(title, loc="left", fontsize=10.5, color=INK)
            axes.set_xlabel(found.names[pair[0]])
            axes.set_ylabel(found.names[pair[1]])
            for bound, number in ((axes.set_xlim, pair[0]), (axes.set_ylim, pair[1])):
                margin = 0.04 * max(most[number] - min(least[number], 0.0), 1e-3)
                bound(min(least[number], 0.0) - margin, most[number] + margin)
        _legend(figure, found.names)
        return to_svg(figure)


def _front_panel(
    axes: Axes,
    found: ParetoFigures,
    points: Points,
    weights: NDArray[np.float64] | None,
    pair: tuple[int, int],
) -> None:
    two = list(pair)
    if found.reachable is not None:
        places = np.unique(found.reachable[:, two], axis=0)
        axes.scatter(*places.T, s=7, color=REACHABLE, linewidths=0, zorder=1)
    places, which, counts = np.unique(points[:, two], axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    if weights is None:
        colours = np.array(to_rgb(FLOOR))
    else:
        sums = np.stack([np.bincount(which, column, len(places)) for column in weights.T], axis=1)
        colours = _mixed(sums / counts[:, None])
    sizes = 10 + 190 * np.sqrt(counts / max(len(points) / 8, counts.max()))
    order = np.argsort(-counts)
    shown = colours[order] if colours.ndim == 2 else [colours]
    axes.scatter(*places[order].T, s=sizes[order], c=shown, alpha=0.75, edgecolors="white", linewidths=0.5, zorder=3)
    if len(found.names) == 2:
        if found.reachable is not None:
            axes.plot(*_staircase(found.reachable).T, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=4)
        axes.plot(*_staircase(points).T, color=INK, linewidth=1.1, zorder=5)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _staircase(points: Points) -> Points:
    """The boundary of what points [N, 2] dominate."""
    best = points[front(points)]
    corners: list[tuple[float, float]] = [(float(best[0, 0]), 0.0)]
    for first, second in best.tolist():
        corners += [(first, corners[-1][1]), (first, second)]
    return np.array([*corners, (0.0, corners[-1][1])])


def _answers(found: ParetoFigures) -> str:
    """A panel for each objective: its mean against its weight."""
    with mpl.rc_context(STYLE):
        figure = Drawing(figsize=(11.0, 3.6), layout="constrained")
        weights = np.array([one.weights for one in found.preferences])
        means = np.array([one.means for one in found.preferences])
        panels: Sequence[Axes] = figure.subplots(1, len(found.names), squeeze=False)[0]
        wanted = [one.exact.wanted_rewards for one in found.preferences if one.exact is not None]
        for number, (axes, name) in enumerate(zip(panels, found.names, strict=True)):
            order = np.argsort(weights[:, number], kind="stable")
            at, colour = weights[order, number], HUES[number % len(HUES)]
            joined = "solid" if len(found.names) == 2 else "none"
            axes.axhline(found.even[:, number].mean(), color=FLOOR, linestyle=(0, (1, 2)), label="even choices")
            axes.plot(at, means[order, number], color=colour, linestyle=joined, marker="o", ms=5, label="built")
            if wanted:
                exact = np.array(wanted)[order, number]
                axes.plot(at, exact, color=INK, linestyle="none", marker="x", ms=6, label="wanted")
            axes.set_title(f"mean {name}", loc="left", fontsize=10.5, color=INK)
            axes.set_xlabel(f"weight of {name}")
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
        panels[0].legend(frameon=False, loc="best")
        return to_svg(figure)


def _legend(figure: Drawing, names: Sequence[str]) -> None:
    """Says which colour stands for which single objective."""
    handles = [
        Line2D([], [], color=HUES[number % len(HUES)], marker="o", linestyle="none", label=f"asked for {name}")
        for number, name in enumerate(names)
    ]
    figure.axes[0].legend(handles=handles, frameon=False, loc="best")


def _mixed(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours [N, 3] that mix those of the objectives by weights [N, K]."""
    hues = np.array([to_rgb(HUES[number % len(HUES)]) for number in range(weights.shape[1])])
    return np.clip(weights @ hues, 0.0, 1.0)


@dataclass(frozen=True)
class ParetoMeasurement(Measurement):
    """The figures of a policy."""

    figures: ParetoFigures

    def to_dict(self) -> dict[str, Any]:
        return self.figures.to_dict()

    def table(self) -> TerminalTable:
        """A row for each preference, and their mean."""
        found = self.figures
        title = f"{found.num:,} objects of {found.checkpoint} for each preference, exponent {found.exponent:g}"
        shown = TerminalTable(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
        columns = found.columns()
        shown.add_column(" ".join(found.names), no_wrap=True)
        for heading in columns:
            shown.add_column(heading, justify="right", no_wrap=True)
        for place, one in enumerate(found.preferences, start=1):
            cells = (cell(figure(one)) for figure in columns.values())
            shown.add_row(preference(one), *cells, end_section=place == len(found.preferences))
        shown.add_row("mean", *(cell(found.mean(figure)) for figure in columns.values()))
        return shown

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
        from trainer.evaluation.pareto.measurement import pareto_page  # matplotlib takes a second to import

        return pareto_page(self.figures, run_dir=str(run_dir), picture=picture if self.figures.has_picture else None)
