"""Fine-tuning of a flow by adjoint matching.

Shape suffixes: K steps, B batch, N nodes; the values of a state follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

from moe.host_copies import to_device
from trainer.config.run import RunConfig
from trainer.config.task import AdjointMatchingConfig
from trainer.data import Batch
from trainer.flow.condition import Condition, keyed_normal, random_keys
from trainer.flow.context import Seen
from trainer.flow.cost import RunningCost, differentiable_values
from trainer.flow.objective import LossTerms
from trainer.flow.sampler import Memoryless, MemorylessDiffusion
from trainer.flow.sampler.protocol import Field
from trainer.flow.sampler.sde import inside
from trainer.model.network import Network
from trainer.task.policy.policy import PolicyTask
from trainer.training.task import Builders, Networks


class LeanAdjoint(NamedTuple):
    """Velocities and adjoints [K - 1, B, *D] of the frozen flow at the inner times of paths, and running costs [B].

    An adjoint is the gradient of the remaining cost if the path continued along the frozen flow.
    """

    velocity: Tensor
    adjoint: Tensor
    cost: Tensor


def lean_adjoint(
    base: Field,
    step: Memoryless,
    x: Tensor,
    times: Tensor,
    terminal: Tensor,
    condition: Condition,
    cost: RunningCost | None = None,
    *,
    weight: float = 1.0,
) -> LeanAdjoint:
    """Solves the lean adjoint equation backwards along paths x [K + 1, B, *D] at times [K + 1] from 0 to 1.

    da/dt = -(J^T a + weight grad f) from a = `terminal`, the gradient of the final cost (minus that of a reward), with
    the Jacobian J of the base's memoryless drift b = 2 v - kappa x. Euler's step from t_{i+1} to t_i takes J and the
    cost's gradient at t_{i+1}. At t_i, where kappa is larger, the tilt of a Gaussian would fall short by fifteen times
    as much at 40 steps. Calls base and cost K times; keeps no gradients. Raises ValueError if the cost is no
    differentiable value of each example. Domingo-Enrich et al., arXiv 2409.08861, equations 38, 39.
    """
    adjoint, paid = terminal, x.new_zeros(x.shape[1])
    velocities, adjoints = [], []
    for number in range(len(times) - 1, 0, -1):
        t, h = times[number], times[number] - times[number - 1]
        with torch.enable_grad():
            state = x[number].detach().requires_grad_()
            velocity = base(state, inside(t).expand(len(state)))
            owed = ((2 * velocity - step.kappa(t) * state) * adjoint).sum()
            if cost is not None:
                costs = differentiable_values(cost, state, t.expand(len(state)), condition)
                owed = owed + weight * costs.sum()
                paid = paid + h * costs.detach()
            (gradient,) = torch.autograd.grad(owed, state)
        velocities.append(velocity.detach())
        adjoints.append(adjoint)
        adjoint = adjoint + h * gradient
    return LeanAdjoint(torch.stack(velocities[:0:-1]), torch.stack(adjoints[:0:-1]), paid)


def end_gradient(value: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The values [B] of the last states [B, *D] of paths, and their gradient [B, *D], both without gradients."""
    with torch.enable_grad():
        state = x.detach().requires_grad_()
        values = value(state)
        (gradient,) = torch.autograd.grad(values.sum(), state, allow_unused=True, materialize_grads=True)
    return values.detach(), gradient


@dataclass(frozen=True)
class Beginnings:
    """Inputs of B paths: keys int64 [B] of their random draws; `nodes` number the times to learn from, 1 to K - 1."""

    keys: Tensor
    condition: Condition
    seen: Seen | None
    nodes: tuple[int, ...]
    log_weight: None = None


@dataclass(frozen=True)
class Nodes:
    """Inputs of the loss: states [B, N, *D] of paths at times [N], with the base's velocities and the adjoints there.

    `terms` are scalars of the whole micro batch, for the metrics; there is no `log_weight`.
    """

    x: Tensor
    t: Tensor
    velocity: Tensor
    adjoint: Tensor
    condition: Condition
    terms: Mapping[str, Tensor]
    log_weight: None = None


@dataclass(frozen=True)
class Rollout:
    """Drawn paths [K + 1, B, *D], adjoints along them, and figures [B]: ``reward``, ``cost`` if any, ``path_kl``."""

    x: Tensor
    adjoint: LeanAdjoint
    figures: Mapping[str, Tensor]


