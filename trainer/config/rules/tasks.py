"""Rules about tasks and adapters, and about the runs that they continue or learn from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from netsim.foundation.refusal import Refusal
from trainer.config.derived import routed_adapters, several_shapes, sources_of, states_of, task_names
from trainer.config.model import AutoencoderConfig, BlockwiseConfig, BlockwiseMLPConfig, GPTConfig, PrototypesConfig
from trainer.config.rules.composition import Distillation, reasons
from trainer.config.rules.drawing import of_cost, of_no_class
from trainer.config.rules.objection import Objections, caught
from trainer.config.rules.partners import listed, name, partners, separate
from trainer.config.rules.parts import composition_of
from trainer.config.run import RunConfig
from trainer.config.task import (
    AdjointMatchingConfig,
    ClusteringTaskConfig,
    ContrastiveTaskConfig,
    GRPOConfig,
    TrajectoryBalanceTaskConfig,
)
from trainer.config.task.representation import MOST_EXAMPLES, NearestNeighbours, SemanticLabels
from trainer.data.kinds import OwnDataset
from trainer.flow import coupling, path
from trainer.flow.objective import MongeMap
from trainer.flow.reward import Classifier
from trainer.flow.sampler import EulerMaruyama

HIDDEN = "with a model.label_dropout such as 0.1"


def of_cycle(config: RunConfig, cycle: int | None = None) -> Objections:
    """Objects to a checkpoint or last step inside a cycle of steps that share data; the task's if `cycle` is None."""
    cycle = config.task.cycle if cycle is None else cycle
    for field, steps in (("optim.steps", config.optim.steps), ("checkpoint.every", config.checkpoint.every)):
        if steps is not None and steps % cycle:
            problem = f"{steps} is not a multiple of the {cycle} steps that share what the task collects"
            yield field, problem, f"use {-(-steps // cycle) * cycle}"


def of_adapters(config: RunConfig) -> Objections:
    """Objects to adapters where a part of the run cannot take them."""
    if config.model.adapters is None:
        return
    if config.moe is not None:
        problem = "experts are not adapted, and adapters freeze all else"
        yield "moe", problem, "remove the section, or model.adapters"
    if config.parallel.tensor > 1:
        problem = f"{config.parallel.tensor} ranks cannot share frozen matrices with adapters"
        yield "parallel.tensor", problem, "use 1"
    yield from _of_routed(config)


def _of_routed(config: RunConfig) -> Objections:
    """Objects to routed adapters that cannot know the task of a row."""
    sources, model, data = sources_of(config), config.model, config.data
    if routed_adapters(config) is None:
        return
    if config.flow is None or isinstance(model, AutoencoderConfig | GPTConfig):
        yield "model.adapters.kind", f"routed, and a network of kind {model.kind} reads no task", "use low_rank"
        return
    if isinstance(model, BlockwiseConfig | BlockwiseMLPConfig):
        problem = f"routed, and the blocks of kind {model.kind} see the rows of a segment alone"
        yield "model.adapters.kind", problem, "use low_rank"
        return
    num = len(task_names(config))
    if len(sources) > num:
        problem = f"{num} for the {len(sources)} sources of data"
        yield "model.adapters.tasks", problem, f"leave it out, or use {len(sources)}"
    if num > 1 and not sources and not isinstance(data, OwnDataset):
        problem = f"{num}, and data of kind {data.kind} do not say of which task an example is"
        yield "model.adapters.tasks", problem, "use data of kind mixture, or 1"


def of_policy(config: RunConfig) -> Objections:
    """Objects to flows without known steps with noise, and to networks that compute differently in training."""
    task = config.task
    if not isinstance(task, GRPOConfig):
        return
    yield from _of_flow(config, task)
    yield from _of_network(config, task)
    yield from _of_base(config, task)
    if isinstance(task.reward, Classifier) and config.data.num_classes < 2:
        problem = f"classifier tells classes apart, and the data have {config.data.num_classes}"
        yield "task.reward.kind", problem, "use data with classes, or reward ink, distance or a class of yours"


def _of_flow(config: RunConfig, task: GRPOConfig) -> Objections:
    flow = config.flow
    assert flow is not None
    if config.source_data is not None:
        problem = f"{task.kind} draws from noise, and the paths of this flow begin at {config.source_data.kind} data"
        yield "task.kind", problem, "use a base without flow.source"
    if isinstance(flow.objective, Distillation | MongeMap):
        yield (
            "task.kind",
            f"{task.kind} follows velocities, and flow.objective.kind {flow.objective.kind} learns steps to the data",
            "use the run that it was distilled from as task.base",
        )
    composition = composition_of(config, EulerMaruyama(steps=task.steps, diffusion=task.noise))
    assert composition is not None
    for parts, reason in separate(reasons(composition)):
        if "sampler" not in parts:
            continue
        others = [part for part in parts if part != "sampler"]
        company = " and ".join(f"flow.{part} {name(getattr(composition, part))}" for part in others)
        fitting = partners(composition, parts)
        remedies = [f"{part} {listed([name(one) for one in fitting[part]])}" for part in others if part in fitting]
        problem = f"{task.kind} draws by steps with noise, which do not go with {company} ({reason})"
        yield "task.kind", problem, f"use a base with {', or '.join(remedies)}" if remedies else "use another base"
    shapes = several_shapes(config)
    if shapes:
        problem = f"{task.kind} draws examples of one shape, and the data have {len(shapes)}"
        yield "task.kind", problem, "leave data.buckets out"


