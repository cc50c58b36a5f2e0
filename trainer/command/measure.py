"""evaluate, fid and steps: a trained network in figures, and the times of few steps."""

from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD
from netsim.foundation.outputs import OutputFile, page_mark
from trainer.command.options import (
    SHOW_RUN,
    Drawn,
    check_outputs,
    numbers_of_evaluations,
    read_controls,
    request_of,
    validated,
    verb,
)
from trainer.experiment.request.verbs import OfRuns

WRITTEN = ("flowfabric.evaluation/", "flowfabric.objects/", "flowfabric.few_shot/", "flowfabric.correspondence/")
"""Formats of what evaluate writes."""


class Evaluate(OfRuns):
    """Options of evaluate."""

    run_dir: Annotated[Path, WORD]
    """folder of the run"""
    evaluations: Annotated[str, "N,N,..."] = "1,2,3,5,10,20,100"
    """function evaluations of a sample, with commas between them (default: 1,2,3,5,10,20,100)"""
    num: int = 1000
    """samples of each set, the classes in turn; objects of each preference; episodes of a contrastive run (default:
    1000)"""
    seed: int = 0
    """seed of all draws (default: 0)"""
    likelihood: Annotated[int, "N"] = 0
    """also compute bits a dimension of so many held-out examples (default: 0, none)"""
    data_from: Annotated[Path | None, "RUN_DIR"] = None
    """run whose data are the real examples, for example the teacher's where this run learned from a teacher's pairs
    (default: this run)"""
    steps: Annotated[Path | None, "JSON"] = None
    """also measure Euler's method at the times of this file of the steps verb, made with --guidance 1, and all
    samplers at its numbers of evaluations"""
    controls: Annotated[str | None, "YAML|FILE"] = None
    """change the field on the way by these in place of the run's sample.controls, the first one first: a list such
    as '[{kind: cost_gradient, strength: 4, cost: {class: "my_costs:Ink"}}]', or a YAML file of one; '[]': by
    none"""
    features: Annotated[Path | None, "FILE"] = None
    """also compare samples and data on the features of the network in this safetensors file: FID, precision and
    recall; import-features makes one. For 50,000 samples and many ranks there is the verb fid"""
    statistics: Annotated[Path | None, "NPZ"] = None
    """with --features: statistics of the real examples, as the fid verb writes them or pytorch-fid and
    guided-diffusion publish them (default: of up to 10,000 training examples)"""
    episodes: Annotated[int, "N"] = 0
    """play so many episodes instead: a few classes with a few labelled examples each, and queries, all held out, on the
    features of an autoencoder's run, or with --features of a file (default: 0, none; papers play 600 to 3,000)"""
    ways: Annotated[int, "N"] = 5
    """with --episodes: classes of an episode (default: 5)"""
    shots: Annotated[str, "N,N,..."] = "1,5"
    """with --episodes: labelled examples of a class, each number with the same queries (default: 1,5)"""
    queries: Annotated[str, "N,N,..."] = "15"
    """with --episodes: queries of each class, or of each of the classes of an episode, such as 27,20,15,9,4 (default:
    15)"""
    out: Annotated[Path, "JSON"]
    """file to write the figures to"""
    page: Annotated[Path | None, "HTML"] = None
    """also write a page that needs nothing else: the figures, their curves and what the run draws"""


