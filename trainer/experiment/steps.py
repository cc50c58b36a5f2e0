"""The steps verb: grids of times on which few steps of Euler's method come near many."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from trainer.flow.reference import ReferenceConfig
from trainer.flow.sampler.steps_file import StepsFile
from trainer.sampling.reference import Reference
from trainer.sampling.steps.fine import times_of
from trainer.sampling.steps.request import StepsRequest
from trainer.sampling.steps.search import NoiseSet, check_search, search, segments_of
from trainer.sampling.trained import opened, restored_flow


def run(request: StepsRequest, out: Path, page: Path | None = None) -> int:
    """Searches grids for the averaged weights of a run's newest intact checkpoint, each rank alone, and writes them.

    Args:
        request: what is asked for.
        out: JSON to write, see `trainer.flow.sampler.steps_file.StepsFile`.
        page: HTML to write, or None.

    Returns:
        0.

    Raises:
        ValueError: the run has no complete checkpoint or follows no flow, or does not allow the request.
    """
    _, config = restored_flow(request.run)
    check_search(config, request)
    weights = Reference.of_run(ReferenceConfig(run=request.run)).digest
    with Console(stderr=True).status("") as status, opened(request.run) as flow:
        guidance = flow.sample.guidance if request.guidance is None else request.guidance
        segments = segments_of(flow.sample.sampler)
        nodes = request.nodes_for(segments)
        noises = NoiseSet(flow, request.num, guidance=guidance, seed=request.seed)
        solutions = noises.solutions(
            torch.arange(request.num), nodes, lambda done: status.update(f"{done} of {request.num} noises followed")
        )
        found = search(solutions, request, status.update).found
    StepsFile(
        sampler="euler",
        segments=segments,
        guidance=guidance,
        grids={number: times_of(one.chosen, nodes) for number, one in found.items()},
        made_by={
            "run": str(request.run),
            "weights": weights,
            "search": request.search,
            "nodes": nodes,
            "num": request.num,
            "seed": request.seed,
        },
    ).write(out)
    print(f"{out}: grids of {', '.join(map(str, found))} evaluations for {request.run}")
    return 0
