"""The quantity that a network predicts."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from trainer.flow.path.protocol import End, Path, PathSample

Quantity = Literal["velocity", "data", "noise", "score", "v_prediction"]


class Target(Protocol):
    """A quantity that a network can be trained on, and its conversion into the others.

    Attributes:
        quantities: the quantities of a prediction, in order.
        num_fields: number of quantities, 1 unless a network predicts several. They stand one behind the other in
            dimension 1: for states [B, C, *rest] a prediction is [B, num_fields C, *rest].
        end: the end of the path that a prediction estimates and nothing else; None: it depends on both ends. Where the
            state is that end alone, the prediction is the state, and its velocity is open.
    """

    quantities: tuple[Quantity, ...]
    num_fields: int = 1
    end: End | None = None

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:  # noqa: ARG003
        """Whether a prediction on `path` determines a quantity at every time in (0, 1): whether `convert` gives it."""
        return quantity in cls.quantities

    def make(self, sample: PathSample) -> Tensor:
        """Returns the value that the network is trained to predict at `sample`, [B, num_fields C, *rest]."""
        ...

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """Converts a prediction of this target into another quantity.

        Args:
            prediction: [B, num_fields C, *rest] output of the network.
            x_t: [B, *D] the state of the prediction.
            t: [B] times in [0, 1].
            to: "velocity", "data" (the estimate of x_1), "noise" (the estimate of z where the path adds noise of its
                own, of x_0 where it does not), "score" (the gradient of the log density; where the path adds no noise
                of its own, the source must be standard normal and independent of the data) or "v_prediction"
                (b x_0 - a x_1, where a^2 + b^2 = 1).

        Returns:
            [B, *D] the quantity.

        Raises:
            ValueError: if the path has no coefficients, the prediction does not determine the quantity on it, or `to`
                is unknown.
        """
        ...
