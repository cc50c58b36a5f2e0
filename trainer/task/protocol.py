"""What a step learns from, as the training loop sees it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.data import Batch
from trainer.flow.objective import LossTerms


class Drawn(Protocol):
    """What the loss of one micro batch is computed from, drawn before the network is asked."""

    @property
    def log_weight(self) -> Tensor | None:
        """[B] logarithms of the examples' weights, of which only the differences matter; None: all equal."""
        ...


class Task(Protocol):
    """Turns batches into losses."""

    def draw(
        self, batches: Sequence[Batch], generators: Sequence[torch.Generator], ranks: dist.ProcessGroup | None = None
    ) -> Sequence[Drawn]:
        """Draws everything that a step needs, for all of its micro batches, so that they can be drawn together.

        Args:
            batches: the micro batches of this rank, on the device of the network.
            generators: where the draws for each of them come from.
            ranks: those that see different data and draw the same step, with which this rank may draw together; None:
                it is on its own.

        Returns:
            What :meth:`loss` takes, for each.
        """
        ...

    def loss(self, model: Callable[..., Any], drawn: Any) -> LossTerms:
        """Computes the loss of one micro batch; nothing is drawn but the network's own dropout.

        Args:
            model: the network, possibly wrapped by the engine.
            drawn: what :meth:`draw` returned for it.

        Returns:
            The loss terms.
        """
        ...

    def held_out_figures(self, loss: float) -> dict[str, float]:
        """What the mean loss over the held-out split says, by the names that metrics have."""
        ...
