"""The fit-path verb: the path of least kinetic energy of a run's data, as a table that a run follows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field, NonNegativeInt, PositiveInt
from rich.table import Table
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed
from netsim.foundation.settings import Section
from netsim.foundation.terminal import Terminal
from trainer.config.run import FLOWLESS, RunConfig
from trainer.data import BadExamples
from trainer.distributed.groups import Launch, joined
from trainer.distributed.process.signals import end_with_launcher
from trainer.flow import path
from trainer.flow.path import kinetic_optimal
from trainer.flow.path.kinetic_optimal import Separation
from trainer.sampling.flow import FlowParts, check_latents

TABLE = "path.safetensors"
"""Name of the table that a stage writes."""


class FitRequest(Section):
    """From how many points a path is fitted, and how steep it may be."""

    num_points: int = Field(default=4000, ge=2)
    """Training examples that the path is fitted to. Fewer points can be distinguished in more noise, so that the path
    comes out straighter."""
    draws: PositiveInt = 2000
    """Noisy points that the estimate averages over."""
    seed: NonNegativeInt = 0
    """Seed of the choice of points and of all draws."""
    least_price: float = Field(default=1e-3, gt=0, le=1)
    """Smallest kinetic energy of a turn from noise to data that the fit assumes, as a share of the largest (G in
    :mod:`trainer.flow.path.kinetic_optimal`): the smaller, the steeper the path may be at the source; 1 gives the
    straight path."""

    def what_decides(self, config: RunConfig) -> dict[str, Any]:
        """Everything that decides the path: the settings of the fit, and the states that it leads to."""
        assert config.flow is not None
        states = config.flow.model_dump(mode="json", include={"latent", "data_scale"})
        return {**self.model_dump(), "data": config.data.model_dump(mode="json"), "flow": states}


def without_path(document: dict[str, Any]) -> dict[str, Any]:
    """A configuration document without the path that is still to be fitted."""
    flow = document.get("flow")
    if not isinstance(flow, dict):
        return document
    return {**document, "flow": {name: value for name, value in flow.items() if name != "path"}}


def check_fitted_to(config: RunConfig) -> None:
    """Refuses a run to which no path can be fitted: one without a flow, or whose flow begins at data."""
    if config.flow is None:
        raise ValueError(f"model.kind: {FLOWLESS[config.model.kind]} and follows no path; give a run with a flow")
    if config.source_data is not None:
        raise ValueError(
            f"flow.source: this finds the path from noise, and these paths begin at {config.source_data.kind} data; "
            "remove it"
        )


CHUNK = 512


def run(config: RunConfig, request: FitRequest, out: Path) -> int:
    """Fits a path to the training data of a run and writes its table; the first rank works, others wait."""
    end_with_launcher()
    launch = Launch.from_environment()
    check_fitted_to(config)
    check_latents(config)
    with joined(launch, expert_parallel=1):
        if launch.rank == 0:
            _fit(config, request, out)
        dist.barrier()
    return 0


def _fit(config: RunConfig, request: FitRequest, out: Path) -> None:
    generator = torch.Generator().manual_seed(derive_seed(request.seed, "fit-path"))
    points = data_points(config, request.num_points, generator)
    with Terminal(stderr=True, quiet=not sys.stderr.isatty()).status("") as status:

        def show(done: int) -> None:
            status.update(f"{len(points)} points, seen in noise: {done} of {len(kinetic_optimal.RATIOS)} ratios")

        separation = kinetic_optimal.estimate(points, draws=request.draws, generator=generator, progress=show)
    table = kinetic_optimal.fit(separation, least_price=request.least_price)
    measured = {"points": len(points), "dimensions": points.shape[1], "scale": separation.scale}
    made_by = {**request.what_decides(config), **measured}
    fitted = path.PathTable(table.weights, table.slopes, made_by)
    fitted.write(out)
    Terminal().print(_energies(path.Tabulated(fitted), separation, float(points.double().mean(0).square().mean())))
    print(f"{out}: {len(points)} points of {points.shape[1]} values, deviation {separation.scale:.4g}")


def data_points(config: RunConfig, num: int, generator: torch.Generator) -> Tensor:
    """States of the training data that paths lead to, at most `num` >= 2, all different: float32 [N, D] on the CPU."""
    dataset, parts = trainer.data.build(config.data), FlowParts(config)
    ids = torch.arange(num)
    if not dataset.endless:
        ids = dataset.data_points("train")
        ids = ids[torch.randperm(len(ids), generator=generator)[:num]]
    try:
        states = [parts.states_of(dataset.get(part).x_1, generator) for part in ids.split(CHUNK)]
    except BadExamples as error:
        raise ValueError(f"data: {error}; remove it from the data") from error
    return torch.cat(states).flatten(1)


def _energies(fitted: path.Tabulated, separation: Separation, mean_square: float) -> Table:
    """A table of the kinetic energies of the fitted path and of the standard paths."""
    title = f"kinetic energy per dimension; Phi {kinetic_optimal.angle_between(separation):.4f}"
    shown = Table(title=title, title_justify="left")
    for heading in ("path", "about the mean", "of the mean", "together"):
        shown.add_column(heading, justify="left" if heading == "path" else "right")
    least = kinetic_optimal.least_energy(separation)
    shown.add_row("least possible", f"{least:.4f}", "", "")
    schedules: dict[str, path.Schedule] = {
        "kinetic-optimal": fitted,
        "straight": path.linear,
        "trigonometric": path.trigonometric,
    }
    for label, schedule in schedules.items():
        about = kinetic_optimal.kinetic_energy(schedule, separation)
        of_mean = mean_square * kinetic_optimal.mean_energy(schedule)
        shown.add_row(label, f"{about:.4f}", f"{of_mean:.4f}", f"{about + of_mean:.4f}")
    return shown
