"""What ranks send while they draw a step: points that are paired over all of them, and weights of pairs."""

from collections.abc import Iterator
from math import prod

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.flow.coupling import AssignmentConfig, Coupling, GibbsWeightedConfig, MinibatchOTConfig, OwnCoupling
from trainer.trace.formula.protocol import Collective, all_gather, broadcast


def drawing(config: RunConfig, layout: Layout) -> Iterator[Collective]:
    """The collectives of one step before its first micro step, in order.

    Args:
        config: the run.
        layout: how it is laid out.
    """
    coupling = None if config.flow is None else config.flow.coupling
    match coupling:
        case MinibatchOTConfig(scope="global_batch") | AssignmentConfig(scope="global_batch"):
            points = 4 * layout.micro_batch * layout.accumulation * prod(config.state_shape)
            for _ in ("data", "source"):
                yield all_gather("data", "float32", points, layout.data_parallel)
            yield broadcast("data", "int64", 8 * config.optim.global_batch)
    match coupling:
        case MinibatchOTConfig(solver="unbalanced", scope=scope):
            if scope == "global_batch":
                yield broadcast("data", "float32", 4 * config.optim.global_batch)
            yield _sum_of_weights(layout)
        case GibbsWeightedConfig(epsilon=epsilon):
            if epsilon == "auto":
                yield all_gather("data", "float32", 4 * layout.micro_batch * layout.accumulation, layout.data_parallel)
            yield _sum_of_weights(layout)
        case OwnCoupling() if getattr(coupling.imported(), "weighs", False):
            yield _sum_of_weights(layout)


def may_communicate(coupling: OwnCoupling) -> bool:
    """Whether the collectives of a user's coupling are unknown: it draws whole steps, or does not say if it weighs.

    A class says by an attribute ``weighs`` whether its pairs have weights.
    """
    own = coupling.imported()
    draws_steps = getattr(own, "draw_step", None) is not Coupling.draw_step
    return draws_steps or not isinstance(getattr(own, "weighs", None), bool)


def _sum_of_weights(layout: Layout) -> Collective:
    return all_gather("world", "float64", 8, layout.world_size)
