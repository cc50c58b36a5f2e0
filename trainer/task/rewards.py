"""Rewards of objects: preferences among objectives, the scalar reward, and a regression in place of objectives.

Shape suffixes: N measured objects, B objects, S integers of a state, C coordinates, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from moe.seeds import fold_in, normal, uniform
from trainer.config.task.environment import MeasuredFile
from trainer.task.environment.protocol import Environment

_PROPOSALS = 12
"""Proposals of a draw; the chance that none is accepted is below 1e-12, since each is with a probability of 0.95."""


class Preferences(NamedTuple):
    """Weights float64 [B, K] of the objectives, each row sums to 1, and exponents float64 [B] of the rewards."""

    weights: Tensor
    exponent: Tensor


def dirichlet(keys: Tensor, num: int, concentration: float) -> Tensor:
    """Draws K weights, float64 [B, K], by keys int64 [B]; each row sums to 1."""
    own = fold_in(keys[:, None], torch.arange(num, device=keys.device))
    return _log_gamma_draws(own, concentration).softmax(1)


def thermometer(values: Tensor, bins: int, largest: float = 1.0) -> Tensor:
    """Thermometer code float32 [*, bins] of numbers [*] from 0 to `largest`: bins fill up one after the other."""
    filled = values[..., None] * (bins / largest) - torch.arange(bins, device=values.device)
    return filled.clamp(0.0, 1.0).float()


def lattice(num: int, divisions: int) -> Tensor:
    """All preferences, float64 [N, K], in multiples of 1 / `divisions`, the first objective's falling."""
    end = divisions + num - 1
    bars = combinations(range(end), num - 1)  # that part `divisions` stars into `num` shares
    shares = [[after - before - 1 for before, after in pairwise((-1, *places, end))] for places in bars]
    return torch.tensor(shares[::-1], dtype=torch.float64) / divisions


def _log_gamma_draws(keys: Tensor, shape: float) -> Tensor:
    """Logarithms of Gamma(shape) draws, float64, by a fixed number of proposals, from shape + 1 times u^(1 / shape).

    Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables", 2000, sections 2 and 6.
    """
    proposals = torch.arange(_PROPOSALS, device=keys.device)
    own = fold_in(keys[..., None], proposals)
    excess = shape + 2 / 3
    deviate, chance = normal(fold_in(own, 0)), uniform(fold_in(own, 1)) + 2.0**-54
    root = 1 + deviate / (9 * excess) ** 0.5
    log_cube = 3 * root.clamp(min=torch.finfo(torch.float64).tiny).log()
    bound = 0.5 * deviate.square() + excess * (1 - log_cube.exp() + log_cube)
    accepted = (root > 0) & (chance.log() < bound)
    place = accepted.int().argmax(-1, keepdim=True)
    raised = log_cube.gather(-1, place)[..., 0]
    boost = (uniform(fold_in(keys, _PROPOSALS)) + 2.0**-54).log() / shape
    return raised + boost


Scalarisation = Literal["weighted_sum", "weighted_log_sum", "tchebycheff"]


class Valued(NamedTuple):
    """Finite log rewards float64 [B], the target log probabilities up to a constant, and figures [B, *] by name."""

    log_reward: Tensor
    figures: dict[str, Tensor]


class LogReward(Protocol):
    """The reward of objects; the number of reward calls counts objects."""

    def __call__(self, objects_BS: Tensor, preferences: Preferences) -> Valued:
        """Values objects [B, S], states in which the stop was taken, by the preference and exponent of each."""
        ...


class ScalarisedReward(LogReward):
    """Rewards [B, K] of objects [B, S], weighed by a preference and raised to an exponent."""

    def __init__(
        self, rewards: Callable[[Tensor], Tensor], names: Sequence[str], scalarisation: Scalarisation, least: float
    ) -> None:
        self._rewards, self._names, self._least = rewards, names, least
        self._scalarisation: Scalarisation = scalarisation

    def __call__(self, objects_BS: Tensor, preferences: Preferences) -> Valued:
        """The figures are each objective and the reward before its exponent."""
        rewards_BK = self._rewards(objects_BS)
        log_scalar_B = log_scalar(rewards_BK, preferences.weights, self._scalarisation, self._least)
        by_name = dict(zip(self._names, rewards_BK.unbind(1), strict=True))
        figures = {"reward": log_scalar_B.exp(), **{f"reward_{name}": values for name, values in by_name.items()}}
        return Valued(preferences.exponent * log_scalar_B, figures)


