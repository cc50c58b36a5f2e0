"""What ranks send while they draw a step: points that are paired over all of them, and weights of pairs."""

from collections.abc import Iterator
from math import prod

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.task import FlowTaskConfig
from trainer.flow.coupling import Assignment, Coupling, GibbsWeighted, MinibatchOT, OwnCoupling
from trainer.trace.formula.protocol import Collective, all_gather, broadcast


def drawing(config: RunConfig, layout: Layout) -> Iterator[Collective]:
    """The collectives of one step before anything is collected, in order; tasks but that of a flow pair nothing."""
    match _coupling(config):
        case MinibatchOT(scope="global_batch") | Assignment(scope="global_batch"):
            points = 4 * layout.micro_batch * layout.accumulation * prod(config.state_shape)
            for _ in ("data", "source"):
                yield all_gather("data", "float32", points, layout.data_parallel)
            yield broadcast("data", "int64", 8 * config.optim.global_batch)
    match _coupling(config):
        case MinibatchOT(solver="unbalanced", scope="global_batch"):
            yield broadcast("data", "float32", 4 * config.optim.global_batch)
        case GibbsWeighted(epsilon="auto"):
            yield all_gather("data", "float32", 4 * layout.micro_batch * layout.accumulation, layout.data_parallel)


def weighing(config: RunConfig, layout: Layout) -> Iterator[Collective]:
    """The collectives of one step by which weights get a mean of 1 over the global batch, behind the rollouts.

    A task says by an attribute ``weighs`` of its settings, or of a user's class, whether what it collects has weights.
    """
    match _coupling(config):
        case MinibatchOT(solver="unbalanced") | GibbsWeighted():
            weighed = True
        case OwnCoupling() as coupling:
            weighed = getattr(coupling.imported(), "weighs", False)
        case _:
            weighed = config.task.weighs
    if weighed:
        yield all_gather("world", "float64", 8, layout.world_size)


def may_communicate(coupling: OwnCoupling) -> bool:
    """Whether the collectives of a user's coupling are unknown: it draws whole steps, or does not say if it weighs.

    A class says by an attribute ``weighs`` whether its pairs have weights.
    """
    own = coupling.imported()
    draws_steps = getattr(own, "draw_step", None) is not Coupling.draw_step
    return draws_steps or not isinstance(getattr(own, "weighs", None), bool)


def _coupling(config: RunConfig) -> object:
    """What pairs source and data where the task learns a flow; None: nothing does."""
    learns_flow = isinstance(config.task, FlowTaskConfig)
    return config.flow.coupling if learns_flow and config.flow is not None else None
