"""The control of flows over letters by a reward of sequences, whose gradient is taken at drawn one-hot letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor

from moe.seeds import fold_in
from netsim.foundation.settings import Section
from trainer.flow.condition import Condition, keyed_normal
from trainer.flow.control.protocol import Control, ControlInputs, Controlled
from trainer.flow.letters import centred, one_hot_of
from trainer.flow.path.gumbel_softmax import gumbel
from trainer.flow.reward import OwnReward, Reward
from trainer.flow.sampler.protocol import Field
from trainer.flow.target.conversion import convert

INSTANTS = 2.0**24
"""Times are multiplied by this number and rounded in the keys of draws."""


class StraightThroughConfig(Section):
    """Adds the gradient of a reward in the logits to them, so that rewarded letters become likelier, as in STGFlow."""

    kind: Literal["straight_through"] = "straight_through"
    reward: OwnReward
    """A class of yours that values one-hot sequences [B, V, 1, L], with a gradient in them."""
    strength: float = Setting(default=1.0, ge=0, allow_inf_nan=False)
    """Factor of the gradient; 0 leaves the field as it is. The gradient passes through probabilities and is small where
    a letter is nearly certain, so that strength is no inverse temperature of the reward."""
    draws: PositiveInt = 10
    """Sequences that are drawn for each state, at which the gradient of the reward is averaged."""
    needs_picture: ClassVar[bool] = False

    def build(self, inputs: ControlInputs) -> StraightThrough:
        return StraightThrough(self, inputs)


class StraightThrough(Control):
    """p' = softmax(log p + strength mean_m grad f(hard + (soft - detach(soft)))), in place of predicted letters p.

    soft = softmax(log p + g_m) and hard is its largest letter, with Gumbel draws g_m that depend on the examples' keys
    and on the time. The gradient is with respect to log p, which keeps the sum of the probabilities.

    Source: Tang et al., "Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
    Sequence Generation", arXiv 2503.17361 (STGFlow).
    """

    def __init__(self, config: StraightThroughConfig, inputs: ControlInputs) -> None:
        if inputs.rewards is None or inputs.keys is None:
            raise ValueError("reward: it values sequences, and none are drawn here; use samples of a run of sequences")
        self._config, self._inputs = config, inputs
        self._reward, self._keys = config.reward.build(inputs.rewards), inputs.keys

    def over(self, field: Field) -> Field:
        if self._config.strength == 0:
            return field
        keys, condition = self._keys, self._inputs.condition
        return TowardsReward(field, self._inputs.path, self._config, self._reward, condition, keys)


@dataclass(frozen=True)
class TowardsReward(Controlled):
    """A field whose predicted letters `StraightThrough` changes."""

    config: StraightThroughConfig
    reward: Reward
    condition: Condition
    keys: Tensor

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        (data,) = self.field.estimate(x, t, "data")
        letters = (data + 1 / data.shape[1]).clamp_min(torch.finfo(data.dtype).tiny).log()
        guided = (letters + self.config.strength * self.gradient(letters, t)).softmax(1)
        return convert(centred(guided), x, t, self.path, source="data", to="velocity")

    def gradient(self, letters: Tensor, t: Tensor) -> Tensor:
        """Gradient of the reward, mean over draws, with respect to the log-probabilities `letters` [B, V, *rest]."""
        draws, keys = self.config.draws, fold_in(self.keys.to(t.device), (INSTANTS * t).long())
        noise = torch.cat([gumbel(keyed_normal(letters, keys, number)) for number in range(draws)])
        rows = torch.arange(len(letters), device=letters.device).repeat(draws)
        with torch.enable_grad():
            given = letters.detach().requires_grad_()
            logits = given[rows] + noise
            soft, hard = logits.softmax(1), one_hot_of(logits.detach())
            values = self.reward(hard + (soft - soft.detach()), self.condition.rows(rows))
            (gradient,) = torch.autograd.grad(values.sum() / draws, given)
        return gradient
