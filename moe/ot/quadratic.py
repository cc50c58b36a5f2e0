"""Quadratically regularised transport: sparse plans without a limit on their entries.

Shape suffixes: N rows, M columns.
"""

from dataclasses import replace

from torch import Tensor

from moe.ot.problem import Plan
from moe.ot.semi_dual import semi_dual


def quadratic(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    gamma: float,
    warm_start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-3,
    max_evaluations: int = 1000,
) -> Plan:
    """Minimise <T, C> + gamma/2 |T|^2 over plans with row sums a and column sums b.

    Climbs the potentials of the shorter side; the longer is exact by construction. The potentials are constants to
    autograd: `value` has its exact gradient (in the cost: the plan), `values` the gradient at fixed potentials.

    Args:
        cost: [..., N, M].
        a: mass of each row, [..., N].
        b: mass of each column, of the same sum, [..., M].
        gamma: strength of the quadratic term, positive, in units of cost over mass.
        warm_start: `potentials` of an earlier plan.
        tolerance: largest violation of a sum on the shorter side, over its mean mass, to stop at.
        max_evaluations: evaluations at most.

    Returns:
        A dense plan.

    Raises:
        ValueError: shapes that do not fit, gamma out of range, or masses of unequal sums.

    Source: Blondel, Seguy, Rolet, "Smooth and sparse optimal transport", 2018, equation 10.
    """
    num_rows, num_columns = cost.shape[-2:]
    tall = num_rows >= num_columns
    start = None if warm_start is None else warm_start[1 if tall else 0]
    plan = semi_dual(
        cost if tall else cost.mT.contiguous(),
        a if tall else b,
        b if tall else a,
        k=max(num_rows, num_columns),
        gamma=gamma,
        start=start,
        tolerance=tolerance,
        max_evaluations=max_evaluations,
    )
    plan = plan if tall else plan.transposed()
    return replace(plan, values=plan.dense(), indices=None, axis="rows", stages=("quadratic",))
