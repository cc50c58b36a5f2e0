"""compare and mixture: several runs on one data set, methods beside each other or shares of sources."""

from netsim.foundation.outputs import OutputFile, OutputFolder, page_mark
from trainer.command.options import check_outputs, numbers_of_evaluations, verb
from trainer.experiment.request.verbs import CompareRequest, MixtureRequest


@verb(
    "compare",
    "train several methods on one data set with one budget, and write one page to choose from: quality against "
    "function evaluations, straightness, path energy, step time, samples and trajectories side by side",
    "python -m trainer compare configs/methods/*.yaml --seeds 3 --out runs/compare",
    CompareRequest,
    "A method gives its flow and its stages, which share the optimiser steps among them, and its sampler unless that "
    "is a plain solver of dx/dt = v. A method that does not go with the data or the model is left out, and the page "
    "says why; a file that is malformed is refused. Runs that are finished are not trained again.",
    outputs=lambda options: [(OutputFolder("--out", ("compare.json", "*/method.yaml")), options.out)],
    following="python -m trainer compare --help",
)
def compare(options: CompareRequest) -> int:
    evaluations = numbers_of_evaluations(options.evaluations)
    from trainer.experiment.comparison.run import run

    return run(options, evaluations)


@verb(
    "mixture",
    "pick the shares of the sources of a mixture by small runs, before the large one: distance to what is wanted, fits "
    "at two sizes, a projection, its uncertainty",
    "python -m trainer mixture configs/methods/projektor.yaml --sizes 200,400 --target 1600 --wanted upright "
    "--jobs 2 --out mixture.json --page mixture.html",
    MixtureRequest,
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
def mixture(options: MixtureRequest) -> int:
    check_outputs({"--out": options.out, "--page": options.page})
    from trainer.experiment.mixture.run import run

    return run(options, _sizes(options.sizes))


def _sizes(listed: str) -> tuple[int, ...]:
    words = [word.strip() for word in listed.split(",")]
    if not all(word.isdecimal() and int(word[:19]) > 0 for word in words):
        raise ValueError(f"--sizes: {listed!r} is not a list of whole numbers of 1 or more; use for example 200,400")
    return tuple(int(word[:19]) for word in words)