class LentNetwork:
    """A placeholder network for building a cost; it can be called while a real network is lent to it."""

    def __init__(self) -> None:
        self._network: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        assert self._network is not None
        return self._network(*arguments)

    @contextmanager
    def of(self, network: Callable[..., Any]) -> Iterator[None]:
        self._network = network
        try:
            yield
        finally:
            self._network = None


class AdjointMatching(PolicyTask[Beginnings | Nodes]):
    """The velocity of a flow whose distribution is that of a base, times exp(reward - running cost), both weighted.

    Paths are drawn by memoryless steps of the current network. The lean adjoint a of their remaining cost is solved
    backwards along them through the frozen base, and at some of their times

        | 2 / sigma (v - v_base) + sigma a |^2,  sigma^2 = 2 (1 - t + floor) / (t + floor)

    is minimised in v, a mean over the values of a state, whose optimum is v_base - sigma^2 / 2 a. A cost that evaluates
    a network evaluates the base, so that the cost does not change. A mixture draws in evaluation mode and learns in
    training mode, where routers may choose other experts: no probabilities of the two are compared. Algorithm 1 of
    arXiv 2409.08861.
    """

    def __init__(self, config: RunConfig, base: Callable[..., Any] | None = None) -> None:
        """A `base`, the frozen network of another flow, replaces the run that the section names."""
        chosen = config.task
        assert isinstance(chosen, AdjointMatchingConfig)
        super().__init__(config, chosen)
        self._chosen, self.passes = chosen, chosen.passes
        self._step = Memoryless(diffusion=MemorylessDiffusion(floor=chosen.floor))
        self._base = base
        self._lent = LentNetwork()
        self._cost = None if chosen.cost is None else chosen.cost.build(self._lent)
        self._times = {torch.device("cpu"): torch.linspace(0.0, 1.0, chosen.steps + 1)}
        self.paths = 0

    def draw_one(self, batch: Batch, generator: torch.Generator) -> Beginnings:
        """Draws keys and the nodes to learn from; labels are never hidden."""
        device = batch.x_1.device
        keys = to_device(random_keys(len(batch.x_1), generator), device)
        chosen = torch.randperm(self._chosen.steps - 1, generator=generator)[: self._chosen.nodes] + 1
        condition, seen = self.prompts_of(batch, generator)
        return Beginnings(keys, condition, seen, tuple(chosen.tolist()))

    def collect(
        self, drawn: Sequence[Beginnings | Nodes], networks: Networks, ranks: dist.ProcessGroup | None = None
    ) -> list[Nodes]:
        """Draws the paths and follows their adjoints back, one micro batch after the other."""
        beginnings = [one for one in drawn if isinstance(one, Beginnings)]
        self.paths += sum(len(one.keys) for one in beginnings) * (1 if ranks is None else ranks.size())
        with networks.current() as network:
            return [nodes for one in beginnings for nodes in self._passes(one, self._rollout(network, one))]

    def loss(self, model: Callable[..., Any], drawn: Beginnings | Nodes) -> LossTerms:
        assert isinstance(drawn, Nodes)
        num, at_once = drawn.x.shape[:2]
        rows = torch.arange(num, device=drawn.x.device).repeat_interleave(at_once)
        field = self.field(model, drawn.condition.rows(rows))
        velocity = field(drawn.x.flatten(0, 1), drawn.t.expand(num, at_once).flatten()).unflatten(0, (num, at_once))
        sigma = (2 * self._step.e(drawn.t, drawn.t)).sqrt().view(-1, *(1,) * (drawn.x.ndim - 2))
        error = 2 / sigma * (velocity - drawn.velocity) + sigma * drawn.adjoint
        return LossTerms(error.square(), dict(drawn.terms))

    def examine(self, model: Callable[..., Any], drawn: Beginnings | Nodes) -> Mapping[str, Tensor]:
        """Rewards, costs and divergence of paths of the averaged weights, for labels of held-out examples."""
        assert isinstance(drawn, Beginnings)
        figures = self._rollout(model, drawn).figures
        return {f"held_out_{name}": values for name, values in figures.items()}

    def state(self) -> dict[str, Any]:
        return super().state() | {"paths": self.paths}

    def load(self, state: dict[str, Any] | None) -> None:
        self.paths = 0 if state is None else state["paths"]

    def _rollout(self, network: Callable[..., Any], one: Beginnings) -> Rollout:
        """Draws the paths of a micro batch, and follows their adjoints back; no gradient reaches the network."""
        times = self._times_on(one.keys.device)
        velocities: list[Tensor] = []
        field = self.field(network, one.condition)

        def noted(x: Tensor, t: Tensor) -> Tensor:
            velocities.append(field(x, t))
            return velocities[-1]

        like = torch.empty(len(one.keys), *self.config.state_shape, device=one.keys.device)
        start = keyed_normal(like, one.keys, self._chosen.steps)
        x = self._step.sample(noted, start, self._times[torch.device("cpu")], keys=one.keys).x
        rewards, terminal = self._worth(x[-1], one)
        with self._frozen_network(network) as frozen:
            base = self.field(frozen, one.condition)
            settings = {"weight": self._chosen.cost_weight}
            adjoint = lean_adjoint(base, self._step, x, times, terminal, one.condition, self._cost, **settings)
        figures = {"path_kl": self._path_kl(torch.stack(velocities[1:]) - adjoint.velocity, times)}
        if rewards is not None:
            figures["reward"] = rewards
        if self._cost is not None:
            figures["cost"] = adjoint.cost
        return Rollout(x, adjoint, figures)

    def _worth(self, x: Tensor, one: Beginnings) -> tuple[Tensor | None, Tensor]:
        """Rewards [B] of the last states, if there are any, and the gradient [B, *D] of the final cost."""
        if self.reward is None:
            return None, torch.zeros_like(x)
        values, gradient = end_gradient(lambda ends: self.rewards(ends, one.condition, one.seen), x)
        return values, -self._chosen.reward_weight * gradient

    def _path_kl(self, difference: Tensor, times: Tensor) -> Tensor:
        """The divergence [B] of drawn paths from those of the base, the integral of |2 / sigma (v - v_base)|^2 / 2.

        Velocities are at inner times. The step from t = 0, of much noise, is left out. It adds less than `floor` h |v -
        v_base|^2.
        """
        t, h = times[1:-1], times[2:] - times[1:-1]
        weight = (h / self._step.e(t, t))[:, None]
        return (weight * difference.square().flatten(2).sum(-1)).sum(0)

    def _passes(self, one: Beginnings, rollout: Rollout) -> Iterator[Nodes]:
        terms = {name: values.mean() for name, values in rollout.figures.items()} | self._spent(one.keys.device)
        at_once = len(one.nodes) // self.passes
        times = self._times_on(one.keys.device)

        def at(values: Tensor, numbers: Sequence[int], first: int) -> Tensor:
            return torch.stack([values[number - first] for number in numbers], dim=1)

        for place in range(0, len(one.nodes), at_once):
            numbers = one.nodes[place : place + at_once]
            t = torch.stack([times[number] for number in numbers])
            velocity = at(rollout.adjoint.velocity, numbers, 1)
            adjoint = at(rollout.adjoint.adjoint, numbers, 1)
            yield Nodes(at(rollout.x, numbers, 0), t, velocity, adjoint, one.condition, terms)

    def _spent(self, device: torch.device) -> dict[str, Tensor]:
        """Calls so far of the reward and of the network, each for one state, summed over all ranks."""
        chosen = self._chosen
        a_call = 1 if chosen.guidance in (0.0, 1.0) else 2
        spent = {"network_calls": self.paths * (2 * chosen.steps + chosen.nodes) * a_call}
        if chosen.reward is not None:
            spent["reward_calls"] = self.paths
        return {name: torch.full((), count, dtype=torch.float64, device=device) for name, count in spent.items()}

    @contextmanager
    def _frozen_network(self, network: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
        """The network of the base for the cost: another run's, or the run's own without its adapters."""
        with self.base_of(cast(Network, network)) if self._base is None else nullcontext(self._base) as frozen:
            assert frozen is not None, "settings without a base are refused"
            with self._lent.of(frozen):
                yield frozen

    def _times_on(self, device: torch.device) -> Tensor:
        """The times of the steps, [K + 1], copied once to a device."""
        if device not in self._times:
            self._times[device] = to_device(self._times[torch.device("cpu")], device)
        return self._times[device]


TASKS: Builders = {AdjointMatchingConfig: AdjointMatching}
