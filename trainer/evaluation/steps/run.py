"""The steps verb: grids of times on which few steps of Euler's method come near many, and their page."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from netsim.foundation.files import replacing
from netsim.foundation.page import Facts, Figure, Section, Table, page
from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.terminal import Terminal
from trainer.config.rules.objection import refuse
from trainer.distributed.groups import Launch
from trainer.evaluation.steps.measured import Measured, grids_table, measured, ratio
from trainer.evaluation.steps.pictures import cost_chart, errors_chart, image_rows, ladders_chart, point_panels
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.fine_grid import Noises, fine_times, times_of
from trainer.sampling.step_search import Search, StepsRequest, of_search, search
from trainer.sampling.trained import Reference, opened, restored_flow

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


WIDTH = 100
"""Of what is printed into a file, in characters."""


def run(request: StepsRequest, out: Path, page: Path | None = None) -> int:
    """Searches grids for the averaged weights of a run's newest intact checkpoint, measures them and writes a file.

    Each rank of a launch does all of it on its own, the first one writes, and the others wait for that.
    """
    refuse(of_search(restored_flow(request.run)[1], request))
    weights = Reference.of_run(ReferenceConfig(run=request.run)).digest
    first = Launch.from_environment().rank == 0
    with Terminal(stderr=True, quiet=not first).status("") as status, opened(request.run) as flow:
        guidance = request.guidance_for(flow.sample)
        noises = Noises(flow, request.num + request.fresh, guidance=guidance, seed=request.seed)
        searched, fresh = torch.arange(request.num + request.fresh).split([request.num, request.fresh])
        nodes = request.nodes_for(noises.segments)
        status.update(f"following {request.num} noises through {nodes} steps")
        found = search(noises.solutions(searched, nodes), request, status.update)
        figures = measured(found, noises, searched, fresh, status.update)
        file = StepsFile(
            sampler="euler",
            segments=noises.segments,
            guidance=guidance,
            grids={evaluations: times_of(kinds[request.search], nodes) for evaluations, kinds in found.grids.items()},
            figures=figures.to_dict(),
            made_by={
                "run": str(request.run),
                "checkpoint": flow.checkpoint,
                "weights": weights,
                "search": request.search,
                "nodes": nodes,
                "num": request.num,
                "seed": request.seed,
            },
        )
        document = page and steps_page(file, figures, found, noises, fresh) if first else None
        if first:
            file.write(out)
        dist.barrier()  # whoever reads the file next finds it
    if not first:
        return 0
    Terminal(width=None if sys.stdout.isatty() else WIDTH).print(grids_table(file, figures))
    print(f"{out}: grids for {request.run}")
    if flow.sample.controls:
        print(f"{request.run}: the grids are of its flow without its sample.controls, with which they may be used")
    if page is not None and document is not None:
        with replacing(page) as temporary:
            temporary.write_text(document, encoding="utf-8")
        print(f"{page}: the same as a page, with the costs of steps and what the run draws")
    return 0
