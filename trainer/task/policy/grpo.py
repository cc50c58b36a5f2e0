"""Group relative policy optimisation of a flow.

Shape suffixes: B prompts, S noises that the examples of a prompt begin at, M examples that begin at the same noise,
N states at which a step is taken, D values of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe.host_copies import to_device
from trainer.config.run import RunConfig
from trainer.config.task import GRPOConfig
from trainer.data import Batch
from trainer.flow import Condition
from trainer.flow.condition import random_keys
from trainer.flow.context import Seen
from trainer.flow.objective import LossTerms
from trainer.model.network import Network
from trainer.task.policy.policy import PolicyTask
from trainer.task.policy.rollout import Choice, GroupKeys, NoisySteps, full_sde, replayed, to_the_branches
from trainer.training.task import Builders, Networks
from trainer.training.weighting import FEW

LEAST_DEVIATION = 1e-4
"""Added to the standard deviation of a group's rewards before the division by it."""


@dataclass(frozen=True)
class Compared:
    """Mean reward and mean deviation `spread` of groups, and advantages [B, S, M] in deviations of the group's rewards.

    `counts`, bool [B, S, M], says whether the group of an example has rewards that differ.
    """

    advantage: Tensor
    counts: Tensor
    reward: Tensor
    spread: Tensor

    @classmethod
    def of(cls, rewards: Tensor, *, among: Literal["prompt", "seed"], limit: float) -> Self:
        """Compares rewards [B, S, M] among those of a prompt, or of one noise (arXiv 2402.03300, section 4.1.2)."""
        group = (1, 2) if among == "prompt" else (2,)
        mean = rewards.mean(group, keepdim=True)
        deviation = (rewards - mean).square().mean(group, keepdim=True).sqrt()
        advantage = (rewards - mean) / (deviation + LEAST_DEVIATION)
        differs = rewards.amax(group, keepdim=True) > rewards.amin(group, keepdim=True)
        return cls(
            advantage=advantage.clamp(-limit, limit),
            counts=differs.expand_as(rewards),
            reward=rewards.mean(),
            spread=deviation.mean(),
        )


NOT_COUNTED = -1e4
"""Logarithm of the weight of a group that does not count; finite, so that a batch of such groups has weights too."""


class Prompts(NamedTuple):
    """Conditions for which groups are drawn, and keys int64 [B] of all draws; prompts have equal weights."""

    log_weight: None
    condition: Condition
    keys: Tensor
    seen: Seen | None


class ValuedChoices(NamedTuple):
    """Choices of step `number` from N states, advantages [N, M], and scalars `figures` of the rollouts for the metrics.

    `log_weight` [N] excludes groups of equal rewards; `base_mean` [N, *D] is that of the base's choices, None without.
    """

    log_weight: Tensor
    condition: Condition
    number: int
    choice: Choice
    advantage: Tensor
    base_mean: Tensor | None
    figures: Mapping[str, Tensor]


