"""Balancing potentials in a fixed number of evaluations, for devices whose host must not wait.

Shape suffixes: N rows (tokens), M columns (experts), W best columns of a row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_FIRST_TEMPERATURE = 0.5
_FIRST_DAMPING, _LAST_DAMPING = 0.3, 0.02
"""Multiples of the loads that are added to Newton's matrix. Less at first overshoots, more at last is slow."""
_CORRECTIONS = 2
"""Quadratic evaluations."""
_UNIFORM = 1e-7
"""Rows of the uniform plan that are added to the entropic ones."""
_WIDTH = 8
"""Entries among which a row's threshold is sought; four times its mass, where that is more."""


class Balance(NamedTuple):
    """Potentials, and how well they balanced before they were last corrected.

    Attributes:
        potentials: of the columns, their mean 0, [M].
        residual: largest |load - b| over the mean of b at the last evaluation, []. The potentials have made one more
            correction since, so that theirs is smaller as a rule.
    """

    potentials: Tensor
    residual: Tensor


def balancing_potentials(
    scores_NM: Tensor,
    start_M: Tensor,
    *,
    mass: float,
    gamma: float,
    evaluations: int,
    rows: Tensor | None = None,
    counted_N: Tensor | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Balance:
    """Potentials on the columns at which the rows' quadratic plan gives every column the same load.

    The same problem as that of :func:`moe.ot.expert_potentials` with even loads and with no limit on a row's entries,
    but without a tolerance: the operations are the same whatever the numbers are, and none is read by the host. The
    first evaluations are of entropic plans (softmax) at falling temperatures, each followed by a Newton step for the
    logarithms of the loads. Damping by a multiple of the loads turns Newton's matrix towards the fixed-point step of
    Sinkhorn's method where columns are far from their load. The last temperature makes the entropic plan change with
    the potentials as the quadratic plan does on average: a row's choice between two columns blurs over a difference of
    the same standard deviation. So the inverse of the last matrix also serves the last two evaluations, which are of
    the quadratic plan.

    Args:
        scores_NM: score of each column for each row, in units of about one standard deviation.
        start_M: potentials to begin with, such as those of the step before.
        mass: of each row, positive.
        gamma: strength of the quadratic term, positive, in units of score over mass.
        evaluations: plans that are computed, at least 1. Of 3 or more the last is quadratic, of 5 or more the last two;
            fewer than 4 need a good start.
        rows: number of rows that count (of all ranks), on the scores' device, []; None: all.
        counted_N: 1 for rows that count and 0 for padding; None: all count. Needs `rows`.
        reduce: sums a tensor over ranks, so that the loads of all ranks together are balanced. Called once per
            evaluation: on [M, M] of an entropic plan, on [M] of a quadratic one, in :func:`summed_elements`.

    Returns:
        The potentials. There is no sign of failure but the residual, which the caller reports.

    Source: the problem: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 10; Newton
    steps for entropic transport: Brauer, Clason, Lorenz, Wirth, "A Sinkhorn-Newton method for entropic optimal
    transport", 2017, section 2.
    """
    columns = scores_NM.shape[1]
    width = min(max(_WIDTH, math.ceil(4 * mass)), columns)
    spread = mass * gamma
    numbers_W = torch.linspace(1 / spread, width / spread, width, device=scores_NM.device, dtype=scores_NM.dtype)
    loads = _Loads(scores_NM, (numbers_W[:1], _UNIFORM / columns * spread), rows, counted_N, reduce)
    softened = evaluations - _corrections(evaluations)
    temperatures = _falling(_FIRST_TEMPERATURE, spread / math.pi, softened)
    dampings = _falling(_FIRST_DAMPING, _LAST_DAMPING, softened)
    potentials_M, missing_M = start_M / temperatures[0], start_M
    inverse_MM = start_M
    for temperature, following, damping in zip(temperatures, [*temperatures[1:], 1.0], dampings, strict=True):
        plan_NM = torch.add(potentials_M, scores_NM, alpha=1 / temperature).softmax(dim=1)
        matrix_MM = loads.of_pairs(plan_NM)
        load_M = matrix_MM.sum(dim=1)
        matrix_MM.diagonal().sub_(load_M, alpha=1 + damping)
        inverse_MM = torch.linalg.inv_ex(matrix_MM).inverse
        missing_M = torch.special.entr(load_M)  # the load times the logarithm of 1 / load
        scale = temperature / following
        potentials_M = torch.addmv(potentials_M, inverse_MM, missing_M, beta=scale, alpha=-scale)
    shares_W = numbers_W.reciprocal()
    # A product gives the means of the first entries: running sums of floats are not reproducible on CUDA.
    means_WW = shares_W.expand(width, width).triu()
    for _ in range(_corrections(evaluations)):
        priced_NM = potentials_M + scores_NM
        best_NW = priced_NM.topk(width, dim=1).values
        # Minus the thresholds. A threshold is the largest of these: each is that of a smaller set of entries.
        raised_N1 = torch.addmm(shares_W, best_NW, means_WW, alpha=-1 / spread).amin(dim=1, keepdim=True)
        load_M = loads.of_columns(priced_NM.add_(raised_N1).relu_())
        missing_M = torch.rsub(load_M, 1.0, alpha=loads.unit / spread)
        potentials_M = torch.addmv(potentials_M, inverse_MM, missing_M, alpha=-temperatures[-1])
    return Balance(potentials_M - potentials_M.mean(), torch.linalg.vector_norm(missing_M, math.inf))


def summed_elements(columns: int, evaluations: int) -> tuple[int, ...]:
    """Elements of each tensor that :func:`balancing_potentials` sums over ranks, in order.

    Args:
        columns: M.
        evaluations: as there.

    Returns:
        One number an evaluation.
    """
    last = _corrections(evaluations)
    return (columns * columns,) * (evaluations - last) + (columns,) * last


class _Loads:
    """Sums over the rows of all ranks, in units of an even load.

    Attributes:
        unit: what a sum of :meth:`of_columns` is to be multiplied by.
    """

    def __init__(
        self,
        scores_NM: Tensor,
        floor: tuple[Tensor, float],
        rows: Tensor | None,
        counted_N: Tensor | None,
        reduce: Callable[[Tensor], Tensor] | None,
    ) -> None:
        number, columns = scores_NM.shape
        self._reduce = reduce
        self._floor = floor
        self._share_N: Tensor | None = None
        self.unit = columns / max(number, 1)
        if rows is not None:
            share = columns / rows.to(scores_NM.dtype).clamp_min(1)
            self._share_N = share.expand(number) if counted_N is None else counted_N * share
            self.unit = 1.0

    def of_pairs(self, plan_NM: Tensor) -> Tensor:
        """The plan's product with itself, whose rows sum to the loads of a plan with rows of 1.

        A trace of the uniform plan keeps every load positive.
        """
        weighted_NM = plan_NM if self._share_N is None else plan_NM * self._share_N[:, None]
        pairs_MM = torch.addmm(self._floor[0], weighted_NM.mT, plan_NM, beta=self._floor[1], alpha=self.unit)
        return pairs_MM if self._reduce is None else self._reduce(pairs_MM)

    def of_columns(self, plan_NM: Tensor) -> Tensor:
        """The sums of a plan's columns, over the unit."""
        load_M = plan_NM.sum(dim=0) if self._share_N is None else plan_NM.mT.mv(self._share_N)
        return load_M if self._reduce is None else self._reduce(load_M)


def _corrections(evaluations: int) -> int:
    return min(_CORRECTIONS, (evaluations - 1) // 2)


def _falling(first: float, last: float, number: int) -> list[float]:
    """A geometric series; one number alone is the first."""
    first = max(first, last)
    return [first * (last / first) ** (i / max(number - 1, 1)) for i in range(number)]
