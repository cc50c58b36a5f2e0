"""The pilots that are trained for a mixture, and refusals before any training."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import comb
from typing import Any

from netsim.foundation.refusal import Refusal, check_least, nearest
from trainer.config.document import apply_override, read_document
from trainer.config.file import validated
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.data import Dataset, MixtureConfig
from trainer.experiment.comparison.method import Method
from trainer.experiment.mixture.fit import MOST_AMPLIFIED, Mix, amplification, permitted, simplex
from trainer.experiment.request.verbs import MixtureRequest
from trainer.experiment.stage.running import check_stages

LEAST_RATIO = 2
MOST_PILOTS = 1_000


@dataclass(frozen=True)
class Plan:
    """The pilots of a request.

    Attributes:
        config: the configuration, whose shares are not chosen yet.
        mixed: names of the sources that are mixed.
        mixes: shares of the pilots.
        pilots: one run for each size and mix, in that order.
        sources: every source, opened.
        sizes: examples of a small and of a large pilot.
    """

    config: RunConfig
    data: MixtureConfig
    mixed: tuple[str, ...]
    mixes: list[Mix]
    pilots: tuple[list[Method], list[Method]]
    sources: dict[str, Dataset]
    sizes: tuple[int, int]

    def shares(self, mix: Mix) -> dict[str, float]:
        """Returns the shares of all sources; 0 for unmixed ones."""
        return dict.fromkeys(self.sources, 0.0) | dict(zip(self.mixed, mix, strict=True))


def check(request: MixtureRequest, sizes: Sequence[int]) -> None:
    """Refuses numbers that are too small, and sizes that project badly."""
    check_least(("--grid", request.grid, 1), ("--seeds", request.seeds, 1), ("--nproc", request.ranks, 1))
    check_least(("--jobs", request.jobs, 1), ("--num", request.num, 2))
    if len(sizes) != 2:
        raise ValueError(f"--sizes: {len(sizes)} are given; give a small and a large one, such as 200,400")
    small, large = sizes
    if large <= small:
        raise ValueError(f"--sizes: {small},{large} do not grow; give the small one first")
    if large < LEAST_RATIO * small:
        problem = f"{large} is less than {LEAST_RATIO} times {small}, and errors would grow where it is projected"
        raise ValueError(f"--sizes: {problem}; use {small},{LEAST_RATIO * small} or further apart")
    if request.target <= large:
        raise ValueError(f"--target: {request.target} is not above --sizes; use more than {large}")
    if (factor := amplification((small, large), request.target)) > MOST_AMPLIFIED:
        raise ValueError(
            f"--target: errors of pilots would be multiplied by {factor:.1f} from {small},{large} to "
            f"{request.target}, more than {MOST_AMPLIFIED:g}; use larger --sizes or a smaller target"
        )


def command(request: MixtureRequest, sizes: Sequence[int]) -> list[str]:
    """Arguments of ``python -m trainer`` that make a request."""
    choices = {"sizes": ",".join(map(str, sizes)), "target": request.target, "measure": request.measure}
    choices |= {"wanted": request.wanted, "grid": request.grid, "seeds": request.seeds, "nproc": request.ranks}
    choices |= {"jobs": request.jobs, "num": request.num, "pilots": request.pilots, "features": request.features}
    given = {**choices, "out": request.out, "page": request.page}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return ["mixture", str(request.config), *request.overrides, *options]


def prepare(request: MixtureRequest, sizes: Sequence[int]) -> Plan:
    """Reads the configuration, opens its sources and decides on the pilots; writes nothing."""
    path, document = request.config, read_document(request.config)
    if "stages" in document:
        raise Refusal(path, "stages", "are several runs, and a pilot is one", "give a configuration of one run")
    for override in request.overrides:
        apply_override(path, document, override)
    config = validated(path, document)
    data = config.data
    if not isinstance(data, MixtureConfig):
        raise Refusal(path, "data.kind", f"is {data.kind}, and shares are of a mixture", "use kind: mixture")
    if data.size is not None:
        raise Refusal(path, "data.size", f"is {data.size}, and each pilot has a size of its own", "leave it out")
    mixed = tuple(name for name in data.sources if data.shares is None or data.shares[name] > 0)
    _check_sources(request, data, mixed)
    _check_measure(request, config)
    mixes = _mixes(request, len(mixed))
    sources, (small, large) = dict(_opened(data)), sizes
    for name in mixed:
        count = sources[name].count("train")
        if count < large:
            raise ValueError(
                f"--sizes: {name} has {count} training examples, and pilots of {large} are of it alone; "
                f"use {count} or less, or give it the share 0 to leave it out"
            )
    plan_layout(config, request.ranks)
    plan = Plan(config, data, mixed, mixes, ([], []), sources, (small, large))
    for size, pilots in zip(plan.sizes, plan.pilots, strict=True):
        pilots += [_pilot(request, plan, document, size, mix) for mix in mixes]
    first = plan.pilots[0][0]
    check_stages(first.stages(request.pilots / first.name / "seed", config.run.seed), request.ranks)
    return plan


def _check_sources(request: MixtureRequest, data: MixtureConfig, mixed: Sequence[str]) -> None:
    path = request.config
    if len(mixed) < 2:
        problem = f"only {mixed[0]} is mixed, the others have the share 0"
        raise Refusal(path, "data.sources", problem, "give two or more with shares above 0, or no shares")
    if data.vocabulary is not None:
        raise Refusal(path, "data.sources", "are text, of which no distance is defined", "give images or points")
    for name in mixed:
        if getattr(data.sources[name], "endless", False):
            remedy = "give it a number of examples, such as num_examples: 1000"
            raise Refusal(path, f"data.sources.{name}", "is endless, and no size reveals a part of it", remedy)
    if request.wanted is not None and request.wanted not in data.sources:
        near = nearest(request.wanted, data.sources)
        remedy = f"write {near}" if near else f"use {', '.join(data.sources)}"
        raise ValueError(f"--wanted: {request.wanted} is no source; {remedy}")


def _check_measure(request: MixtureRequest, config: RunConfig) -> None:
    if request.measure == "held_out_loss":
        return
    drawn = isinstance(config.sample, FlowSample) and config.flow is not None
    unshown = config.alphabet or config.frame_channels or config.species
    if not drawn or unshown:
        raise ValueError(f"--measure: {request.measure} is of pictures or points that a flow draws; use held_out_loss")
    if request.measure == "class_accuracy" and config.data.num_classes < 2:
        raise ValueError("--measure: class_accuracy needs classes, and the data have none; use frechet_distance")


def _mixes(request: MixtureRequest, num_sources: int) -> list[Mix]:
    count = comb(request.grid + num_sources - 1, num_sources - 1)
    if count > MOST_PILOTS:
        raise ValueError(f"--grid: {request.grid} makes {count} mixes of {num_sources} sources; use a smaller one")
    if not permitted(count, num_sources):
        raise ValueError(
            f"--grid: {request.grid} makes {count} mixes of {num_sources} sources, fewer than three for each of two "
            "parameters; use a larger one"
        )
    return simplex(request.grid, num_sources)


def _opened(data: MixtureConfig) -> dict[str, Dataset]:
    opened = data.open()
    assert opened.mix is not None
    return dict(opened.mix.sources)


def _pilot(request: MixtureRequest, plan: Plan, document: dict[str, Any], size: int, mix: Mix) -> Method:
    """The run of a size and a mix; it makes as many passes over its examples as the planned run."""
    named = "_".join(f"{name}{share:.3f}" for name, share in zip(plan.mixed, mix, strict=True) if share > 0)
    name = f"{size}_{named}"
    optim, own = plan.config.optim, deepcopy(document)
    steps = max(1, round(optim.steps * size / request.target))
    own["data"] |= {"shares": plan.shares(mix), "size": size}
    own["optim"] |= {"steps": steps, "warmup_steps": round(optim.warmup_steps * size / request.target)}
    own["checkpoint"] = {**(own.get("checkpoint") or {}), "every": min(plan.config.checkpoint.every, steps)}
    own["evaluate"] = {"every": steps if request.measure == "held_out_loss" else None}
    own["sample"] = {**(own.get("sample") or {}), "every": None}
    own["trace"] = {**(own.get("trace") or {}), "steps": []}
    own["run"] = {**own["run"], "dir": str(request.pilots / name)}
    about = f"A pilot of {size} examples for {request.config}."
    return Method(name, request.config, about, own)