class GRPOTask(PolicyTask["Prompts | ValuedChoices"]):
    """Group relative policy optimisation of a flow: the clipped ratio objective over the steps of its trajectories.

    A step from state x at time t_k is a choice of the next state y from a normal distribution. Its loss is

        -w_k min(r A, clip(r, 1 - clip, 1 + clip) A) + kl |mean - mean_base|^2 / (2 std^2),

    where log r is the mean over the values of y of the log-density less that of the weights that made the choice, A the
    reward in deviations from the mean of the group, and the square a mean over values; averaged over choices, steps and
    the groups whose rewards are not all equal. The rollouts of a cycle are made once; a group is in one micro batch, so
    that ranks exchange only how many groups count. States are kept in float32 until their losses are computed: a
    rounded one would have another mean than that of its choice. Liu et al., arXiv 2505.05470, equations 4 to 12; He et
    al., arXiv 2508.04324, section 4.
    """

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config.task, GRPOConfig)
        super().__init__(config, config.task)
        self.settings = config.task
        self.passes, self.cycle = config.task.passes, config.task.cycle
        self.steps = NoisySteps(config.task)
        self.reward_calls = self.network_calls = 0

    def draw_one(self, batch: Batch, generator: torch.Generator) -> Prompts:
        """Makes prompts of the examples' labels, captions and contexts, none of which is dropped."""
        condition, seen = self.prompts_of(batch, generator)
        return Prompts(None, condition, to_device(random_keys(len(batch.x_1), generator), batch.x_1.device), seen)

    def collect(
        self, drawn: Sequence[Prompts | ValuedChoices], networks: Networks, ranks: dist.ProcessGroup | None = None
    ) -> list[ValuedChoices]:
        with networks.current() as model:
            collected = [self._rolled_out(prompts, model) for prompts in drawn if isinstance(prompts, Prompts)]
        self._count(sum(len(prompts.keys) for prompts in drawn if isinstance(prompts, Prompts)), ranks)
        return [chosen for of_prompts in collected for chosen in of_prompts]

    def loss(self, model: Callable[..., Any], drawn: Prompts | ValuedChoices) -> LossTerms:
        """Losses [N, M]; the terms are the rollouts' figures and the change of the policy since then."""
        assert isinstance(drawn, ValuedChoices)
        x, y, before = drawn.choice.x, drawn.choice.y, drawn.choice.log_density
        assert isinstance(model, nn.Module)
        replayed(model, drawn.choice.routes)
        mean, std = self.steps.moments(self.field(model, drawn.condition), x, drawn.number)
        ratio = (self.steps.log_density(y, mean, std) - before).exp()
        clip, advantage = self.settings.clip, drawn.advantage
        gain, limited = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
        values = -self.steps.weights[drawn.number] * torch.minimum(gain, limited)
        moved = ratio.detach() - 1
        terms = {
            **drawn.figures,
            "clipped_share": (limited < gain).double().mean(),
            "ratio_deviation": moved.abs().max(),
            "reward_calls": moved.new_full((), self.reward_calls, dtype=torch.float64),
            "network_calls": moved.new_full((), self.network_calls, dtype=torch.float64),
        }
        if drawn.base_mean is not None:
            divergence = ((mean - drawn.base_mean) / std).square().flatten(1).mean(1) / 2
            values = values + self.settings.kl * divergence[:, None]
            terms["kl"] = divergence.detach().mean()
            terms["path_kl"] = terms["kl"] * (x[0].numel() * self.passes)
        return LossTerms(values, terms)

    def examine(self, model: Callable[..., Any], drawn: Prompts | ValuedChoices) -> Mapping[str, Tensor]:
        """The reward of one example of each prompt, drawn by steps without noise."""
        assert isinstance(drawn, Prompts)
        noise = GroupKeys.of(drawn.keys, seeds=1, branches=1).noise(self.config.state_shape)
        ends = self.steps.follow(self.field(model, drawn.condition), noise, 0, self.settings.steps)
        return {"held_out_reward": self.rewards(ends, drawn.condition, drawn.seen)}

    def cautions(self, figures: Mapping[str, float]) -> Mapping[str, str]:
        share = figures.get("effective_share", 1.0)
        if share >= FEW:
            return {}
        return {
            "effective_share": f"only {share:.1%} of the groups have rewards that differ (effective_share); a larger "
            "task.group, more noise or another reward tells examples apart"
        }

    def state(self) -> dict[str, Any]:
        return super().state() | {"reward_calls": self.reward_calls, "network_calls": self.network_calls}

    def load(self, state: dict[str, Any] | None) -> None:
        state = state or {"reward_calls": 0, "network_calls": 0}
        self.reward_calls, self.network_calls = state["reward_calls"], state["network_calls"]

    def _rolled_out(self, prompts: Prompts, model: Network) -> list[ValuedChoices]:
        """Rolls out the groups of some prompts: the choices of each step, with their advantages."""
        of_states, _ = _each(prompts, self.settings.states)
        rollout = self._trajectories if self.settings.rollout == "full_sde" else self._branches
        choices, compared = rollout(prompts, of_states, model)
        base_means = self._base_means(choices, of_states, model)
        figures = self._figures(compared)
        return [
            ValuedChoices(
                log_weight=torch.where(worth.counts.reshape(len(choice.x), -1)[:, 0], 0.0, NOT_COUNTED),
                condition=of_states,
                number=number,
                choice=choice,
                advantage=worth.advantage.reshape(choice.log_density.shape),
                base_mean=base_mean,
                figures=figures,
            )
            for number, (choice, worth, base_mean) in enumerate(zip(choices, compared, base_means, strict=True))
        ]

    def _trajectories(
        self, prompts: Prompts, of_states: Condition, model: Network
    ) -> tuple[list[Choice], list[Compared]]:
        """Trajectories with noise in every step; the reward of an end is that of all its steps."""
        keys, noise = self._begun(prompts)
        choices, ends = full_sde(self.steps, model, self.field(model, of_states), noise, keys)
        return choices, [self._compared(ends, _each(prompts, self.settings.group))] * self.passes

    def _branches(self, prompts: Prompts, of_states: Condition, model: Network) -> tuple[list[Choice], list[Compared]]:
        """Trajectories without noise, with choices that branch off; each step's choices have their own ends."""
        keys, noise = self._begun(prompts)
        choices = to_the_branches(self.steps, model, self.field(model, of_states), noise, keys)
        of_group = _each(prompts, self.settings.group)
        field, compared = self.field(model, of_group[0]), []
        for number, choice in enumerate(choices):
            ends = self.steps.follow(field, choice.y.flatten(0, 1), number + 1, self.settings.steps)
            compared.append(self._compared(ends, of_group))
        return choices, compared

    def _begun(self, prompts: Prompts) -> tuple[GroupKeys, Tensor]:
        """Keys of the draws of the groups, and the noises that they begin at."""
        keys = GroupKeys.of(prompts.keys, seeds=self.settings.seeds, branches=self.settings.branches)
        return keys, keys.noise(self.config.state_shape)

    def _compared(self, ends: Tensor, of_group: tuple[Condition, Seen | None]) -> Compared:
        """The rewards of final states [B S M, *D], compared within their groups."""
        rewards = self.rewards(ends, *of_group).view(-1, self.settings.seeds, self.settings.branches)
        return Compared.of(rewards, among=self.settings.groups, limit=self.settings.advantage_limit)

    def _figures(self, compared: Sequence[Compared]) -> dict[str, Tensor]:
        """Scalars of the rollouts, for the metrics."""
        figures = {
            "reward": torch.stack([one.reward for one in compared]).mean(),
            "reward_spread": torch.stack([one.spread for one in compared]).mean(),
        }
        if self.settings.rollout == "branch":
            figures |= {f"reward_spread_{number}": one.spread for number, one in enumerate(compared)}
        return figures

    def _base_means(self, choices: Sequence[Choice], condition: Condition, model: Network) -> list[Tensor | None]:
        """Means [N, *D] of the base's steps from the same states; None each without `kl`."""
        if not self.settings.kl:
            return [None] * len(choices)
        with self.base_of(model) as base:
            assert base is not None
            field = self.field(base, condition)
            return [self.steps.moments(field, choice.x, number)[0] for number, choice in enumerate(choices)]

    def _count(self, num: int, ranks: dist.ProcessGroup | None) -> None:
        """Counts reward and network calls for `num` prompts on each rank."""
        num *= 1 if ranks is None else ranks.size()
        self.reward_calls += num * self.settings.rewards
        self.network_calls += num * self.settings.network_calls


def _each(prompts: Prompts, times: int) -> tuple[Condition, Seen | None]:
    """Condition and visible part of each prompt, each repeated `times` times in a row."""
    index = torch.arange(len(prompts.keys), device=prompts.keys.device).repeat_interleave(times)
    return prompts.condition.rows(index), None if prompts.seen is None else prompts.seen.rows(index)


TASKS: Builders = {GRPOConfig: GRPOTask}
