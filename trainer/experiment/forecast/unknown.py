"""Runs whose traffic or computation no formula covers, and the remedy."""

from trainer.config.derived import several_shapes
from trainer.config.run import Flow, RunConfig
from trainer.config.sections import DeepSpeedConfig, FSDPConfig
from trainer.config.task import ClusteringTaskConfig, ContrastiveTaskConfig, FlowTaskConfig
from trainer.flow.coupling import Coupling, OwnCoupling
from trainer.flow.objective import ConsistencyDistillation, FeatureResidual, OwnObjective, VelocityDistillation
from trainer.flow.reward import Distance, Ink

_REMEDY = "record such a run with trace.steps"


def without_formula(config: RunConfig) -> str | None:
    """Returns why no formula gives the collectives of a run, with the remedy; None if a formula may give them.

    Where only the residual network of a trunk learns, most parameters have no gradient to reduce and some blocks do not
    run, which the engines' formulas leave out. A user's coupling may send anything, and a user's objective or task may
    call the network any number of times, unless the task says how often.
    """
    if several_shapes(config):
        return (
            "data: steps on images of several shapes send messages of several sizes, and none stands for the others; "
            "give images of one shape"
        )
    missing = _of_calls(config)
    if missing is not None or not learns_flow(config):
        return missing
    match config.flow:
        case Flow(objective=FeatureResidual()):
            return (
                "flow.objective.kind: feature_residual leaves blocks out and most parameters without gradient, for "
                f"which there is no formula; {_REMEDY}"
            )
        case Flow(objective=(VelocityDistillation() | ConsistencyDistillation()) as distilled):
            return (
                f"flow.objective.kind: {distilled.kind} calls the network several times a micro batch, and a teacher, "
                f"for which there is no formula; {_REMEDY}"
            )
        case Flow(objective=OwnObjective(class_path=path)):
            return f"flow.objective.class: {path} may ask the network more than once a micro batch; {_REMEDY}"
        case Flow(coupling=OwnCoupling(class_path=path) as coupling) if _may_communicate(coupling):
            return (
                f"flow.coupling.class: {path} may gather points or weigh pairs over all ranks; {_REMEDY}, or where it "
                "inherits draw_step set its attribute weighs to true or false"
            )
    return None


def _of_calls(config: RunConfig) -> str | None:
    """The reason why no formula gives the collectives of a task's calls, with the remedy; None if one does."""
    calls = config.task.calls
    if calls is None:
        return (
            f"task.class: {config.task.kind} may call the network differently than training does; {_REMEDY}, or give "
            "the class an attribute calls, a tuple of trainer.config.task.Calls"
        )
    if isinstance(config.task, ClusteringTaskConfig):
        return f"task.kind: {config.task.kind} gathers what it labels, for which there is no formula; {_REMEDY}"
    if isinstance(config.task, ContrastiveTaskConfig):
        return f"task.kind: {config.task.kind} gathers what it compares, for which there is no formula; {_REMEDY}"
    learn = [one for one in calls if one.phase == "learn"]
    for one in learn:
        if one.gradient == one.reference:
            kind = "the frozen network with" if one.reference else "its own network without"
            return f"task.kind: a loss of {config.task.kind} calls {kind} gradient, which no formula knows; {_REMEDY}"
    if getattr(config.task, "cost", None) is not None and config.moe is not None:
        return f"task.cost: asks the experts of the base how often its class likes, which no formula knows; {_REMEDY}"
    shares = isinstance(config.engine, FSDPConfig) or config.engine.zero_stage == 3
    if not shares:
        return None
    name = "fsdp" if isinstance(config.engine, FSDPConfig) else "zero_stage 3"
    own = [one for one in calls if not one.reference or adapts(config)]
    rollouts = [one for one in own if one.phase == "rollout"]
    if sum(one.count for one in own if one.gradient and one.phase == "learn") != 1:
        return f"engine: {name} has no formula for several calls in a loss of {config.task.kind}; {_REMEDY}"
    if config.model.adapters is not None and any(one.reference for one in calls):
        return f"engine: {name} has no formula for calls of the network without its adapters; {_REMEDY}"
    if any(one.gradient for one in rollouts):
        return f"engine: {name} has no formula for the gradients that {config.task.kind} takes in rollouts; {_REMEDY}"
    if rollouts and isinstance(config.engine, DeepSpeedConfig) and config.parallel.tensor > 1:
        return f"parallel.tensor: has no formula for rollouts under {name} ({config.parallel.tensor}); {_REMEDY}"
    return None


def _may_communicate(coupling: OwnCoupling) -> bool:
    """Whether a user's coupling draws whole steps, or does not say by ``weighs`` if its pairs have weights."""
    own = coupling.imported()
    draws_steps = getattr(own, "draw_step", None) is not Coupling.draw_step
    return draws_steps or not isinstance(getattr(own, "weighs", None), bool)


def without_work(config: RunConfig) -> str | None:
    """The reason why no formula gives the computation of a task; None if one does."""
    task, kind = config.task, config.task.kind
    if any(one.phase == "rollout" and one.gradient for one in config.task.calls or ()):
        return f"the gradients that {kind} takes in rollouts have no formula"
    if not isinstance(getattr(task, "reward", None), Ink | Distance | None):
        return "a reward that is a network, or of your own, has no formula"
    return None


def learns_flow(config: RunConfig) -> bool:
    """Whether a flow's objective calls the network; False if a task defines the calls."""
    return isinstance(config.task, FlowTaskConfig)


def adapts(config: RunConfig) -> bool:
    """Whether a task's frozen network is the run's own, with its adapters switched off."""
    return config.model.adapters is not None
