"""Entropic transport, balanced or not, in the log domain.

Shape suffixes: N rows, M columns.
"""

from typing import Literal

import torch
from torch import Tensor

from moe.ot.problem import Plan, check_balance, check_masses, relative_error

Gradient = Literal["envelope", "unrolled"]
Reference = Literal["product", "uniform"]


def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: float,
    row_weight: float | Tensor = torch.inf,
    column_weight: float | Tensor = torch.inf,
    reference: Reference = "product",
    warm_start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 1000,
    gradient: Gradient = "envelope",
) -> Plan:
    """Minimise <T, C> + epsilon KL(T | R) + sum_i weight_i KL(T1_i | a_i) + sum_j weight_j KL(T'1_j | b_j).

    A weight of infinity makes that sum exact, a finite one lets it leave its mass at a price; each row and column has
    its own. Updates are alternating maximisations of the dual, log-sum-exp throughout, with the exponent
    weight / (weight + epsilon). Each problem of a batch stops by itself.

    Gradients: with "envelope" the iterations are outside autograd, memory does not grow with them, `value` has its
    exact gradient once converged (in cost: the plan; in a and b: the potentials where sums are exact), and `values`
    and `potentials` have none. With "unrolled" everything has the gradient of the iterations that were made.

    Args:
        cost: [..., N, M]; infinity forbids a pair.
        a: mass of each row, [..., N].
        b: mass of each column, [..., M].
        epsilon: strength of the entropy, positive, in units of cost.
        row_weight: price of a row's deviation, positive or infinite, one for all or [..., N].
        column_weight: price of a column's deviation, one for all or [..., M].
        reference: R, either a b' or the matrix of ones. They differ by more than a constant where sums are not exact.
        warm_start: `potentials` of an earlier plan; only those of the columns are used.
        tolerance: largest violation of a column's optimality, over the mean column mass, to stop at; 0: all iterations
            are made, values are not checked, and the host never waits for a device.
        max_iterations: pairs of updates at most.
        gradient: "envelope" or "unrolled".

    Returns:
        A dense plan whose rows are optimal for its column potentials; `value` is the dual value.

    Raises:
        ValueError: shapes that do not fit, arguments out of range, or exact masses of unequal sums.

    Source: Chizat et al., "Scaling algorithms for unbalanced optimal transport problems", 2018, table 1.
    """
    a, b = check_masses(cost, a, b)
    if not epsilon > 0:
        raise ValueError(f"epsilon: not positive ({epsilon}); give about 0.15 of the spread of the costs")
    if gradient not in ("envelope", "unrolled") or reference not in ("product", "uniform"):
        raise ValueError(f"gradient, reference: unknown ({gradient}, {reference}); see the documentation of sinkhorn")
    watched = tolerance > 0
    rows = _Side(a, _weight("row_weight", row_weight, a, watched), reference, epsilon)
    columns = _Side(b, _weight("column_weight", column_weight, b, watched), reference, epsilon)
    if watched and rows.exact.all() and columns.exact.all():
        check_balance(a.sum(-1), b.sum(-1))
    with torch.set_grad_enabled(gradient == "unrolled" and torch.is_grad_enabled()):
        g = torch.zeros_like(b) if warm_start is None else warm_start[1].to(b).expand_as(b)
        f = rows.best(columns.gather(g, cost))
        done = torch.zeros_like(f[..., 0], dtype=torch.bool)
        iterations = torch.zeros_like(done, dtype=torch.int64)
        for iteration in range(max_iterations + 1):
            gathered = rows.gather(f, cost.mT)
            error = columns.error(g, gathered)
            done = done | (error <= tolerance)
            if iteration == max_iterations or (watched and done.all()):
                break
            iterations = iterations + ~done
            g = torch.where(done[..., None], g, columns.best(gathered))
            f = torch.where(done[..., None], f, rows.best(columns.gather(g, cost)))
    plan = ((f[..., :, None] + g[..., None, :] - cost) / epsilon + rows.log_reference[..., :, None]).exp()
    plan = plan * columns.log_reference.exp()[..., None, :]
    reference_mass = rows.log_reference.exp().sum(-1) * columns.log_reference.exp().sum(-1)
    value = rows.worth(f) + columns.worth(g) - epsilon * (plan.sum((-2, -1)) - reference_mass)
    return Plan(
        values=plan if gradient == "unrolled" else plan.detach(),
        potentials=(f, g),
        value=value,
        marginal_error=error.detach(),
        iterations=int(iterations.max()) if watched else max_iterations,
        evaluations=iteration + 1,
        converged=done,
        shape=(cost.shape[-2], cost.shape[-1]),
        stages=("sinkhorn",),
    )


class _Side:
    """Rows or columns: their masses [..., L], and the price of leaving them."""

    def __init__(self, mass: Tensor, weight: Tensor, reference: Reference, epsilon: float) -> None:
        self.mass = mass
        self.epsilon = epsilon
        self.exact = weight.isinf()
        self.weight = weight
        self.exponent = torch.where(self.exact, 1.0, weight / (weight + epsilon))
        self.log_mass = mass.clamp_min(torch.finfo(mass.dtype).tiny).log()
        self.log_reference = self.log_mass if reference == "product" else torch.zeros_like(mass)

    def gather(self, potentials: Tensor, cost: Tensor) -> Tensor:
        """Logarithm of what the other side [..., K] receives from this one; cost [..., K, L]."""
        return ((potentials[..., None, :] - cost) / self.epsilon + self.log_reference[..., None, :]).logsumexp(-1)

    def best(self, gathered: Tensor) -> Tensor:
        """The potentials that maximise the dual."""
        return self.exponent * self.epsilon * (self.log_mass - self.log_reference - gathered)

    def error(self, potentials: Tensor, gathered: Tensor) -> Tensor:
        """Distance of the sums from what is optimal at these potentials."""
        sums = (potentials / self.epsilon + self.log_reference + gathered).exp()
        return relative_error(sums - self.mass * (-potentials / self.weight).exp(), self.mass)

    def worth(self, potentials: Tensor) -> Tensor:
        """This side's linear or conjugate term of the dual."""
        weight = torch.where(self.exact, 1.0, self.weight)
        return (self.mass * torch.where(self.exact, potentials, -weight * torch.expm1(-potentials / weight))).sum(-1)


def _weight(name: str, weight: float | Tensor, mass: Tensor, watched: bool) -> Tensor:
    weight = weight.to(mass) if isinstance(weight, Tensor) else mass.new_full((), weight)
    if watched and not (weight > 0).all():
        raise ValueError(f"{name}: not positive ({float(weight.min())}); give a positive number or infinity")
    return weight.expand_as(mass)
