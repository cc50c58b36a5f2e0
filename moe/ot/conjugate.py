"""The sparse simplex: where the sparsity-constrained solvers spend their time.

Shape suffixes: N rows, M columns, K entries kept of each row, W columns that a row looks at.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from moe.ot.problem import scatter_sum


class Projection(NamedTuple):
    """Rows projected onto the simplex of their mass with at most K entries.

    Attributes:
        indices: columns of the entries, int64 [..., N, K].
        values: mass of the entries, at least 0, descending, [..., N, K].
        threshold: the score at which an entry's mass becomes 0, [..., N].
        conjugate: the value of the maximum, [..., N].
    """

    indices: Tensor
    values: Tensor
    threshold: Tensor
    conjugate: Tensor


def project_rows(scores: Tensor, mass: Tensor, *, k: int, gamma: float) -> Projection:
    """Maximise <t, scores> - gamma/2 |t|^2 over t >= 0 with sum(t) = mass and at most k entries, row by row.

    Differentiable in scores and mass where the kept entries do not change.

    Args:
        scores: [..., N, M].
        mass: at least 0, [..., N].
        k: entries kept of each row, 1 to M (more is M).
        gamma: strength of the quadratic term, positive, in units of score over mass.

    Returns:
        The maximisers, sparse.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, proposition 2.
    """
    best, indices = scores.topk(min(k, scores.shape[-1]), dim=-1)
    highest = best[..., :1]
    below = best - highest
    excess = below.cumsum(-1) - gamma * mass[..., None]
    ranks = torch.arange(1, below.shape[-1] + 1, device=below.device, dtype=below.dtype)
    kept = (ranks * below > excess).sum(-1, keepdim=True).clamp_min(1)
    threshold = excess.gather(-1, kept - 1) / kept
    values = (below - threshold).clamp_min(0) / gamma
    threshold = (threshold + highest)[..., 0]
    # On its support a score is threshold + gamma value.
    return Projection(indices, values, threshold, mass * threshold + 0.5 * gamma * values.square().sum(-1))


_ROUNDS = 50


class RowSpread:
    """The sums of `project_rows` at changing column potentials, without sorting the rows.

    A row's threshold is the root of sum_j [score_j - threshold]_+ - gamma mass, convex and piecewise linear: Newton's
    method ends on it after a few passes, one or two where the potentials have moved little. Only rows whose support
    exceeds k are searched for their k best.
    """

    def __init__(
        self, cost_PNM: Tensor, mass_PN: Tensor, *, k: int, gamma: float, columns_PNW: Tensor | None = None
    ) -> None:
        """Takes the problem; its buffers are as large as the cost three times.

        Args:
            cost_PNM: subtracted from the potentials.
            mass_PN: mass of each row.
            k: entries kept of each row.
            gamma: strength of the quadratic term.
            columns_PNW: the columns that each row looks at, int64, filled up with -1; all if None.
        """
        self._columns = None
        if columns_PNW is not None:
            self._columns = columns_PNW.clamp_min(0)
            cost_PNM = cost_PNM.gather(-1, self._columns).masked_fill_(columns_PNW < 0, torch.inf)
        self._cost = cost_PNM
        self._mass = mass_PN
        self._target = gamma * mass_PN[..., None]
        self._k = k
        self._gamma = gamma
        self._scores, self._above, self._sign = (torch.empty_like(cost_PNM) for _ in range(3))
        self._threshold: Tensor | None = None

    def __call__(self, potentials_PM: Tensor) -> tuple[Tensor, Tensor]:
        """Projects all rows.

        Args:
            potentials_PM: of the columns.

        Returns:
            The mass that enters each column, [P, M], and the sum of the rows' maxima, [P].
        """
        potentials = potentials_PM[:, None]
        if self._columns is not None:
            potentials = potentials.expand(-1, self._cost.shape[1], -1).gather(-1, self._columns)
        scores = torch.sub(potentials, self._cost, out=self._scores)
        threshold = self._newton(scores, scores.amax(-1, keepdim=True))
        if self._k < scores.shape[-1]:
            threshold = self._cut(threshold)
        self._threshold = threshold
        conjugate = (threshold * self._mass[..., None]).sum((-2, -1))
        conjugate = conjugate + torch.linalg.vector_norm(self._above, dim=(-2, -1)).square() / (2 * self._gamma)
        if self._columns is None:
            return self._above.sum(-2) / self._gamma, conjugate
        return scatter_sum(self._above, self._columns, potentials_PM.shape[-1]) / self._gamma, conjugate

    def _newton(self, scores: Tensor, highest: Tensor) -> Tensor:
        lowest = highest - self._target
        if self._threshold is None:
            threshold = lowest
        else:
            threshold = self._threshold.clamp(lowest, highest - self._target / scores.shape[-1])
        rounding = 4 * torch.finfo(scores.dtype).eps
        for _ in range(_ROUNDS):
            torch.sub(scores, threshold, out=self._above).relu_()
            excess = self._above.sum(-1, keepdim=True) - self._target
            self._support = torch.sign(self._above, out=self._sign).sum(-1, keepdim=True)
            if (excess.abs() <= rounding * (self._target + self._support * threshold.abs())).all():
                break
            threshold = threshold + excess / self._support.clamp_min(1)
        return threshold

    def _cut(self, threshold: Tensor) -> Tensor:
        binding = (self._support[..., 0] > self._k).nonzero(as_tuple=True)
        above = self._above[binding]
        best, columns = above.topk(self._k, dim=-1, sorted=False)
        # The support has more than k entries, so the k best keep their mass and gain what the others lose.
        lower = (best.sum(-1, keepdim=True) - self._target[binding]) / self._k
        self._above[binding] = torch.zeros_like(above).scatter_(-1, columns, best - lower)
        return threshold.index_put(binding, lower, accumulate=True)