def _of_network(config: RunConfig, task: GRPOConfig) -> Objections:
    dropout = getattr(config.model, "dropout", 0.0)
    if dropout:
        problem = (
            f"{dropout:g} makes the network that learns another one than that which drew, so that ratios of task.kind "
            f"{task.kind} are not 1"
        )
        yield "model.dropout", problem, "use 0"
    if task.guidance != 1:
        remedy = f"use 1, or a base {HIDDEN}"
        yield from of_no_class(config, "task.guidance", f"{task.guidance:g}", sees="saw", remedy=remedy)


def _of_base(config: RunConfig, task: GRPOConfig) -> Objections:
    adapters = config.model.adapters
    if config.model.init_from is None and adapters is None:
        problem = f"{task.kind} continues a trained flow, and this run begins with none"
        yield "task.kind", problem, "set task.base to the folder of its run"
    elif task.kl and task.base is None and adapters is None:
        problem = f"{task.kl:g} keeps the run near its base, and task.base names none"
        yield "task.kl", problem, "set it to a run, or use 0"
    if task.base is not None and adapters is not None and adapters.base.run != task.base.run:
        yield (
            "task.base",
            f"{task.base.run} is another run than model.adapters.base, {adapters.base.run}, and both would be the base",
            "leave one of the two out",
        )


