"""The mixture verb: pilots at two sizes, a projection to the target, shares as a file and a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean

import numpy as np

from netsim.foundation.files import write_text
from netsim.foundation.terminal import Terminal
from trainer.distributed.process.children import Stopped
from trainer.distributed.process.signals import EX_TEMPFAIL
from trainer.experiment.comparison.method import Method, training_seconds
from trainer.experiment.comparison.training import folder_of, keep, train_all, trained_file
from trainer.experiment.mixture.fit import Mix, Search, Values, projections
from trainer.experiment.mixture.page import page_of
from trainer.experiment.mixture.pilots import Judge, Points, Reader, logarithm, mixed, transport_distance
from trainer.experiment.mixture.plan import Plan, check, prepare
from trainer.experiment.mixture.results import Cost, SearchResult
from trainer.experiment.request.verbs import MixtureRequest
from trainer.observe.metrics import read_metrics
from trainer.training.guard import RunFailed


def run(request: MixtureRequest, sizes: Sequence[int]) -> int:
    """Trains and measures the pilots of both sizes that are missing, and writes shares and page; 75 if stopped.

    Raises RunFailed if a pilot failed.
    """
    check(request, sizes)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("environment: WORLD_SIZE is set; start mixture without torchrun, and give --nproc")
    plan = prepare(request, sizes)
    distance = _distances(request, plan)
    judge = Judge(request, plan)
    every = [pilot for pilots in plan.pilots for pilot in pilots]
    keep(every, request.pilots, "--pilots")
    seeds = range(plan.config.run.seed, plan.config.run.seed + request.seeds)
    try:
        failed = train_all(every, request.pilots, seeds, request.ranks, request.jobs)
    except Stopped:
        return EX_TEMPFAIL
    if failed:
        raise RunFailed(f"{len(failed)} of {len(every)} pilots failed: {next(iter(failed.values()))}")
    with Terminal(stderr=True).status("") as status:
        measured = _measured(request, plan, judge, seeds, status.update)
        result = _found(request, plan, distance, measured, _cost(request, plan, seeds), status.update)
    result.file().write(request.out)
    if request.page is not None:
        write_text(request.page, page_of(result))
    shares = ", ".join(f"{name} {share:.3g}" for name, share in result.plan.shares(result.pick).items())
    low, high = sorted((result.projected(result.pick, -1), result.projected(result.pick, 1)))
    print(
        f"{request.out}: {shares}; {request.measure} at {request.target} examples about "
        f"{result.projected(result.pick):.4g} ({low:.4g} to {high:.4g}), errors of pilots amplified "
        f"{result.amplification:.1f} times, {len(result.alike)} mixes within one deviation"
    )
    return 0


def _distances(request: MixtureRequest, plan: Plan) -> Callable[[Mix, int], float]:
    """Returns a function that gives the distance of a mix of a size from the wanted examples, each computed once."""
    reader = Reader(request.features, labelled=plan.data.num_classes > 0 and plan.data.labels == "own")
    sources: list[Points] = [reader.revealed(plan.sources[name], plan.sizes[1]) for name in plan.mixed]
    whole = plan.data.open() if request.wanted is None else plan.sources[request.wanted]
    wanted = reader.held_out(whole)

    @cache
    def distance(mix: Mix, size: int) -> float:
        return transport_distance(mixed(sources, mix, size), wanted)

    return distance


def _measured(
    request: MixtureRequest, plan: Plan, judge: Judge, seeds: range, progress: Callable[[str], None]
) -> Values:
    """The measure of the mixes at both sizes, [2, P], means over the seeds."""

    def of(pilot: Method) -> float:
        progress(f"measuring {pilot.name}")
        config = trained_file(request.pilots, pilot)
        return fmean(judge.measured(folder_of(config, seed), seed) for seed in seeds)

    return np.array([[of(pilot) for pilot in pilots] for pilots in plan.pilots])


def _found(
    request: MixtureRequest,
    plan: Plan,
    distance: Callable[[Mix, int], float],
    measured: Values,
    cost: Cost,
    progress: Callable[[str], None],
) -> SearchResult:
    progress("distances of the pilots")
    distances = np.array([[distance(mix, size) for mix in plan.mixes] for size in plan.sizes])
    logarithms = logarithm(request.measure, measured, request.num)
    fits = projections(np.array(plan.mixes), distances, logarithms, plan.sizes)
    search = Search(fits[0], distance, request.target)
    pick = search.best(plan.mixes, lambda number: progress(f"{number} mixes are projected"))
    return SearchResult(request, plan, measured, distances, fits, search, pick, cost)


def _cost(request: MixtureRequest, plan: Plan, seeds: range) -> Cost:
    every = [pilot for pilots in plan.pilots for pilot in pilots]
    folders = [folder_of(trained_file(request.pilots, pilot), seed) for pilot in every for seed in seeds]
    seconds = sum(training_seconds(read_metrics(folder / "metrics.jsonl")) for folder in folders)
    steps = len(seeds) * sum(pilot.document["optim"]["steps"] for pilot in every)
    return Cost(steps, plan.config.optim.steps, seconds)
