"""The error of the velocities with which a head draws the tokens of the next state of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.chain import Chain
from trainer.flow.condition import Condition
from trainer.flow.keyed_draws import keyed_normal, keyed_uniform
from trainer.flow.objective.protocol import LossTerms, Objective
from trainer.flow.path.protocol import PathSample
from trainer.flow.question import NextStates

TRANSITION, NOISES, STARTS, TIMES = range(4)
"""Numbers of the draws of an example: its transition, the noise of its states, where the head starts, and its times."""


class CausalTransitionConfig(Section):
    """The squared error of the head's velocities, from its noise to the tokens of the next state."""

    kind: Literal["causal_transition"] = "causal_transition"
    process: Literal["linear", "independent"] = "independent"
    """independent: each state of a chain has noise of its own; linear: all share one noise and lie on a line."""
    draws: PositiveInt = 4
    """Noises and times of the head for each token, from one call of the network."""


class CausalTransition(Objective):
    """Mean over draws, next states and values of (g(y_s, s, h) - (X_(t+1) - y_0))^2, y_s = (1 - s) y_0 + s X_(t+1).

    X_t = (1 - t / T) noise_t + t / T x_1 for t = 0, ..., T; h are the network's features of a token, and every token
    has a time s of its own. A network that reads the last state learns one transition of each example, and one that
    reads all of them every transition.

    Source: Shaul et al., "Transition Matching", arXiv 2506.23589, sections 3.2 and 3.3 (ARTM, FHTM).
    """

    draws = True

    def __init__(self, chain: Chain, config: CausalTransitionConfig) -> None:
        self.chain, self.config = chain, config

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        """Of a point of the path, its ends and its key alone count."""
        assert sample.keys is not None
        states, t = self.states(sample.x_0, sample.x_1, sample.keys)
        following = states[1:]
        num, several = len(sample.x_1), (self.config.draws, *following.shape[:2])
        y_0 = keyed_normal(sample.x_1.new_empty(num, *several[:2], *self.chain.shape), sample.keys, STARTS)
        y_0 = y_0.movedim(0, 2)
        count = several[0] * several[1] * self.chain.num_tokens
        s = keyed_uniform(sample.keys, count, TIMES).view(num, *several[:2], -1).movedim(0, 2)
        velocity = following - y_0
        share = self.chain.states(s[..., None].expand(*s.shape, self.chain.token_values))
        predicted = model(states[0], t, condition, NextStates(following, y_0 + share * velocity, s))
        return LossTerms((predicted - velocity).square().movedim(2, 0), {})

    def states(self, x_0: Tensor, x_1: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """States [K + 1, B, *D] of each example's chain that one pass is about, and the time [B] of the first.

        `x_0` is the noise of the first of them; the keys int64 [B] decide all else that is drawn.
        """
        total, following = self.chain.transitions, self.chain.read_at_once
        first = torch.zeros_like(keys)
        if self.chain.history == "last":
            first = (keyed_uniform(keys, 1, TRANSITION)[:, 0] * total).long()
        noises = x_0.expand(following, *x_0.shape)
        if self.config.process == "independent":
            noises = keyed_normal(x_1.new_empty(len(x_1), following, *x_1.shape[1:]), keys, NOISES).movedim(1, 0)
        noises = torch.cat([x_0[None], noises])
        numbers = first + torch.arange(following + 1, device=keys.device)[:, None]
        share = (numbers.to(x_1) / total).view(*numbers.shape, *[1] * (x_1.ndim - 1))
        return (1 - share) * noises + share * x_1, first.to(x_1) / total
