"""The field of a network whose head draws where a path goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.field.guidance import guided
from trainer.flow.field.network import NetworkField
from trainer.flow.question import FromTokens, Tokens
from trainer.flow.target import Target


@dataclass(frozen=True)
class TransitionField(NetworkField):
    """The mean of what a head draws, which is the velocity of the flow, and the parts that draw.

    Attributes:
        network: answers `Tokens` and `FromTokens`.
        condition: of the examples.
        nothing: what stands for no condition, for the same examples.
        guidance: scale of classifier-free guidance.
    """

    network: Callable[..., Tensor]
    condition: Condition
    nothing: Condition
    guidance: float

    @classmethod
    def bound(
        cls, network: Callable[..., Tensor], target: Target, condition: Condition, nothing: Condition, guidance: float
    ) -> TransitionField:
        """Binds conditions and guidance to a network; see :class:`TransitionField`."""
        predict = guided(network, condition, nothing, guidance)
        return cls(predict, target, network, condition, nothing, guidance)

    def tokens(self, x: Tensor, t: Tensor) -> Tensor:
        """See `trainer.flow.sampler.transition.DrawingField.tokens`; with guidance those without a condition follow."""
        if self.guidance in (0.0, 1.0):
            return self.network(x, t, self.condition if self.guidance else self.nothing, Tokens())
        both = self.condition.beside(self.nothing)
        return self.network(torch.cat([x, x]), torch.cat([t, t]), both, Tokens())

    def head_velocity(self, y: Tensor, s: Tensor, tokens: Tensor) -> Tensor:
        """See `trainer.flow.sampler.transition.DrawingField.head_velocity`; guidance acts on it."""

        def velocity(y: Tensor, s: Tensor, condition: Condition) -> Tensor:
            return self.network(y, s[:, 0], condition, FromTokens(tokens, y, s))

        return guided(velocity, UNCONDITIONAL, UNCONDITIONAL, self.guidance)(y, s)
