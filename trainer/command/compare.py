"""compare and mixture: several runs on one data set, methods beside each other or shares of sources."""

from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD
from netsim.foundation.outputs import OutputFile, OutputFolder, page_mark
from trainer.command.options import check_outputs, numbers_of_evaluations, request_of, verb
from trainer.experiment.request.verbs import Configured, OfRuns


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
    """ranks that draw on that fabric, the experts spread over the greatest common divisor of their number and the ranks
    (default: 64)"""
    fabric_examples: Annotated[int, "N"] = 16
    """samples that each rank of that fabric draws at once (default: 16)"""
    teraflops: Annotated[float, "T"] = 400.0
    """arithmetic that a rank of that fabric sustains, in TFLOP/s (default: 400, of one accelerator in bf16)"""
    out: Annotated[Path, "DIR"] = Path("runs/compare")
    """folder of the page (index.html), the figures (compare.json) and the runs (default: runs/compare)"""


@verb(
    "compare",
    "train several methods on one data set with one budget, and write one page to choose from: quality against "
    "function evaluations, straightness, path energy, step time, samples and trajectories side by side",
    "python -m trainer compare configs/methods/*.yaml --seeds 3 --out runs/compare",
    Compare,
    "A method gives its flow and its stages, which share the optimiser steps among them, and its sampler unless that "
    "is a plain solver of dx/dt = v. A method that does not go with the data or the model is left out, and the page "
    "says why; a file that is malformed is refused. Runs that are finished are not trained again.",
    outputs=lambda options: [(OutputFolder("--out", ("compare.json", "*/method.yaml")), options.out)],
    following="python -m trainer compare --help",
)
def compare(options: Compare) -> int:
    evaluations = numbers_of_evaluations(options.evaluations)
    from trainer.experiment.comparison.run import CompareRequest, run

    return run(request_of(CompareRequest, options, words=options.overrides, evaluations=evaluations))


class Mixture(Configured):
    """Options of mixture."""

    sizes: Annotated[str, "N,N"]
    """training examples of small and of large pilots, such as 200,400; the second at least twice the first"""
    target: Annotated[int, "N"]
    """training examples of the run that is planned"""
    measure: Literal["class_accuracy", "frechet_distance", "held_out_loss"] = "held_out_loss"
    """figure that pilots are judged by: of samples, drawn by the run's own sampler, or the loss on held-out examples
    (default: held_out_loss)"""
    wanted: Annotated[str | None, "SOURCE"] = None
    """source whose examples pilots are judged by, which may have the share 0 in the configuration and is then not
    mixed (default: all sources as they are)"""
    grid: Annotated[int, "N"] = 5
    """shares of pilots are multiples of 1/N: 21 mixes of three sources with 5 (default: 5)"""
    seeds: int = 1
    """runs of each pilot (default: 1)"""
    ranks: Annotated[int, "--nproc", "NPROC"] = 1
    """ranks of each run, on this machine (default: 1)"""
    jobs: int = 1
    """runs that are trained at a time, the cores shared among them unless OMP_NUM_THREADS is set (default: 1)"""
    num: int = 1000
    """samples that a pilot is measured by (default: 1000)"""
    features: Annotated[Path | None, "FILE"] = None
    """compare examples on the features of the network in this safetensors file; import-features makes one (default:
    values of the examples)"""
    pilots: Annotated[Path, "DIR"] = Path("runs/mixture")
    """folder of the pilots, which are trained once (default: runs/mixture)"""
    out: Annotated[Path, "JSON"]
    """the shares, which train takes as data.shares, and the figures that they were picked by"""
    page: Annotated[Path | None, "HTML"] = None
    """also write a page that needs nothing else: what was measured, what is projected, and how sure that is"""


@verb(
    "mixture",
    "pick the shares of the sources of a mixture by small runs, before the large one: distance to what is wanted, fits "
    "at two sizes, a projection, its uncertainty",
    "python -m trainer mixture configs/methods/projektor.yaml --sizes 200,400 --target 1600 --wanted upright "
    "--jobs 2 --out mixture.json --page mixture.html",
    Mixture,
    "A pilot takes the first examples of every source in some mix (data.size) and as many passes over them as the "
    "planned run, whose optim.steps are for --target examples. Sources whose share is 0 in the configuration are not "
    "mixed. Pilots that are finished are not trained again; those of other settings are refused.",
    outputs=lambda options: [
        (OutputFile("--out", ("flowfabric.mixture/",)), options.out),
        (OutputFile("--page", (page_mark("mixture"),)), options.page),
        (OutputFolder("--pilots", ("*/method.yaml",)), options.pilots),
    ],
    following="python -m trainer train {config} data.shares={out}",
)
def mixture(options: Mixture) -> int:
    check_outputs({"--out": options.out, "--page": options.page})
    from trainer.experiment.mixture.plan import MixtureRequest
    from trainer.experiment.mixture.run import run

    return run(request_of(MixtureRequest, options, sizes=_sizes(options.sizes)))


def _sizes(listed: str) -> tuple[int, ...]:
    words = [word.strip() for word in listed.split(",")]
    if not all(word.isdecimal() and int(word[:19]) > 0 for word in words):
        raise ValueError(f"--sizes: {listed!r} is not a list of whole numbers of 1 or more; use for example 200,400")
    return tuple(int(word[:19]) for word in words)
