"""compare: several methods on one data set, and one page to choose from."""

from pathlib import Path
from typing import Annotated

from netsim.foundation.command import WORD
from netsim.foundation.outputs import OutputFolder
from trainer.command.options import OfRuns, numbers_of_evaluations, request_of, verb


class Compare(OfRuns):
    """Options of compare."""

    overrides: Annotated[tuple[str, ...], WORD, "CONFIG|key=value"] = ()
    """configurations of methods, such as configs/methods/*.yaml, and settings that replace those of --base, for
    example optim.steps=500; stages.NAME.key=value changes the stage of that name in every method that has it"""
    base: Annotated[Path, "CONFIG"] = Path("configs/methods/flow_matching.yaml")
    """configuration of everything but flow and stages: data, model, optimiser, budget (default:
    configs/methods/flow_matching.yaml, points in the plane)"""
    seeds: int = 3
    """runs of each method (default: 3)"""
    ranks: Annotated[int, "--nproc", "NPROC"] = 1
    """ranks of each run, on this machine (default: 1)"""
    jobs: int = 1
    """runs that are trained at a time, the cores shared among them unless OMP_NUM_THREADS is set; runs at the same
    time slow each other (default: 1)"""
    evaluations: Annotated[str, "N,N,..."] = "1,2,4,8,16,32,100"
    """function evaluations of a sample, with commas between them (default: 1,2,4,8,16,32,100)"""
    num: int = 1000
    """samples of each set (default: 1000)"""
    fabric: Annotated[Path | None, "SCENARIO"] = None
    """scenario of netsim that prices samples: its fabric, transports and seeds; the collectives of a network call
    take the place of its workload (default: configs/scenarios/sampling_64.yaml)"""
    fabric_ranks: Annotated[int, "W"] = 64
    """ranks that draw there, the experts spread over as many as divide both (default: 64)"""
    fabric_examples: Annotated[int, "N"] = 16
    """samples that each of them draws at once (default: 16)"""
    teraflops: Annotated[float, "T"] = 400.0
    """arithmetic that a rank sustains there, TFLOP/s (default: 400, of one accelerator in bf16)"""
    out: Annotated[Path, "DIR"] = Path("runs/compare")
    """folder of the page (index.html), the figures (compare.json) and the runs (default: runs/compare)"""


def _compare(options: Compare) -> int:
    evaluations = numbers_of_evaluations(options.evaluations)
    from trainer.experiment.comparison.plan import CompareRequest
    from trainer.experiment.comparison.run import run

    return run(request_of(CompareRequest, options, words=options.overrides, evaluations=evaluations))


COMPARE = verb(
    "compare",
    "train several methods on one data set with one budget, and write one page to choose from: quality against "
    "function evaluations, straightness, path energy, step time, samples and trajectories side by side",
    "python -m trainer compare configs/methods/*.yaml --seeds 3 --out runs/compare",
    Compare,
    _compare,
    "A method gives its flow and its stages, which share the optimiser steps among them, and its sampler unless that "
    "is a plain solver of dx/dt = v. A method that does not go with the data or the model is left out, and the page "
    "says why; a file that is malformed is refused. Runs that are finished are not trained again.",
    outputs=lambda options: [(OutputFolder("--out", ("compare.json", "*/method.yaml")), options.out)],
    following="python -m trainer compare --help",
)
