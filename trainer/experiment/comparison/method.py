"""A method on the data, the model and the budget of a comparison, and the networks that it leads to."""

import re
import textwrap
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import kind_of, sections_in
from trainer.config.document import apply_override, read_document
from trainer.config.file import validated
from trainer.config.model import AnyNetworkConfig, network_settings
from trainer.config.model.protocol import NetworkConfig
from trainer.config.run import FLOWLESS, RunConfig
from trainer.experiment.stage.protocol import Stage
from trainer.experiment.stage.reading import stages_of
from trainer.observe.metrics import Record, read_metrics

ODE_SOLVERS = ("euler", "heun", "dopri5")
"""Samplers that follow any flow; another one belongs to its method, and so does one with times of its own."""
ONE_STEP = ("monge_map",)
"""Objectives whose sampler belongs to the method too, since they train a map of one step."""
TASK = ("latent", "context", "captions", "source")
"""Settings of a flow that belong to the data: the latent space, the condition of the network, the source of paths."""


@dataclass(frozen=True)
class Base:
    """Settings that all methods share: the sections but flow and stages, and the keys `TASK` of the flow; all valid."""

    path: Path
    document: dict[str, Any]
    task: dict[str, Any]
    config: RunConfig


@dataclass(frozen=True)
class Method:
    """A configuration: its name, its file, the sentences at its head, its flow and stages among the shared sections."""

    name: str
    path: Path
    about: str
    document: dict[str, Any]

    @property
    def paper(self) -> str | None:
        """The first arXiv number in `about`; None without one."""
        number = re.search(r"arXiv[: ](\d{4}\.\d{4,5})", self.about)
        return number and f"arXiv {number[1]}"

    def stages(self, folder: Path, seed: int) -> list[Stage]:
        """Stages of its training, in order."""
        document = deepcopy(self.document)
        document["run"] = {**(document.get("run") or {}), "dir": str(folder), "seed": seed}
        return stages_of(self.path, document)

    def to_yaml(self) -> str:
        """The configuration that is trained, for any seed."""
        prose = textwrap.fill(self.about, 120, initial_indent="# ", subsequent_indent="# ")
        return f"{prose}\n" + yaml.safe_dump(self.document, sort_keys=False, default_flow_style=None, width=120)


def read_base(path: Path, overrides: Sequence[str], folder: Path) -> Base:
    """Reads the shared settings from a configuration that trains a flow."""
    document = read_document(path)
    document.pop("stages", None)
    flow = document.get("flow")
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section in ("flow", "stages"):
            remedy = "change it in the configuration of the method"
            raise Refusal(path, override, "belongs to each method of the comparison", remedy)
        if override.startswith("run.dir="):
            raise Refusal(path, override, "cannot be set, since every run has its own folder below --out", "use --out")
        apply_override(path, document, override)
    document["flow"] = {key: value for key, value in (flow or {}).items() if key in TASK}
    document["run"] = {**(document.get("run") or {}), "dir": str(folder)}
    kind = (document.get("model") or {}).get("kind", "dit")
    if kind in FLOWLESS:
        raise Refusal(path, "model.kind", f"{FLOWLESS[kind]} and follows no flow", "give a configuration of a flow")
    sample = {"sampler": {"kind": "euler", "steps": 20}, **(document.get("sample") or {}), "every": None}
    document["sample"] = sample
    config = validated(path, document)
    if config.alphabet or config.frame_channels or config.species:
        what = "letters" if config.alphabet else "clips" if config.frame_channels else "reactions"
        raise Refusal(
            path, "data.kind", f"is of {what}, and methods are compared by pictures or plots", "use other data"
        )
    task = document.pop("flow")
    return Base(path, document, task, config)


def read_own(path: Path) -> dict[str, Any]:
    """Reads the configuration of a method as it is written."""
    own = read_document(path)
    for name in ("run", "data", "model", "flow", "optim", "sample"):
        if not isinstance(own.get(name) or {}, dict):
            raise Refusal(path, name, f"is not a section ({own[name]})", "write its settings under it")
    stages_of(path, deepcopy({**own, "run": {"dir": "."}}))
    return own


def method_of(path: Path, own: dict[str, Any], base: Base, overrides: Sequence[str], folder: Path) -> Method:
    """Joins the sections of a method to the shared sections; overrides may name stages that it does not have."""
    _check_task(own, base)
    document = deepcopy(base.document)
    document["run"]["dir"] = str(folder / path.stem)
    document["model"] = _model(own.get("model"), base)
    if network_settings(document["model"]) is not type(base.config.model):  # whose defaults are of other kinds
        for name, section in (("data", base.config.data), ("sample", base.config.sample)):
            if "class" not in (document.get(name) or {}):
                document[name] = {"kind": section.kind, **(document.get(name) or {})}
    sampler = (own.get("sample") or {}).get("sampler") or {}
    objective = (own.get("flow") or {}).get("objective") or {}
    solves = "class" not in sampler and sampler.get("kind", "euler") in ODE_SOLVERS
    if not solves or sampler.get("times") is not None or objective.get("kind") in ONE_STEP:
        document["sample"]["sampler"] = sampler
    document["flow"] = {key: value for key, value in (own.get("flow") or {}).items() if key not in TASK} | base.task
    if "stages" in own:
        stages = deepcopy(own["stages"])
        _override(path, stages, overrides)
        document["stages"] = _shared(stages, own, base.config.optim.steps)
    return Method(path.stem, path, _about(path), document)


