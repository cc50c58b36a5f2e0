"""Ways through an environment that a policy takes.

Shape suffixes: B objects, T actions of the longest way, S integers of a state, F features, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from moe.host_copies import to_device
from moe.seeds import fold_in, uniform
from trainer.task.environment.protocol import Environment

_CHOICE, _EXPLORATION = range(2)


class Walks(NamedTuple):
    """Walks from the start to objects, T as long as the longest possible: states int64 [B, T, S], actions int64 [B, T].

    `taken`, bool [B, T], is true up to the stop; from then on states are the object and actions the stop.
    """

    states: Tensor
    actions: Tensor
    taken: Tensor

    @property
    def objects(self) -> Tensor:
        """The states that the stop ended in, int64 [B, S]."""
        return self.states[:, -1]


def rollout(
    environment: Environment, policy: Callable[[Tensor], Tensor], keys: Tensor, *, exploration: float = 0.0
) -> Walks:
    """Walks from the start until each walk has stopped; the host waits for nothing.

    The policy, from features [B, F] to logits [B, A], is called `max_actions` - 1 times however short the walks are, so
    that all ranks call alike; the last action of the longest walk can only be the stop. Each walk is a function of its
    key, int64, and of its logits. `exploration` is the share of actions drawn evenly among the possible ones.
    """
    num, longest, stop = len(keys), environment.max_actions, environment.num_actions - 1
    drawn = fold_in(keys[:, None], torch.arange(longest, device=keys.device))
    choices = fold_in(fold_in(drawn, _CHOICE)[..., None], torch.arange(stop + 1, device=keys.device))
    gumbel_BTA = -(-(uniform(choices) + 2.0**-54).log()).log()
    explores_BT = uniform(fold_in(drawn, _EXPLORATION)) < exploration
    begun = to_device(environment.start(num), keys.device)
    first = environment.allowed(begun)[:, :-1].int().argmax(1)
    states, running = begun, torch.ones_like(keys, dtype=torch.bool)
    visited, actions, taken = [], [], []
    for time in range(longest):
        visited.append(states)
        taken.append(running)
        chosen = torch.full_like(keys, stop)
        if time < longest - 1:
            logits = policy(environment.features(states)).double()
            logits = logits.masked_fill(explores_BT[:, time, None], 0.0)
            scores = (logits + gumbel_BTA[:, time]).masked_fill(~environment.allowed(states), -torch.inf)
            chosen = torch.where(running, scores.argmax(1), stop)
        actions.append(chosen)
        running = running & (chosen != stop)
        goes = running[:, None]
        stepped = environment.step(torch.where(goes, states, begun), torch.where(running, chosen, first))
        states = torch.where(goes, stepped, states)
    return Walks(torch.stack(visited, 1), torch.stack(actions, 1), torch.stack(taken, 1))
