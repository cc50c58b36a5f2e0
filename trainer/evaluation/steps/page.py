"""The page of searched grids: what steps cost, where they end, what it brings, and what is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from moe.report.page import Facts, Figure, Section, Table, page
from trainer.evaluation.steps.charts import cost_chart, errors_chart, ladders_chart
from trainer.evaluation.steps.measured import Measured, ratio
from trainer.evaluation.steps.pictures import image_rows, point_panels
from trainer.flow.sampler.grid import StepsFile
from trainer.sampling.steps.fine import fine_times
from trainer.sampling.steps.noises import Noises
from trainer.sampling.steps.search import Search

SHOWN = 4
"""Evaluations of the grids that are drawn, or the nearest number to it."""
IMAGES, POINTS = 10, 400


def steps_page(file: StepsFile, figures: Measured, found: Search, noises: Noises, fresh: Tensor) -> str:
    """Composes the page, the same for the same run and request; no search has seen the fresh noises."""
    shown = min(figures.grids, key=lambda number: abs(number - SHOWN))
    kinds = figures.grids[shown]
    chosen = file.made_by["search"]
    share = ratio(kinds[chosen].error, kinds["uniform"].error)
    sections = [
        Section("At a glance", [Facts(_facts(figures, chosen)), _table(figures)]),
        Section("Error against evaluations", [Figure(errors_chart(figures), _ERRORS.format(fresh=figures.fresh))]),
        Section(
            "What steps cost, and where they end",
            [
                Figure(cost_chart(found.cost, kinds, shown), _COST, half=True),
                Figure(ladders_chart(figures), _LADDERS, half=True),
            ],
        ),
        Section(f"The same noises in {shown} evaluations", [Figure(*_drawn(figures, shown, found, noises, fresh))]),
    ]
    return page(
        f"Steps for {file.made_by['run']}",
        f"In {shown} evaluations, the grid of the {chosen} search has {share:.2f} times the error of equal steps: the "
        f"mean squared distance to where {found.nodes} steps lead.",
        sections,
        kicker=f"{file.made_by['checkpoint']}; guidance {file.guidance:g}, {file.made_by['num']} noises of the search, "
        f"{figures.fresh:,} fresh ones, seed {file.made_by['seed']}"
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
    "Cost of one step: mean squared distance by which it misses the fine grid, darker is worse. A ladder begins at the "
    "top left; each mark is a step, and the chord search makes the sum of the costs at its marks least."
)
_LADDERS = "Marks: the times at which the field is evaluated, and the end. Close marks are where the paths bend."


def _facts(figures: Measured, chosen: str) -> list[tuple[str, str, str]]:
    return [
        (
            f"{evaluations} evaluation{'s' * (evaluations > 1)}",
            f"{ratio(kinds[chosen].error, kinds['uniform'].error):.2f} x",
            f"the error of equal steps, {kinds['uniform'].error:#.3g}",
        )
        for evaluations, kinds in figures.grids.items()
    ]


def _table(figures: Measured) -> Table:
    rows, best = [], set[tuple[int, int]]()
    for evaluations, kinds in figures.grids.items():
        uniform = kinds["uniform"]
        for column, least in enumerate(
            (min(one.error for one in kinds.values()), min(one.energy_distance for one in kinds.values()))
        ):
            for row, one in enumerate(kinds.values(), start=len(rows)):
                if least == (one.error, one.energy_distance)[column]:
                    best.add((row, (2, 5)[column]))
        rows += [
            (
                f"{evaluations} {kind}",
                " ".join(f"{time:.3g}" for time in one.times[1:-1]),
                f"{one.error:.4g}",
                f"{ratio(one.error, uniform.error):.3f}",
                f"{ratio(one.search_error, uniform.search_error):.3f}",
                f"{one.energy_distance:.4f}",
                f"{ratio(one.cost, uniform.cost):.3f}",
            )
            for kind, one in kinds.items()
        ]
    return Table(
        ("grid", "times between 0 and 1", "error", "of uniform", "on the search", "energy", "cost"),
        rows,
        "Error: mean squared distance to the end of the fine grid from the same noise, summed over the values of a "
        "state; of uniform: in parts of that of equal steps, on fresh noises; on the search: the same on the noises of "
        "the search; energy: energy distance of the ends, 0 for equal distributions; cost: sum of the costs of the "
        "steps in parts of that of equal steps.",
        dense=True,
        best=best,
    )


def _drawn(figures: Measured, shown: int, found: Search, noises: Noises, fresh: Tensor) -> tuple[str, str]:
    """The ends of the grids of one number of evaluations, with a caption."""
    images = len(noises.flow.config.decoded_shape) == 3
    numbers = fresh[: IMAGES if images else POINTS]
    kinds = figures.grids[shown]
    grids = {kind: torch.tensor(one.times) for kind, one in kinds.items()}
    fine = f"{found.nodes} steps"
    ends = {name: noises.ends(numbers, times) for name, times in {**grids, fine: fine_times(found.nodes)}.items()}
    drawn = {name: noises.decoded(states, numbers).numpy() for name, states in ends.items()}
    remarks = {kind: f"error {one.error:#.3g}" for kind, one in kinds.items()} | {fine: ""}
    if images:
        return image_rows(drawn, fine, remarks), _IMAGES
    return point_panels(drawn, drawn[fine], remarks), _POINTS


_IMAGES = (
    "Each column begins at one noise that no search has seen. Right: how far the images are from those of the fine "
    "grid, darker is further. The errors are means over all fresh noises."
)
_POINTS = (
    "Where paths from noises that no search has seen end; a line leads from each to where the fine grid takes the "
    "same noise."
)
