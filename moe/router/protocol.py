"""The protocol of a router beyond Megatron-Core's own interface (``forward`` -> gate values and routing map)."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn


class Router(Protocol):
    """A Megatron-Core router: ``forward(tokens [S, B, D])`` gives gate values [S*B, E] and a bool map [S*B, E].

    Gate values are zero outside the map and differentiable inside it; columns are logical experts. What a router
    learns besides its weight (a bias, potentials) is in persistent buffers, changes in :meth:`update_bias` alone and
    is the same on every data rank: any rank's ``state_dict`` resumes all of them.

    Attributes:
        weight: the gate's matrix, [E, D].
        training: whether it routes for training.
    """

    weight: nn.Parameter
    training: bool

    def report(self) -> Mapping[str, Tensor]:
        """Figures of the last forward pass, each a detached tensor on the router's device.

        Returns:
            ``expert_tokens`` int64 [E], the choices of each expert that were kept; ``due_choices`` int64 [], top_k for
            each token; ``dropped_choices`` int64 [], those of them that no expert took (where the router decides how
            many experts a token visits, top_k for each token that visits none); ``entropy`` float [], of the gate's
            distribution in nats, averaged over tokens; and further entries by kind of router, such as ``potentials``
            float [E] and ``residual`` float []. Padding is not counted.
        """
        ...

    def capacity(self, tokens: int) -> int | None:
        """Most choices that an expert takes of so many tokens of a rank in training; None: no limit."""
        ...

    def update_bias(self) -> None:
        """Learns from the micro batches of an optimiser step, after it; collective over the data ranks."""
        ...

    def forget(self) -> None:
        """Discards the statistics gathered since the last :meth:`update_bias`: the optimiser step was skipped."""
        ...

    def set_hops(self, hops_E: Tensor) -> None:
        """Sets the distance of each expert from this rank; a router that does not use distances ignores it.

        Args:
            hops_E: hops from this rank to the rank of each logical expert, 0 for its own; [E].
        """
        ...
