"""The compare verb: many methods, one data set, one budget, one page."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import trainer.data
from netsim.foundation.terminal import Terminal
from trainer.config.sample import PointSample
from trainer.distributed.process.children import Stopped
from trainer.distributed.process.signals import EX_TEMPFAIL
from trainer.evaluation.evaluation import Progress
from trainer.experiment.comparison.measurement import CallPrices, MeasurementSpec, floor, measure_network
from trainer.experiment.comparison.method import (
    SECONDS,
    Base,
    Candidate,
    candidates,
    step_seconds,
    training_seconds,
)
from trainer.experiment.comparison.page import write_page
from trainer.experiment.comparison.plan import CompareRequest, prepare
from trainer.experiment.comparison.results import CallTraffic, Comparison, Entry, Fabric, Outcome, SampleCost
from trainer.experiment.comparison.training import folder_of, keep, train_all, trained_file
from trainer.experiment.stage import ConfiguredStage
from trainer.observe.metrics import read_metrics
from trainer.training.guard import RunFailed

SHOWN = 1000
FIGURES, PAGE = "compare.json", "index.html"


def run(request: CompareRequest) -> int:
    """Trains what is not trained yet, measures it and writes the page.

    0; 1 if a run failed, and the page has the others; 75 if stopped. Raises RunFailed if every method failed.
    """
    request.check()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("environment: WORLD_SIZE is set; start compare without torchrun, and give --nproc")
    out = request.out
    plan = prepare(request.words, request.base, out, request.ranks)
    for name, reason in plan.left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    prices = CallPrices(request.priced_on)
    prices.of(plan.base.config)  # a fabric that netsim refuses is refused before anything is trained
    keep(plan.methods, out, "--out")
    first = plan.base.config.run.seed
    every_seed = range(first, first + request.seeds)
    try:
        failed = train_all(plan.methods, out, every_seed, request.ranks, request.jobs)
    except Stopped:
        return EX_TEMPFAIL
    networks = [network for method in plan.methods if method.name not in failed for network in candidates(method)]
    if not networks:
        raise RunFailed("; ".join(failed.values()))
    spec = MeasurementSpec(tuple(sorted(request.evaluations)), request.num, plan.base.config.data)
    entries = _measure(networks, spec, out, every_seed, prices)
    measure = "wasserstein_2" if isinstance(plan.base.config.sample, PointSample) else "frechet_distance"
    comparison = Comparison(
        command=shlex.join(request.command),
        base=str(request.base),
        data=plan.base.config.data.model_dump(mode="json"),
        steps=plan.base.config.optim.steps,
        global_batch=plan.base.config.optim.global_batch,
        ranks=request.ranks,
        jobs=request.jobs,
        num=request.num,
        measure=measure,
        floor=tuple(floor(Path(entries[0].outcomes[0].run_dir), spec, measure)),
        entries=tuple(entries),
        left_out={**plan.left_out, **failed},
        fabric=prices.fabric,
    )
    comparison.write(out / FIGURES)
    write_page(comparison, _real(plan.base), out / PAGE)
    print(f"{out / PAGE}: {len(entries)} networks, {request.seeds} seed{'s' * (request.seeds > 1)}")
    for line in failed.values():
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _measure(
    networks: Sequence[Candidate], spec: MeasurementSpec, out: Path, seeds: Sequence[int], prices: CallPrices
) -> list[Entry]:
    entries = []
    with Terminal(stderr=True).status("") as status:
        for place, network in enumerate(networks, start=1):
            outcomes = []
            for seed in seeds:
                name = f"measuring {network.name}, seed {seed} ({place} of {len(networks)})"
                status.update(name)
                folder = folder_of(trained_file(out, network.method), seed)
                outcomes.append(
                    _outcome(network, folder, spec, seed, lambda said, name=name: status.update(f"{name}: {said}"))
                )
            entries.append(_entry(network, out, outcomes, prices))
            print(f"measured {place} of {len(networks)}: {network.name}", file=sys.stderr, flush=True)
    return entries


def _outcome(network: Candidate, folder: Path, spec: MeasurementSpec, seed: int, progress: Progress) -> Outcome:
    stages = network.stages(folder, seed)
    trained = [stage.folder for stage in stages if stage.trains]
    seconds: Mapping[str, float] = {}
    if (folder / SECONDS).exists():
        seconds = json.loads((folder / SECONDS).read_text(encoding="utf-8"))
    return Outcome(
        seed=seed,
        run_dir=str(trained[-1]),
        training_s=sum(training_seconds(read_metrics(path / "metrics.jsonl")) for path in trained),
        preparing_s=sum(seconds.get(stage.name, 0.0) for stage in stages),
        step_s=step_seconds(trained[-1]),
        evaluation=measure_network(trained[-1], spec, seed, progress),
    )


def _real(base: Base) -> NDArray[np.floating]:
    """Some examples of the data, those that are held out first."""
    dataset = trainer.data.build(base.config.data)
    return dataset.get(dataset.data_points("held_out")[:SHOWN]).x_1.numpy()


def _entry(network: Candidate, out: Path, outcomes: Sequence[Outcome], prices: CallPrices) -> Entry:
    method, seed = network.method, outcomes[0].seed
    trained = trained_file(out, method)
    stages = network.stages(folder_of(trained, seed), seed)
    own = stages[-1]
    assert isinstance(own, ConfiguredStage), "a network is the result of a run"
    config = own.config()
    sampler = config.sample.sampler.kind  # pyright: ignore[reportAttributeAccessIssue]  a flow's
    return Entry(
        name=network.name,
        about=method.about,
        paper=method.paper,
        config=str(method.path),
        trained=str(trained),
        sampler=sampler,
        steps=sum(stage.cost.steps for stage in stages),
        pairs=sum(stage.cost.pairs for stage in stages),
        outcomes=tuple(outcomes),
        costs=_costs(outcomes, sampler, prices.of(config), prices.fabric),
    )


def _costs(outcomes: Sequence[Outcome], sampler: str, traffic: CallTraffic, fabric: Fabric) -> tuple[SampleCost, ...]:
    """What a sample costs at every number of evaluations; the seeds need the same."""
    costs = {}
    for outcome in outcomes:
        for one in outcome.evaluation["results"]:
            if one["sampler"] == sampler:
                number, calls = one["evaluations"], one["calls"]
                costs.setdefault(number, SampleCost.of(number, calls, one["multiply_adds"], traffic, fabric))
    return tuple(costs[number] for number in sorted(costs))