def log_scalar(rewards_BK: Tensor, weights_BK: Tensor, scalarisation: Scalarisation, least: float) -> Tensor:
    """The logarithm of one reward made of rewards [B, K] from 0 to 1: float64 [B], at least that of `least`.

    Sum of w r; sum of w log r, the logarithm of their weighted geometric mean; or ``tchebycheff``, 1 - max of w (1 -
    r), which is 1 minus the published distance, since a reward has to grow. Rewards below `least` count as `least`.
    """
    rewards_BK = rewards_BK.double()
    match scalarisation:
        case "weighted_sum":
            scalar = (weights_BK * rewards_BK).sum(1)
        case "weighted_log_sum":
            return (weights_BK * rewards_BK.clamp(min=least).log()).sum(1)
        case "tchebycheff":
            scalar = 1 - (weights_BK * (1 - rewards_BK)).amax(1)
    return scalar.clamp(min=least).log()


LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Lengths of the kernel that are tried, in units of the median distance between measured objects."""
NOISE = 1e-4
"""Variance added to that of every measured object, whose variance is 1; it keeps sums accurate."""


class GaussianProcess(NamedTuple):
    """Objectives as functions of places [N, C], each with a Matern 5/2 kernel of the likeliest of `LENGTHS`.

    In closed form, so that equal objects give equal figures; the time grows with N^3 once and B N^2 a call. All
    float64; `weights` [K, N] are of the measured objects in an expectation. Rasmussen and Williams, 2006, algorithm
    2.1, eq. 4.17.
    """

    places: Tensor
    lengths: Tensor
    weights: Tensor
    inverse: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def fitted(cls, places_NC: Tensor, values_NK: Tensor) -> GaussianProcess:
        places_NC, values_NK = places_NC.double(), values_NK.double()
        mean, deviation = values_NK.mean(0), values_NK.std(0, correction=0)
        deviation = torch.where(deviation > 1e-12, deviation, 1.0)
        distances = torch.cdist(places_NC, places_NC, compute_mode="donot_use_mm_for_euclid_dist")
        apart = distances[distances > 0]
        unit = apart.median() if apart.numel() else torch.ones((), dtype=torch.float64)
        fits = []
        for values_N in ((values_NK - mean) / deviation).T:
            tried = []
            for length in LENGTHS:
                kernel = matern(distances / (length * unit))
                factor = torch.linalg.cholesky(kernel + NOISE * torch.eye(len(kernel), dtype=torch.float64))
                weights = torch.cholesky_solve(values_N[:, None], factor)[:, 0]
                likelihood = -0.5 * values_N @ weights - factor.diagonal().log().sum()
                tried.append((float(likelihood), length, weights, torch.cholesky_inverse(factor)))
            _, *best = max(tried, key=lambda one: one[0])
            fits.append(best)
        lengths, weights, inverse = zip(*fits, strict=True)
        scaled = torch.tensor(lengths, dtype=torch.float64) * unit
        return cls(places_NC, scaled, torch.stack(weights), torch.stack(inverse), mean, deviation)

    def to(self, device: torch.device) -> GaussianProcess:
        return GaussianProcess(*(tensor.to(device) for tensor in self))

    def __call__(self, places_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Expectation and standard deviation of the objectives at places, both float64 [B, K]."""
        distances = torch.cdist(places_BC.double(), self.places, compute_mode="donot_use_mm_for_euclid_dist")
        kernel_KBN = matern(distances / self.lengths[:, None, None])
        expected_BK = (kernel_KBN @ self.weights[..., None])[..., 0].T
        explained_BK = ((kernel_KBN @ self.inverse) * kernel_KBN).sum(-1).T
        spread_BK = (1 - explained_BK).clamp(min=0).sqrt()
        return self.mean + self.deviation * expected_BK, self.deviation * spread_BK


class Surrogate:
    """Rewards by a regression of measured objects: its expectation plus some standard deviations."""

    def __init__(self, environment: Environment, file: MeasuredFile, deviations: float) -> None:
        self._environment, self._deviations, self._num = environment, deviations, len(file.objects)
        values = torch.tensor(file.rewards, dtype=torch.float64)
        self._process = GaussianProcess.fitted(environment.coordinates(torch.tensor(file.objects)), values)

    def rewards(self, objects_BS: Tensor) -> Tensor:
        """The upper confidence bound of each objective, float64 [B, K], 0 or more."""
        places = self._environment.coordinates(objects_BS)
        if self._process.places.device != places.device:
            self._process = self._process.to(places.device)
        expected, spread = self._process(places)
        return (expected + self._deviations * spread).clamp(min=0)

    def __str__(self) -> str:
        return (
            f"expectations plus {self._deviations:g} standard deviations of a surrogate of {self._num} measured objects"
        )


def matern(distances: Tensor) -> Tensor:
    """Matern's kernel of smoothness 5/2 at distances in units of its length; 1 at 0."""
    scaled = 5**0.5 * distances
    return (1 + scaled + scaled.square() / 3) * (-scaled).exp()
