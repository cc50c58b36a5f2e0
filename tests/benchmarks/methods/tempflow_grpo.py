"""Rewards of full and branching rollouts beside their rivals: python -m tests.benchmarks.methods.tempflow_grpo

The base is the exact velocity from N(0, I) to eight Gaussians (radius 3, deviation 0.25). A perceptron of 3 x 128 that
begins at 0 is added to it and learned; the reward is minus the distance to (2.2, 2.2), beside one of the Gaussians.
There are 8 steps with a = 0.7, groups of 24 in 4 noises of 6, kl 0.004 and a clip of 0.2. Adam has a constant rate and
gradients of norm 1 at most. "reward" is that of 2,000 examples drawn by 8 steps without noise from noises that are the
same throughout, the mean of the last three measurements; a measurement is made each 4 updates. "path KL" is that of
full trajectories of the policy from those of the base, in nats.

1. Spread of rewards among 24 examples that branch off one trajectory of the base at a step, against the noise of the
   step; over 100 trajectories.
2. Each way to roll out, weigh and compare, and two updates for each rollout, where ratios leave 1, at equal reward
   calls: 336 an update, 59 updates. Each has the best of three learning rates on the seeds of `--pick-seeds`; other
   seeds are reported. "KL <=" is the best reward that was measured while the path KL was no more than what the way with
   the least path KL ends with.

Rivals draw from the base with 10 rewards for each example, which are 20,000 for 2,000 of them: the best of 10; and at
each of the first two steps, the best of 5 choices by the reward of what the base expects at the end. The path KL of the
best of n is no more than log n - (n - 1) / n.

Source: Liu et al., "Flow-GRPO", arXiv 2505.05470; He et al., "TempFlow-GRPO", arXiv 2508.04324.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.boss import ExactVelocity
from tests.benchmarks.methods.plain_loop import PlainNetwork, eight_gaussians, train
from trainer.config.file import resolve
from trainer.config.run import RunConfig
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.condition import keyed_normal, random_keys
from trainer.flow.objective import LossTerms
from trainer.model.network import Network
from trainer.sampling.trained import Reference
from trainer.task.policy.grpo import GRPOTask, Prompts, ValuedChoices
from trainer.task.policy.rollout import GroupKeys, full_sde
from trainer.training.task import TrainedNetworks

RATES = (3e-4, 1e-3, 3e-3)
UPDATES, EVERY, NUM, FOLLOWED = 59, 4, 2000, 500
GROUP, BRANCHES, STEPS = 24, 6, 8
CALLS = 10
"""Rewards that a rival asks for each example."""
FULL: dict[str, Any] = {"rollout": "full_sde", "branches": 1}
BRANCH: dict[str, Any] = {"rollout": "branch", "branches": BRANCHES}
TWICE = "full SDE, two updates a rollout"
ARMS: dict[str, dict[str, Any]] = {
    "full SDE": FULL,
    "full SDE, weighted": {**FULL, "weight": "noise_mean_one"},
    "branch, prompt groups": BRANCH,
    "branch, prompt groups, weighted": {**BRANCH, "weight": "noise_mean_one"},
    "branch, seed groups": {**BRANCH, "groups": "seed"},
    "branch, seed groups, weighted": {**BRANCH, "groups": "seed", "weight": "noise_mean_one"},
    TWICE: {**FULL, "updates": 2},
}


class Policy(nn.Module):
    """The exact velocity, and a perceptron that is added to it and begins at 0.

    Args:
        seed: of the perceptron's initial weights; None: there is none.
    """

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.exact = ExactVelocity()
        self.residual = None if seed is None else PlainNetwork(2, hidden=128, layers=3, seed=seed)
        if self.residual is not None:
            last = self.residual.layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predicts velocities [B, 2] at states [B, 2] and times [B]."""
        velocity = self.exact(x_t, t)
        return velocity if self.residual is None else velocity + self.residual(x_t, t, condition)


@dataclass(frozen=True)
class Base(Reference):
    """The exact velocity alone, in the place of another run."""

    network: nn.Module = field(default_factory=lambda: Policy(None))

    def model(self, device: torch.device) -> Network:  # noqa: ARG002
        """The network."""
        return cast(Network, self.network)


