"""The experts that a network chose while it drew, which it chooses again while it learns from that.

A network without experts imports nothing for it: Megatron takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from trainer.model.parallel.parameters import HoldsExperts

if TYPE_CHECKING:
    from moe.router.replay import Routes


@contextmanager
def recorded(network: nn.Module) -> Iterator[Routes | None]:
    """Notes the experts that a network in evaluation mode chooses inside; yields None if it has no experts."""
    if not any(isinstance(module, HoldsExperts) for module in network.modules()):
        yield None
        return
    from moe.router.replay import record

    with record(network) as routes:
        yield routes


def replayed(network: nn.Module, routes: Routes | None) -> None:
    """Has the training passes of a network, possibly wrapped by its engine, choose as recorded."""
    if routes is not None:
        from moe.router.replay import replay

        replay(network, routes)
