"""What runs cannot be given whose task draws from its own network by steps with noise."""

from typing import Any

from trainer.config.constraints.buckets import several_shapes
from trainer.config.constraints.distillation import Distillation, states_of
from trainer.config.constraints.flow import composition_of
from trainer.config.run import RunConfig
from trainer.config.task import GRPOConfig
from trainer.flow.composition import RULES, Composition, Rule, listed, name, partners
from trainer.flow.objective import MongeMapConfig
from trainer.flow.reward import ClassifierConfig
from trainer.flow.sampler import EulerMaruyamaConfig


def check_policy(config: RunConfig) -> None:
    """Refuses flows whose steps with noise are not known, and networks that answer otherwise when they learn.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    task = config.task
    if not isinstance(task, GRPOConfig):
        return
    _check_flow(config, task)
    _check_network(config, task)
    _check_base(config, task)
    if isinstance(task.reward, ClassifierConfig) and config.data.num_classes < 2:
        raise ValueError(
            f"task.reward.kind: classifier tells classes apart, and the data have {config.data.num_classes}; use data "
            "with classes, or reward ink, distance or a class of yours"
        )


def check_same_states(config: RunConfig, base: RunConfig) -> None:
    """Refuses a base whose flow is between other states than that of the run.

    Args:
        config: a run that asks its base.
        base: the run that is the base.

    Raises:
        ValueError: names field, value and remedy.
    """
    run = getattr(config.task, "base", None)
    folder = "the base" if run is None else run.run
    if base.flow is None:
        raise ValueError(f"task.base: {folder} follows no flow ({base.model.kind}); use the run of a flow")
    own, its = states_of(config), states_of(base)
    for about, wanted in own.items():
        if its[about] != wanted:
            raise ValueError(
                f"task.base: {folder} has {about} {its[about]}, and this run {wanted}; leave out what the base sets"
            )
    if base.moe is not None and base.parallel.expert != config.parallel.expert:
        raise ValueError(
            f"parallel.expert: {config.parallel.expert}, and the experts of task.base {folder} are shared by "
            f"{base.parallel.expert} ranks of the same groups; use {base.parallel.expert}"
        )


def _check_flow(config: RunConfig, task: GRPOConfig) -> None:
    flow = config.flow
    assert flow is not None
    if config.source_data is not None:
        raise ValueError(
            f"task.kind: {task.kind} draws from noise, and the paths of this flow begin at {config.source_data.kind} "
            "data; use a base without flow.source"
        )
    if isinstance(flow.objective, Distillation | MongeMapConfig):
        raise ValueError(
            f"task.kind: {task.kind} follows velocities, and flow.objective.kind {flow.objective.kind} learns steps to "
            "the data; use the run that it was distilled from as task.base"
        )
    composition = composition_of(config, EulerMaruyamaConfig(steps=task.steps, diffusion=task.noise))
    assert composition is not None
    for rule in RULES:
        reason = rule.complaint(composition) if "sampler" in rule.parts else None
        if reason is not None:
            raise ValueError(_message(task, composition, rule, reason))
    shapes = several_shapes(config)
    if shapes:
        raise ValueError(
            f"task.kind: {task.kind} draws examples of one shape, and the data have {len(shapes)}; leave "
            "data.buckets out"
        )


def _check_network(config: RunConfig, task: GRPOConfig) -> None:
    dropout = getattr(config.model, "dropout", 0.0)
    if dropout:
        raise ValueError(
            f"model.dropout: {dropout:g} makes the network that learns another one than that which drew, so that "
            f"ratios of task.kind {task.kind} are not 1; use 0"
        )
    hides = getattr(config.model, "label_dropout", None)
    if task.guidance != 1 and config.data.num_classes and hides == 0:
        raise ValueError(
            f"task.guidance: {task.guidance:g} asks the network about no class, which it never saw with "
            "model.label_dropout 0; use 1, or a base with a model.label_dropout such as 0.1"
        )


def _check_base(config: RunConfig, task: GRPOConfig) -> None:
    adapters = config.model.adapters
    if config.model.init_from is None and adapters is None:
        raise ValueError(
            f"task.kind: {task.kind} goes on from a trained flow, and this run begins with none; set task.base to the "
            "folder of its run"
        )
    if task.kl and task.base is None and adapters is None:
        raise ValueError(
            f"task.kl: {task.kl:g} keeps the run near its base, and task.base names none; set it to a run, or use 0"
        )
    if task.base is not None and adapters is not None and adapters.base.run != task.base.run:
        raise ValueError(
            f"task.base: {task.base.run} is not what model.adapters.base adapts, {adapters.base.run}, which this run "
            "is kept near; leave one of the two out"
        )


def _message(task: GRPOConfig, composition: Composition, rule: Rule, reason: str) -> str:
    others: list[str] = [part for part in rule.parts if part != "sampler"]
    company = " and ".join(f"flow.{part} {name(getattr(composition, part))}" for part in others)
    fitting: dict[str, list[Any]] = partners(composition, rule)
    remedies = [f"{part} {listed([name(one) for one in fitting[part]])}" for part in others if part in fitting]
    remedy = f"use a base with {', or '.join(remedies)}" if remedies else "use another base"
    return f"task.kind: {task.kind} draws by steps with noise, which do not go with {company} ({reason}); {remedy}"
