"""What a sampler follows that draws the states of a chain token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.flow.chain import Chain
from trainer.flow.condition import Condition
from trainer.flow.field.guidance import Predict, guided
from trainer.flow.past import Past
from trainer.flow.question import NextToken, OfToken
from trainer.flow.sampler import TokenField


@dataclass(frozen=True)
class CausalField(TokenField):
    """A causal network with condition and guidance bound; the guidance acts on the velocity of the head.

    Attributes:
        network: from tokens, times, conditions and a question to what :mod:`trainer.flow.question` says.
        condition: of the examples.
        nothing: what stands for no condition, for the same examples.
        guidance: scale of classifier-free guidance, 0 or more; 0 and 1 need one of the two conditions only.
        chain: the states that the network draws.
    """

    network: Callable[..., Tensor]
    condition: Condition
    nothing: Condition
    guidance: float
    chain: Chain

    def next_features(self, tokens: Tensor, t: Tensor, past: Past) -> Tensor:
        """See `TokenField.next_features`."""
        if self.guidance in (0.0, 1.0):
            return self.network(tokens, t, self.condition if self.guidance else self.nothing, NextToken(past))
        twice, both = torch.cat([tokens, tokens]), self.condition.beside(self.nothing)
        return self.network(twice, torch.cat([t, t]), both, NextToken(past))

    def of_token(self, features: Tensor) -> Predict:
        """See `TokenField.of_token`."""

        def velocity(y: Tensor, s: Tensor, condition: Condition) -> Tensor:
            return self.network(y, s, condition, OfToken(features))

        return guided(velocity, self.condition, self.nothing, self.guidance)