def _check_task(own: dict[str, Any], base: Base) -> None:
    """Refuses a method that has other data, another condition or another latent space than the comparison."""
    data, flow = own.get("data") or {}, own.get("flow") or {}
    kind = (own.get("model") or {}).get("kind")
    if kind in FLOWLESS:
        raise ValueError(f"model.kind: {FLOWLESS[kind]} and follows no flow")
    for stage in own.get("stages") or ():
        _check_stage(stage)
    if data.get("kind") in ("sequences", "moving_pictures", "reactions"):
        raise ValueError(f"data.kind: it learns {data['kind']}, and only pictures and points can be compared")
    if data.get("kind") == "shards" and base.config.data.kind != "shards":
        raise ValueError(
            f"it learns from the files in {data.get('path')}, which are not what is compared; compare on them with "
            "--base"
        )
    for name in ("latent", "context", "captions"):
        if flow.get(name) is not None and flow[name] != base.task.get(name):
            raise ValueError(f"flow.{name}: it solves another task than the comparison; give it to --base too")


def _check_stage(stage: dict[str, Any]) -> None:
    """Refuses a stage that learns from something else than the data of the comparison."""
    trained = stage.get("train") or {}
    place, task = f"stages.{stage.get('name')}", (trained.get("task") or {}).get("kind", "flow")
    if task != "flow":
        raise ValueError(f"{place}.task.kind: {task} learns from a reward, and methods are compared by their data")
    if (trained.get("model") or {}).get("adapters") is not None:
        raise ValueError(f"{place}.model.adapters: it adapts a run to other data than those of the comparison")


def _model(own: Any, base: Base) -> dict[str, Any]:
    """Returns the comparison's model, or one of its sizes and of the kind that the method's objective needs."""
    shared, like = base.document.get("model") or {}, type(base.config.model)
    settings = network_settings(own)
    if not settings.objective_kinds or settings.objective_kinds == like.objective_kinds:
        return deepcopy(shared)
    listed = [one for one in sections_in(AnyNetworkConfig) if issubclass(one, NetworkConfig)]
    if not any(issubclass(settings, one) for one in listed if one is not settings):
        return deepcopy(own)
    fitting = [one for one in listed if issubclass(one, like) and one.objective_kinds == settings.objective_kinds]
    if not fitting:
        raise ValueError(
            f"model.kind: {kind_of(settings)} has no counterpart of the sizes of a {base.config.model.kind}; "
            "compare it with --base of another model"
        )
    added = {key: value for key, value in own.items() if key not in like.model_fields}
    return deepcopy({**shared, **added, "kind": kind_of(fitting[0])})


def _override(path: Path, stages: list[dict[str, Any]], overrides: Sequence[str]) -> None:
    for override in overrides:
        name, _, rest = override.removeprefix("stages.").partition(".")
        for entry in stages:
            if entry.get("name") == name:
                verb = next(key for key in entry if key != "name")
                entry[verb] = entry[verb] or {}
                apply_override(path, entry[verb], rest)


def _shared(stages: list[dict[str, Any]], own: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    """Shares the optimiser steps of the comparison among the stages that train, in the ratio of the method's own."""
    training = [entry for entry in stages if "train" in entry]
    default = (own.get("optim") or {}).get("steps", 1)
    weights = [((entry["train"] or {}).get("optim") or {}).get("steps", default) for entry in training]
    if steps < len(training):
        raise ValueError(f"optim.steps: {steps} are too few for {len(training)} stages; use {len(training)} or more")
    for entry, share in zip(training, shares(steps, weights), strict=True):
        settings = entry["train"] or {}
        entry["train"] = {**settings, "optim": {**(settings.get("optim") or {}), "steps": share}}
    return stages


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Shares out a number in a ratio: whole numbers of 1 or more; the remainder goes to the first."""
    free = total - len(weights)
    parts = [1 + free * weight // sum(weights) for weight in weights]
    return [part + (index < total - sum(parts)) for index, part in enumerate(parts)]


def _about(path: Path) -> str:
    """Returns the text of the comment at the head of a file, up to the first command, without lines for editors."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or text.startswith(("python ", "torchrun ")):
            break
        if not text.startswith("yaml-language-server:"):
            lines.append(text)
    return " ".join(" ".join(lines).split())


SECONDS = "seconds.json"
"""File in the folder of a run: wall time in s, by name, of its stages that do not train."""


@dataclass(frozen=True)
class Candidate:
    """A network of a comparison: the result of `stage`, whose name is empty for a method without stages."""

    name: str
    method: Method
    stage: str

    def stages(self, folder: Path, seed: int) -> list[Stage]:
        """The stages up to and including its own."""
        stages = self.method.stages(folder, seed)
        return stages[: [stage.name for stage in stages].index(self.stage) + 1]


def candidates(method: Method) -> list[Candidate]:
    """The networks of a method: one for each stage that trains and is no teacher (no stage draws pairs from it)."""
    stages = method.stages(Path("run"), 0)
    if not stages[0].name:
        return [Candidate(method.name, method, "")]
    teachers = {stage.teacher for stage in stages}
    own = [stage for stage in stages if stage.trains and stage.folder not in teachers]
    last = [f" {stage.name}" if len(own) > 1 else "" for stage in own]
    return [Candidate(method.name + end, method, stage.name) for stage, end in zip(own, last, strict=True)]


def training_seconds(records: Sequence[Record]) -> float:
    """Time of all steps of a run; each record has the mean time of a step since the one before."""
    last, total = 0, 0.0
    for record in records:
        total += (record.step - last) * record.values.get("time.step_s", 0.0)
        last = record.step
    return total


def step_seconds(run_dir: Path) -> float:
    """Median of the mean step times of a run's records; without the first step's record if there are others."""
    times = [record.values["time.step_s"] for record in read_metrics(run_dir / "metrics.jsonl")]
    return median(times[1:] or times)
