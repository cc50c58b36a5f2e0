"""The compare verb: many methods, one data set, one budget, one page. The methods are chosen before any training."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

import trainer.data
from netsim.foundation.refusal import check_least
from netsim.foundation.terminal import Terminal
from trainer.config.document import read_document
from trainer.config.sample import PointSample
from trainer.distributed.process.children import Stopped
from trainer.distributed.process.signals import EX_TEMPFAIL
from trainer.experiment.comparison.measurement import CallPrices, MeasurementSpec, floor, measure_network
from trainer.experiment.comparison.method import (
    SECONDS,
    Base,
    Candidate,
    Method,
    candidates,
    method_of,
    read_base,
    read_own,
    step_seconds,
    training_seconds,
)
from trainer.experiment.comparison.page import write_page
from trainer.experiment.comparison.results import CallTraffic, Comparison, Entry, Fabric, Outcome, SampleCost
from trainer.experiment.comparison.training import folder_of, keep, train_all, trained_file
from trainer.experiment.request.verbs import CompareRequest
from trainer.experiment.stage.protocol import ConfiguredStage
from trainer.experiment.stage.running import check_stages
from trainer.observe.measurement import Progress
from trainer.observe.metrics import read_metrics
from trainer.sampling.flow import check_latents
from trainer.training.guard import RunFailed

FABRIC = Path("configs/scenarios/sampling_64.yaml")
"""Scenario that prices samples if no fabric is given."""


@dataclass(frozen=True)
class Plan:
    """Methods that are trained, and the names of those left out with the reason."""

    base: Base
    methods: list[Method]
    left_out: dict[str, str]


def prepare(words: Sequence[str], base: Path, out: Path, ranks: int) -> Plan:
    """Decides what is trained, before anything is written; `words`: configurations and ``dotted.key=value``."""
    overrides = [word for word in words if "=" in word]
    of_stages = [override for override in overrides if override.startswith("stages.")]
    paths = [Path(word) for word in words if "=" not in word]
    if not paths:
        raise ValueError("CONFIG: there is no method to compare; give configurations such as configs/methods/*.yaml")
    for path, count in ((path, sum(other.stem == path.stem for other in paths)) for path in paths):
        if count > 1:
            raise ValueError(f"CONFIG: {count} files are called {path.stem}; a method has the name of its file")
    shared = read_base(base, [word for word in overrides if word not in of_stages], out)
    own = {path: read_own(path) for path in paths}
    known = {entry["name"] for document in own.values() for entry in document.get("stages") or ()}
    for override in of_stages:
        if override.removeprefix("stages.").partition(".")[0] not in known:
            raise ValueError(f"{override}: no method has that stage; use one of {', '.join(sorted(known)) or 'none'}")
    methods: list[Method] = []
    left_out: dict[str, str] = {}
    for path, document in own.items():
        try:
            method = method_of(path, document, shared, of_stages, out)
            _check(method, shared, methods, ranks)
        except ValueError as error:
            if _malformed(error):
                raise
            left_out[path.stem] = " ".join(str(error).split()).removeprefix(f"{path}: ")
        else:
            methods.append(method)
    if not methods:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"CONFIG: no method goes with {base}: {reasons}")
    return Plan(shared, methods, left_out)


def _malformed(error: BaseException | None) -> bool:
    """Whether an error says that a method's flow has an unknown key or kind."""
    while error is not None and not isinstance(error, ValidationError):
        error = error.__cause__
    details = [] if error is None else error.errors()
    return any(detail["loc"][:1] == ("flow",) and detail["type"] != "value_error" for detail in details)


def _check(method: Method, base: Base, others: Sequence[Method], ranks: int) -> None:
    """Refuses a method that cannot be trained, whose samples begin elsewhere, or that equals another one."""
    for other in others:
        if _without_folder(other) == _without_folder(method):
            raise ValueError(f"it is the same run as {other.name}: their flow and stages are equal")
    stages = method.stages(Path(method.document["run"]["dir"]), 0)
    first = stages[0]
    if not isinstance(first, ConfiguredStage):
        raise ValueError(
            f"stages.{first.name}: the budget contains no training of its teacher; train one in a stage before it"
        )
    check_stages(stages, ranks)
    config = first.config()
    check_latents(config)
    if config.source_data != base.config.source_data:
        raise ValueError("flow.path.kind: its samples start at data, and those of the comparison at noise")


def _without_folder(method: Method) -> dict[str, object]:
    return {**method.document, "run": {**method.document["run"], "dir": None}}


def check(request: CompareRequest) -> None:
    """Refuses numbers that are out of range, and a fabric without a topology."""
    check_least(
        ("--seeds", request.seeds, 1),
        ("--nproc", request.ranks, 1),
        ("--jobs", request.jobs, 1),
        ("--num", request.num, 2),
        ("--fabric-ranks", request.fabric_ranks, 1),
        ("--fabric-examples", request.fabric_examples, 1),
    )
    if request.fabric is not None and "topology" not in read_document(request.fabric, "configs/scenarios"):
        raise ValueError(f"--fabric: {request.fabric} has no topology; give one of configs/scenarios")
    if not 0 < request.teraflops < math.inf:
        raise ValueError(f"--teraflops: {request.teraflops:g} is not a rate; use what a rank sustains, such as 400")


def command(request: CompareRequest, evaluations: Sequence[int]) -> list[str]:
    """Arguments of ``python -m trainer`` that make a request."""
    choices = {"base": request.base, "seeds": request.seeds, "nproc": request.ranks, "jobs": request.jobs}
    choices |= {"num": request.num, "evaluations": ",".join(map(str, evaluations))}
    choices |= {"fabric": request.fabric or FABRIC, "fabric-ranks": request.fabric_ranks}
    choices |= {"fabric-examples": request.fabric_examples, "teraflops": f"{request.teraflops:g}", "out": request.out}
    return ["compare", *request.overrides, *(f"--{name}={value}" for name, value in choices.items())]


SHOWN = 1000
FIGURES, PAGE = "compare.json", "index.html"


def run(request: CompareRequest, evaluations: Sequence[int]) -> int:
    """Trains what is not trained yet, measures it with those numbers of evaluations and writes the page.

    Returns 0, 1 if a run failed (the page then has the others), or 75 if stopped. Raises RunFailed if every method
    failed.
    """
    check(request)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("environment: WORLD_SIZE is set; start compare without torchrun, and give --nproc")
    out = request.out
    plan = prepare(request.overrides, request.base, out, request.ranks)
    for name, reason in plan.left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    fabric = Fabric(str(request.fabric or FABRIC), request.fabric_ranks, request.fabric_examples, request.teraflops)
    prices = CallPrices(fabric)
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
    spec = MeasurementSpec(tuple(sorted(evaluations)), request.num, plan.base.config.data)
    entries = _measure(networks, spec, out, every_seed, prices)
    measure = "wasserstein_2" if isinstance(plan.base.config.sample, PointSample) else "frechet_distance"
    comparison = Comparison(
        command=shlex.join(command(request, evaluations)),
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
    """Returns the first held-out examples of the data."""
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
    """Returns the costs of a sample at every number of evaluations; they are equal for all seeds."""
    costs = {}
    for outcome in outcomes:
        for one in outcome.evaluation["results"]:
            if one["sampler"] == sampler:
                number, calls = one["evaluations"], one["calls"]
                costs.setdefault(number, SampleCost.of(number, calls, one["multiply_adds"], traffic, fabric))
    return tuple(costs[number] for number in sorted(costs))
