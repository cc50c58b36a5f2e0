"""Flows that can be tilted by adjoint matching, and the bases that they can be tilted from."""

from trainer.config.constraints.buckets import several_shapes
from trainer.config.constraints.cost import check_cost
from trainer.config.constraints.distillation import states_of
from trainer.config.run import RunConfig
from trainer.config.task import AdjointMatchingConfig
from trainer.flow import coupling, path, reward


def check_adjoint_matching(config: RunConfig) -> None:
    """Refuses a flow without memoryless paths, a reward without a gradient, and a run that names no base.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    task, flow = config.task, config.flow
    if not isinstance(task, AdjointMatchingConfig):
        return
    assert flow is not None
    if task.base is None and config.model.adapters is None:
        raise ValueError("task.base: null, and there is nothing to tilt; name a trained run, such as task.base=runs/a")
    if flow.path != path.LinearConfig():
        raise ValueError(
            f"flow.path.kind: {flow.path.kind} has no memoryless steps here; adjoint matching is for bases with "
            "flow.path.kind linear and sigma_min 0"
        )
    if config.source_data is not None or not isinstance(flow.coupling, coupling.IndependentConfig):
        raise ValueError(
            f"flow.coupling.kind: {flow.coupling.kind}, and memoryless paths need normal noise that is independent of "
            "the data; use independent, without flow.source, and a base that was trained so"
        )
    if several_shapes(config):
        raise ValueError("data: images of several shapes, and paths begin at noise of one; give images of one shape")
    if task.reward is not None and not reward.is_differentiable(task.reward):
        raise ValueError(
            f"task.reward: {task.reward.kind} says differentiable = False, and adjoint matching follows its gradient; "
            "compute it by operations of torch, or use task.kind=grpo"
        )
    if task.cost is not None:
        check_cost(config, task.cost, "task.cost")


def caution_of_guidance(config: RunConfig) -> str | None:
    """One line about samples that are not of the flow that is tilted; None: they are."""
    task, drawn = config.task, getattr(config.sample, "guidance", None)
    if not isinstance(task, AdjointMatchingConfig) or drawn in (None, task.guidance) or not config.data.num_classes:
        return None
    return (
        f"sample.guidance: {drawn:g} draws from another flow than the tilted one, whose guidance is {task.guidance:g}; "
        f"set sample.guidance={task.guidance:g}, or task.guidance={drawn:g}"
    )


def check_tilted(config: RunConfig, base: RunConfig, world_size: int) -> None:
    """Refuses a base whose flow is between other states than that of the run, or that its ranks cannot share.

    Args:
        config: a run that is learned by adjoint matching.
        base: the run that it begins with.
        world_size: ranks.

    Raises:
        ValueError: names field, value and remedy.
    """
    task = config.task
    assert isinstance(task, AdjointMatchingConfig)
    assert task.base is not None
    run = task.base.run
    if base.flow is None:
        raise ValueError(f"task.base.run: {run} follows no flow ({base.model.kind}); use the run of a flow")
    own, its = states_of(config), states_of(base)
    assert config.flow is not None
    own["flow.target"], its["flow.target"] = (
        one.model_dump(mode="json") for one in (config.flow.target, base.flow.target)
    )
    for name, wanted in own.items():
        if its[name] != wanted:
            raise ValueError(
                f"task.base.run: {run} has {name} {its[name]}, and this run {wanted}; leave the sections out that the "
                "base has, or name another base"
            )
    if task.guidance != 1 and base.data.num_classes and getattr(base.model, "label_dropout", None) == 0:
        raise ValueError(
            f"task.guidance: {task.guidance:g} asks the base about no class, which it never saw with "
            "model.label_dropout 0; use 1, or a base with a model.label_dropout such as 0.1"
        )
    if base.moe is not None and world_size > 1 and base.parallel.expert != config.parallel.expert:
        raise ValueError(
            f"parallel.expert: {config.parallel.expert}, and the experts of the base {run} are shared by "
            f"{base.parallel.expert} ranks of the same groups; use {base.parallel.expert}"
        )
