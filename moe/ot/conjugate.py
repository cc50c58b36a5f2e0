"""The sparse simplex: where the sparsity-constrained solvers spend their time.

Shape suffixes: N rows, M columns, K entries kept of each row.
"""

from typing import NamedTuple

import torch
from torch import Tensor


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
    exceeds k are cut, and then only their support is sorted.
    """

    def __init__(self, cost_PNM: Tensor, mass_PN: Tensor, *, k: int, gamma: float) -> None:
        """Takes the problem; its buffers are as large as the cost three times.

        Args:
            cost_PNM: subtracted from the potentials.
            mass_PN: mass of each row.
            k: entries kept of each row.
            gamma: strength of the quadratic term.
        """
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
        scores = torch.sub(potentials_PM[:, None], self._cost, out=self._scores)
        threshold = self._newton(scores, scores.amax(-1, keepdim=True))
        if self._k < scores.shape[-1]:
            threshold = self._cut(threshold)
        self._threshold = threshold
        conjugate = (threshold * self._mass[..., None]).sum((-2, -1))
        conjugate = conjugate + torch.linalg.vector_norm(self._above, dim=(-2, -1)).square() / (2 * self._gamma)
        return self._above.sum(-2) / self._gamma, conjugate

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
        support = self._support[..., 0].long()
        binding = support > self._k
        lengths = support[binding]
        if not len(lengths):
            return threshold
        entries = self._above.nonzero(as_tuple=True)
        inside = binding[entries[:2]]
        entries = tuple(index[inside] for index in entries)
        line = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        place = torch.arange(len(line), device=line.device) - (lengths.cumsum(0) - lengths)[line]
        wide = self._above.new_full([len(lengths), int(lengths.max())], -torch.inf)
        wide[line, place] = self._above[entries]
        cut = project_rows(wide, self._mass[binding], k=self._k, gamma=self._gamma)
        kept = torch.zeros_like(wide).scatter_(-1, cut.indices, self._gamma * cut.values)
        self._above[entries] = kept[line, place]
        return threshold.index_put((binding,), cut.threshold[:, None], accumulate=True)