@verb(
    "evaluate",
    "measure a run. A flow: quality against function evaluations for the run's own sampler and Euler's, beside that of "
    "real examples; straightness, path energy, likelihood. A policy that builds objects: its Pareto front and how it "
    "follows preferences",
    "python -m trainer evaluate runs/toy --evaluations 1,5,20 --num 1000 --out evaluation.json --page evaluation.html",
    Evaluate,
    "The averaged weights of the newest complete checkpoint draw on this process alone. Distances are measured "
    "on samples without guidance, class accuracy on samples with the run's own guidance. Of a policy that builds "
    "objects, --num are built for each of a lattice of preferences: hypervolume, R2, diversity, and where all objects "
    "can be listed how far the policy's distribution is from the one that it is to learn, exactly. --episodes tells "
    "classes apart by a few labelled examples, on features that were learned without labels and on the examples "
    "themselves, with prototypes moved to the queries and without.",
    outputs=lambda options: [
        (OutputFile("--out", WRITTEN), options.out),
        (OutputFile("--page", (page_mark("evaluate"),)), options.page),
    ],
    following=SHOW_RUN,
)
def evaluate(options: Evaluate) -> int:
    evaluations = numbers_of_evaluations(options.evaluations)
    check_outputs({"--out": options.out, "--page": options.page})
    if options.episodes:
        return _play(options)
    for name in EPISODES:
        if getattr(options, name) != getattr(Evaluate, name):
            raise ValueError(f"--{name}: it applies to episodes only; give --episodes too")
    if options.statistics is not None and options.features is None:
        raise ValueError(f"--statistics: {options.statistics} would be used for nothing; give --features too")
    controls = read_controls(options.controls)
    _check_run(options)
    if options.likelihood:
        _check_likelihood(options)
    from trainer.experiment.evaluate import run
    from trainer.observe.measurement import MeasurementSpec

    changes = {"data": None, "checkpoint": "", "evaluations": evaluations, "controls": controls}
    spec = request_of(MeasurementSpec, options, **changes)
    return run(options.run_dir, spec, options.data_from, options.out, options.page)


EPISODES = ("ways", "shots", "queries")


def _play(options: Evaluate) -> int:
    """Runs few-shot episodes; refuses options about samples of a flow."""
    for name in ("evaluations", "num", "likelihood", "steps", "controls", "statistics"):
        if getattr(options, name) != getattr(Evaluate, name):
            raise ValueError(f"--{name}: it is of samples, which --episodes does not draw; leave one of them out")
    from trainer.evaluation.episodes import Episodes
    from trainer.experiment.evaluate import run_episodes

    shots, queries = _numbers("--shots", options.shots), _numbers("--queries", options.queries)
    episodes = request_of(Episodes, options, num=options.episodes, shots=shots, queries=queries)
    episodes.check()
    return run_episodes(options.run_dir, episodes, options.features, options.data_from, options.out, options.page)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"{option}: {text!r} are not numbers with commas between them; use for example 1,5")
    return tuple(int(word) for word in words)


def _check_run(options: Evaluate) -> None:
    """Refuses options that are about flows for a run that builds objects."""
    names = ("likelihood", "data_from", "steps", "controls", "features", "statistics")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name, None)]
    if options.evaluations != Evaluate.evaluations:
        given.append("--evaluations")
    if given:
        from trainer.experiment.evaluate import check_options

        check_options(options.run_dir, given)


def _check_likelihood(options: Evaluate) -> None:
    """Refuses more examples than are held out, and flows that are trained at one time."""
    from trainer.flow.objective import MongeMap
    from trainer.sampling.trained import restored_flow

    flow = restored_flow(options.run_dir)[1].flow
    if flow is not None and isinstance(flow.objective, MongeMap):
        raise ValueError(
            "--likelihood: it follows the velocity through all times, and flow.objective.kind monge_map trains the "
            "velocity at t = 0 alone; leave it out"
        )
    held_out = getattr(restored_flow(options.data_from or options.run_dir)[1].data, "held_out", options.likelihood)
    if options.likelihood > held_out:
        raise ValueError(
            f"--likelihood: {options.likelihood} is more than the {held_out} held-out examples; use {held_out} or less"
        )


class Fid(OfRuns):
    """Options of fid."""

    samples: Annotated[Path, WORD]
    """folder of a run, which draws; or of pictures that were drawn"""
    features: Annotated[Path, "FILE"]
    """safetensors file of the network whose features are compared, as import-features writes it; FID is that of
    --layout inception-fid"""
    real: Annotated[Path | None, "FOLDER"] = None
    """real pictures (default: all training examples of the run); pictures are taken whole, as they are"""
    statistics: Annotated[Path | None, "NPZ"] = None
    """mean and covariance of the real examples: read if the file is there and of them, and written otherwise; files
    of pytorch-fid and guided-diffusion (mu, sigma) are read too"""
    num: Annotated[int | None, "--num", "--num-samples"] = None
    """samples, the classes in turn (default: 50,000 of a run, as papers do; all pictures of a folder)"""
    num_real: Annotated[int | None, "N"] = None
    """real examples, from the first (default: all)"""
    compared: Annotated[int, "N"] = 10000
    """examples of each set that precision and recall compare, from the first (default: 10,000)"""
    batch: Annotated[int, "N"] = 64
    """examples that a rank draws or reads at once (default: 64)"""
    classes: Annotated[tuple[str, ...], "--class", "NAME"] = ()
    """draw this class alone, by its name or its number, as in sample (default: all)"""
    drawing: Drawn
    out: Annotated[Path | None, "JSON"] = None
    """file to write the figures to (default: they are only printed)"""


