"""The page of searched grids: their errors, the costs of steps, and draws from the same noises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import BLUE, INK, RED, SOFT, Dots, HeatMap, Line, Mark, colour_map
from netsim.foundation.page import Facts, Figure, Section, Table, page
from netsim.foundation.sheet import Column, sheet
from trainer.evaluation.step_figures import GridFigures, StepFigures, ratio
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.fine_grid import Noises, fine_times
from trainer.sampling.step_search import Search

COLOURS = {"uniform": SOFT, "chord": RED, "endpoint": BLUE}
MARKERS = {"uniform": "o", "chord": "s", "endpoint": "D"}
NAMES = {"uniform": "equal steps", "chord": "chord", "endpoint": "endpoint"}
LEAST = 1e-9
"""Height in a chart of an error that is 0."""
SHOWN = 4
"""Evaluations of the grids that are drawn, or the nearest number to it."""
IMAGES, POINTS = 10, 400


def steps_page(file: StepsFile, figures: StepFigures, searched: Search, noises: Noises, fresh: Tensor) -> str:
    """Composes the page, the same for the same run and request; no search has seen the fresh noises."""
    shown = min(figures.grids, key=lambda number: abs(number - SHOWN))
    kinds, chosen = figures.grids[shown], file.made_by["search"]
    share = ratio(kinds[chosen].error, kinds["uniform"].error)
    costs, ends = cost_chart(searched.cost, kinds, shown), ladders_chart(figures)
    gained = sum(_share(by_kind, chosen) < 1 for by_kind in figures.grids.values())
    gains = f"Searched times err less than equal steps in {gained} of {len(figures.grids)} numbers of evaluations"
    sections = [
        Section("At a glance", [Facts(_facts(figures, chosen)), _table(figures)]),
        Section(gains, [Figure(errors_chart(figures), _ERRORS.format(fresh=figures.fresh))]),
        Section(
            "Costs of steps, and where they end",
            [Figure(costs, _COST, half=True), Figure(ends, _LADDERS, half=True)],
        ),
        Section(f"The same noises in {shown} evaluations", [_drawn(kinds, searched.nodes, noises, fresh)]),
    ]
    made_by = file.made_by
    return page(
        f"Steps for {made_by['run']}",
        f"In {shown} evaluations, the grid of the {chosen} search has {share:.2f} times the error of equal steps on "
        f"{figures.fresh:,} fresh noises: the mean squared distance to where {searched.nodes} steps lead.",
        sections,
        kicker=f"{made_by['checkpoint']}; guidance {file.guidance:g}, {made_by['num']} noises of the search, "
        f"{figures.fresh:,} fresh ones, seed {made_by['seed']}"
        + (f", {file.segments} segments of time" if file.segments > 1 else ""),
        footer="Every figure on this page but the costs is in the JSON of the same search; nothing is loaded from a "
        "network. Search chord: Nguyen et al., Bellman Optimal Step-size Straightening of Flow-Matching Models, 2024.",
        verb="steps",
    )


_ERRORS = (
    "From {fresh:,} noises that no search has seen; lower is better. Error: mean squared distance from where the fine "
    "grid leads the same noise. Energy distance: how much the ends as a whole differ from those of the fine grid; a "
    "search that improves one need not improve the other."
)
_COST = (
    "Cost of one step: mean squared distance by which it misses the fine grid, darker is worse. A ladder of each grid, "
    "in the colours of the chart above, begins at the top left; each mark is a step, and the chord search makes the "
    "sum of the costs at its marks least."
)
_LADDERS = "Marks: the times at which the field is evaluated, and the end. Close marks are where the paths bend."


def _share(kinds: Mapping[str, GridFigures], kind: str) -> float:
    return ratio(kinds[kind].error, kinds["uniform"].error)


def _facts(figures: StepFigures, chosen: str) -> list[tuple[str, str, str]]:
    return [
        (
            f"{evaluations} evaluation{'s' * (evaluations > 1)}",
            f"{_share(kinds, chosen):.2f} x",
            f"the error of equal steps, {kinds['uniform'].error:#.3g}",
        )
        for evaluations, kinds in figures.grids.items()
    ]


def _table(figures: StepFigures) -> Table:
    rows, best = [], set[tuple[int, int]]()
    for evaluations, kinds in figures.grids.items():
        uniform = kinds["uniform"]
        least = min(one.error for one in kinds.values()), min(one.energy_distance for one in kinds.values())
        for kind, one in kinds.items():
            values = one.error, one.energy_distance
            best |= {(len(rows), column) for column, a, b in zip((2, 5), values, least, strict=True) if a == b}
            rows.append(
                (
                    f"{evaluations} {kind}",
                    " ".join(f"{time:.3g}" for time in one.times[1:-1]),
                    f"{one.error:.4g}",
                    f"{ratio(one.error, uniform.error):.3f}",
                    f"{ratio(one.search_error, uniform.search_error):.3f}",
                    f"{one.energy_distance:.4f}",
                    f"{ratio(one.cost, uniform.cost):.3f}",
                )
            )
    caption = (
        "Error: mean squared distance to the end of the fine grid from the same noise, summed over the values of a "
        "state; of uniform: in parts of that of equal steps, on fresh noises; on the search: the same on the noises of "
        "the search; energy: energy distance of the ends, 0 for equal distributions; cost: sum of the costs of the "
        "steps in parts of that of equal steps."
    )
    columns = ("grid", "times between 0 and 1", "error", "of uniform", "on the search", "energy", "cost")
    return Table(columns, rows, caption, dense=True, best=best)


def errors_chart(figures: StepFigures) -> str:
    """Draws the error at the end against evaluations; beside it, error and energy distance relative to equal steps."""
    evaluations = list(figures.grids)
    ticks = {float(number): str(number) for number in evaluations}

    def panel(title: str, value: Callable[[GridFigures, GridFigures], float], log: str, legend: bool) -> Panel:
        lines: list[Mark] = []
        for kind in next(iter(figures.grids.values())):
            values = [value(kinds[kind], kinds["uniform"]) for kinds in figures.grids.values()]
            lines.append(Line(evaluations, values, COLOURS[kind], NAMES[kind], marker=MARKERS[kind], width=1.9))
        shown = "best" if legend else ""
        return Panel(lines, title, x="evaluations of the field", log=log, x_ticks=ticks, legend=shown, grid="both")

    panels = [
        panel("error", lambda one, _: max(one.error, LEAST), "xy", legend=True),
        panel("error, equal steps = 1", lambda one, uniform: ratio(one.error, uniform.error), "x", legend=False),
        panel(
            "energy distance, equal steps = 1",
            lambda one, uniform: ratio(one.energy_distance, uniform.energy_distance),
            "x",
            legend=False,
        ),
    ]
    return chart(panels, size=(11.0, 3.9), name="errors")


def cost_chart(cost: NDArray[np.float64], kinds: Mapping[str, GridFigures], evaluations: int) -> str:
    """The logarithm of costs [T, T] of steps, and the grids of one number of evaluations as ladders on it."""
    shown = np.where(np.isfinite(cost) & (cost > 0), cost, np.nan)
    high = float(np.nanmax(shown, initial=0.0)) or 1.0
    low = max(float(np.nanmin(shown, initial=high)), 1e-6 * high)  # below, a step costs nothing that one could see
    half = 0.5 / (len(cost) - 1)
    marks: list[Mark] = [
        HeatMap(shown, "Greys", low, high, extent=(-half, 1 + half, 1 + half, -half), log=True, fill=False)
    ]
    for kind, one in kinds.items():
        begins, ends = np.repeat(one.times, 2)[:-1], np.repeat(one.times, 2)[1:]
        marks.append(Line(ends, begins, COLOURS[kind], width=2.2))
        marks.append(Dots(one.times[1:], one.times[:-1], COLOURS[kind], size=50, marker=MARKERS[kind]))
    title = f"{evaluations} steps, down the ladder"
    panel = Panel(marks, title, x="time at which a step ends", y="time at which it begins", grid="")
    return chart([panel], size=(5.2, 4.9), name="costs", key=Key("cost of a step", "Greys", low, high, log=True))


def ladders_chart(figures: StepFigures) -> str:
    """The times at which the steps of each grid end, a line for each grid."""
    marks, ticks, place = list[Mark](), dict[float, str](), 0
    for evaluations, kinds in figures.grids.items():
        ticks[place + (len(kinds) - 1) / 2] = str(evaluations)
        for kind, one in kinds.items():
            named = "" if place >= len(kinds) else NAMES[kind]
            marks.append(Line(one.times, [place] * len(one.times), COLOURS[kind], width=1.0, alpha=0.5))
            marks.append(Dots(one.times, [place] * len(one.times), COLOURS[kind], named, 42, MARKERS[kind]))
            place += 1
        place += 1
    x = "time, from noise (0) to data (1)"
    panel = Panel(
        marks, "where the steps end", x=x, y="evaluations", x_limits=(-0.02, 1.02), y_limits=(place - 1.3, -0.7),
        y_ticks=ticks, grid="x",
    )  # fmt: skip
    return chart([panel], size=(5.2, 4.9), name="ladders")


def _drawn(kinds: Mapping[str, GridFigures], nodes: int, noises: Noises, fresh: Tensor) -> Figure:
    """The ends of the grids of one number of evaluations, beside those of the fine grid."""
    images = len(noises.flow.config.decoded_shape) == 3
    numbers = fresh[: IMAGES if images else POINTS]
    grids = {kind: torch.tensor(one.times) for kind, one in kinds.items()} | {f"{nodes} steps": fine_times(nodes)}
    drawn = [noises.decoded(noises.ends(numbers, times), numbers).numpy() for times in grids.values()]
    names = [f"{kind}\nerror {one.error:#.3g}" for kind, one in kinds.items()] + [f"{nodes} steps"]
    colours = [COLOURS.get(kind, INK) for kind in grids]
    if images:
        return Figure(_image_sheet(drawn, names, colours), _IMAGES)
    return Figure(_point_panels(drawn, names, colours), _POINTS)


_IMAGES = (
    "Each column begins at one noise that no search has seen. Right: how far the images are from those of the fine "
    "grid, darker is further. The errors are means over all fresh noises."
)
_POINTS = (
    "Where paths from noises that no search has seen end; a line leads from each to where the fine grid takes the "
    "same noise."
)


def _image_sheet(rows: Sequence[NDArray[np.floating]], names: Sequence[str], colours: Sequence[str]) -> str:
    """Rows of images [N, C, H, W], one noise a column, and beside them the distance from the last row."""
    missed = [np.abs(images - rows[-1]).mean(axis=1) for images in rows[:-1]]
    largest, reds = max(float(images.max()) for images in missed) or 1.0, colour_map("Reds")
    strips = [_strip((np.nan_to_num(images).clip(-1, 1).transpose(0, 2, 3, 1) + 1) / 2) for images in rows]
    differences = [_strip(reds(images / largest)[..., :3]) for images in missed]
    columns = [Column("draws", strips), Column(f"difference to {names[-1]}", [*differences, None])]
    return sheet(columns, rows=names, colours=colours, name="draws")


def _strip(images: NDArray[np.floating]) -> NDArray[np.floating]:
    """Images [N, H, W, C] of values from 0 to 1 beside each other, with a white line between them: [H, width, 3]."""
    padded = np.pad(
        np.broadcast_to(images, (*images.shape[:3], 3)), ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1
    )
    return np.concatenate(list(padded), axis=1)[:, :-1]


def _point_panels(rows: Sequence[NDArray[np.floating]], names: Sequence[str], colours: Sequence[str]) -> str:
    """Sets of points [N, D] side by side, with lines to those of the last set; a few may be outside."""
    fine, panels = rows[-1][:, :2], []
    reach = 1.2 * float(np.quantile(np.abs(fine).max(axis=1), 0.99))
    for points, name, colour in zip(rows, names, colours, strict=True):
        gaps = np.full(len(fine), np.nan)
        x, y = (np.stack([fine[:, axis], points[:, axis], gaps], axis=1).ravel() for axis in (0, 1))
        marks = [Line(x, y, colour, width=0.6, alpha=0.4), Dots(points[:, 0], points[:, 1], colour, size=7)]
        title, _, note = name.partition("\n")
        panels.append(
            Panel(marks, title, note, x_limits=(-reach, reach), y_limits=(-reach, reach), bare=True, equal=True)
        )
    return chart(panels, size=(11.0, 11.0 / len(panels) + 0.5), name="draws")