def of_contrastive(config: RunConfig, micro_batch: int | None) -> Objections:
    """Objects to views that examples cannot have, a memory smaller than a step, and neighbours that never count."""
    task, optim = config.task, config.optim
    if not isinstance(task, ContrastiveTaskConfig):
        return
    yield from caught(task.views.check_examples, tuple(config.data.shape))
    if micro_batch == 1:
        yield "optim.micro_batch", "1 example has no other that it is kept apart from", "use 2 or more"
    if not isinstance(task.positives, NearestNeighbours):
        return
    if task.positives.memory < optim.global_batch:
        problem = f"{task.positives.memory} is less than the {optim.global_batch} examples of a step"
        yield "task.positives.memory", problem, f"use {optim.global_batch} or more, or a smaller optim.global_batch"
    full = max(task.positives.begin, -(-task.positives.memory // optim.global_batch))
    if full >= optim.steps:
        problem = f"neighbours count from step {full + 1} on, once the memory is full, and there are {optim.steps}"
        yield "task.positives", problem, "use a smaller begin or memory, more optim.steps, or kind views"


def of_adjoint_matching(config: RunConfig) -> Objections:
    """Objects to a flow without memoryless paths, a reward without a gradient, and a run that names no base."""
    task, flow = config.task, config.flow
    if not isinstance(task, AdjointMatchingConfig):
        return
    assert flow is not None
    if task.base is None and config.model.adapters is None:
        yield "task.base", "null, and there is nothing to tilt", "name a trained run, such as task.base=runs/a"
    if flow.path != path.LinearConfig():
        problem = f"{flow.path.kind} has no memoryless steps here"
        yield "flow.path.kind", problem, "adjoint matching is for bases with flow.path.kind linear and sigma_min 0"
    if config.source_data is not None or not isinstance(flow.coupling, coupling.Independent):
        problem = f"{flow.coupling.kind}, and memoryless paths need normal noise that is independent of the data"
        yield "flow.coupling.kind", problem, "use independent, no flow.source, and a base that was trained with both"
    if several_shapes(config):
        yield "data", "images of several shapes, and paths begin at noise of one", "give images of one shape"
    if task.reward is not None and not task.reward.differentiable:
        problem = f"{task.reward.kind} says differentiable = False, and adjoint matching follows its gradient"
        yield "task.reward", problem, "compute it by operations of torch, or use task.kind=grpo"
    if task.cost is not None:
        yield from of_cost(config, task.cost, "task.cost")


def of_surrogate(config: RunConfig) -> Objections:
    """Objects to a reward by regression on measured objects of another environment."""
    task = config.task
    if not isinstance(task, TrajectoryBalanceTaskConfig) or task.log_reward is None:
        return
    file = task.log_reward.read()
    if file.environment != task.environment:
        made, now = (one.model_dump(mode="json") for one in (file.environment, task.environment))
        differing = next((name for name in made | now if made.get(name) != now.get(name)), "kind")
        yield Refusal(
            task.log_reward.measured,
            f"environment.{differing}",
            f"is {made.get(differing)}, and task.environment.{differing} of the run is {now.get(differing)}",
            "measure objects of the run's environment, or use theirs",
        )


def of_clustering(config: RunConfig) -> Objections:
    """Objects to plans of too few or too many examples, and to views that the examples do not allow."""
    task, model = config.task, config.model
    if not isinstance(task, ClusteringTaskConfig) or not isinstance(model, PrototypesConfig):
        return
    task.views.check_examples(config.state_shape)
    steps, batch = task.steps_of_a_plan, config.optim.global_batch
    examples = batch * steps * (1 + task.memory)
    made = f"{batch}, so that a plan labels the {examples:,} examples of {steps * (1 + task.memory)} steps"
    if examples < 2 * model.clusters:
        problem = f"{made}, fewer than 2 for each of model.clusters {model.clusters}"
        yield "optim.global_batch", problem, f"use {-(-2 * model.clusters * batch // examples)} or more"
    if examples > MOST_EXAMPLES:
        problem = f"{made}, and {MOST_EXAMPLES:,} are the most"
        yield "optim.global_batch", problem, "use fewer, fewer task.steps_of_a_plan, or less task.memory"
    if isinstance(task.labels, SemanticLabels) and task.labels.neighbours >= batch * steps:
        problem = f"{task.labels.neighbours} are no fewer than the {batch * steps} examples of a plan"
        yield "task.labels.neighbours", problem, f"use {max(1, (batch * steps - 1) // 10)}, or a larger global_batch"


def of_teacher(config: RunConfig, teacher: RunConfig, world_size: int) -> Objections:
    """Objects to a teacher of other states than those of a run that distils it, or that its ranks cannot share."""
    learned = config.flow and config.flow.objective
    assert isinstance(learned, Distillation)
    run, scale = learned.teacher.run, learned.guidance
    remedy = "use a teacher of the same states and conditions, or change those of this run"
    yield from _of_states(config, teacher, "flow.objective.teacher.run", run, remedy)
    if any(one != 1 for one in (scale if isinstance(scale, tuple) else (scale,))):
        remedy = f"use 1, or a teacher {HIDDEN}"
        yield from of_no_class(teacher, "flow.objective.guidance", scale, network="teacher", sees="saw", remedy=remedy)
    if world_size > 1:
        yield from _of_shared_experts(config, teacher, f"the teacher {run}")


def of_tilted(config: RunConfig, base: RunConfig, world_size: int) -> Objections:
    """Objects to a base of other states than those of a run of adjoint matching, or that its ranks cannot share."""
    task = config.task
    assert isinstance(task, AdjointMatchingConfig)
    assert task.base is not None
    run = task.base.run
    remedy = "leave the sections out that the base has, or name another base"
    yield from _of_states(config, base, "task.base.run", run, remedy, _states_and_target)
    if task.guidance != 1:
        remedy = f"use 1, or a base {HIDDEN}"
        yield from of_no_class(base, "task.guidance", f"{task.guidance:g}", network="base", sees="saw", remedy=remedy)
    if world_size > 1:
        yield from _of_shared_experts(config, base, f"the base {run}")


def of_base_of_policy(config: RunConfig, base: RunConfig) -> Objections:
    """Objects to a base of other states than those of the policy kept near it, or that its ranks cannot share."""
    task = config.task
    assert isinstance(task, GRPOConfig)
    assert task.base is not None
    run = task.base.run
    yield from _of_states(config, base, "task.base", run, "leave out what the base sets")
    yield from _of_shared_experts(config, base, f"task.base {run}")


def _of_states(
    config: RunConfig,
    other: RunConfig,
    field: str,
    run: Path,
    remedy: str,
    compared: Callable[[RunConfig], dict[str, Any]] = states_of,
) -> Objections:
    """Objects to another run whose flow is between other states; `run` is its folder."""
    if other.flow is None:
        yield field, f"{run} follows no flow ({other.model.kind})", "use the run of a flow"
        return
    states = compared(other)
    for about, wanted in compared(config).items():
        if states[about] != wanted:
            yield field, f"{run} has {about} {states[about]}, and this run {wanted}", remedy


def _states_and_target(config: RunConfig) -> dict[str, Any]:
    assert config.flow is not None
    return {**states_of(config), "flow.target": config.flow.target.model_dump(mode="json")}


def _of_shared_experts(config: RunConfig, other: RunConfig, named: str) -> Objections:
    ranks = other.parallel.expert
    if other.moe is not None and ranks != config.parallel.expert:
        problem = f"{config.parallel.expert}, and the experts of {named} are shared by {ranks} ranks of the same groups"
        yield "parallel.expert", problem, f"use {ranks}"