@verb(
    "fid",
    "compare what a run draws, or a folder of pictures, with real examples: Fréchet distance on features (FID), "
    "precision and recall",
    "python -m trainer fid runs/digits_moe --features inception.safetensors --statistics real.npz --out fid.json",
    Fid,
    "Under torchrun the ranks share the drawing and the pictures, and the figures are those of one process: to the "
    "last bit on 2, 4 or 8 ranks for equal features. A Fréchet distance depends on the numbers of examples: compare "
    "figures of equal --num. Precision and recall are those of Kynkäänniemi et al. (2019) with 3 neighbours.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.fid/",)), options.out)],
    following="python -m trainer keys sample",
)
def fid(options: Fid) -> int:
    check_outputs({"--out": options.out, "--statistics": options.statistics})
    sampler = options.drawing.choice()
    from trainer.experiment.fid import FidRequest, run

    controls = read_controls(options.drawing.controls)
    return run(request_of(FidRequest, options, sampler=sampler, controls=controls))


class Steps(OfRuns):
    """Options of steps."""

    run_dir: Annotated[Path, WORD]
    """folder of the run"""
    evaluations: Annotated[str, "N,N,..."] = "2,4,6,8"
    """evaluations of the field, one a step; a grid for each (default: 2,4,6,8)"""
    search: Literal["endpoint", "chord"] = "endpoint"
    """endpoint (default): descent on the error at the end, never worse than equal steps on its own noises; chord:
    dynamic programme over the summed errors of single steps, at times worse than equal steps at the end"""
    nodes: Annotated[int | None, "N"] = None
    """equal steps of the fine grid, of which the searched times are some (default: 100, or the next multiple of the
    segments of a segmented sampler)"""
    num: int = 100
    """noises that are searched with (default: 100)"""
    fresh: int = 1000
    """other noises, to measure the grids (default: 1000)"""
    guidance: float | None = None
    """scale of classifier-free guidance (default: the run's sample.guidance)"""
    seed: int = 0
    """seed of the noises (default: 0)"""
    out: Annotated[Path, "JSON"]
    """file to write the grids and their figures to"""
    page: Annotated[Path | None, "HTML"] = None
    """also write a page that needs nothing else: costs of steps, grids, errors, what is drawn with each"""


@verb(
    "steps",
    "search times at which few steps of Euler's method lead where many lead, for any trained flow; it needs no data "
    "and trains nothing",
    "python -m trainer steps runs/digits_moe --evaluations 2,4,6,8 --out steps.json --page steps.html",
    Steps,
    "The averaged weights of the newest complete checkpoint are followed from noise on this process alone, classes in "
    "turn; a run that samples segment by segment keeps the edges of its segments. Distances are those of states, so "
    "that they are of latents where a run has some. sample, evaluate and pairs take the file with --steps or as times "
    "of a sampler, and a run's own sampler with sample.sampler={kind: euler, steps: 4, times: steps.json}. A run's "
    "sample.controls are left out of the search; samples on its times may have some.",
    outputs=lambda options: [
        (OutputFile("--out", ("flowfabric.steps/",)), options.out),
        (OutputFile("--page", (page_mark("steps"),)), options.page),
    ],
    following="python -m trainer sample {run_dir} --steps {out} --out {run_dir}/samples/few_calls.png",
)
def steps(options: Steps) -> int:
    evaluations = numbers_of_evaluations(options.evaluations)
    check_outputs({"--out": options.out, "--page": options.page})
    from trainer.evaluation.steps import run
    from trainer.sampling.step_search import StepsRequest

    request = validated(StepsRequest, options, run=options.run_dir, evaluations=evaluations)
    return run(request, options.out, options.page)
