"""A reward that is held to its protocol."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.reward.protocol import Reward


class CheckedReward(Reward):
    """Calls a reward, and ends the run with its name where what it returns is no reward of each example.

    Types and shapes are known to the host. Values are looked at in every call: on a CPU at once; on a device the
    number of bad ones is copied while the device works on, and the first later call, or `settle`, that finds the copy
    complete raises.

    Attributes:
        name: of the reward, for messages.
        differentiable: whether it says to have a gradient in the examples.
    """

    def __init__(self, reward: Reward, name: str, *, differentiable: bool) -> None:
        self.name, self.differentiable = name, differentiable
        self._reward = reward
        self._pending: list[tuple[Tensor, int, Any]] = []

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        """Raises a ValueError for rewards that are no floats [B], not finite, or lack the gradient they say to have.

        What is not finite on a device may be refused by a later call.
        """
        self._raise_known()
        rewards = self._reward(examples, condition)
        if not isinstance(rewards, Tensor):
            raise ValueError(f"{self._told} returns {type(rewards).__name__}; return a tensor [{len(examples)}]")
        if rewards.shape != (len(examples),) or not rewards.is_floating_point():
            told = f"{str(rewards.dtype).removeprefix('torch.')} {list(rewards.shape)}"
            raise ValueError(
                f"{self._told} returns {told} for {len(examples)} examples; return floats [{len(examples)}]"
            )
        asked = self.differentiable and torch.is_grad_enabled() and examples.requires_grad
        if asked and not rewards.requires_grad:
            raise ValueError(
                f"{self._told} has no gradient in the examples; compute it from them by operations of torch, or say "
                "differentiable = False in the class"
            )
        self._look_at(rewards.detach())
        return rewards

    def settle(self) -> None:
        """Waits for the values of every call so far; a ValueError if one was not finite."""
        for _, _, copied in self._pending:
            copied.synchronize()
        self._raise_known()

    @property
    def _told(self) -> str:
        return f"reward {self.name}"

    def _look_at(self, rewards: Tensor) -> None:
        bad = (~rewards.isfinite()).sum()
        if rewards.device.type == "cpu":
            self._judge(int(bad), len(rewards))
            return
        on_host = bad.to("cpu", non_blocking=True)
        copied = torch.get_device_module(rewards.device).Event()
        copied.record()
        self._pending.append((on_host, len(rewards), copied))

    def _raise_known(self) -> None:
        """Judges the calls whose copies are complete, in their order; never waits."""
        while self._pending and self._pending[0][2].query():
            bad, num, _ = self._pending.pop(0)
            self._judge(int(bad), num)

    def _judge(self, bad: int, num: int) -> None:
        if bad:
            raise ValueError(
                f"{self._told} is not finite for {bad} of {num} examples; return a finite number for every example"
            )