class Told(GRPOTask):
    """Keeps the terms of its losses.

    Args:
        **settings: of the task, in place of the defaults of this benchmark.
    """

    def __init__(self, **settings: Any) -> None:
        task = {
            "kind": "grpo",
            "reward": {"kind": "distance", "target": [2.2, 2.2]},
            "steps": STEPS,
            "group": GROUP,
            **settings,
        }
        document: dict[str, Any] = {
            "run": {"dir": "unused"},
            "model": {"kind": "mlp"},
            "data": {"kind": "toy", "name": "eight_gaussians"},
            "optim": {"steps": 1, "global_batch": 1},
            "task": task,
        }
        super().__init__(RunConfig.model_validate(resolve(document).document))
        self.reference = Base()
        self.told: list[Mapping[str, Tensor]] = []

    def loss(self, model: Any, drawn: Prompts | ValuedChoices) -> LossTerms:
        """See `Task.loss`."""
        computed = super().loss(model, drawn)
        self.told.append(computed.terms)
        return computed

    def mean(self, name: str) -> float:
        """A term, averaged over all losses."""
        return fmean(float(terms[name]) for terms in self.told)


@torch.no_grad()
def reward(task: GRPOTask, network: nn.Module) -> float:
    """The mean reward of examples that are drawn without noise on the way, from noises that are always the same."""
    keys = random_keys(NUM, torch.Generator().manual_seed(2_000))
    drawn = Prompts(None, UNCONDITIONAL, keys, None)
    return float(task.examine(network, drawn)["held_out_reward"].mean())


@torch.no_grad()
def path_kl(task: GRPOTask, network: nn.Module) -> float:
    """The divergence of full trajectories of a policy from those of the base, in nats."""
    keys = GroupKeys.of(random_keys(FOLLOWED, torch.Generator().manual_seed(3_000)), seeds=1, branches=1)
    own, base = (task.parts.field(one, UNCONDITIONAL, 1.0) for one in (network, Policy(None)))
    choices, _ = full_sde(task.steps, network, own, keys.noise((2,)), keys)
    total = 0.0
    for number, choice in enumerate(choices):
        (mean, std), (base_mean, _) = (task.steps.moments(one, choice.x, number) for one in (own, base))
        total += float(((mean - base_mean) / std).square().sum(1).mean() / 2)
    return total


@dataclass
class Curve:
    """How a policy went.

    Attributes:
        rewards: measured one after the other.
        divergences: path KL at the same times.
        figures: about the whole run.
    """

    rewards: list[float]
    divergences: list[float]
    figures: dict[str, float]

    @property
    def final(self) -> float:
        """The mean of the last three rewards."""
        return fmean(self.rewards[-3:])

    def within(self, divergence: float) -> float:
        """The best reward that was measured at no more than a path KL."""
        return max(one for one, kl in zip(self.rewards, self.divergences, strict=True) if kl <= divergence)


def learned(settings: Mapping[str, Any], lr: float, seed: int) -> Curve:
    """Trains one policy."""
    task, network = Told(**settings), Policy(seed)
    curve = Curve([reward(task, network)], [0.0], {})

    def watch(step: int, trained: nn.Module) -> None:
        if step % EVERY == 0 or step == UPDATES:
            curve.rewards.append(reward(task, trained))
            curve.divergences.append(path_kl(task, trained))

    batch = 336 // task.settings.rewards
    steps = UPDATES - UPDATES % task.cycle
    train(
        task,
        eight_gaussians(),
        network,
        steps=steps,
        batch=batch,
        lr=lr,
        final_lr=lr,
        seed=seed,
        clip_norm=1.0,
        watch=watch,
    )
    curve.figures |= {
        "reward": curve.final,
        "path KL": curve.divergences[-1],
        "reward calls": task.reward_calls,
        "network calls": task.network_calls,
        "clipped share": task.mean("clipped_share"),
    }
    return curve


def spreads() -> tuple[list[float], list[float]]:
    """The spread of rewards by the step that examples branch off at, and the noise of the step."""
    task = Told(**{**BRANCH, "branches": GROUP, "groups": "seed", "kl": 0.0})
    keys = random_keys(100, torch.Generator().manual_seed(1_000))
    drawn = Prompts(None, UNCONDITIONAL, keys, None)
    figures = task.collect([drawn], TrainedNetworks(cast(Network, Policy(None))))[0].figures
    found = [float(figures[f"reward_spread_{number}"]) for number in range(task.passes)]
    return found, task.steps.deviations.tolist()


