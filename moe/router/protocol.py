"""What a router offers besides Megatron-Core's own interface (``forward`` -> gate values and routing map)."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn


class Router(Protocol):
    """A Megatron-Core router: ``forward(tokens [S, B, D])`` gives gate values [S*B, E] and a bool map [S*B, E].

    Gate values are zero outside the map and differentiable inside it; columns are logical experts.

    Attributes:
        weight: the gate's matrix, [E, D].
    """

    weight: nn.Parameter

    def report(self) -> Mapping[str, Tensor]:
        """What the last forward pass did, each a detached tensor on the router's device.

        Returns:
            ``expert_tokens`` int64 [E], the choices of each expert that were kept; ``dropped_choices`` int64 [], the
            choices that no expert took; ``entropy`` float [], of the gate's distribution in nats, averaged over
            tokens; and what a kind of router adds, such as ``potentials`` float [E] and ``residual`` float [].
        """
        ...
