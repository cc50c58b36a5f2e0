"""Training passes that choose the experts that evaluation passes chose.

A router may decide otherwise in training than in evaluation: it balances a micro batch, or its potentials have moved on
since. The outputs of a network for one input, such as the likelihood of a sample, then differ between evaluation and
training. With replay they agree: the gate values are those of the evaluation pass, bit for bit while the weights are
the same, and the gate learns.

    with record(network) as routes:  # in evaluation mode
        before = network(x, t, condition)
    replay(network, routes)
    after = network.train()(x, t, condition)  # equal, and differentiable
    ...  # backward pass, in which activation checkpointing computes blocks again
    replay(network, None)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from moe.router.portable import PortableRouter, Route


@dataclass(eq=False)
class Routes:
    """Choices of the mixtures of a network in some evaluation passes on this rank.

    Attributes:
        by_router: for each router, in the order of the network's modules, its choices of one pass after another. A
            network without experts has none.
    """

    by_router: list[list[Route]] = field(default_factory=list)


@contextmanager
def record(network: nn.Module) -> Iterator[Routes]:
    """A context that records the choices of a network in the evaluation passes made inside it.

    Args:
        network: possibly wrapped by an engine.

    Yields:
        The choices so far.
    """
    routers = _routers(network)
    routes = Routes([[] for _ in routers])
    for router, own in zip(routers, routes.by_router, strict=True):
        router.record(own)
    try:
        yield routes
    finally:
        for router in routers:
            router.record(None)


def replay(network: nn.Module, routes: Routes | None) -> None:
    """Makes later training passes of a network choose as recorded, one recorded pass after another.

    A forward pass that activation checkpointing repeats follows the same choices as its first pass. Counts of loads and
    balancing of the gate use the choices that are followed; passes in evaluation mode choose as usual.

    Args:
        network: the one whose choices were recorded, or another one with the same mixtures; possibly wrapped.
        routes: the choices; None: passes choose as usual again.

    Raises:
        ValueError: they were recorded from a network with other mixtures.
    """
    routers = _routers(network)
    if routes is not None and len(routes.by_router) != len(routers):
        raise ValueError(
            f"routes: of {len(routes.by_router)} routers, and the network has {len(routers)}; record this network"
        )
    for number, router in enumerate(routers):
        router.follow(None if routes is None else routes.by_router[number])


def _routers(network: nn.Module) -> list[PortableRouter]:
    return [module for module in network.modules() if isinstance(module, PortableRouter)]
