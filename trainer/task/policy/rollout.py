"""Trajectories of a flow whose steps are choices, and the experts that the network chose on them.

A network without experts imports nothing for these: Megatron takes seconds.

Shape suffixes: B prompts, S noises that the examples of a prompt begin at, M examples that begin at the same noise,
N states at which a step is taken, D values of a state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from trainer.config.task import GRPOConfig
from trainer.flow.condition import keyed_normal
from trainer.flow.sampler import EulerMaruyama, Field, mean_log_density
from trainer.flow.sampler.sde import inside
from trainer.flow.target import Quantity
from trainer.model.parallel.state import HoldsExperts

if TYPE_CHECKING:
    from moe.router.replay import Routes


@contextmanager
def recorded(network: nn.Module) -> Iterator[Routes | None]:
    """Records the experts that a network in evaluation mode chooses while entered; yields None for a dense network."""
    if not any(isinstance(module, HoldsExperts) for module in network.modules()):
        yield None
        return
    from moe.router.replay import record

    with record(network) as routes:
        yield routes


def replayed(network: nn.Module, routes: Routes | None) -> None:
    """Makes the training passes of a network, possibly wrapped by its engine, choose the recorded experts."""
    if routes is not None:
        from moe.router.replay import replay

        replay(network, routes)


PUBLISHED = 2.25
"""Factor of the published weights sigma sqrt(h)."""


@dataclass(frozen=True)
class Choice:
    """Choices y [N, M, *D] from states x [N, *D] at one step, and their log-densities [N, M] by the choosing weights.

    `routes` are the experts that the network chose for that; None if absent.
    """

    x: Tensor
    y: Tensor
    log_density: Tensor
    routes: Routes | None


@dataclass(frozen=True)
class Evaluated(Field):
    """A field with fixed values: velocity and score [N, *D] at the states and the time where a step begins.

    `routes` are the experts that the network chose for them; None if absent.
    """

    velocity: Tensor
    score: Tensor
    routes: Routes | None

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:  # noqa: ARG002
        return self.velocity

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:  # noqa: ARG002
        known: dict[Quantity, Tensor] = {"velocity": self.velocity, "score": self.score}
        return tuple(known[quantity] for quantity in quantities)


class NoisySteps:
    """The steps of a flow from noise to data, all but the last normally distributed (Flow-GRPO, section 4.2)."""

    def __init__(self, config: GRPOConfig) -> None:
        self.passes = config.passes
        self._step = EulerMaruyama(diffusion=config.noise)
        self._weight = config.weight
        self._times = {torch.device("cpu"): torch.linspace(0.0, 1.0, config.steps + 1)}

    def times(self, device: torch.device) -> Tensor:
        """The times [steps + 1] at which steps begin and end, copied once to a device."""
        if device not in self._times:
            self._times[device] = self._times[torch.device("cpu")].to(device)
        return self._times[device]

    def moments(self, field: Field, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Mean [N, *D] and standard deviation, a scalar, of the states that step `number`, from 0, leads to."""
        times = self.times(x.device)
        return self._step.moments(field, x, times[number], times[number + 1])

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Mean over the values of a state of the logarithms of the densities of choices [N, M, *D]: [N, M]."""
        means = mean[:, None].expand_as(y)
        return mean_log_density(y.flatten(0, 1), means.flatten(0, 1), std).view(y.shape[:2])

    def evaluated(self, network: nn.Module, field: Field, x: Tensor, number: int) -> Evaluated:
        """Evaluates the field where step `number` begins by one call of a network in evaluation mode."""
        t = inside(self.times(x.device)[number]).expand(len(x))
        with recorded(network) as routes:
            velocity, score = field.estimate(x, t, "velocity", "score")
        return Evaluated(velocity, score, routes)

    def choose(self, begun: Evaluated, x: Tensor, number: int, keys: Tensor) -> Choice:
        """Draws choices of a step; each draw is a function of its key, int64 [N, M]."""
        mean, std = self.moments(begun, x, number)
        y = mean[:, None].expand(*keys.shape, *x.shape[1:])
        y = y + std * keyed_normal(y.flatten(0, 1), keys.flatten(), number).view_as(y)
        return Choice(x, y, self.log_density(y, mean, std), begun.routes)

    def follow(self, field: Field, x: Tensor, first: int, last: int) -> Tensor:
        """The states [N, *D] after steps `first` to `last` - 1, taken without noise."""
        times = self.times(x.device)
        for number in range(first, last):
            x = self._step.step(field, x, times[number], times[number + 1])
        return x

    @cached_property
    def deviations(self) -> Tensor:
        """Standard deviations sigma sqrt(h) of the steps with noise, [passes] on the CPU."""
        t, t_next = self.times(torch.device("cpu"))[:-1].unfold(0, 2, 1).unbind(1)
        return (2 * self._step.e(t, t_next) * (t_next - t)).sqrt()

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """Loss weights of the steps with noise, by `GRPOConfig.weight`."""
        if self._weight == "none":
            return (1.0,) * self.passes
        scale = PUBLISHED if self._weight == "noise_scaled" else 1 / self.deviations.mean()
        return tuple((scale * self.deviations).tolist())


@dataclass(frozen=True)
class GroupKeys:
    """Keys int64 of the noises [B S] and of the choices [B S, M] of the groups of B prompts.

    A draw is a function of the key of its prompt, its place in the group and the number of the step alone.
    """

    begin: Tensor
    choose: Tensor

    @classmethod
    def of(cls, prompts: Tensor, *, seeds: int, branches: int) -> GroupKeys:
        """The keys of groups, from the keys int64 [B] of their prompts."""
        device = prompts.device
        begin = fold_in(prompts[:, None], torch.arange(seeds, device=device)).flatten()
        return cls(begin, fold_in(begin[:, None], torch.arange(1, branches + 1, device=device)))

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """The noises float32 [B S, *D] at which examples begin."""
        like = torch.empty(len(self.begin), *shape, device=self.begin.device)
        return keyed_normal(like, self.begin, 0)


def full_sde(
    steps: NoisySteps, network: nn.Module, field: Field, noise: Tensor, keys: GroupKeys
) -> tuple[list[Choice], Tensor]:
    """Trajectories from noise [B S, *D] of which every step but the last has noise.

    Returns one choice from each of B S M states at each step, and the ends [B S M, *D].
    """
    own = keys.choose.flatten()[:, None]
    x = noise[:, None].expand(*keys.choose.shape, *noise.shape[1:]).flatten(0, 1)
    choices = []
    for number in range(steps.passes):
        choices.append(steps.choose(steps.evaluated(network, field, x, number), x, number, own))
        x = choices[-1].y[:, 0]
    return choices, steps.follow(field, x, steps.passes, steps.passes + 1)


def to_the_branches(
    steps: NoisySteps, network: nn.Module, field: Field, noise: Tensor, keys: GroupKeys
) -> list[Choice]:
    """Trajectories without noise from [B S, *D], and M choices that branch off each of them at each step.

    Step and choices share one call of the network. He et al., "TempFlow-GRPO", arXiv 2508.04324, section 4.1.
    """
    x, choices = noise, []
    for number in range(steps.passes):
        begun = steps.evaluated(network, field, x, number)
        choices.append(steps.choose(begun, x, number, keys.choose))
        x = steps.follow(begun, x, number, number + 1)
    return choices
