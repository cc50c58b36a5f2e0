"""A regression of objectives on measured objects, and the rewards that a policy learns in their place.

Shape suffixes: N measured objects, B objects, S integers of a state, C coordinates, K objectives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.config.task.environment import MeasuredFile
from trainer.task.environment.protocol import Environment

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Of the kernel, tried in units of the median distance between measured objects."""
NOISE = 1e-4
"""Variance that is added to that of every measured object, 1: objectives are exact, sums are not."""


class GaussianProcess(NamedTuple):
    """Objectives as functions of places [N, C], independent of each other, each with a kernel of its own length.

    The kernel is Matern's of smoothness 5/2. Its length is the one of `LENGTHS` under which the measured values are
    likeliest. Everything is in closed form, so that equal objects give equal figures; the time grows with N^3 once and
    with B N^2 for each call. All float64; `weights` [K, N] are those of the measured objects in an expectation.
    Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, algorithm 2.1 and equation 4.17.
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
        found = []
        for values_N in ((values_NK - mean) / deviation).T:
            tried = []
            for length in LENGTHS:
                kernel = matern(distances / (length * unit))
                factor = torch.linalg.cholesky(kernel + NOISE * torch.eye(len(kernel), dtype=torch.float64))
                weights = torch.cholesky_solve(values_N[:, None], factor)[:, 0]
                likelihood = -0.5 * values_N @ weights - factor.diagonal().log().sum()
                tried.append((float(likelihood), length, weights, torch.cholesky_inverse(factor)))
            _, *best = max(tried, key=lambda one: one[0])
            found.append(best)
        lengths, weights, inverse = zip(*found, strict=True)
        scaled = torch.tensor(lengths, dtype=torch.float64) * unit
        return cls(places_NC, scaled, torch.stack(weights), torch.stack(inverse), mean, deviation)

    def to(self, device: torch.device) -> GaussianProcess:
        """The same on a device."""
        return GaussianProcess(*(tensor.to(device) for tensor in self))

    def __call__(self, places_BC: Tensor) -> tuple[Tensor, Tensor]:
        """What is expected at places, and its standard deviation, both float64 [B, K]."""
        distances = torch.cdist(places_BC.double(), self.places, compute_mode="donot_use_mm_for_euclid_dist")
        kernel_KBN = matern(distances / self.lengths[:, None, None])
        expected_BK = (kernel_KBN @ self.weights[..., None])[..., 0].T
        explained_BK = ((kernel_KBN @ self.inverse) * kernel_KBN).sum(-1).T
        spread_BK = (1 - explained_BK).clamp(min=0).sqrt()
        return self.mean + self.deviation * expected_BK, self.deviation * spread_BK


class Surrogate:
    """Rewards that a regression of the measured objects expects, and some standard deviations more."""

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
