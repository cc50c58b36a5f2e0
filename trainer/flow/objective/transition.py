"""The flow-matching loss of a head that draws where a path goes on from a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.keyed_draws import keyed_normal, keyed_uniform
from trainer.flow.objective.protocol import LossTerms, Objective
from trainer.flow.path.protocol import PathSample
from trainer.flow.question import HeadVelocities
from trainer.flow.token_times import by_value


class TransitionConfig(Section):
    """The squared error of a head's velocity, of a network that has one."""

    kind: Literal["transition"] = "transition"
    draws: int = Field(default=4, ge=1)
    """States of the head for each state of the flow: the trunk is called once for all of them."""


class Transition(Objective):
    """Mean over draws and D of (g(Y_s, s, h) - (Y - Y_0))^2, where Y_s = (1 - s) Y_0 + s Y.

    Y is the difference of data and source, which is the velocity of the straight path, Y_0 is standard normal, s is
    uniform, another one for each token, and h are the features of the tokens at (x_t, t). What is drawn is a function
    of the keys of the pairs.

    Source: Shaul et al., "Transition Matching", arXiv 2506.23589, section 3 (difference transition matching).
    """

    draws = True

    def __init__(self, config: TransitionConfig | None = None, *, tokens: int = 1) -> None:
        self.config = config or TransitionConfig()
        self.tokens = tokens

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        """The losses [B, draws, *D] have no terms."""
        assert sample.keys is not None, "an objective that draws gets keys"
        y, num, keys = sample.velocity, self.config.draws, sample.keys
        y_0 = torch.stack([keyed_normal(y, keys, 2 * number) for number in range(num)])
        s = torch.stack([keyed_uniform(keys, self.tokens, 2 * number + 1) for number in range(num)])
        s_of_values = by_value(s, y.shape[1:]).to(y.dtype)
        y_s = (1 - s_of_values) * y_0 + s_of_values * y
        found: Tensor = model(sample.x_t, sample.t, condition, HeadVelocities(y_s, s))
        return LossTerms((found - (y - y_0)).square().movedim(0, 1), {})
