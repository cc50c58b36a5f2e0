"""What networks with a head answer: features of tokens from the trunk, velocities from the head.

Shape suffixes: B batch, N tokens, D width of a token's features.
"""

from typing import Protocol

import torch
from torch import Tensor

from trainer.config.model.transition import MeanVelocityConfig
from trainer.flow.condition import Condition
from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.question import FromTokens, HeadVelocities, Question, Tokens


class WithHead(Protocol):
    """A trunk that computes features of tokens, and a head that is called with them; `mean` says how their velocity
    comes.
    """

    mean: MeanVelocityConfig

    def tokens(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The features [B, N, D] of states [B, *D] at times [B]."""
        ...

    def velocities(self, tokens_BND: Tensor, y: Tensor, s: Tensor, /) -> Tensor:
        """The head's velocities [.., B, *D] at its states [.., B, *D] and times [.., B, N]."""
        ...


def answer(network: WithHead, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None) -> Tensor:
    """Answers `Tokens`, `FromTokens` or `HeadVelocities`; without a question the velocity of the flow, float32 [B,
    *D].
    """
    if isinstance(question, FromTokens):
        return network.velocities(question.tokens, question.y, question.s)
    tokens_BND = network.tokens(x_t, t, condition)
    match question:
        case Tokens():
            return tokens_BND
        case HeadVelocities(y, s):
            return network.velocities(tokens_BND, y, s)
    return _mean_velocity(network, tokens_BND, x_t)


def _mean_velocity(network: WithHead, tokens_BND: Tensor, x_t: Tensor) -> Tensor:
    """The mean over draws of the head.

    Each draw starts at the same noise for every example, so that the velocity is a smooth function of state and time.
    """
    key = torch.zeros(1, dtype=torch.int64, device=x_t.device)
    noises = torch.stack([keyed_normal(x_t[:1], key, number) for number in range(network.mean.draws)])
    y = noises.float().expand(-1, *x_t.shape)
    for step in range(network.mean.steps):
        s = y.new_full((len(y), *tokens_BND.shape[:2]), step / network.mean.steps)
        y = y + network.velocities(tokens_BND, y, s) / network.mean.steps
    return y.mean(0)
