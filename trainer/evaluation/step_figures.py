"""Errors of grids of times: distances of their ends from those of the fine grid, on noises that no search has used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from netsim.foundation.refusal import Refusal
from trainer.evaluation.quality import energy_distance
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.fine_grid import Noises, fine_times, times_of
from trainer.sampling.step_search import Progress, Search, chord_cost

COMPARED = 1_000
"""Ends that the energy distance is computed from."""


@dataclass(frozen=True)
class GridFigures:
    """Figures of one grid.

    Attributes:
        times: from 0 to 1; those of the uniform grid are equal, as a sampler without a file has them.
        error: mean squared distance of the ends from those of the fine grid, from the same noises, which are fresh; the
            squares are summed over the values of a state.
        search_error: the same from the noises of the search.
        energy_distance: between the ends and those of the fine grid, from fresh noises. It is 0 for equal
            distributions, even if the same noise leads elsewhere, and without bias, so that it may be below 0.
        cost: sum of the costs of its steps; of the uniform grid at the nearest nodes.
    """

    times: tuple[float, ...]
    error: float
    search_error: float
    energy_distance: float
    cost: float


@dataclass(frozen=True)
class StepFigures:
    """Figures of the grids of a search by number of evaluations and kind, from so many fresh noises."""

    fresh: int
    grids: dict[int, dict[str, GridFigures]]

    @classmethod
    def of(cls, path: Path, file: StepsFile) -> StepFigures:
        """Reads the figures in a file of grids."""
        try:
            grids = {
                int(evaluations): {kind: GridFigures(**figures) for kind, figures in kinds.items()}
                for evaluations, kinds in file.figures["grids"].items()
            }
            return cls(file.figures["fresh"], grids)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            remedy = "write it with python -m trainer steps"
            raise Refusal(path, "figures", f"is incomplete ({error})", remedy) from error

    def to_dict(self) -> dict[str, Any]:
        """The figures as they are written to JSON."""
        grids = {
            str(evaluations): {kind: asdict(figures) for kind, figures in by_kind.items()}
            for evaluations, by_kind in self.grids.items()
        }
        return {"fresh": self.fresh, "grids": grids}


def measured(search: Search, noises: Noises, searched: Tensor, fresh: Tensor, progress: Progress) -> StepFigures:
    """Measures all grids of a search, on the noises int64 that they were searched with and on fresh ones."""
    progress(f"following {len(fresh)} fresh noises through {search.nodes} steps")
    fine = [noises.ends(numbers, fine_times(search.nodes)) for numbers in (fresh, searched)]
    grids: dict[int, dict[str, GridFigures]] = {}
    for evaluations, by_kind in search.grids.items():
        progress(f"{evaluations} evaluations: {len(fresh)} fresh noises")
        grids[evaluations] = {}
        for kind, grid in by_kind.items():
            equal = torch.linspace(0.0, 1.0, evaluations + 1)
            times = equal if kind == "uniform" else torch.tensor(times_of(grid, search.nodes))
            ends = [noises.ends(numbers, times) for numbers in (fresh, searched)]
            error, search_error = (_squared(*both) for both in zip(ends, fine, strict=True))
            compared = [part[:COMPARED].numpy() for part in (ends[0], fine[0])]
            distance = energy_distance(*compared, paired=True)
            exact = times_of(tuple(range(evaluations + 1)), evaluations)
            listed = exact if kind == "uniform" else times_of(grid, search.nodes)
            grids[evaluations][kind] = GridFigures(listed, error, search_error, distance, chord_cost(search.cost, grid))
    return StepFigures(len(fresh), grids)


def _squared(ends: Tensor, fine: Tensor) -> float:
    return float((ends - fine).double().flatten(1).square().sum(1).mean())


def ratio(error: float, uniform: float) -> float:
    """Returns an error relative to that of the uniform grid; 1 where the uniform grid has no error."""
    return error / uniform if uniform > 0 else 1.0


def grids_table(file: StepsFile, figures: StepFigures) -> Table:
    """A row for each grid: how far its ends are from those of the fine grid, and where its steps end."""
    title = (
        f"steps against {file.made_by['nodes']} equal ones, guidance {file.guidance:g}, from {figures.fresh:,} noises "
        "that no search has seen"
    )
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
    table.add_column("NFE", justify="right")
    table.add_column("grid")
    for heading in ("error", "of uniform", "energy"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("times")
    for evaluations, kinds in figures.grids.items():
        for place, (kind, one) in enumerate(kinds.items(), start=1):
            table.add_row(
                str(evaluations) if place == 1 else "",
                kind,
                f"{one.error:.4g}",
                f"{ratio(one.error, kinds['uniform'].error):.3f}",
                f"{one.energy_distance:.4f}",
                " ".join(f"{time:.3g}" for time in one.times),
                end_section=place == len(kinds),
            )
    return table
