"""The steps verb: searches times at which a few steps of Euler's method nearly match many steps; with a page."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from netsim.foundation.files import write_text
from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.terminal import Terminal
from trainer.config.rules.objection import refuse
from trainer.distributed.groups import Launch
from trainer.evaluation.step_figures import grids_table, measured
from trainer.evaluation.steps_page import steps_page
from trainer.evaluation.study import print_table
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.fine_grid import Noises, times_of
from trainer.sampling.step_search import StepsRequest, of_search, search
from trainer.sampling.trained import Reference, opened, restored_flow


def run(request: StepsRequest, out: Path, page: Path | None = None) -> int:
    """Searches grids for a run's averaged weights, measures them and writes a file, which the first rank does."""
    refuse(of_search(restored_flow(request.run)[1], request))
    weights = Reference.of_run(ReferenceConfig(run=request.run)).digest
    first = Launch.from_environment().rank == 0
    with Terminal(stderr=True, quiet=not first).status("") as status, opened(request.run) as flow:
        guidance = request.guidance_for(flow.sample)
        noises = Noises(flow, request.num + request.fresh, guidance=guidance, seed=request.seed)
        searched, fresh = torch.arange(request.num + request.fresh).split([request.num, request.fresh])
        nodes = request.nodes_for(noises.segments)
        status.update(f"following {request.num} noises through {nodes} steps")
        result = search(noises.solutions(searched, nodes), request, status.update)
        figures = measured(result, noises, searched, fresh, status.update)
        file = StepsFile(
            sampler="euler",
            segments=noises.segments,
            guidance=guidance,
            grids={evaluations: times_of(kinds[request.search], nodes) for evaluations, kinds in result.grids.items()},
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
        document = page and steps_page(file, figures, result, noises, fresh) if first else None
        if first:
            file.write(out)
        dist.barrier()  # whoever reads the file next finds it
    if not first:
        return 0
    print_table(grids_table(file, figures))
    print(f"{out}: grids for {request.run}")
    if flow.sample.controls:
        print(f"{request.run}: the grids are of its flow without its sample.controls, with which they may be used")
    if page is not None and document is not None:
        write_text(page, document)
        print(f"{page}: the same as a page, with the costs of steps and what the run draws")
    return 0
