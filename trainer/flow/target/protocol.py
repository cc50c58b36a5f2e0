"""What the network predicts."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from trainer.flow.path.protocol import PathSample

Quantity = Literal["velocity", "data", "noise", "score", "v_prediction"]


class Target(Protocol):
    """A quantity that a network can be trained on, and its translation into the others.

    Attributes:
        quantities: what a prediction holds, in order.
        num_fields: how many states a prediction holds one behind the other in dimension 1, so that for states
            [B, C, *rest] it is [B, num_fields C, *rest]; 1 unless a network predicts several quantities.
    """

    quantities: tuple[Quantity, ...]
    num_fields: int = 1

    def make(self, sample: PathSample) -> Tensor:
        """Returns what the network should predict at `sample`, [B, num_fields C, *rest]."""
        ...

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """Translates a prediction of this target into another quantity.

        Args:
            prediction: [B, num_fields C, *rest] output of the network.
            x_t: [B, *D] the state it was made at.
            t: [B] times in [0, 1].
            to: "velocity", "data" (the estimate of x_1), "noise" (the estimate of z where the path adds noise of its
                own, of x_0 where it does not), "score" (the gradient of the log density; without noise of its own the
                source must be standard normal) or "v_prediction" (b x_0 - a x_1, where a^2 + b^2 = 1).

        Returns:
            [B, *D] the quantity asked for.

        Raises:
            ValueError: if the path has no coefficients, the prediction does not determine the quantity on it, or `to`
                is unknown.
        """
        ...