@torch.no_grad()
def rivals(seed: int) -> dict[str, dict[str, float]]:
    """What the base draws with the help of rewards, and without."""
    task, base = Told(**FULL), Policy(None)
    own = task.parts.field(base, UNCONDITIONAL, 1.0)
    keys = random_keys(NUM, torch.Generator().manual_seed(4_000 + seed))

    def worth(x: Tensor) -> Tensor:
        return task.rewards(x, UNCONDITIONAL, None)

    many = GroupKeys.of(keys, seeds=CALLS, branches=1).noise((2,))
    best = worth(task.steps.follow(own, many, 0, STEPS)).view(NUM, CALLS).amax(1)
    x = GroupKeys.of(keys, seeds=1, branches=1).noise((2,))
    of_a_step = CALLS // 2
    for number in range(2):
        mean, std = task.steps.moments(own, x, number)
        choices = mean[:, None] + std * torch.stack(
            [keyed_normal(x, keys, 1 + number * of_a_step + one) for one in range(of_a_step)], dim=1
        )
        t = task.steps.times(x.device)[number + 1]
        flat = choices.flatten(0, 1)
        expected = flat + (1 - t) * own(flat, t.expand(len(flat)))
        x = choices[torch.arange(NUM), worth(expected).view(NUM, of_a_step).argmax(1)]
    guided = worth(task.steps.follow(own, x, 2, STEPS))
    spent = {"reward calls": NUM * CALLS}
    return {
        "base (floor)": {"reward": reward(task, base), "path KL": 0.0, "reward calls": 0},
        f"base, best of {CALLS}": {
            "reward": float(best.mean()),
            "path KL": math.log(CALLS) - (CALLS - 1) / CALLS,
            "network calls": NUM * CALLS * STEPS,
            **spent,
        },
        f"base, best of {of_a_step} choices at two steps": {
            "reward": float(guided.mean()),
            "network calls": NUM * (STEPS + CALLS),
            **spent,
        },
    }


def run(work: tuple[str, float, int]) -> Curve:
    """One policy, by arm, learning rate and seed."""
    torch.set_num_threads(1)
    arm, lr, seed = work
    curve = learned(ARMS[arm], lr, seed)
    told = (
        f"reward {curve.final:.2f}, path KL {curve.divergences[-1]:.1f}, clipped {curve.figures['clipped share']:.3f}"
    )
    print(f"{arm}, lr {lr:g}, seed {seed}: {told}", file=sys.stderr, flush=True)
    return curve


def main() -> int:
    """Measures, trains and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    options = by_seed.parse_apart(by_seed.picking_parser(__doc__))
    seeds: Sequence[int] = options.seeds
    torch.set_num_threads(1)
    spread, noise = spreads()
    steps = {f"step {number}": [value] for number, value in enumerate(spread)}
    show(
        "1. spread of rewards by the step that branches",
        {"spread": steps, "noise": {f"step {number}": [value] for number, value in enumerate(noise)}},
        [],
    )
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        work = [(arm, lr, seed) for arm in ARMS for lr in RATES for seed in options.pick_seeds]
        curves = dict(zip(work, pool.map(run, work), strict=True))
        tried = {
            arm: {lr: [curves[arm, lr, seed].final for seed in options.pick_seeds] for lr in RATES} for arm in ARMS
        }
        rates = {arm: max(RATES, key=lambda lr: fmean(finals[lr])) for arm, finals in tried.items()}
        best = {arm: list(pool.map(run, [(arm, rates[arm], seed) for seed in seeds])) for arm in ARMS}
    show(
        "2a. reward by learning rate, on the seeds that it is picked on",
        {arm: {f"lr {lr:g}": values for lr, values in finals.items()} for arm, finals in tried.items()},
        [],
    )
    least = min(fmean(curve.divergences[-1] for curve in own) for own in best.values())
    rows = {
        f"{arm}, lr {rates[arm]:g}": {
            **{name: [curve.figures[name] for curve in own] for name in own[0].figures},
            f"KL <= {least:.3g}": [curve.within(least) for curve in own],
        }
        for arm, own in best.items()
    }
    for seed in seeds:
        for name, figures in rivals(seed).items():
            for figure, value in figures.items():
                rows.setdefault(name, {}).setdefault(figure, []).append(value)
    full = best["full SDE"]
    return show(
        "2b. each at the learning rate picked for it, on other seeds, beside its rivals",
        rows,
        [
            Bar("correlation of spread and noise", float(np.corrcoef(spread, noise)[0, 1]), 0.95, at_least=True),
            Bar("full SDE, lowest reward of the seeds", min(curve.final for curve in full), -1.0, at_least=True),
            Bar("full SDE, reward calls", max(curve.figures["reward calls"] for curve in full), 20_000),
            Bar(
                "clipped share with two updates",
                min(curve.figures["clipped share"] for curve in best[TWICE]),
                1e-9,
                at_least=True,
            ),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
